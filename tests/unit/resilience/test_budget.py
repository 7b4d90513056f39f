"""Retries stay a part of the calls, whenever they come."""

from __future__ import annotations

import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.unit.resilience.clocks import FakeClock

from nexgate.resilience import RetryBudget


def spend(budget: RetryBudget, now: float, most: int = 10_000) -> int:
    """How many retries are granted at ``now``."""
    count = 0
    while count < most and budget.try_spend(now):
        count += 1
    return count


def test_the_larger_of_ratio_and_minimum_is_allowed_not_the_sum() -> None:
    budget = RetryBudget(0.2, 3.0, 10.0)
    budget.deposit(100, 0.0)
    assert budget.balance(0.0) == pytest.approx(30.0)
    assert spend(budget, 0.0) == 30
    budget = RetryBudget(0.2, 3.0, 10.0)
    budget.deposit(1000, 0.0)
    assert spend(budget, 0.0) == 200
    assert budget.balance(0.0) == 0.0


def test_without_a_minimum_a_service_that_got_nothing_is_not_retried() -> None:
    budget = RetryBudget(0.2, 0.0)
    assert not budget.try_spend(0.0)
    for _ in range(5):
        budget.deposit(now=0.0)
    assert spend(budget, 0.0) == 1


def test_an_idle_hour_saves_up_nothing() -> None:
    budget = RetryBudget(0.2, 3.0, 10.0)
    budget.deposit(1_000_000, 0.0)
    assert spend(budget, 3600.0) == 30


def test_what_was_spent_comes_back_when_its_window_is_over() -> None:
    budget = RetryBudget(0.0, 3.0, 10.0)
    assert spend(budget, 0.5) == 30
    assert spend(budget, 10.4) == 0
    assert spend(budget, 11.4) == 0  # a tenth of the window later, never earlier
    assert spend(budget, 11.5) == 30


def test_the_clock_of_the_budget_is_used_without_a_time() -> None:
    clock = FakeClock(5.0)
    budget = RetryBudget(1.0, 0.0, 10.0, clock=clock)
    budget.deposit(2)
    assert budget.try_spend()
    clock.advance(3.0)
    assert budget.balance() == pytest.approx(1.0)
    clock.advance(30.0)
    assert not budget.try_spend()


def test_shares_of_a_call_add_up_without_drift() -> None:
    budget = RetryBudget(1.0, 0.0, 10.0)
    for n in range(10_000):
        budget.deposit(0.1, n / 100)
    budget.deposit(0, 200.0)
    assert budget.balance(200.0) == 0.0
    budget.deposit(1, 200.0)
    assert spend(budget, 200.0) == 1


def test_new_limits_keep_what_was_counted() -> None:
    budget = RetryBudget(0.2, 0.0)
    budget.deposit(100, 0.0)
    assert spend(budget, 0.0) == 20
    budget.reconfigure(0.5, 0.0)
    assert spend(budget, 0.0) == 30
    with pytest.raises(ValueError, match="ratio"):
        budget.reconfigure(-1.0, 0.0)


@pytest.mark.parametrize("now", [1e18, -1e18, math.inf, -math.inf, math.nan])
def test_absurd_clocks_raise_nothing_and_pass(now: float) -> None:
    budget = RetryBudget()
    for at in (now, 100.0, now, 100.0):
        budget.deposit(10, at)
        budget.try_spend(at)
        budget.balance(at)
    assert spend(budget, 1000.0) == 30


@pytest.mark.parametrize(
    ("settings", "names"),
    [
        ({"ratio": -0.1}, "ratio"),
        ({"ratio": math.nan}, "ratio"),
        ({"min_per_second": -1}, "min_per_second"),
        ({"window": 0}, "window"),
        ({"window": math.inf}, "window"),
    ],
)
def test_settings_that_cannot_work_are_refused_by_name(
    settings: dict[str, float], names: str
) -> None:
    with pytest.raises(ValueError, match=names):
        RetryBudget(**settings)


STEPS = st.lists(
    st.tuples(
        st.one_of(st.just(0.0), st.floats(0.0, 1.5), st.sampled_from([0.25, 2.5, 5.0, 50.0])),
        st.integers(0, 40),  # calls
        st.integers(0, 40),  # retries that are asked for
    ),
    min_size=1,
    max_size=60,
)


@settings(deadline=None, derandomize=True, max_examples=300)
@given(
    steps=STEPS,
    ratio=st.sampled_from([0.0, 0.2, 0.29, 1.0]),
    minimum=st.sampled_from([0.0, 0.4, 3.0]),
)
def test_no_window_sees_more_retries_than_it_allows(
    steps: list[tuple[float, int, int]], ratio: float, minimum: float
) -> None:
    window = 2.5
    budget = RetryBudget(ratio, minimum, window)
    now = 17.0
    calls: list[tuple[float, int]] = []
    retries: list[float] = []
    for wait, count, wanted in steps:
        now += wait
        budget.deposit(count, now)
        calls.append((now, count))
        for _ in range(wanted):
            before = budget.balance(now)
            granted = budget.try_spend(now)
            # The balance says what will be granted.
            assert granted == (before + 1e-6 >= 1)
            if not granted:
                break
            retries.append(now)
    # Every window that ends with a retry; one that ends later holds no more of them.
    for end in set(retries):
        spent = sum(end - window <= at <= end for at in retries)
        made = sum(count for at, count in calls if end - window <= at <= end)
        assert spent <= max(ratio * made, minimum * window) + 1e-6


@settings(deadline=None, derandomize=True, max_examples=100)
@given(steps=STEPS)
def test_the_budget_is_not_stingy(steps: list[tuple[float, int, int]]) -> None:
    """What the last nine tenths of the window allow, and nobody has spent, is granted."""
    window, now = 2.5, 17.0
    budget = RetryBudget(0.5, 0.0, window)
    calls: list[tuple[float, int]] = []
    retries: list[float] = []
    for wait, count, wanted in steps:
        now += wait
        budget.deposit(count, now)
        calls.append((now, count))
        for _ in range(wanted):
            made = sum(count for at, count in calls if at >= now - 0.9 * window + 1e-6)
            spent = sum(at >= now - 1.1 * window - 1e-6 for at in retries)
            if budget.try_spend(now):
                retries.append(now)
            else:
                assert 0.5 * made < spent + 1
