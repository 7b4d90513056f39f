"""Who waits for changes under which prefix.

A watcher compares what it saw with what is there: it needs no history, so nothing can overflow, and
a wake-up too many costs a look and is not reported.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import Awaitable, Callable
from typing import Final

from nexgate.state._state import Changes

__all__ = ["Reading", "Watchers"]

Reading = tuple[dict[str, bytes], float]
"""What is under a prefix, and in how many seconds the first of it expires."""

_LONGEST_WAIT: Final = 3600.0
_MARGIN: Final = 0.002
"""Timers of event loops may fire early by their resolution; then the value would still be there."""


class _Watcher:
    __slots__ = ("prefix", "woken")

    def __init__(self, prefix: str) -> None:
        self.prefix = prefix
        self.woken = asyncio.Event()


class Watchers:
    """The watchers of one state. Not thread-safe, like the event loop that they live on."""

    __slots__ = ("_is_closed", "_members")

    def __init__(self) -> None:
        self._members: set[_Watcher] = set()
        self._is_closed = False

    def __len__(self) -> int:
        return len(self._members)

    def wake(self, key: str) -> None:
        """Something happened to this key."""
        for member in self._members:
            if key.startswith(member.prefix):
                member.woken.set()

    def wake_all(self) -> None:
        """Something happened."""
        for member in self._members:
            member.woken.set()

    def close(self) -> None:
        """End every iteration."""
        self._is_closed = True
        self.wake_all()

    async def follow(self, prefix: str, read: Callable[[str], Awaitable[Reading]]) -> Changes:
        """Yield the keys that changed since the last item. What ``read`` raises passes through."""
        watcher = _Watcher(prefix)
        self._members.add(watcher)
        try:
            seen: dict[str, bytes] | None = None
            while not self._is_closed:
                watcher.woken.clear()  # before reading: what happens meanwhile wakes us again
                found, expires_in = await read(prefix)
                if seen is None:
                    yield frozenset(found)
                elif changed := _difference(seen, found):
                    yield changed
                seen = found
                await _wait(watcher.woken, expires_in)
        finally:
            self._members.discard(watcher)


def _difference(before: dict[str, bytes], after: dict[str, bytes]) -> frozenset[str]:
    return frozenset(
        key for key in before.keys() | after.keys() if before.get(key) != after.get(key)
    )


async def _wait(event: asyncio.Event, seconds: float) -> None:
    try:
        async with asyncio.timeout(min(seconds + _MARGIN, _LONGEST_WAIT)):
            await event.wait()
    except TimeoutError:
        pass


def until_first(expiries: list[float], now: float) -> float:
    """Seconds until the first of the moments."""
    return max(0.0, min(expiries, default=math.inf) - now)
