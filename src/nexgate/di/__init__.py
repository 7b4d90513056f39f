"""Dependencies: what a program is made of, by type, made when it is needed and torn down in order.

``Container`` holds them, ``Inject[T]`` marks parameters that it fills. See
``docs/reference/dependency-injection.md``.
"""

from __future__ import annotations

from ._container import Container
from ._draw import Drawing
from ._errors import (
    CaptiveDependency,
    ContainerClosed,
    DependencyCycle,
    DependencyError,
    InvalidGraph,
    NeedsAwait,
    NeedsScope,
    NotRegistered,
    Problem,
)
from ._inject import inject
from ._keys import Inject, Named
from ._owner import Owner
from ._registration import Lifetime
from ._scope import Scope, current_scope
from ._settings import SettingsError

__all__ = [
    "CaptiveDependency",
    "Container",
    "ContainerClosed",
    "DependencyCycle",
    "DependencyError",
    "Drawing",
    "Inject",
    "InvalidGraph",
    "Lifetime",
    "Named",
    "NeedsAwait",
    "NeedsScope",
    "NotRegistered",
    "Owner",
    "Problem",
    "Scope",
    "SettingsError",
    "current_scope",
    "inject",
]
