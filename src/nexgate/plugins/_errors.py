"""What goes wrong with a plugin, with whose fault and where."""

from __future__ import annotations

import importlib
import traceback
from collections.abc import Iterable
from pathlib import Path
from typing import Final, Literal

from nexgate.config import Finding, InvalidConfig, problem_of
from nexgate.errors import ConfigError

__all__ = ["Phase", "PluginConfigError", "PluginError", "their_traceback"]

_OURS: Final = (str(Path(__file__).parents[1]), str(Path(importlib.__file__)), "<frozen importlib")

Phase = Literal["find", "import", "manifest", "configure", "initialize", "take over"]


class PluginError(ConfigError):
    """A plugin that cannot be used. ``str()`` ends with the plugin's own traceback, if it has
    one.
    """

    def __init__(self, plugin: str, phase: Phase, message: str, *, trace: str = "") -> None:
        super().__init__(f"plugin {plugin}: {message}" + (f"\n{trace.rstrip()}" if trace else ""))
        self.plugin = plugin
        self.phase: Phase = phase
        """In which phase: the plugin has had none of the later ones."""
        self.reason = message


class PluginConfigError(InvalidConfig):
    """What a configuration says of plugins is wrong. ``findings`` can be placed by whoever has its
    text.
    """

    def __init__(self, found: Iterable[Finding]) -> None:
        self.findings = tuple(found)
        super().__init__([problem_of(each) for each in self.findings])


def their_traceback(error: BaseException, files: tuple[str, ...] = ()) -> str:
    """The traceback of ``error`` from the plugin's first frame on: what is above is ours, and
    tells its writer nothing.
    """
    told = traceback.TracebackException.from_exception(error)
    stack = [frame.filename for frame in told.stack]
    first = next((n for n, name in enumerate(stack) if name in files), None)
    if first is None:
        first = next((n for n, name in enumerate(stack) if not name.startswith(_OURS)), None)
    if first is not None:
        del told.stack[:first]
    elif isinstance(error, SyntaxError):
        told.stack.clear()
    return "".join(told.format())
