"""How many calls a service bears at once, found out from how long they take."""

from __future__ import annotations

import math
from typing import Final

__all__ = ["AdaptiveLimit"]

_WARM_UP: Final = 10
"""Samples of which the long average is the plain one: the first must not weigh for minutes."""
_DROPPED: Final = 0.9
"""What a sample with a dropped call leaves of the limit."""
_RECOVERING: Final = 0.95


class AdaptiveLimit:
    """A concurrency limit that follows latency.

    A sample is the mean latency of the calls of one ``window``. The limit moves with the gradient
    between the long average of the samples and the latest: while calls take as long as ever, it
    grows by a little; when they queue somewhere, it shrinks in proportion. After each sample::

        gradient = tolerance * long / sample, from 0.5 to 1
        limit    = (1 - smoothing) * limit + smoothing * (limit * gradient + queue)

    A sample during which fewer than half the limit were in flight changes nothing: it was the
    clients that limited, and their absence proves nothing about the service. A sample with a
    *dropped* call (one that timed out, or that the service refused for its load) takes a tenth off.

    Not for services whose calls differ much in cost: a change of the mix looks like load.
    """

    __slots__ = (
        "_count",
        "_end",
        "_in_flight",
        "_limit",
        "_long",
        "_served",
        "_since",
        "_sum",
        "_taken",
        "_weight",
        "max_limit",
        "min_limit",
        "minimum_calls",
        "queue",
        "smoothing",
        "tolerance",
        "window",
    )

    def __init__(
        self,
        initial: int = 20,
        min_limit: int = 20,
        max_limit: int = 200,
        *,
        tolerance: float = 1.5,
        queue: float = 4.0,
        smoothing: float = 0.2,
        long_window: int = 600,
        window: float = 1.0,
        minimum_calls: int = 10,
    ) -> None:
        if not 1 <= min_limit <= max_limit:
            raise ValueError(
                f"limits must be 1 <= min_limit <= max_limit, not {min_limit} and {max_limit}"
            )
        if not tolerance >= 1.0:
            raise ValueError(f"tolerance must be at least 1, not {tolerance!r}")
        if not 0.0 < smoothing <= 1.0:
            raise ValueError(f"smoothing must be above 0 and at most 1, not {smoothing!r}")
        if not queue >= 0.0:
            raise ValueError(f"queue must be at least 0, not {queue!r}")
        if not 0.0 < window < math.inf or minimum_calls < 1 or long_window < 1:
            raise ValueError("window, minimum_calls and long_window must be more than 0")
        self.min_limit = min_limit
        self.max_limit = max_limit
        self.tolerance = tolerance
        """By what latency may rise above its long average before the limit shrinks."""
        self.queue = queue
        """How many calls may wait within the service: by this the limit grows."""
        self.smoothing = smoothing
        """Weight of a new limit against the old one."""
        self.window = window
        """Shortest sample, in seconds; it lasts until ``minimum_calls`` are in it."""
        self.minimum_calls = minimum_calls
        self._weight = 2.0 / (long_window + 1)
        self._limit = float(min(max(initial, min_limit), max_limit))
        self._long = 0.0
        self._taken = 0  # samples in the long average
        # The sample that is being taken.
        self._since = self._end = -math.inf
        self._count = self._served = self._in_flight = 0
        self._sum = 0.0

    @property
    def limit(self) -> int:
        """Calls that may be in flight."""
        return int(self._limit)

    def observe(self, seconds: float, in_flight: int, dropped: bool, now: float) -> None:
        """Tell that a call ended after ``seconds``, with ``in_flight`` under way, itself included.

        Calls that failed quickly, and cancelled ones, say nothing about load: leave them out.
        """
        if self._count == 0 or now < self._since:  # the first, or the clock went back
            self._since, self._end = now, now + self.window
            self._count = self._served = self._in_flight = 0
            self._sum = 0.0
        self._count += 1
        if in_flight > self._in_flight:
            self._in_flight = in_flight
        if not dropped:
            # The time of a dropped call is that of somebody's timeout, not of the service.
            self._served += 1
            self._sum += seconds
        if not now < self._end and self._count >= self.minimum_calls:
            self._update()
            self._count = 0

    def _update(self) -> None:
        sample = self._sum / self._served if self._served else 0.0
        if sample > 0.0:
            self._remember(sample)
        if self._served < self._count:
            self._set(self._limit * _DROPPED)
        elif sample > 0.0 and self._in_flight >= self._limit / 2:
            gradient = max(0.5, min(1.0, self.tolerance * self._long / sample))
            wanted = self._limit * gradient + self.queue
            self._set(self._limit * (1.0 - self.smoothing) + wanted * self.smoothing)

    def _remember(self, sample: float) -> None:
        self._taken += 1
        weight = 1.0 / self._taken if self._taken <= _WARM_UP else self._weight
        self._long += (sample - self._long) * weight
        if self._long / sample > 2.0:
            # It was slow for long and is quick again: the average, left alone, would take minutes
            # to notice and permit far too much meanwhile.
            self._long *= _RECOVERING

    def _set(self, limit: float) -> None:
        self._limit = min(max(limit, float(self.min_limit)), float(self.max_limit))
