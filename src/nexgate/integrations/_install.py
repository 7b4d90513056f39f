"""What the four ``install`` functions have in common."""

from __future__ import annotations

from collections.abc import Mapping, MutableMapping
from typing import Any, TypedDict

from nexgate.di import Container
from nexgate.errors import ConfigError

from ._metrics import Metrics
from ._parts import Part, Plugins
from ._toolkit import Toolkit

__all__ = ["Options", "toolkit_for"]

_NAME = "nexgate_toolkit"


class Options(TypedDict, total=False):
    """Keyword arguments of ``install``; see ``Toolkit``."""

    container: Container | None
    bus: Part | None
    tasks: Part | None
    plugins: Plugins | None
    request_id: bool
    metrics: bool | Metrics
    metrics_path: str


def toolkit_for(app: Any, toolkit: Toolkit) -> Toolkit:
    """Keep the toolkit of ``app`` in its ``state``. Raises ``ConfigError`` when it had one."""
    state = app.state
    if _NAME in state if isinstance(state, Mapping) else hasattr(state, _NAME):
        raise ConfigError("the toolkit is installed in this application already")
    if isinstance(state, MutableMapping):
        state[_NAME] = toolkit
    else:
        setattr(state, _NAME, toolkit)
    return toolkit
