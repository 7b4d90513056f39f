"""At most so many calls at once; a few wait; the important ones get in.

The decisions are synchronous, with callbacks for those who wait, because a data plane has no tasks
to park. The async face is made of them.

One rule makes the rest simple: *whenever there is room, nobody waits for it*. Every change that
makes room (a call leaves, the limit grows) hands it on before it returns. So a newcomer that finds
room may take it without looking at the queue, and no wake-up can be lost between two ticks.
"""

from __future__ import annotations

import asyncio
import logging
import math
import time
from collections import OrderedDict
from collections.abc import Callable, Mapping
from enum import IntEnum
from types import TracebackType
from typing import Final, Literal

from nexgate.errors import NexgateError

from ._adaptive import AdaptiveLimit
from ._entered import Entered

__all__ = ["SHARES", "Bulkhead", "BulkheadFullError", "Priority", "Slot", "Ticket"]

_log = logging.getLogger("nexgate")


class Priority(IntEnum):
    """Who gets in when not everybody can."""

    LOW = 0
    """May wait and may be turned away: batches, prefetching, exports."""
    NORMAL = 1
    """What a person waits for."""
    HIGH = 2
    """What must work when nothing else does: health checks, payments under way."""


SHARES: Final[Mapping[Priority, float]] = {
    Priority.LOW: 0.80,
    Priority.NORMAL: 0.95,
    Priority.HIGH: 1.0,
}
"""The part of the limit below which a priority is admitted."""


class BulkheadFullError(NexgateError):
    """There is no room, and the wait for it was refused or too long. The call was not made.

    Answer without it, or try later; trying again at once only makes the queue longer.
    """

    def __init__(self, limit: int, reason: Literal["queue-full", "evicted", "wait"]) -> None:
        super().__init__(limit, reason)
        self.limit = limit
        self.reason = reason

    def __str__(self) -> str:
        why = {
            "queue-full": "and no more may wait",
            "evicted": "and a more important call took the place in the queue",
            "wait": "and none of them left in time",
        }[self.reason]
        return f"{self.limit} calls are under way, {why}: answer without this one, or try later"


class Ticket:
    """A place in the queue of a bulkhead."""

    __slots__ = ("_on_granted", "_on_refused", "priority", "state")

    def __init__(
        self,
        priority: Priority,
        on_granted: Callable[[], None],
        on_refused: Callable[[], None] | None,
    ) -> None:
        self.priority = priority
        self.state: Literal["waiting", "granted", "evicted", "cancelled"] = "waiting"
        self._on_granted = on_granted
        self._on_refused = on_refused


