"""How many of the calls to a service may be retries."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from typing import Final

__all__ = ["RetryBudget"]

_BUCKETS: Final = 10
_SLACK: Final = 1e-9
"""0.29 * 100 is a little less than 29 in floats; a retry is not to be lost to that."""


class RetryBudget:
    """Limits retries to a part of the calls, so that they cannot multiply an outage.

    Within any ``window`` seconds there are at most ``max(ratio * deposits, min_per_second *
    window)`` retries. It is the larger of the two, not their sum: a busy service never sees more
    than ``1 + ratio`` of its load, and a quiet one can still retry at all. What is not spent
    expires with its window, so an idle hour saves up nothing.

    One budget belongs to one service, shared by everything that may call it twice.
    """

    __slots__ = (
        "_at",
        "_clock",
        "_deposited",
        "_deposits",
        "_end",
        "_minimum",
        "_ratio",
        "_spending",
        "_spent",
        "_start",
        "_width",
    )

    def __init__(
        self,
        ratio: float = 0.2,
        min_per_second: float = 3.0,
        window: float = 10.0,
        *,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        if not 0.0 <= ratio < math.inf:
            raise ValueError(f"ratio must be at least 0 (0.2 is one in five), not {ratio!r}")
        if not 0.0 <= min_per_second < math.inf:
            raise ValueError(f"min_per_second must be at least 0, not {min_per_second!r}")
        if not 0.0 < window < math.inf:
            raise ValueError(f"window must be a finite number of seconds above 0, not {window!r}")
        self._ratio = ratio
        self._minimum = min_per_second * window + _SLACK
        self._clock = clock
        self._width = window / _BUCKETS
        self._start = (
            self._end
        ) = -math.inf  # of the current bucket; empty, so the first use sets it
        self._clear()

    def deposit(self, count: float = 1, now: float | None = None) -> None:
        """Tell of ``count`` calls that were made; retries are not among them."""
        if now is None:
            now = self._clock()
        if not self._start <= now < self._end:
            self._turn(now)
        self._deposits[self._at] += count
        self._deposited += count

    def try_spend(self, now: float | None = None) -> bool:
        """Ask for one retry. ``False``: do without it, the service has enough to do."""
        if now is None:
            now = self._clock()
        if not self._start <= now < self._end:
            self._turn(now)
        allowed = self._ratio * self._deposited + _SLACK
        if allowed < self._minimum:
            allowed = self._minimum
        if self._spent + 1 > allowed:
            return False
        self._spending[self._at] += 1
        self._spent += 1
        return True

    def balance(self, now: float | None = None) -> float:
        """How many retries would be granted at this moment. May have a fraction."""
        if now is None:
            now = self._clock()
        if not self._start <= now < self._end:
            self._turn(now)
        allowed = max(self._ratio * self._deposited, self._minimum - _SLACK)
        return max(0.0, allowed - self._spent)

    def reconfigure(self, ratio: float, min_per_second: float) -> None:
        """Change what is allowed, keeping what was deposited and spent."""
        fresh = RetryBudget(ratio, min_per_second, self._width * _BUCKETS)
        self._ratio, self._minimum = fresh._ratio, fresh._minimum

    def _clear(self) -> None:
        self._at = 0
        # Deposits count for the current bucket and nine before it: never longer than the window.
        # What was spent counts for one bucket more: never shorter than the window. With the same
        # number for both, a retry would be forgotten while it still is in the window, and another
        # granted in its place.
        self._deposits: list[float] = [0.0] * (_BUCKETS + 1)
        self._spending = [0] * (_BUCKETS + 1)
        self._deposited = 0.0
        self._spent = 0

    def _turn(self, now: float) -> None:
        steps = (now - self._start) // self._width
        if not -_BUCKETS <= steps <= _BUCKETS:  # NaN too
            self._clear()
            if math.isfinite(now):
                self._start, self._end = now, now + self._width
            return
        size = _BUCKETS + 1
        for _ in range(int(steps)):  # none when the clock went back a little
            at = self._at = (self._at + 1) % size
            self._spent -= self._spending[at]
            self._spending[at] = 0
            self._deposits[at] = 0.0  # it stopped counting one turn ago
        if steps > 0:
            self._start += steps * self._width
            self._end = self._start + self._width
            # Summed anew: with fractions, adding and subtracting would drift.
            self._deposited = sum(self._deposits) - self._deposits[(self._at + 1) % size]
