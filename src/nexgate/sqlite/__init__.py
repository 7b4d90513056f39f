"""One SQLite file under durable events and tasks: opened the same way, written in whole
transactions, shared by processes.

``Database`` is what they stand on; programs use ``nexgate.events`` and ``nexgate.tasks``.
"""

from __future__ import annotations

from ._boot import boot_id
from ._database import Database, Synchronous
from ._errors import NothingToDo, StoreBusy, StoreDamaged, StoreError, StoreFull, translated
from ._schema import Schema

__all__ = [
    "Database",
    "NothingToDo",
    "Schema",
    "StoreBusy",
    "StoreDamaged",
    "StoreError",
    "StoreFull",
    "Synchronous",
    "boot_id",
    "translated",
]
