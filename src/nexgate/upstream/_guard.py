"""How a service is called: the settings and the living parts that its calls share.

A service has one guard, and another for each route that says something of its own. Settings are
replaced at a reload; a breaker, a bulkhead and what a hedge has measured stay.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from typing import Any, Final

from nexgate.http import ResponseHead
from nexgate.resilience import (
    Bulkhead,
    CircuitBreaker,
    CircuitEvent,
    Quantile,
    RetryPolicy,
    StateChanged,
    parse_retry_after,
)
from nexgate.resilience.config import (
    BreakerConfig,
    BulkheadConfig,
    DeadlineConfig,
    HedgeConfig,
    RetryConfig,
)

__all__ = ["DEFAULT_POLICY", "GATEWAY_FAILURES", "GUARDED", "Guard"]

_log = logging.getLogger("nexgate.upstream")

GUARDED: Final = ("retry", "breaker", "bulkhead", "hedge", "deadline")
"""What services, and routes, may say about how a service is called."""
DEFAULT_POLICY: Final = RetryPolicy(attempts=2, statuses=frozenset())
"""Without a word from the operator: once more when a connection died without a byte."""
GATEWAY_FAILURES: Final = frozenset((502, 503, 504))
"""Statuses that say that a service could not do its work, rather than that it would not."""

_FAILING: Final = frozenset(range(500, 600))


class Guard:
    """See the module's docstring."""

    __slots__ = (
        "_said",
        "breaker",
        "bulkhead",
        "deadline",
        "deadline_field",
        "deadline_name",
        "failing",
        "hedge",
        "is_retry_asked_for",
        "makes_calls",
        "name",
        "on_circuit",
        "policy",
        "replay_bytes",
        "service",
        "settings",
        "shares_circuit",
    )

    def __init__(self, service: str, route: str = "") -> None:
        self.service = service
        self.name = f"{service} for {route}" if route else service
        self.on_circuit: Callable[[Guard, StateChanged], None] | None = None
        """Told of every change of the circuit's state, where it is shared."""
        self.shares_circuit = False
        self.policy: RetryPolicy = DEFAULT_POLICY
        self.is_retry_asked_for = False
        self.replay_bytes = 0
        self.failing: frozenset[int] = _FAILING
        """Statuses that are failures to the breaker."""
        self.breaker: CircuitBreaker | None = None
        self.bulkhead: Bulkhead | None = None
        self.hedge: float | Quantile | None = None
        """Seconds after which a second attempt joins the first."""
        self.deadline: DeadlineConfig | None = None
        self.deadline_name = b""
        self.deadline_field = b""
        """The name in lower case."""
        self.makes_calls = False
        self._said: tuple[Any, ...] = (None,) * 5
        self.settings: tuple[Any, ...] = (None,) * 5
        """Sections in force: retry, breaker, bulkhead, hedge, deadline."""

    def configure(
        self,
        base: Guard | None = None,
        *,
        retry: RetryConfig | None = None,
        breaker: BreakerConfig | None = None,
        bulkhead: BulkheadConfig | None = None,
        hedge: HedgeConfig | None = None,
        deadline: DeadlineConfig | None = None,
    ) -> None:
        """Take over other settings. What says the same as before is not touched.

        What is not said here is that of ``base``: its living breaker, bulkhead and hedge, too.
        """
        said = (retry, breaker, bulkhead, hedge, deadline)
        before, self._said = self._said, said
        inherited = base.settings if base is not None else (None,) * len(said)
        self.settings = tuple(
            own if own is not None else other for own, other in zip(said, inherited, strict=True)
        )
        self._configure_retry(self.settings[0], self.settings[4])
        self.shares_circuit = breaker is not None and breaker.share
        if breaker is None:
            self.breaker = base.breaker if base is not None else None
            self.failing = base.failing if base is not None else _FAILING
        elif before[1] is None or self.breaker is None:  # an inherited one is not ours to change
            self.breaker = breaker.breaker(self.name)
            self.breaker.on_event(self._say, StateChanged)
            self.failing = breaker.statuses
        elif breaker != before[1]:
            breaker.apply(self.breaker, before[1])
            self.failing = breaker.statuses
        if bulkhead is None:
            self.bulkhead = base.bulkhead if base is not None else None
        elif bulkhead != before[2]:
            # Whoever is inside the one before leaves that one.
            self.bulkhead = bulkhead.bulkhead()
        if hedge is None:
            self.hedge = base.hedge if base is not None else None
        elif hedge != before[3]:
            self.hedge = hedge.delay()
        self.makes_calls = bool(
            self.breaker or self.bulkhead or self.hedge or self.deadline or self.replay_bytes
        )

    def take(self, said: Any, base: Guard | None = None) -> None:
        """``configure`` with what a section says: that of a service, or of a route."""
        self.configure(base, **{name: getattr(said, name) for name in GUARDED})

    def _configure_retry(self, retry: RetryConfig | None, deadline: DeadlineConfig | None) -> None:
        self.policy = retry.policy() if retry is not None else DEFAULT_POLICY
        self.is_retry_asked_for = retry is not None
        self.replay_bytes = self.policy.max_replay_bytes
        self.deadline = deadline
        name = deadline.header.encode("latin-1") if deadline is not None else b""
        self.deadline_name = name
        self.deadline_field = name.lower()

    def _say(self, event: CircuitEvent) -> None:
        assert isinstance(event, StateChanged)
        _log.warning("the circuit of %s is %s (%s)", self.name, event.after.value, event.reason)
        if self.on_circuit is not None:
            self.on_circuit(self, event)

    def hedge_after(self) -> float | None:
        """Seconds; None while too little is known."""
        hedge = self.hedge
        return hedge.value if isinstance(hedge, Quantile) else hedge

    def is_failure(self, status: int) -> bool:
        return status in self.failing

    def retry_after_of(
        self, head: ResponseHead, clock: Callable[[], float] = time.time
    ) -> float | None:
        """What an answer says of when to come again, in seconds."""
        for field in head.fields:
            if field.name == b"retry-after":
                return parse_retry_after(field.value, clock())
        return None

    def describe(self) -> list[tuple[str, str]]:
        """Names and words of what is in force, for people."""
        retry, breaker, bulkhead, hedge, deadline = self.settings
        said: list[tuple[str, str]] = []
        if retry is not None:
            said.append(("retry", _describe_retry(retry)))
        if breaker is not None:
            said.append(("breaker", _describe_breaker(breaker)))
        if bulkhead is not None:
            queue = f", {bulkhead.queue} more wait at most {bulkhead.wait:g}s"
            said.append(("bulkhead", f"{bulkhead.limit} at once{queue if bulkhead.queue else ''}"))
        if hedge is not None:
            after = f"{hedge.after:g}s" if hedge.after else f"p{(hedge.percentile or 0.95) * 100:g}"
            said.append(("hedge", f"a second attempt after {after}"))
        if deadline is not None:
            said.append(("deadline", f"from {deadline.header}"))
        return said


def _describe_retry(retry: RetryConfig) -> str:
    statuses = ", ".join(map(str, sorted(retry.statuses)[:6])) or "none"
    methods = ", ".join(sorted(retry.methods))
    return (
        f"up to {retry.attempts} attempts of {methods} on {statuses}; "
        f"budget {retry.budget:.0%} of the requests"
    )


def _describe_breaker(breaker: BreakerConfig) -> str:
    circuit = breaker.circuit()
    if breaker.state != "auto":
        return breaker.state
    signs = []
    if circuit.failure_threshold is not None:
        signs.append(f"{circuit.failure_threshold} failures in a row")
    if circuit.failure_ratio is not None:
        signs.append(f"{circuit.failure_ratio:.0%} failures of at least {breaker.minimum_calls}")
    if circuit.slow_call_ratio is not None:
        signs.append(f"{circuit.slow_call_ratio:.0%} slower than {breaker.slow_call:g}s")
    return f"opens at {' or '.join(signs)}, for {breaker.open_for:g}s"
