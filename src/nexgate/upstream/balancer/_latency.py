"""What the ``ewma`` balancer knows of an instance: peak EWMA of its answer times."""

from __future__ import annotations

__all__ = ["PeakLatency"]


class PeakLatency:
    """A moving average in seconds that jumps up at once and forgets with a half-life.

    A 5xx counts as at least a second: an answer that is no answer must not look fast.
    """

    __slots__ = ("_at", "half_life", "seconds")

    def __init__(self, half_life: float) -> None:
        self.half_life = half_life
        self._at = 0.0
        self.seconds = 0.0
        """0.0 while nothing has been observed."""

    def observe(self, status: int, seconds: float, now: float) -> None:
        """An answer with ``status`` began ``seconds`` after it was asked for."""
        if status >= 500:
            seconds = max(seconds, 1.0)
        age = now - self._at
        self._at = now
        if seconds > self.seconds:
            self.seconds = seconds
        else:
            keep = 2.0 ** (-age / self.half_life)
            self.seconds = self.seconds * keep + seconds * (1.0 - keep)
