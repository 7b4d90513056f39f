"""Sections build what runs, and contradictions are named where they stand."""

from __future__ import annotations

from typing import Any

import pytest
from pydantic import ValidationError
from tests.unit.resilience.clocks import FakeClock

from nexgate.config import Section
from nexgate.config.section import findings
from nexgate.resilience import (
    AdaptiveLimit,
    Backoff,
    CircuitConfig,
    CircuitState,
    Quantile,
    RetryPolicy,
)
from nexgate.resilience.config import (
    BreakerConfig,
    BulkheadConfig,
    DeadlineConfig,
    HedgeConfig,
    RetryConfig,
)

SECTIONS: list[type[Section]] = [
    BreakerConfig,
    RetryConfig,
    BulkheadConfig,
    HedgeConfig,
    DeadlineConfig,
]


def found(section: type[Section], **data: Any) -> list[tuple[tuple[int | str, ...], str, str]]:
    with pytest.raises(ValidationError) as caught:
        section(**data)
    return [(f.loc, f.message, f.hint) for f in findings(caught.value)]


@pytest.mark.parametrize("section", SECTIONS)
def test_every_key_is_described_and_no_foreign_name_is_one_of_ours(section: type[Section]) -> None:
    for name, field in section.model_fields.items():
        assert field.description, name
    assert not set(section.foreign) & set(section.keys())
    for name, hint in section.foreign.items():
        assert hint in found(section, **{name: 1, "limit": 1})[-1] or any(
            hint in f for f in found(section, **{name: 1})
        )
    section.model_json_schema()


def test_a_breaker_of_defaults_opens_at_half() -> None:
    assert BreakerConfig().circuit() == CircuitConfig(failure_threshold=None, failure_ratio=0.5)
    assert BreakerConfig(failures=5).circuit() == CircuitConfig()
    assert BreakerConfig(slow_call_ratio=0.5).circuit() == CircuitConfig(
        failure_threshold=None, slow_call_ratio=0.5
    )


def test_a_breaker_is_built_from_every_key() -> None:
    config = BreakerConfig(
        failures=7,
        failure_ratio=0.25,
        slow_call_ratio=0.75,
        slow_call="2s",
        window="30s",
        minimum_calls=50,
        open_for="10s",
        max_open_for="1m",
        half_open_calls=5,
        half_open_timeout="20s",
    )
    assert config.circuit() == CircuitConfig(
        failure_threshold=7,
        failure_ratio=0.25,
        slow_call_ratio=0.75,
        slow_call=2.0,
        window_seconds=30.0,
        minimum_calls=50,
        recovery_timeout=10.0,
        max_recovery_timeout=60.0,
        half_open_calls=5,
        half_open_timeout=20.0,
    )
    assert BreakerConfig(failure_ratio=0.5, window_calls=9).circuit().window_calls == 9


@pytest.mark.parametrize("state", ["auto", "forced-open", "disabled", "metrics-only"])
def test_the_operators_state_is_written(state: Any) -> None:
    breaker = BreakerConfig(state=state).breaker("users", clock=FakeClock())
    expected = CircuitState.CLOSED if state == "auto" else CircuitState(state)
    assert (breaker.state, breaker.name) == (expected, "users")


def test_a_reload_changes_the_state_only_when_it_is_written_anew() -> None:
    before = BreakerConfig(failures=5)
    breaker = before.breaker(clock=FakeClock())
    breaker.force_open()  # by hand
    after = BreakerConfig(failures=6)
    after.apply(breaker, before)
    assert breaker.config.failure_threshold == 6
    assert breaker.state is CircuitState.FORCED_OPEN
    disabled = BreakerConfig(state="disabled")
    disabled.apply(breaker, after)
    assert breaker.state is CircuitState.DISABLED
    after.apply(breaker, disabled)
    assert breaker.state is CircuitState.CLOSED


def test_retries_are_built_from_every_key() -> None:
    assert RetryConfig().policy() == RetryPolicy()
    config = RetryConfig(
        attempts=4,
        budget=0.5,
        min_per_second=1,
        methods=["GET", "POST"],
        statuses=[429, "502-504"],
        per_try="2s",
        max_replay_bytes="64KiB",
        backoff_base="100ms",
        backoff_cap="2s",
        max_retry_after="1s",
    )
    assert config.policy() == RetryPolicy(
        attempts=4,
        methods=frozenset((b"GET", b"POST")),
        statuses=frozenset((429, 502, 503, 504)),
        per_try_timeout=2.0,
        max_replay_bytes=65536,
        backoff=Backoff(0.1, 2.0),
        max_retry_after=1.0,
    )
    budget = config.retry_budget(clock=FakeClock())
    assert budget.balance() == 10.0
    budget.deposit(100)
    assert budget.balance() == 50.0
    assert RetryConfig(methods="GET", statuses=503).policy().statuses == {503}


