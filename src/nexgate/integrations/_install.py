"""What the four ``install`` functions have in common."""

from __future__ import annotations

from typing import Any, TypedDict

from nexgate.di import Container
from nexgate.errors import ConfigError

from ._metrics import Metrics
from ._parts import Part, Plugins
from ._toolkit import Toolkit

__all__ = ["Options", "toolkit_for"]

_MARK = "_nexgate_toolkit"


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
    """Note that ``app`` has its toolkit. Raises ``ConfigError`` when it had one."""
    if getattr(app, _MARK, None) is not None:
        raise ConfigError("the toolkit is installed in this application already")
    setattr(app, _MARK, toolkit)
    return toolkit
