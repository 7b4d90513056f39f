"""The messages on their way to an ASGI server.

An exchange hands out its response synchronously; ``send`` of ASGI must be awaited. Between the two
stands a queue that one coroutine empties. It is bounded the way a socket's buffer is: past a limit
it says that it is not writable, and whoever produces stops.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any, Final

from nexgate.errors import NexgateError
from nexgate.exchange import HELD_BYTES

__all__ = ["BrokenResponseError", "Message", "Outbox", "Receive", "Send"]

Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]

_LOW: Final = HELD_BYTES // 4


class BrokenResponseError(NexgateError):
    """A response that has begun cannot be completed.

    Raised out of the ASGI application on purpose: it is the only way to make a server cut the
    connection, so that the client sees that the content is incomplete.
    """


class Outbox:
    """``put`` messages, ``end``; meanwhile one coroutine is in ``run``."""

    __slots__ = (
        "_error",
        "_is_over",
        "_on_writable",
        "_queue",
        "_send",
        "_size",
        "_wake",
        "is_writable",
    )

    def __init__(self, send: Send, on_writable: Callable[[bool], None]) -> None:
        self._send = send
        self._on_writable = on_writable
        self._queue: deque[tuple[Message, int]] = deque()
        self._size = 0
        self._wake = asyncio.Event()
        self._is_over = False
        self._error: Exception | None = None
        self.is_writable = True

    def put(self, message: Message, size: int = 0) -> None:
        """Queue a message whose content has ``size`` bytes. Ignored after the end."""
        if self._is_over:
            return
        self._queue.append((message, size))
        self._size += size
        self._wake.set()
        if self._size > HELD_BYTES and self.is_writable:
            self.is_writable = False
            self._on_writable(False)

    @property
    def last(self) -> Message | None:
        """The message that was put last, if it has not been taken yet: it may still be changed."""
        return self._queue[-1][0] if self._queue else None

    def take_back(self, kind: str) -> bool:
        """Drop the last message if it is of this type and still here."""
        last = self.last
        if last is None or last["type"] != kind or self._is_over:
            return False
        _, size = self._queue.pop()
        self._size -= size
        return True

    def end(self, error: Exception | None = None) -> None:
        """No more messages; ``run`` sends those there are, then returns or raises ``error``."""
        if not self._is_over:
            self._is_over = True
            self._error = error
            self._wake.set()

    def abort(self) -> None:
        """Nobody receives any more: forget what was not sent."""
        self._queue.clear()
        self.end()

    async def run(self, limit: float) -> None:
        """Send until the end. ``TimeoutError``: one ``send`` took more than ``limit`` seconds."""
        while True:
            while self._queue:
                message, size = self._queue.popleft()
                async with asyncio.timeout(limit):
                    await self._send(message)
                self._size -= size
                if not self.is_writable and self._size <= _LOW:
                    self.is_writable = True
                    self._on_writable(True)
            if self._is_over:
                if self._error is not None:
                    raise self._error
                return
            self._wake.clear()
            await self._wake.wait()
