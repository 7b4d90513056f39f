"""Events as an asynchronous iterator."""

from __future__ import annotations

import asyncio
import weakref
from collections import deque
from typing import TYPE_CHECKING, Any, Literal, Self

from ._event import Event

if TYPE_CHECKING:
    from ._bus import EventBus

__all__ = ["Listener", "Overflow"]

Overflow = Literal["drop_oldest", "drop_newest", "block"]


class Listener:
    """``async for event in bus.listen("user.*")``. It listens from the call of ``listen`` until it
    is closed, or nobody has it any more; ``async with`` closes it for sure.
    """

    def __init__(self, bus: EventBus, topic: Any, buffer: int, overflow: Overflow) -> None:
        if buffer < 1:
            raise ValueError("a buffer has room for one event at least")
        self._events: deque[Event] = deque()
        self._buffer = buffer
        self._overflow: Overflow = overflow
        self._is_closed = False
        self._came = asyncio.Event()
        self._left = asyncio.Event()
        self.dropped = 0
        """How many events found no room."""
        me = weakref.ref(self)

        async def blocking(event: Event) -> None:
            while (listener := me()) is not None and not listener._take(event, is_patient=True):
                left = listener._left
                left.clear()
                del listener
                await left.wait()

        def taking(event: Event) -> None:
            listener = me()
            if listener is not None:
                listener._take(event)

        self._subscription = bus.subscribe(topic, blocking if overflow == "block" else taking)
        bus._listeners.add(self)

    def _take(self, event: Event, *, is_patient: bool = False) -> bool:
        if self._is_closed:
            return True
        if len(self._events) >= self._buffer:
            if is_patient:
                return False
            self.dropped += 1
            if self._overflow == "drop_newest":
                return True
            self._events.popleft()
        self._events.append(event)
        self._came.set()
        return True

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> Event:
        while not self._events:
            if self._is_closed:
                raise StopAsyncIteration
            self._came.clear()
            await self._came.wait()
        event = self._events.popleft()
        self._left.set()
        return event

    def close(self) -> None:
        """Listen no more. What is in the buffer can still be had."""
        self._is_closed = True
        self._subscription.cancel()
        self._came.set()
        self._left.set()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *exc: object) -> None:
        self.close()

    def __del__(self) -> None:
        subscription = getattr(self, "_subscription", None)
        if subscription is not None:
            subscription.cancel()
            self._left.set()
