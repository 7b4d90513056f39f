"""What can go wrong with a file of SQLite, told apart by what the caller can do about it."""

from __future__ import annotations

import sqlite3
from typing import Final

from nexgate.errors import NexgateError

__all__ = ["NothingToDo", "StoreBusy", "StoreDamaged", "StoreError", "StoreFull", "translated"]


class StoreError(NexgateError):
    """An operation on the file failed. Nothing of its transaction was written."""


class StoreBusy(StoreError):
    """Another process held the file for longer than ``busy_timeout``. Try again later."""


class StoreFull(StoreError):
    """The disk, or the size that the file may have, is full. Free space and try again."""


class StoreDamaged(StoreError):
    """The file is not a database, is damaged, or was written by a newer version."""


class NothingToDo(Exception):
    """Raised by a work that found nothing to write: its transaction is undone, and nobody who waits
    for a change is woken.
    """


_KINDS: Final[dict[int, type[StoreError]]] = {
    sqlite3.SQLITE_BUSY: StoreBusy,
    sqlite3.SQLITE_LOCKED: StoreBusy,
    sqlite3.SQLITE_FULL: StoreFull,
    sqlite3.SQLITE_CORRUPT: StoreDamaged,
    sqlite3.SQLITE_NOTADB: StoreDamaged,
}
_PRIMARY: Final = 0xFF
"""The low byte of an extended result code is the kind (https://www.sqlite.org/rescode.html)."""

# A write that finds no room in the middle of a page is reported as an I/O error, not as FULL.
_FULL_IO: Final = {sqlite3.SQLITE_IOERR_WRITE, sqlite3.SQLITE_IOERR_SHMSIZE}


def translated(error: sqlite3.Error, path: str) -> StoreError:
    """The error of ours that says the same as one of SQLite."""
    code = getattr(error, "sqlite_errorcode", None)
    if not isinstance(code, int):
        return StoreError(f"{path}: {error}")
    kind = StoreFull if code in _FULL_IO else _KINDS.get(code & _PRIMARY, StoreError)
    return kind(f"{path}: {error}")
