"""Shared state: a small key-value store with leases, for one process, one machine or many.

``open_state("memory")``, ``open_state("local")`` (the processes of this machine) and
``open_state("redis://…")`` (many machines) give the same seven operations, see ``State``. What is
built from them: the service registry, who probes, and whatever a policy wants to count together.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from nexgate.state._degrading import Degrading
from nexgate.state._directory import default_path, forget_dead, path_of
from nexgate.state._lease import Lease
from nexgate.state._memory import MemoryState
from nexgate.state._spec import open_state, parse_state_spec
from nexgate.state._state import (
    MAX_KEY_BYTES,
    MAX_VALUE_BYTES,
    LocalState,
    Scope,
    State,
    StateError,
    StateFull,
    StateStatistics,
    StateUnavailable,
    machine_clock,
)

if TYPE_CHECKING:
    from nexgate.state._lmdb import LmdbState
    from nexgate.state._redis import RedisState

__all__ = [
    "MAX_KEY_BYTES",
    "MAX_VALUE_BYTES",
    "Degrading",
    "Lease",
    "LmdbState",
    "LocalState",
    "MemoryState",
    "RedisState",
    "Scope",
    "State",
    "StateError",
    "StateFull",
    "StateStatistics",
    "StateUnavailable",
    "default_path",
    "forget_dead",
    "machine_clock",
    "open_state",
    "parse_state_spec",
    "path_of",
]


def __getattr__(name: str) -> Any:
    # Most processes use one store; the others' libraries are not loaded for them.
    if name == "LmdbState":
        from nexgate.state._lmdb import LmdbState

        return LmdbState
    if name == "RedisState":
        from nexgate.state._redis import RedisState

        return RedisState
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
