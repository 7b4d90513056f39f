"""The limit follows latency, in a simulated service with a capacity."""

from __future__ import annotations

import math
from typing import Any

import pytest

from nexgate.resilience import AdaptiveLimit


def simulate(
    limit: AdaptiveLimit,
    samples: int,
    *,
    capacity: int,
    start: float = 0.0,
    demand: int = 10_000,
    seconds: float = 0.1,
) -> float:
    """A service that bears ``capacity`` calls at once; more of them share it. Returns the time."""
    now = start
    for _ in range(samples):
        in_flight = min(limit.limit, demand)
        latency = seconds * max(1.0, in_flight / capacity)
        for _ in range(10):
            limit.observe(latency, in_flight, False, now)
            now += limit.window / 10
        limit.observe(latency, in_flight, False, now)
    return now


def test_it_grows_while_calls_take_as_long_as_ever() -> None:
    limit = AdaptiveLimit(20, 20, 200)
    simulate(limit, 50, capacity=1000)
    assert limit.limit > 40
    simulate(limit, 1000, capacity=1000)
    assert limit.limit == 200


def test_it_shrinks_when_the_service_slows_down() -> None:
    limit = AdaptiveLimit(100, 20, 200)
    now = simulate(limit, 100, capacity=1000)
    before = limit.limit
    now = simulate(limit, 30, capacity=30, start=now)
    assert limit.limit < before / 2
    simulate(limit, 400, capacity=1000, start=now)
    assert limit.limit > 100


def test_it_does_not_grow_for_want_of_clients() -> None:
    limit = AdaptiveLimit(100, 20, 200)
    simulate(limit, 100, capacity=1000, demand=49)
    assert limit.limit == 100
    simulate(limit, 10, capacity=1000, demand=60)
    assert limit.limit > 100


def test_a_dropped_call_takes_a_tenth_off_and_its_time_is_not_latency() -> None:
    limit = AdaptiveLimit(100, 20, 200, minimum_calls=1)
    limit.observe(0.1, 100, False, 0.0)
    limit.observe(0.1, 100, False, 1.0)
    grown = limit._limit
    for now in (2.0, 3.0):
        limit.observe(30.0, 100, True, now)
    assert limit._limit == pytest.approx(grown * 0.9)
    assert limit._long == pytest.approx(0.1)


def test_it_stays_within_its_bounds() -> None:
    limit = AdaptiveLimit(500, 5, 50)
    assert limit.limit == 50
    for n in range(2000):
        limit.observe(1.0, 50, True, n / 5)
    assert limit.limit == 5


def test_a_sample_lasts_its_window_and_has_its_calls() -> None:
    limit = AdaptiveLimit(100, 20, 200, window=1.0, minimum_calls=10)
    for n in range(9):
        limit.observe(0.1, 100, False, float(n))
    assert limit.limit == 100
    limit.observe(0.1, 100, False, 9.0)
    assert limit._limit > 100
    grown = limit._limit
    for n in range(100):
        limit.observe(0.1, 100, False, 10.0 + n / 1000)
    assert limit._limit == grown


def test_an_average_from_slow_times_does_not_permit_too_much_for_minutes() -> None:
    limit = AdaptiveLimit(20, 20, 200)
    now = simulate(limit, 100, capacity=1000, seconds=5.0)
    simulate(limit, 60, capacity=1000, seconds=0.1, start=now)
    assert limit._long < 0.5


@pytest.mark.parametrize("now", [1e18, -1e18, math.inf, -math.inf, math.nan])
def test_absurd_clocks_and_latencies_raise_nothing_and_pass(now: float) -> None:
    limit = AdaptiveLimit()
    for at in (now, 10.0, now, 20.0):
        for seconds in (0.0, 1e-9, 1e9):
            for _ in range(20):
                limit.observe(seconds, 20, False, at)
    assert 20 <= limit.limit <= 200
    simulate(limit, 1000, capacity=1000, start=100.0)
    assert limit.limit > 100


@pytest.mark.parametrize(
    ("settings", "names"),
    [
        ({"min_limit": 0}, "limits"),
        ({"min_limit": 300}, "limits"),
        ({"tolerance": 0.5}, "tolerance"),
        ({"smoothing": 0}, "smoothing"),
        ({"queue": -1}, "queue"),
        ({"window": 0}, "window"),
        ({"minimum_calls": 0}, "minimum_calls"),
    ],
)
def test_settings_that_cannot_work_are_refused_by_name(settings: Any, names: str) -> None:
    with pytest.raises(ValueError, match=names):
        AdaptiveLimit(**settings)
