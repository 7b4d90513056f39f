"""One after the other for each key."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

__all__ = ["Turns"]


class Turns:
    """A lock for each key that somebody has or waits for, and none for the others."""

    __slots__ = ("_keys",)

    def __init__(self) -> None:
        self._keys: dict[str, tuple[asyncio.Lock, list[None]]] = {}

    @asynccontextmanager
    async def of(self, key: str) -> AsyncIterator[None]:
        """``async with``: those who wait for one key come in the order in which they asked."""
        lock, here = self._keys.setdefault(key, (asyncio.Lock(), []))
        here.append(None)
        try:
            async with lock:
                yield
        finally:
            here.pop()
            if not here:
                del self._keys[key]
