"""What a circuit breaker says about itself: its state, what happened, what it counted."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

from nexgate.errors import NexgateError

__all__ = [
    "CallRecorded",
    "CallRefused",
    "CircuitEvent",
    "CircuitOpenError",
    "CircuitState",
    "CircuitStatistics",
    "StateChanged",
]


class CircuitState(Enum):
    """What a circuit does with calls. The last three are set by an operator and stay."""

    CLOSED = "closed"
    """Calls pass and are counted."""
    OPEN = "open"
    """Calls are refused until the opening is over."""
    HALF_OPEN = "half-open"
    """A few trials pass; what becomes of them decides."""
    FORCED_OPEN = "forced-open"
    """Every call is refused, whatever the time."""
    DISABLED = "disabled"
    """Every call passes, nothing is counted."""
    METRICS_ONLY = "metrics-only"
    """Every call passes and is counted, and the circuit never opens."""


@dataclass(frozen=True, slots=True)
class StateChanged:
    """A circuit went from one state to another."""

    name: str
    """The circuit's."""
    before: CircuitState
    """The state it left."""
    after: CircuitState
    """The state it is in now."""
    at: float
    """When, on the breaker's monotonic clock."""
    reason: str
    """``failures``, ``failure-ratio``, ``slow-calls``, ``recovery-timeout``, ``trials-passed``,
    ``trials-failed``, ``trials-slow``, ``trials-lost`` or ``operator``; or what ``trip`` was
    told."""


@dataclass(frozen=True, slots=True)
class CallRefused:
    """A circuit did not let a call pass."""

    name: str
    """The circuit's."""
    state: CircuitState
    """Why: open, half-open with all trials under way, or forced open."""
    at: float
    """When, on the breaker's monotonic clock."""
    retry_after: float
    """Seconds after which asking again makes sense."""


@dataclass(frozen=True, slots=True)
class CallRecorded:
    """A call ended and counted. Made only while somebody listens for it."""

    name: str
    """The circuit's."""
    ok: bool
    """Whether it counted as a success."""
    seconds: float
    """How long it took."""
    is_slow: bool
    """Whether that is longer than ``CircuitConfig.slow_call``."""
    at: float
    """When it ended, on the breaker's monotonic clock."""


CircuitEvent = StateChanged | CallRefused | CallRecorded
"""Anything that ``CircuitBreaker.on_event`` passes on."""


@dataclass(frozen=True, slots=True)
class CircuitStatistics:
    """A circuit at one moment."""

    name: str
    """The circuit's."""
    state: CircuitState
    """What it does with calls."""
    since: float
    """When that state began, on the breaker's monotonic clock."""
    failures: int
    """Failures in a row, up to now."""
    calls: int
    """Calls in the window; 0 without one."""
    failed: int
    """Those of them that failed."""
    slow: int
    """Those of them that were slow."""
    failure_ratio: float | None
    """``failed / calls``; ``None`` below ``minimum_calls``."""
    slow_call_ratio: float | None
    """``slow / calls``; ``None`` below ``minimum_calls``."""
    openings: int
    """How often it opened since its last close."""
    refused: int
    """Calls that were refused, ever."""
    trials_left: int
    """Trials that would still be admitted; 0 unless half-open."""
    retry_after: float
    """Seconds until asking again makes sense; 0 when a call would pass."""


class CircuitOpenError(NexgateError):
    """A circuit refused a call, which was not made.

    Catch it to answer from elsewhere, or call again after ``retry_after`` seconds.
    """

    def __init__(self, name: str, state: CircuitState, retry_after: float) -> None:
        super().__init__(name, state, retry_after)
        self.name = name
        self.state = state
        self.retry_after = retry_after

    def __str__(self) -> str:
        circuit = f"circuit {self.name!r}" if self.name else "the circuit"
        if self.state is CircuitState.FORCED_OPEN:
            return f"{circuit} is held open by its operator: answer without it until its reset()"
        if self.state is CircuitState.HALF_OPEN:
            return f"{circuit} waits for its trials: call again after {self.retry_after:.3g} s"
        return (
            f"{circuit} is open for another {self.retry_after:.3g} s: "
            "call again after that, or answer without it"
        )