def test_bulkheads_are_fixed_or_adaptive() -> None:
    bulkhead = BulkheadConfig(limit=64, queue=10, wait="2s").bulkhead()
    assert (bulkhead.limit, bulkhead.queue, bulkhead.wait) == (64, 10, 2.0)
    bulkhead = BulkheadConfig(limit="adaptive", min_limit=5, max_limit=50).bulkhead()
    assert bulkhead.limit == 5
    assert isinstance(bulkhead._adaptive, AdaptiveLimit)
    assert bulkhead._adaptive.max_limit == 50


def test_hedges_are_fixed_or_follow_a_percentile() -> None:
    assert HedgeConfig(after="50ms").delay() == 0.05
    quantile = HedgeConfig().delay()
    assert isinstance(quantile, Quantile)
    assert quantile.q == 0.95
    quantile = HedgeConfig(percentile=0.99, minimum="10ms").delay(clock=FakeClock())
    assert isinstance(quantile, Quantile)
    for _ in range(20):
        quantile.observe(0.001)
    assert (quantile.q, quantile.value) == (0.99, 0.01)


def test_deadlines_are_heard_and_passed_on_by_default() -> None:
    config = DeadlineConfig()
    assert (config.header, config.accept, config.propagate) == ("X-Request-Timeout", True, True)


@pytest.mark.parametrize(
    ("section", "data", "loc", "message"),
    [
        (BreakerConfig, {"failure_ratio": 1, "window": 1, "window_calls": 9}, "window_calls", "ex"),
        (BreakerConfig, {"open_for": "10m"}, "open_for", "makes open_for longer"),
        (BreakerConfig, {"max_open_for": "1s"}, "max_open_for", "makes open_for longer"),
        (BreakerConfig, {"failures": 5, "window": "1s"}, "window", "has no effect"),
        (BreakerConfig, {"failures": 5, "minimum_calls": 5}, "minimum_calls", "has no effect"),
        (BreakerConfig, {"slow_call": "1s"}, "slow_call", "has no effect"),
        (BreakerConfig, {"failure_ratio": 50}, "failure_ratio", "must be at most"),
        (BreakerConfig, {"failure_ratio": 0}, "failure_ratio", "must be more than"),
        (BreakerConfig, {"statuses": "5xx"}, "statuses", "is not a range"),
        (BreakerConfig, {"statuses": []}, "statuses", "must not be empty"),
        (BreakerConfig, {"statuses": 99}, "statuses", "must be from 100"),
        (BreakerConfig, {"statuses": True}, "statuses", "must be a status"),
        (BreakerConfig, {"state": "open"}, "state", "must be one of"),
        (RetryConfig, {"attempts": 0}, "attempts", "must be from 1"),
        (RetryConfig, {"attempts": 1, "statuses": 503}, "statuses", "has no effect"),
        (RetryConfig, {"methods": "get"}, "methods", "must be in capitals"),
        (RetryConfig, {"methods": []}, "methods", "must not be empty"),
        (RetryConfig, {"budget": 20}, "budget", "must be at most"),
        (RetryConfig, {"budget": 0, "min_per_second": 0}, "budget", "allows no retry"),
        (RetryConfig, {"backoff_base": "2s"}, "backoff_base", "makes backoff_base longer"),
        (RetryConfig, {"backoff_cap": "1ms"}, "backoff_cap", "makes backoff_base longer"),
        (
            RetryConfig,
            {"respect_retry_after": False, "max_retry_after": 1},
            "max_retry_after",
            "has no effect",
        ),
        (BulkheadConfig, {"limit": "auto"}, "limit", "must be a whole number or"),
        (BulkheadConfig, {"limit": 0}, "limit", "must be from 1"),
        (BulkheadConfig, {"limit": 9, "min_limit": 5}, "min_limit", "has no effect"),
        (BulkheadConfig, {"limit": "adaptive", "min_limit": 500}, "min_limit", "makes min_limit"),
        (BulkheadConfig, {"limit": "adaptive", "max_limit": 5}, "max_limit", "makes min_limit"),
        (BulkheadConfig, {"limit": 9, "wait": "1s"}, "wait", "has no effect"),
        (BulkheadConfig, {}, "limit", "is required"),
        (HedgeConfig, {"after": 1, "percentile": 0.9}, "percentile", "has no effect"),
        (HedgeConfig, {"after": 1, "minimum": 1}, "minimum", "has no effect"),
        (HedgeConfig, {"percentile": 95}, "percentile", "must be less than"),
        (DeadlineConfig, {"header": "bad header"}, "header", ""),
    ],
)
def test_what_contradicts_itself_is_named_where_it_stands(
    section: type[Section], data: dict[str, Any], loc: str, message: str
) -> None:
    problems = found(section, **data)
    assert [(p[0][0], p[1].startswith(message)) for p in problems] == [(loc, True)]
