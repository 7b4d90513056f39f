"""How long to wait before the next attempt."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

__all__ = ["Backoff"]


@dataclass(frozen=True, slots=True)
class Backoff:
    """Exponential, with full jitter: any moment up to a bound that grows from attempt to attempt.

    The jitter is applied after the cap. The other way round, all clients that have reached the cap
    come back at the same moment, which is what jitter is there to prevent.
    """

    base: float = 0.025
    """Bound after the first attempt, in seconds."""

    cap: float = 1.0
    """Largest bound, in seconds."""

    factor: float = 2.0
    """By what the bound grows with each attempt; 1 keeps it."""

    def __post_init__(self) -> None:
        for name in ("base", "cap"):
            value = getattr(self, name)
            if not 0.0 <= value < math.inf:
                raise ValueError(f"{name} must be a finite number of seconds, not {value!r}")
        if self.base > self.cap:
            raise ValueError(f"base must not be more than cap, {self.cap!r}, as {self.base!r} is")
        if not 1.0 <= self.factor < math.inf:
            raise ValueError(f"factor must be at least 1, not {self.factor!r}")

    def bound(self, attempt: int) -> float:
        """The longest wait after ``attempt`` attempts; the first is 1."""
        try:
            return min(self.cap, self.base * self.factor ** max(attempt - 1, 0))
        except OverflowError:
            return self.cap

    def delay(self, attempt: int, random: Callable[[], float]) -> float:
        """Seconds to wait after ``attempt`` attempts. ``random`` draws from 0 up to 1."""
        return self.bound(attempt) * random()
