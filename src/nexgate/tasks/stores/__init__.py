"""Where jobs are kept: a file of SQLite, Redis or Valkey."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from nexgate.tasks.stores._sqlite import SqliteTasks

if TYPE_CHECKING:
    from nexgate.tasks.stores._redis import RedisTasks

__all__ = ["RedisTasks", "SqliteTasks"]


def __getattr__(name: str) -> Any:
    # Its library is loaded by those who use it.
    if name == "RedisTasks":
        from nexgate.tasks.stores._redis import RedisTasks

        return RedisTasks
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
