"""One SQLite file under durable events and tasks: opened the same way, written in whole
transactions, shared by processes.

``Database`` is what they stand on; programs use ``nexgate.events`` and ``nexgate.tasks``.
"""

from __future__ import annotations

from ._database import Database, Synchronous
from ._errors import StoreBusy, StoreDamaged, StoreError, StoreFull
from ._schema import Schema

__all__ = [
    "Database",
    "Schema",
    "StoreBusy",
    "StoreDamaged",
    "StoreError",
    "StoreFull",
    "Synchronous",
]
