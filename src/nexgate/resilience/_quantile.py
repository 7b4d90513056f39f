"""A percentile of what was lately observed, such as the latency that 95 % stay below."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from typing import Final

__all__ = ["Quantile"]

_STEPS: Final = 32
"""Buckets between a power of two and the next: a bucket is at most 1/32 of its value wide."""
_LOWEST: Final = -20
"""The exponent below which all is one bucket: about half a microsecond."""
_HIGHEST: Final = 13
"""The exponent above which all is one bucket: about two hours."""
_SIZE: Final = (_HIGHEST - _LOWEST + 1) * _STEPS


class Quantile:
    """A percentile of the values of the last ``window`` seconds, within 1/64 of itself.

    Values fall into buckets whose width is in proportion to them, so milliseconds and minutes are
    known equally well, in a fixed 17 KiB. Two half windows take turns: what is remembered is
    between half the window and all of it. The position of the percentile moves with each value,
    by a bucket or so: neither observing nor reading searches.
    """

    __slots__ = (
        "_at",
        "_below",
        "_clock",
        "_counts",
        "_end",
        "_half",
        "_minimum",
        "_needed",
        "_recent",
        "_start",
        "_total",
        "q",
    )

    def __init__(
        self,
        q: float = 0.95,
        window: float = 60.0,
        *,
        minimum: float = 0.0,
        minimum_count: int = 20,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        if not 0.0 < q < 1.0:
            raise ValueError(f"q must be above 0 and below 1 (0.95 is the 95th), not {q!r}")
        if not 0.0 < window < math.inf:
            raise ValueError(f"window must be a finite number of seconds above 0, not {window!r}")
        if not 0.0 <= minimum < math.inf:
            raise ValueError(f"minimum must be at least 0, not {minimum!r}")
        self.q = q
        """Which part of the values lies at or below."""
        self._minimum = minimum
        self._needed = max(1, minimum_count)
        self._clock = clock
        self._half = window / 2
        self._start = self._end = -math.inf  # of the half window; empty, so the first value sets it
        self._counts = [0] * _SIZE  # both halves
        self._recent = [0] * _SIZE
        # Where the percentile is: its bucket, and how many values are in those before.
        self._total = self._at = self._below = 0

    @property
    def count(self) -> int:
        """Values that are remembered."""
        return self._total

    @property
    def value(self) -> float | None:
        """The estimate as of the last observation, never below ``minimum``.

        ``None`` while there are fewer than ``minimum_count`` values. Reading forgets nothing: after
        an idle hour, what was true before it is a better guess than none. The first observation
        after it starts anew.
        """
        if self._total < self._needed:
            return None
        exponent, step = divmod(self._at, _STEPS)
        middle = math.ldexp(0.5 + (step + 0.5) / (2 * _STEPS), exponent + _LOWEST)
        return middle if middle > self._minimum else self._minimum

    def observe(self, seconds: float, now: float | None = None) -> None:
        """Count a value. What is negative or no number is ignored."""
        if now is None:
            now = self._clock()
        if not self._start <= now < self._end:
            self._turn(now)
        if not 0.0 <= seconds < math.inf:
            return
        mantissa, exponent = math.frexp(seconds)
        if exponent < _LOWEST or mantissa == 0.0:
            bucket = 0
        elif exponent > _HIGHEST:
            bucket = _SIZE - 1
        else:
            bucket = (exponent - _LOWEST) * _STEPS + int((mantissa - 0.5) * (2 * _STEPS))
        self._counts[bucket] += 1
        self._recent[bucket] += 1
        self._total += 1
        if bucket < self._at:
            self._below += 1
        self._settle()

    def _settle(self) -> None:
        """Move to the bucket of the value that has ``q`` of all at or below it."""
        counts, at, below = self._counts, self._at, self._below
        rank = math.ceil(self.q * self._total - 1e-9)  # counted from 1
        while below >= rank:
            at -= 1
            below -= counts[at]
        while below + counts[at] < rank:
            below += counts[at]
            at += 1
        self._at, self._below = at, below

    def _forget(self) -> None:
        self._counts, self._recent = [0] * _SIZE, [0] * _SIZE
        self._total = self._at = self._below = 0

    def _turn(self, now: float) -> None:
        steps = (now - self._start) // self._half
        if not -2 < steps < 2:  # NaN too
            self._forget()
            if math.isfinite(now):
                self._start, self._end = now, now + self._half
            return
        if steps == 1:
            # The half that was recent goes on as the sum of both, and its successor starts empty.
            self._counts, self._recent = self._recent, [0] * _SIZE
            self._total = sum(self._counts)
            self._at = self._below = 0
            if self._total:
                self._settle()
            self._start += self._half
            self._end = self._start + self._half