class Bulkhead:
    """At most ``limit`` calls at once, and at most ``queue`` that wait, for ``wait`` seconds.

    ``limit`` is a number, or an ``AdaptiveLimit`` that learns from the calls. Low priority is
    admitted below 80 % of it, normal below 95 %, high up to all of it (``shares``); a limit too
    small to be divided admits one of each. Who waits goes by priority, then by arrival; when the
    queue is full, the newest of the lowest priority makes place for a higher one.

    ``wait`` is for the async face only: who uses ``enqueue`` keeps the time.
    """

    __slots__ = (
        "_active",
        "_adaptive",
        "_clock",
        "_entered",
        "_is_granting",
        "_limit",
        "_queue",
        "_rooms",
        "_shares",
        "_waiting",
        "wait",
    )

    def __init__(
        self,
        limit: int | AdaptiveLimit,
        queue: int = 0,
        wait: float = 1.0,
        *,
        shares: Mapping[Priority, float] = SHARES,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        if queue < 0:
            raise ValueError(f"queue must be at least 0, not {queue!r}")
        if not 0.0 <= wait < math.inf:
            raise ValueError(f"wait must be seconds, not {wait!r}")
        parts = [shares.get(priority, SHARES[priority]) for priority in Priority]
        if not 0.0 < parts[0] <= parts[1] <= parts[2] <= 1.0:
            raise ValueError("shares must be above 0 and at most 1, and not fall with the priority")
        self.wait = wait
        """Longest wait of the async face, in seconds."""
        self._queue = queue
        self._shares = parts
        self._clock = clock
        self._active = 0
        # By priority; in each the oldest first, and any can leave at once.
        self._waiting: list[OrderedDict[Ticket, None]] = [OrderedDict() for _ in Priority]
        self._is_granting = False
        self._entered: Entered[float] = Entered()  # when, of the calls that an adaptive limit times
        self._adaptive = limit if isinstance(limit, AdaptiveLimit) else None
        self._limit = 0
        self._rooms = [0, 0, 0]
        self._resize(limit.limit if isinstance(limit, AdaptiveLimit) else limit)

    def __repr__(self) -> str:
        return f"<Bulkhead {self._active}/{self._limit}, {self.waiting} waiting>"

    @property
    def limit(self) -> int:
        """Calls that may be under way. Set it to change it: those that wait get in when it grows,
        and none is thrown out when it shrinks."""
        return self._limit

    @limit.setter
    def limit(self, limit: int) -> None:
        self._resize(limit)
        self._grant()

    @property
    def queue(self) -> int:
        """Calls that may wait. Set it to change it; who waits already stays."""
        return self._queue

    @queue.setter
    def queue(self, queue: int) -> None:
        if queue < 0:
            raise ValueError(f"queue must be at least 0, not {queue!r}")
        self._queue = queue

    @property
    def active(self) -> int:
        """Calls under way."""
        return self._active

    @property
    def waiting(self) -> int:
        """Calls that wait."""
        return sum(map(len, self._waiting))

    # --- the core ---------------------------------------------------------------------------------

    def try_enter(self, priority: Priority = Priority.NORMAL) -> bool:
        """Enter if there is room. After ``True``, call ``leave`` exactly once."""
        if self._active < self._rooms[priority]:
            self._active += 1
            return True
        return False

    def leave(
        self, seconds: float | None = None, *, dropped: bool = False, now: float | None = None
    ) -> None:
        """Make room. With an ``AdaptiveLimit``, ``seconds`` is what it learns from.

        Leave ``seconds`` out when the call says nothing about load: it was cancelled or failed at
        once. ``dropped`` says that it timed out, or that the service refused it for its load.
        """
        if not self._active:
            raise RuntimeError("leave() without a call under way: one call has left twice")
        adaptive = self._adaptive
        if adaptive is not None and seconds is not None:
            adaptive.observe(seconds, self._active, dropped, self._clock() if now is None else now)
            if adaptive.limit != self._limit:
                self._resize(adaptive.limit)
        self._active -= 1
        low, normal, high = self._waiting
        if high or normal or low:
            self._grant()

    def enqueue(
        self,
        priority: Priority,
        on_granted: Callable[[], None],
        on_refused: Callable[[], None] | None = None,
    ) -> Ticket | None:
        """Wait for room: ``on_granted`` is called once there is; from then on the call is inside.

        It may be called before this returns. ``None``: the queue is full. A ticket may still be
        evicted by a more important one, which calls ``on_refused``. Both run inside whatever made
        the room: they must be quick, and one that raises is logged.
        """
        ticket = Ticket(priority, on_granted, on_refused)
        if self.try_enter(priority):
            self._call(ticket, "granted")
            return ticket
        evicted = None
        if self.waiting >= self._queue:
            evicted = self._evict_below(priority)
            if evicted is None:
                return None
        self._waiting[priority][ticket] = None
        if evicted is not None:
            self._call(evicted, "evicted")
        return ticket

    def cancel(self, ticket: Ticket) -> bool:
        """Stop waiting. ``False``: it no longer waits; when it was granted, ``leave`` is due."""
        if ticket.state != "waiting":
            return False
        del self._waiting[ticket.priority][ticket]
        ticket.state = "cancelled"
        return True

    def _grant(self) -> None:
        """Hand out what room there is. The one place where waiting calls get in."""
        # A callback may leave at once, which comes back here: the loop below sees to it, where
        # recursion would be as deep as the queue is long.
        if self._is_granting:
            return
        self._is_granting = True
        try:
            while (ticket := self._next()) is not None:
                self._active += 1
                self._call(ticket, "granted")
        finally:
            self._is_granting = False

    def _next(self) -> Ticket | None:
        """Take who gets in next out of the queue, if there is room for any."""
        for priority in (Priority.HIGH, Priority.NORMAL, Priority.LOW):
            waiting = self._waiting[priority]
            if waiting and self._active < self._rooms[priority]:
                return waiting.popitem(last=False)[0]
        return None

    def _evict_below(self, priority: Priority) -> Ticket | None:
        for lower in range(priority):
            if self._waiting[lower]:
                ticket, _ = self._waiting[lower].popitem(last=True)
                return ticket
        return None

    def _call(self, ticket: Ticket, state: Literal["granted", "evicted"]) -> None:
        ticket.state = state
        callback = ticket._on_granted if state == "granted" else ticket._on_refused
        if callback is not None:
            try:
                callback()
            except Exception:
                _log.exception("a call that waited for a bulkhead failed")

    def _resize(self, limit: int) -> None:
        if limit < 1:
            raise ValueError(f"limit must be at least 1, not {limit!r}")
        self._limit = limit
        # "Below 80 %" of 4 is below 3.2, so the fourth gets in; the slack is for 0.55 * 100.
        self._rooms = [math.ceil(limit * share - 1e-9) for share in self._shares]

    # --- the async face ---------------------------------------------------------------------------

    def enter(self, priority: Priority = Priority.NORMAL) -> Slot:
        """One call, as a context manager: ``async with bulkhead.enter(Priority.HIGH):``.

        Waits for at most ``wait`` seconds, if the queue has a place. Raises ``BulkheadFullError``.
        """
        return Slot(self, priority)

    async def __aenter__(self) -> Bulkhead:
        if not self.try_enter():
            await self._wait(Priority.NORMAL)
        if self._adaptive is not None:
            self._entered.push(self._clock())
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> Literal[False]:
        if self._adaptive is None:
            self.leave()
        else:
            self._leave_after(self._entered.pop(), error)
        return False

    def _leave_after(self, started: float | None, error: BaseException | None) -> None:
        """Leave, and tell the adaptive limit what the call says about load, if anything."""
        is_dropped = isinstance(error, TimeoutError)
        if started is None or (error is not None and not is_dropped):
            self.leave()
        else:
            now = self._clock()
            self.leave(now - started, dropped=is_dropped, now=now)

    async def _wait(self, priority: Priority) -> None:
        """Wait for room, and be inside."""
        loop = asyncio.get_running_loop()
        done: asyncio.Future[None] = loop.create_future()

        def settle() -> None:
            if not done.done():
                done.set_result(None)

        ticket = self.enqueue(priority, settle, settle)
        if ticket is None:
            raise BulkheadFullError(self._limit, "queue-full")
        timer = loop.call_later(self.wait, settle)
        try:
            await done
        except BaseException:
            # Cancelled. Room may have been granted in this very tick: then it goes on.
            if not self.cancel(ticket) and ticket.state == "granted":
                self.leave()
            raise
        finally:
            timer.cancel()
        # The ticket says what has happened: room may have been granted between the timer and us.
        if self.cancel(ticket):
            raise BulkheadFullError(self._limit, "wait")
        if ticket.state == "evicted":
            raise BulkheadFullError(self._limit, "evicted")


class Slot:
    """One call through a bulkhead, as an async context manager."""

    __slots__ = ("_bulkhead", "_is_inside", "_priority", "_started")

    def __init__(self, bulkhead: Bulkhead, priority: Priority) -> None:
        self._bulkhead = bulkhead
        self._priority = priority
        self._is_inside = False
        self._started: float | None = None

    async def __aenter__(self) -> Slot:
        if self._is_inside:
            raise RuntimeError("a slot is for one call: make another with bulkhead.enter()")
        bulkhead = self._bulkhead
        if not bulkhead.try_enter(self._priority):
            await bulkhead._wait(self._priority)
        self._is_inside = True
        if bulkhead._adaptive is not None:
            self._started = bulkhead._clock()
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> Literal[False]:
        if self._is_inside:
            self._is_inside = False
            self._bulkhead._leave_after(self._started, error)
        return False
