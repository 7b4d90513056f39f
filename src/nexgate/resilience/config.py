"""How a service is protected: ``breaker``, ``retry``, ``bulkhead``, ``hedge`` and ``deadline``."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from typing import Annotated, Any, ClassVar, Final, Literal, Self

from pydantic import Field, PlainValidator, WithJsonSchema

from nexgate.config import (
    FROM_ENV,
    Duration,
    FieldName,
    Finding,
    Flag,
    Integer,
    Number,
    PositiveDuration,
    Section,
    Size,
    Timeout,
    attempt,
    did_you_mean,
    integer,
    parse_duration,
    parse_status_range,
    parse_token,
    size,
    unquoted,
    wrong,
)

from ._adaptive import AdaptiveLimit
from ._backoff import Backoff
from ._breaker import CircuitBreaker
from ._budget import RetryBudget
from ._bulkhead import Bulkhead
from ._circuit_config import CircuitConfig
from ._quantile import Quantile
from ._retry_policy import RetryPolicy

# --- statuses -------------------------------------------------------------------------------------


def _statuses(value: object) -> frozenset[int]:
    items = list(value) if isinstance(value, (list, tuple, set, frozenset)) else [value]
    if not items:
        raise wrong("must not be empty")
    hint = 'for example 503, "500-599" or [502, 503]'
    ranges = (parse_status_range(item, hint) for item in items)
    return frozenset(status for low, high in ranges for status in range(low, high + 1))


Statuses = Annotated[
    frozenset[int],
    PlainValidator(_statuses),
    WithJsonSchema(
        {
            "$comment": "a status, a range or a list of them",
            "anyOf": [
                {"type": "integer", "minimum": 100, "maximum": 599},
                {"type": "string", "pattern": "^[1-5][0-9]{2}( *- *[1-5][0-9]{2})?$"},
                {"type": "array", "items": {"type": ["integer", "string"]}, "minItems": 1},
            ],
        }
    ),
]
"""A status, a range (``"500-599"``) or a list of them."""

Ratio = Annotated[Number, Field(gt=0, le=1)]
"""A share: above 0, at most 1."""

_NO_PERCENT: Final = "a share from 0 to 1: 0.5 is half"


# --- breaker --------------------------------------------------------------------------------------


class BreakerConfig(Section):
    """Stops sending requests to a service that keeps failing, and tries again by itself.

    Each worker has its own, and judges by the requests it sees.
    """

    foreign: ClassVar[Mapping[str, str]] = {
        "enabled": 'leave the table out, or state = "disabled"',
        "threshold": "the keys are failures (in a row) and failure_ratio",
        "failure_threshold": "the keys are failures (in a row) and failure_ratio",
        "consecutive_failures": "the key is failures",
        "consecutive_5xx": "the key is failures",
        "max_failures": "the key is failures",
        "max_fails": "the key is failures",
        "errors": "the key is failures",
        "failure_rate_threshold": f"the key is failure_ratio, {_NO_PERCENT}",
        "error_threshold_percentage": f"the key is failure_ratio, {_NO_PERCENT}",
        "failure_rate": f"the key is failure_ratio, {_NO_PERCENT}",
        "error_rate": f"the key is failure_ratio, {_NO_PERCENT}",
        "slow_call_rate_threshold": f"the key is slow_call_ratio, {_NO_PERCENT}",
        "slow_call_duration_threshold": "the key is slow_call",
        "sliding_window_size": 'the key is window: "10s", or window_calls for a number of calls',
        "sliding_window_type": "window is a duration, window_calls a number of calls",
        "interval": "the key is window",
        "minimum_number_of_calls": "the key is minimum_calls",
        "min_requests": "the key is minimum_calls",
        "request_volume_threshold": "the key is minimum_calls",
        "wait_duration_in_open_state": "the key is open_for",
        "recovery_timeout": "the key is open_for",
        "reset_timeout": "the key is open_for",
        "sleep_window": "the key is open_for",
        "break_duration": "the key is open_for",
        "timeout": "the key is open_for",
        "fail_timeout": "the key is open_for",
        "permitted_number_of_calls_in_half_open_state": "the key is half_open_calls",
        "half_open_requests": "the key is half_open_calls",
        "max_wait_duration_in_half_open_state": "the key is half_open_timeout",
        "codes": "the key is statuses",
        "status": "the key is statuses",
        "unhealthy_statuses": "the key is statuses",
        "mode": "the key is state",
    }

    failures: Annotated[Integer, integer(1, 1_000_000)] | None = None
    """Failures in a row that open the circuit. Unset: none do. For services with few requests: of
    many, some fail in a row by chance, which takes down a service that serves nine of ten."""

    failure_ratio: Ratio | None = None
    """Share of failed requests in the window that opens the circuit. Unset: 0.5, unless
    ``failures`` or ``slow_call_ratio`` is written."""

    slow_call_ratio: Ratio | None = None
    """Share of slow requests in the window that opens the circuit. Unset: slowness never does."""

    slow_call: PositiveDuration = 60.0
    """A request is slow when its answer took longer than this."""

    window: PositiveDuration | None = None
    """How far back the ratios look. Unset: 10s, unless ``window_calls`` is written."""

    window_calls: Annotated[Integer, integer(1, 1_000_000)] | None = None
    """How many requests the ratios look back, in place of ``window``. Under little traffic they
    remember for hours."""

    minimum_calls: Annotated[Integer, integer(1, 1_000_000)] = 20
    """Requests in the window below which its ratios say nothing."""

    open_for: PositiveDuration = 30.0
    """How long the circuit stays open for the first time, less up to a tenth, so that the workers
    do not try again together. It doubles with each opening until a close."""

    max_open_for: PositiveDuration = 300.0
    """How long the circuit stays open at most."""

    half_open_calls: Annotated[Integer, integer(1, 10_000)] = 3
    """Requests of each worker that are let through to find out. All must be answered before the
    circuit closes; without ``failure_ratio``, one that fails opens it again."""

    half_open_timeout: PositiveDuration = 60.0
    """How long their answers are waited for. Beyond: the circuit opens again."""

    statuses: Statuses = frozenset(range(500, 600))
    """Answers that count as failures, as an instance that cannot be reached or times out does. 429
    is not among them: it is about the client."""

    share: Flag = False
    """Whether an opening is told to all that share ``gateway.state``, which then open as well, and
    theirs is heard. What one worker sees of a service is mostly what all of them will see."""

    state: Literal["auto", "forced-open", "disabled", "metrics-only"] = "auto"
    """``"forced-open"`` refuses every request, ``"disabled"`` lets all pass, and
    ``"metrics-only"`` lets all pass and counts, which shows what a breaker would see."""

    @classmethod
    def relations(cls, data: Mapping[str, Any]) -> Iterator[Finding]:
        if data.get("window") is not None and data.get("window_calls") is not None:
            yield Finding(("window_calls",), "excludes window", "leave one of them out")
        first = attempt(parse_duration, data.get("open_for", 30.0))
        longest = attempt(parse_duration, data.get("max_open_for", 300.0))
        if first is not None and longest is not None and first > longest:
            written = "max_open_for" if data.get("max_open_for") is not None else "open_for"
            yield Finding(
                (written,), "makes open_for longer than max_open_for", "raise max_open_for"
            )
        rules = ("failures", "failure_ratio", "slow_call_ratio")
        has_failures_only = data.get("failures") is not None and not any(
            data.get(rule) is not None for rule in rules[1:]
        )
        if has_failures_only and data.get("state") != "metrics-only":
            for key in ("window", "window_calls", "minimum_calls"):
                if data.get(key) is not None:
                    hint = "write failure_ratio = 0.5 beside it, or leave it out"
                    yield Finding((key,), "has no effect: failures in a row need no window", hint)
        slow = attempt(parse_duration, data.get("slow_call", 60.0))
        if slow not in (None, 60.0) and data.get("slow_call_ratio") is None:
            if data.get("state") != "metrics-only":
                hint = "write slow_call_ratio = 0.5 beside it"
                yield Finding(("slow_call",), "has no effect without slow_call_ratio", hint)

    def circuit(self) -> CircuitConfig:
        """The settings of the runtime breaker."""
        ratio = self.failure_ratio
        if ratio is None and self.failures is None and self.slow_call_ratio is None:
            ratio = 0.5
        return CircuitConfig(
            failure_threshold=self.failures,
            failure_ratio=ratio,
            slow_call_ratio=self.slow_call_ratio,
            slow_call=self.slow_call,
            window_seconds=self.window,
            window_calls=self.window_calls,
            minimum_calls=self.minimum_calls,
            recovery_timeout=self.open_for,
            max_recovery_timeout=self.max_open_for,
            half_open_calls=self.half_open_calls,
            half_open_timeout=self.half_open_timeout,
        )

    def breaker(
        self, name: str = "", *, clock: Callable[[], float] = time.monotonic
    ) -> CircuitBreaker:
        """A new runtime breaker, in the state that is written."""
        breaker = CircuitBreaker(self.circuit(), name, clock=clock)
        self._operate(breaker)
        return breaker

    def apply(self, breaker: CircuitBreaker, before: Self | None = None) -> None:
        """Bring a running breaker to these settings; ``before`` is what it had.

        Its state stays unless ``state`` changed: a reload does not undo what an operator did.
        """
        breaker.reconfigure(self.circuit())
        if before is None or before.state != self.state:
            if self.state == "auto":
                breaker.reset()
            self._operate(breaker)

    def _operate(self, breaker: CircuitBreaker) -> None:
        if self.state == "forced-open":
            breaker.force_open()
        elif self.state == "disabled":
            breaker.disable()
        elif self.state == "metrics-only":
            breaker.metrics_only()


# --- retry ----------------------------------------------------------------------------------------

_METHODS: Final = ("GET", "HEAD", "OPTIONS", "PUT", "DELETE", "TRACE", "POST", "PATCH")


def _methods(value: object) -> frozenset[str]:
    items = list(value) if isinstance(value, (list, tuple, set, frozenset)) else [value]
    if not items:
        raise wrong("must not be empty", "to retry nothing, write attempts = 1")
    return frozenset(_method(item) for item in items)


def _method(value: object) -> str:
    text = parse_token(value)
    if text != text.upper():
        near = did_you_mean(text.upper(), _METHODS)
        raise wrong("must be in capitals: methods are case-sensitive", near or text.upper())
    return text


class RetryConfig(Section):
    """Tries a request again, at another instance where there is one.

    One budget belongs to the service, and all its routes, retries and hedges share it.
    """

    foreign: ClassVar[Mapping[str, str]] = {
        "retries": "the key is attempts; it counts the first try: retries + 1",
        "num_retries": "the key is attempts; it counts the first try: retries + 1",
        "max_retries": "the key is attempts; it counts the first try: retries + 1",
        "max_attempts": "the key is attempts",
        "count": "the key is attempts",
        "retry_on": "the key is statuses; a connection that died is always among the reasons",
        "on": "the key is statuses; a connection that died is always among the reasons",
        "codes": "the key is statuses",
        "status": "the key is statuses",
        "retriable_status_codes": "the key is statuses",
        "per_try_timeout": "the key is per_try",
        "timeout": "the key is per_try; the whole request has timeout.total",
        "retry_ratio": "the key is budget",
        "budget_percent": "the key is budget, a share: 20 % is 0.2",
        "min_retries_per_second": "the key is min_per_second",
        "min_retry_concurrency": "the key is min_per_second",
        "initial_interval": "the key is backoff_base",
        "base_interval": "the key is backoff_base",
        "backoff": "the keys are backoff_base and backoff_cap",
        "delay": "the keys are backoff_base and backoff_cap",
        "max_interval": "the key is backoff_cap",
        "max_request_bytes": "the key is max_replay_bytes",
        "max_body": "the key is max_replay_bytes",
    }

    attempts: Annotated[Integer, integer(1, 10)] = 3
    """Tries in all, the first included. 1 never retries."""

    budget: Annotated[Number, Field(ge=0, le=1)] = 0.2
    """Share of the requests of the last ten seconds that may be retries, for the whole service.
    Above a half, retries prolong an outage more than they hide it."""

    min_per_second: Annotated[Number, Field(ge=0, le=100_000)] = 3.0
    """Retries that are allowed whatever the share: a quiet service could not retry at all. Over ten
    seconds, and of each worker."""

    methods: Annotated[
        frozenset[str],
        PlainValidator(_methods),
        WithJsonSchema(
            {
                "anyOf": [
                    {"type": "string"},
                    {"type": "array", "items": {"type": "string"}, "minItems": 1},
                ]
            }
        ),
    ] = frozenset(_METHODS[:6])
    """Methods that are tried again. The default are those that may be repeated (RFC 9110 §9.2.2);
    adding ``"POST"`` is safe only where the service recognises a request it has seen."""

    statuses: Statuses = frozenset((502, 503, 504))
    """Answers that are worth another try. 500 is an answer, and repeating it rarely helps."""

    per_try: Timeout = None
    """How long one try may take until its answer begins, or ``"none"`` for no limit but that of the
    whole request."""

    max_replay_bytes: Annotated[Size, size("0B", "64MiB")] = 0
    """Largest request body that is kept in memory, to be sent again. 0: a body that was sent is not
    sent twice. Each request under way may hold this much."""

    backoff_base: PositiveDuration = 0.025
    """Bound of the wait before the second try, doubled for each further one. The wait itself is any
    moment up to the bound."""

    backoff_cap: PositiveDuration = 1.0
    """Largest bound of a wait."""

    max_retry_after: Duration = 5.0
    """Longest ``Retry-After`` that is waited for. Longer: the answer goes to the client."""

    respect_retry_after: Flag = True
    """Whether ``Retry-After`` is heard at all."""

    @classmethod
    def relations(cls, data: Mapping[str, Any]) -> Iterator[Finding]:
        base = attempt(parse_duration, data.get("backoff_base", 0.025))
        cap = attempt(parse_duration, data.get("backoff_cap", 1.0))
        if base is not None and cap is not None and base > cap:
            written = "backoff_cap" if data.get("backoff_cap") is not None else "backoff_base"
            yield Finding((written,), "makes backoff_base longer than backoff_cap")
        tries = data.get("attempts")
        if type(tries) is int and tries == 1:
            for key in ("statuses", "methods", "max_replay_bytes"):
                if data.get(key) is not None:
                    yield Finding((key,), "has no effect with attempts = 1", "write attempts = 2")
        if data.get("budget") == 0 and data.get("min_per_second") == 0:
            hint = "to retry nothing, write attempts = 1"
            yield Finding(("budget",), "allows no retry, nor does min_per_second", hint)
        if data.get("respect_retry_after") is False and data.get("max_retry_after") is not None:
            hint = "leave out respect_retry_after = false"
            yield Finding(("max_retry_after",), "has no effect: Retry-After is not heard", hint)

    def policy(self) -> RetryPolicy:
        """The runtime policy."""
        return RetryPolicy(
            attempts=self.attempts,
            methods=frozenset(method.encode("ascii") for method in self.methods),
            statuses=self.statuses,
            per_try_timeout=self.per_try,
            max_replay_bytes=self.max_replay_bytes,
            backoff=Backoff(self.backoff_base, self.backoff_cap),
            max_retry_after=self.max_retry_after,
            respect_retry_after=self.respect_retry_after,
        )

    def retry_budget(self, *, clock: Callable[[], float] = time.monotonic) -> RetryBudget:
        """A new budget. To change a running one: ``reconfigure(budget, min_per_second)``."""
        return RetryBudget(self.budget, self.min_per_second, clock=clock)


# --- bulkhead -------------------------------------------------------------------------------------


def _limit(value: object) -> int | Literal["adaptive"]:
    value = unquoted(value)
    if value == "adaptive":
        return "adaptive"
    if isinstance(value, bool) or not isinstance(value, int):
        raise wrong('must be a whole number or "adaptive"')
    if not 1 <= value <= 1_000_000:
        raise wrong("must be from 1 to 1000000")
    return value


class BulkheadConfig(Section):
    """Limits the requests to a service that are under way, for each worker."""

    foreign: ClassVar[Mapping[str, str]] = {
        "max_concurrent_calls": "the key is limit",
        "max_concurrent": "the key is limit",
        "max_concurrency": "the key is limit",
        "max_requests": "the key is limit",
        "max_connections": "the key is limit; connections are pool.max_connections",
        "concurrency": "the key is limit",
        "size": "the key is limit",
        "max_wait_duration": "the key is wait",
        "timeout": "the key is wait",
        "max_pending_requests": "the key is queue",
        "max_pending": "the key is queue",
        "max_waiting": "the key is queue",
        "max_queue": "the key is queue",
        "backlog": "the key is queue",
        "min_concurrency": "the key is min_limit",
        "max_concurrency_limit": "the key is max_limit",
    }

    limit: Annotated[
        int | Literal["adaptive"],
        PlainValidator(_limit),
        WithJsonSchema(
            {
                "anyOf": [
                    {"type": "integer", "minimum": 1, "maximum": 1_000_000},
                    {"const": "adaptive"},
                    FROM_ENV,
                ]
            }
        ),
    ] = Field(examples=["64"])
    """Requests under way at once, or ``"adaptive"``, which learns from latency what the service
    bears. Normal requests get 95 % of it and low ones 80 %, so that the important get through."""

    queue: Annotated[Integer, integer(0, 1_000_000)] = 0
    """Requests that may wait for others to end. Beyond: 503 at once. A long queue turns overload
    into latency, and clients give up on what is still served."""

    wait: Duration = 1.0
    """How long one may wait. Beyond: 503."""

    min_limit: Annotated[Integer, integer(1, 1_000_000)] = 20
    """An adaptive limit goes no lower."""

    max_limit: Annotated[Integer, integer(1, 1_000_000)] = 200
    """An adaptive limit goes no higher."""

    @classmethod
    def relations(cls, data: Mapping[str, Any]) -> Iterator[Finding]:
        if attempt(_limit, data.get("limit")) not in (None, "adaptive"):
            for key in ("min_limit", "max_limit"):
                if data.get(key) is not None:
                    hint = 'write limit = "adaptive"'
                    yield Finding((key,), "has no effect: the limit is a number", hint)
        low, high = data.get("min_limit", 20), data.get("max_limit", 200)
        if type(low) is int and type(high) is int and low > high:
            written = "max_limit" if data.get("max_limit") is not None else "min_limit"
            yield Finding((written,), "makes min_limit more than max_limit")
        if data.get("queue", 0) == 0 and data.get("wait") is not None:
            yield Finding(("wait",), "has no effect without a queue", "write queue = 100 beside it")

    def bulkhead(self, *, clock: Callable[[], float] = time.monotonic) -> Bulkhead:
        """A new runtime bulkhead."""
        limit: int | AdaptiveLimit
        if self.limit == "adaptive":
            limit = AdaptiveLimit(self.min_limit, self.min_limit, self.max_limit)
        else:
            limit = self.limit
        return Bulkhead(limit, self.queue, self.wait, clock=clock)


# --- hedge ----------------------------------------------------------------------------------------


class HedgeConfig(Section):
    """Sends a second request when the first takes unusually long; the first answer wins.

    For methods that may be repeated, without a body, and within the retry budget.
    """

    foreign: ClassVar[Mapping[str, str]] = {
        "quantile": "the key is percentile",
        "delay": 'the key is after: "50ms"; or percentile, which follows the latency',
        "hedge_delay": 'the key is after: "50ms"; or percentile, which follows the latency',
        "per_try_timeout": "the key is after",
        "min_delay": "the key is minimum",
        "max_attempts": "there is one hedge, never more",
        "max_hedged_attempts": "there is one hedge, never more",
    }

    percentile: Annotated[Number, Field(gt=0, lt=1)] | None = None
    """The part of the requests that is answered before a hedge would be sent: 0.95 hedges one in
    twenty. Unset: 0.95, unless ``after`` is written. Below 0.9 it is mostly load."""

    minimum: PositiveDuration = 0.001
    """Never hedge earlier than this, however quick the service is."""

    after: PositiveDuration | None = None
    """Hedge after this fixed time, in place of a percentile."""

    @classmethod
    def relations(cls, data: Mapping[str, Any]) -> Iterator[Finding]:
        if data.get("after") is None:
            return
        for key in ("percentile", "minimum"):
            if data.get(key) is not None:
                yield Finding((key,), "has no effect: after is fixed", "leave one of them out")

    def delay(self, *, clock: Callable[[], float] = time.monotonic) -> float | Quantile:
        """When to hedge: fixed seconds, or an estimate that has to be told of latencies."""
        if self.after is not None:
            return self.after
        return Quantile(self.percentile or 0.95, minimum=self.minimum, clock=clock)


# --- deadline -------------------------------------------------------------------------------------


class DeadlineConfig(Section):
    """Lets clients say how long they will wait, and tells services how long is left."""

    foreign: ClassVar[Mapping[str, str]] = {
        "field": "the key is header",
        "name": "the key is header",
        "timeout": "the key of the longest time is timeout.total",
        "forward": "the key is propagate",
    }

    header: FieldName = "X-Request-Timeout"
    """The field that carries the time: seconds (``1.5``), or with a unit (``1500ms``, ``2s``). It
    only ever shortens what ``timeout.total`` allows."""

    accept: Flag = True
    """Whether the client's field is heard."""

    propagate: Flag = True
    """Whether the service is told what is left. ``false`` removes the field."""
