"""When a circuit opens, for how long, and how it tries again."""

from __future__ import annotations

import math
from dataclasses import dataclass

__all__ = ["CircuitConfig"]


@dataclass(frozen=True, slots=True)
class CircuitConfig:
    """When a circuit opens, for how long, and how it tries again.

    Raises ``ValueError`` that names the field when a value cannot work.
    """

    failure_threshold: int | None = 5
    """Failures in a row that open the circuit; ``None`` turns this rule off."""

    recovery_timeout: float = 30.0
    """Seconds of the first opening. A following one, without a close between, lasts longer."""

    half_open_calls: int = 3
    """Trials that a half-open circuit admits, no more, before it decides."""

    failure_ratio: float | None = None
    """Share of failed calls in the window that opens the circuit: above 0, at most 1."""

    slow_call_ratio: float | None = None
    """Share of slow calls in the window that opens the circuit: above 0, at most 1."""

    slow_call: float = 60.0
    """A call that took longer than these seconds is slow, whether it failed or not."""

    minimum_calls: int = 20
    """Calls in the window below which its ratios say nothing. A window of fewer calls lowers it."""

    window_calls: int | None = None
    """The window is the last so many calls. Excludes ``window_seconds``."""

    window_seconds: float | None = None
    """The window is the last so many seconds. With a ratio and no window it is 10 seconds."""

    max_recovery_timeout: float = 300.0
    """Longest opening, in seconds. Does not shorten a ``recovery_timeout`` that is longer."""

    backoff: float = 2.0
    """By what an opening outlasts the one before; 1 makes all the same."""

    jitter: float = 0.1
    """By which part of itself, at most, an opening is shorter: many breakers must not try again at
    the same moment. Never longer, so a timeout is a promise."""

    half_open_timeout: float | None = 60.0
    """Seconds to wait, once all trials are under way, for their outcomes; then those that miss
    count as failed. ``None`` waits for ever, which a caller that forgets a permit makes true."""

    def __post_init__(self) -> None:
        if self.failure_threshold is None and self.failure_ratio is None:
            if self.slow_call_ratio is None:
                raise ValueError(
                    "nothing would open the circuit: "
                    "set failure_threshold, failure_ratio or slow_call_ratio"
                )
        if self.window_calls is not None and self.window_seconds is not None:
            raise ValueError("window_calls and window_seconds exclude each other: leave one out")
        for name in ("failure_threshold", "half_open_calls", "minimum_calls", "window_calls"):
            _check_count(name, getattr(self, name))
        for name in ("failure_ratio", "slow_call_ratio"):
            _check_ratio(name, getattr(self, name))
        for name in (
            "recovery_timeout",
            "slow_call",
            "window_seconds",
            "max_recovery_timeout",
            "half_open_timeout",
        ):
            _check_seconds(name, getattr(self, name))
        if not 1.0 <= self.backoff < math.inf:
            raise ValueError(f"backoff must be at least 1, not {self.backoff!r}")
        if not 0.0 <= self.jitter < 1.0:
            raise ValueError(f"jitter must be at least 0 and below 1, not {self.jitter!r}")

    @property
    def has_ratio(self) -> bool:
        """Whether a window of calls decides, beside or instead of failures in a row."""
        return self.failure_ratio is not None or self.slow_call_ratio is not None


def _check_count(name: str, value: object) -> None:
    if value is not None and (not isinstance(value, int) or value < 1):
        raise ValueError(f"{name} must be a whole number of at least 1, not {value!r}")


def _check_ratio(name: str, value: float | None) -> None:
    if value is not None and not 0.0 < value <= 1.0:
        raise ValueError(f"{name} must be above 0 and at most 1 (0.5 is half), not {value!r}")


def _check_seconds(name: str, value: float | None) -> None:
    if value is not None and not 0.0 < value < math.inf:
        raise ValueError(f"{name} must be a finite number of seconds above 0, not {value!r}")
