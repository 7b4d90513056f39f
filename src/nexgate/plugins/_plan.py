"""A set of plugins that is to replace the one in force: loaded, then started, then in force or
abandoned.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from nexgate.config import Objects, did_you_mean
from nexgate.errors import ConfigError

from ._errors import PluginError
from ._loading import Loaded
from ._program import Program
from ._running import Running

__all__ = ["PluginPlan"]


@dataclass(slots=True, eq=False)
class PluginPlan:
    """What ``PluginManager.load`` found and made."""

    loaded: dict[str, Loaded]
    """In the order in which they start."""
    program: Program
    failed: dict[str, PluginError] = field(default_factory=dict)
    """Those that the program can do without."""
    fresh: frozenset[str] = frozenset()
    """Those that are not running yet in this version."""
    started: list[Running] = field(default_factory=list)
    is_in_force: bool = False

    def discard(self) -> None:
        """It is not going to be started: forget the code that was loaded for it."""
        for name in self.fresh & self.loaded.keys():
            self.loaded[name].discard()

    @property
    def files(self) -> list[str]:
        """Every file whose change makes another plan."""
        return [str(file) for each in self.loaded.values() for file in each.files]

    @property
    def objects(self) -> Objects:
        """What configurations that name something of a plugin find."""
        return Objects(
            {
                **{name: _Living(each) for name, each in self.loaded.items()},
                **{name: _Failed(name, error) for name, error in self.failed.items()},
            }
        )


class _Living:
    """The objects of a plugin."""

    def __init__(self, loaded: Loaded) -> None:
        self._loaded = loaded
        self.version: object = loaded

    def find(self, name: str) -> Any:
        loaded = self._loaded
        found: Any = loaded.plugin
        for part in name.split("."):
            if part.startswith("_") or not hasattr(found, part):
                provided = type(loaded.plugin).provides()
                hint = did_you_mean(name, provided, otherwise="it has")
                message = f"{loaded.name}:{name}: plugin {loaded.name} has no {name}"
                raise ConfigError(message + (f"; {hint}" if hint else ""))
            found = getattr(found, part)
        loaded.is_needed = True
        return loaded.lend(found) if callable(found) else found


class _Failed:
    """Nothing: whoever needs an object of a plugin that failed cannot do without the plugin."""

    def __init__(self, plugin: str, error: PluginError) -> None:
        self._plugin = plugin
        self._error = error
        self.version: object = error

    def find(self, name: str) -> Any:
        raise ConfigError(
            f"{self._plugin}:{name}: plugin {self._plugin} is used here, so it cannot be done"
            f" without: {self._error.reason}"
        ) from self._error
