"""The calls that a circuit remembers: the last so many, or those of the last so many seconds.

Both keep running sums, so a call costs the same however large the window is.
"""

from __future__ import annotations

import math
from typing import Final, Protocol

__all__ = ["FAILED", "OK", "SLOW", "CountWindow", "TimeWindow", "Window"]

OK: Final = 0
FAILED: Final = 1
SLOW: Final = 2
"""An outcome is ``OK``, or ``FAILED``, ``SLOW`` or both, added."""

_SEEN: Final = 4
_BUCKETS: Final = 10


class Window(Protocol):
    """Counts outcomes and forgets the old ones."""

    calls: int
    failed: int
    slow: int

    def add(self, outcome: int, now: float) -> None:
        """Count a call that ended ``now``."""

    def expire(self, now: float) -> None:
        """Forget what is too old ``now``."""

    def clear(self) -> None:
        """Forget everything."""


class CountWindow:
    """The last ``size`` calls, in a ring."""

    __slots__ = ("_at", "_ring", "calls", "failed", "slow")

    def __init__(self, size: int) -> None:
        self._ring = bytearray(size)
        self._at = 0
        self.calls = 0
        self.failed = 0
        self.slow = 0

    def add(self, outcome: int, now: float) -> None:
        """Count a call; the oldest goes when the ring is full."""
        ring, at = self._ring, self._at
        old, new = ring[at], outcome | _SEEN
        if old != new:  # mostly it is one success after another
            if not old:
                self.calls += 1
            ring[at] = new
            self.failed += (new & FAILED) - (old & FAILED)
            self.slow += ((new & SLOW) - (old & SLOW)) >> 1
        at += 1
        self._at = at if at < len(ring) else 0

    def expire(self, now: float) -> None:
        """Nothing is ever too old here."""

    def clear(self) -> None:
        """Forget everything."""
        self._ring = bytearray(len(self._ring))
        self._at = self.calls = self.failed = self.slow = 0


class TimeWindow:
    """The calls of the last ``seconds``, in ten buckets.

    A call is remembered for at least nine tenths of the window and never for longer than all of
    it, *whether or not others follow*: what has expired is dropped when the window is looked at.
    A clock that goes back by less than the window stands still here; by more, all starts anew.
    """

    __slots__ = (
        "_at",
        "_calls",
        "_end",
        "_failed",
        "_slow",
        "_start",
        "_width",
        "calls",
        "failed",
        "slow",
    )

    def __init__(self, seconds: float) -> None:
        self._width = seconds / _BUCKETS
        self._start = (
            self._end
        ) = -math.inf  # of the current bucket; empty, so the first call sets it
        self.clear()

    def add(self, outcome: int, now: float) -> None:
        """Count a call that ended ``now``."""
        if not self._start <= now < self._end:
            self._turn(now)
        at = self._at
        self.calls += 1
        self._calls[at] += 1
        if outcome:
            if outcome & FAILED:
                self.failed += 1
                self._failed[at] += 1
            if outcome & SLOW:
                self.slow += 1
                self._slow[at] += 1

    def expire(self, now: float) -> None:
        """Forget what is too old ``now``."""
        if not self._start <= now < self._end:
            self._turn(now)

    def clear(self) -> None:
        """Forget everything."""
        self._calls = [0] * _BUCKETS
        self._failed = [0] * _BUCKETS
        self._slow = [0] * _BUCKETS
        self._at = self.calls = self.failed = self.slow = 0

    def _turn(self, now: float) -> None:
        steps = (now - self._start) // self._width
        if not -_BUCKETS < steps < _BUCKETS:  # NaN too
            self.clear()
            if math.isfinite(now):
                self._start, self._end = now, now + self._width
            return
        for _ in range(int(steps)):  # none when the clock went back a little
            at = self._at = (self._at + 1) % _BUCKETS
            self.calls -= self._calls[at]
            self.failed -= self._failed[at]
            self.slow -= self._slow[at]
            self._calls[at] = self._failed[at] = self._slow[at] = 0
        if steps > 0:
            self._start += steps * self._width
            self._end = self._start + self._width
