"""Which events were handled already: for handlers that must not see one twice."""

from __future__ import annotations

import sqlite3
import time
from collections import OrderedDict
from collections.abc import Callable
from typing import Protocol

from ._event import Event

__all__ = ["Inbox", "MemoryInbox", "first_time"]


class Inbox(Protocol):
    """Remembers ids of events by handler."""

    async def has(self, handler: str, event: Event) -> bool:
        """Whether ``handler`` has handled it."""

    async def add(self, handler: str, event: Event) -> None:
        """It has now."""


class MemoryInbox:
    """The last ``size`` events of this process, each for ``ttl`` seconds."""

    def __init__(
        self,
        size: int = 100_000,
        ttl: float = 3600.0,
        *,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._size = size
        self._ttl = ttl
        self._clock = clock
        self._seen: OrderedDict[tuple[str, str], float] = OrderedDict()

    async def has(self, handler: str, event: Event) -> bool:
        """Whether ``handler`` has handled it."""
        until = self._seen.get((handler, event.id))
        return until is not None and until > self._clock()

    async def add(self, handler: str, event: Event) -> None:
        """It has now."""
        self._seen[handler, event.id] = self._clock() + self._ttl
        while len(self._seen) > self._size:
            self._seen.popitem(last=False)


def first_time(connection: sqlite3.Connection, handler: str, event: Event) -> bool:
    """Whether ``handler`` has not handled the event yet, kept in the caller's own transaction: what
    it does there, and that it did, become true together. That makes "at least once" "once".
    """
    connection.execute(
        "CREATE TABLE IF NOT EXISTS nexgate_inbox"
        " (handler TEXT, id TEXT, PRIMARY KEY (handler, id)) WITHOUT ROWID"
    )
    done = connection.execute(
        "INSERT OR IGNORE INTO nexgate_inbox VALUES (?, ?)", (handler, event.id)
    )
    return done.rowcount == 1
