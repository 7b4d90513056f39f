"""One lazy timer wheel per event loop: a deadline costs an attribute, not a timer object.

``Timed`` objects (connections, mostly) carry an absolute ``deadline`` on the loop's clock. Moving
it *later* is a plain attribute store: the wheel looks at the object when the slot it was filed in
comes round, sees that the deadline has moved, and files it again. Only moving it *earlier* touches
the wheel. So a connection that answers a thousand requests a second is visited once per timeout,
not once per request.

Deadlines fire at most ``TICK`` late and never early. The clock is monotonic; wall-clock steps do
not matter.
"""

from __future__ import annotations

import asyncio
import logging
from typing import Final

__all__ = ["NEVER", "TICK", "Timed", "Wheel", "wheel_of"]

TICK: Final = 0.1
"""Seconds between two visits of the wheel."""
NEVER: Final = float("inf")
_AT_ONCE: Final = 16
"""How many deadlines fire before the event loop gets a turn: less than a millisecond of them."""

_log = logging.getLogger("nexgate")


class Timed:
    """Something with a deadline. Subclasses implement ``on_deadline``."""

    __slots__ = ("_slot", "deadline")

    def __init__(self) -> None:
        self.deadline: float = NEVER
        self._slot: int = -1

    def on_deadline(self, now: float) -> None:
        """Called once when the deadline has passed; may set a new one with ``Wheel.set``."""
        raise NotImplementedError


class Wheel:
    """Files ``Timed`` objects by the tick in which they want to be looked at."""

    __slots__ = ("_handle", "_loop", "_slots", "_tick")

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._slots: dict[int, set[Timed]] = {}
        self._tick = int(loop.time() / TICK)
        self._handle: asyncio.TimerHandle | None = None

    def __len__(self) -> int:
        return sum(map(len, self._slots.values()))

    def set(self, timed: Timed, deadline: float) -> None:
        """Set the deadline. Cheap when it is not earlier than the slot the object is filed in."""
        timed.deadline = deadline
        slot = timed._slot
        if slot >= 0 and slot * TICK <= deadline:
            return
        if deadline == NEVER:
            return
        self._file(timed, deadline)

    def forget(self, timed: Timed) -> None:
        """Drop the object; nothing in the wheel keeps it alive after this."""
        timed.deadline = NEVER
        slot = timed._slot
        if slot >= 0:
            timed._slot = -1
            members = self._slots.get(slot)
            if members is not None:
                members.discard(timed)
                if not members:
                    del self._slots[slot]

    def _file(self, timed: Timed, deadline: float) -> None:
        old = timed._slot
        if old >= 0:
            members = self._slots.get(old)
            if members is not None:
                members.discard(timed)
                if not members:
                    del self._slots[old]
        if self._handle is None:
            self._tick = int(self._loop.time() / TICK)
            self._handle = self._loop.call_later(TICK, self._turn)
        slot = max(int(deadline / TICK), self._tick) + 1
        timed._slot = slot
        found = self._slots.get(slot)
        if found is None:
            self._slots[slot] = {timed}
        else:
            found.add(timed)

    def _turn(self) -> None:
        now = self._loop.time()
        target = int(now / TICK)
        due: list[Timed] = []
        # After a long stall the slots between are fewer than the ticks between.
        if target - self._tick > len(self._slots):
            slots = sorted(s for s in self._slots if s <= target)
        else:
            slots = [s for s in range(self._tick + 1, target + 1) if s in self._slots]
        for slot in slots:
            due.extend(self._slots.pop(slot))
        self._tick = target
        for timed in due:
            timed._slot = -1
        self._handle = self._loop.call_later(TICK, self._turn)
        self._fire(due, now)
        if not self._slots:
            self._handle.cancel()
            self._handle = None

    def _fire(self, due: list[Timed], now: float) -> None:
        """Visit those that are due, a few at a time: a crowd that came together times out together,
        and what arrives meanwhile should not wait for all of it.
        """
        if len(due) > _AT_ONCE:
            self._loop.call_soon(self._fire, due[_AT_ONCE:], now)
            del due[_AT_ONCE:]
        for timed in due:
            deadline = timed.deadline
            if deadline == NEVER or timed._slot >= 0:
                continue
            if deadline > now:
                self._file(timed, deadline)
                continue
            timed.deadline = NEVER
            try:
                timed.on_deadline(now)
            except Exception:
                _log.exception("a deadline handler failed")


_wheels: dict[int, tuple[asyncio.AbstractEventLoop, Wheel]] = {}


def wheel_of(loop: asyncio.AbstractEventLoop) -> Wheel:
    """The wheel of this loop, made at first use."""
    found = _wheels.get(id(loop))
    if found is not None and found[0] is loop:
        return found[1]
    for key, (other, _) in list(_wheels.items()):
        if other.is_closed():
            del _wheels[key]
    wheel = Wheel(loop)
    _wheels[id(loop)] = loop, wheel
    return wheel
