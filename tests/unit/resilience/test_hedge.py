"""Percentiles of recent values, and the second call that they time."""

from __future__ import annotations

import asyncio
import math
import random
from collections import deque
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.unit.resilience.clocks import FakeClock

from nexgate.resilience import Quantile, RetryBudget, hedged

# --- Quantile -------------------------------------------------------------------------------------


@settings(derandomize=True, deadline=None, max_examples=300)
@given(
    values=st.lists(st.floats(1e-6, 5000.0), min_size=1, max_size=300),
    q=st.sampled_from([0.5, 0.9, 0.95, 0.99]),
)
def test_after_every_value_the_estimate_is_within_a_64th(values: list[float], q: float) -> None:
    quantile = Quantile(q, window=60.0, minimum_count=1)
    for count, value in enumerate(values, 1):
        quantile.observe(value, 0.0)
        exact = sorted(values[:count])[math.ceil(q * count - 1e-9) - 1]
        estimate = quantile.value
        assert estimate is not None
        assert abs(estimate - exact) <= exact / 64 + 1e-12


@settings(derandomize=True, deadline=None, max_examples=100)
@given(
    steps=st.lists(
        st.tuples(
            st.sampled_from([0.0, 0.1, 1.0, 4.9, 5.0, 7.0, 10.0, 1e6, -1.0, -1e6]),
            st.floats(1e-5, 100.0),
        ),
        max_size=60,
    )
)
def test_what_is_remembered_is_between_half_the_window_and_all_of_it(
    steps: list[tuple[float, float]],
) -> None:
    quantile, now = Quantile(0.5, window=10.0, minimum_count=1), 1000.0
    seen: deque[tuple[float, float]] = deque()
    went_back = False
    for wait, value in steps:
        now += wait
        went_back |= wait < 0
        quantile.observe(value, now)
        seen.append((now, value))
        assert quantile.count >= 1
        assert quantile.value is not None
        if not went_back:
            assert quantile.count >= sum(at > now - 5.0 for at, _ in seen)
            assert quantile.count <= sum(at > now - 10.0 for at, _ in seen)
            recent = [v for at, v in seen if at > now - 10.0]
            assert min(recent) * 0.98 <= quantile.value <= max(recent) * 1.02


def test_it_says_nothing_until_it_knows_enough_and_never_less_than_its_minimum() -> None:
    quantile = Quantile(0.95, minimum=0.01, minimum_count=20)
    for n in range(20):
        assert quantile.value is None
        quantile.observe(0.001, float(n))
    assert quantile.value == 0.01


@pytest.mark.parametrize("value", [math.nan, -1.0, math.inf, -math.inf])
def test_what_is_no_duration_is_ignored(value: float) -> None:
    quantile = Quantile(minimum_count=1)
    quantile.observe(value, 0.0)
    assert quantile.count == 0


def test_extremes_stay_in_the_outermost_buckets() -> None:
    quantile = Quantile(0.5, minimum_count=1)
    quantile.observe(0.0, 0.0)
    assert quantile.value is not None
    assert quantile.value < 1e-6
    for _ in range(5):
        quantile.observe(1e300, 0.0)
    assert quantile.value > 7000.0


@pytest.mark.parametrize("now", [1e18, -1e18, math.inf, math.nan])
def test_absurd_clocks_raise_nothing_and_pass(now: float) -> None:
    quantile = Quantile(minimum_count=1)
    for at in (now, 10.0, now, 20.0):
        quantile.observe(1.0, at)
    for n in range(100):
        quantile.observe(0.5, 100.0 + n)
    assert quantile.value == pytest.approx(0.5, rel=0.02)


def test_a_million_values_follow_the_latest_distribution() -> None:
    draw = random.Random(1)
    quantile = Quantile(0.95, window=10.0)
    for n in range(30_000):
        quantile.observe(draw.expovariate(10.0), n / 1000)
    assert quantile.value == pytest.approx(0.2996, rel=0.05)
    for n in range(30_000):
        quantile.observe(draw.expovariate(100.0), 30.0 + n / 1000)
    assert quantile.value == pytest.approx(0.02996, rel=0.05)


@pytest.mark.parametrize("settings", [{"q": 0}, {"q": 95}, {"window": 0}, {"minimum": -1}])
def test_settings_that_cannot_work_are_refused_by_name(settings: Any) -> None:
    with pytest.raises(ValueError, match=next(iter(settings))):
        Quantile(**settings)


# --- hedged ---------------------------------------------------------------------------------------


class Calls:
    """Counts its calls; each waits for its own gate, then returns its number or raises."""

    def __init__(self) -> None:
        self.gates: list[asyncio.Event] = []
        self.errors: dict[int, Exception] = {}
        self.cancelled: list[int] = []
        self.ended: list[int] = []

    async def __call__(self) -> int:
        number = len(self.gates)
        self.gates.append(asyncio.Event())
        try:
            await self.gates[number].wait()
            if number in self.errors:
                raise self.errors[number]
        except asyncio.CancelledError:
            self.cancelled.append(number)
            await asyncio.sleep(0)  # cleaning up takes a moment, and is waited for
            raise
        finally:
            self.ended.append(number)
        return number

    async def started(self, count: int) -> None:
        async with asyncio.timeout(5):
            while len(self.gates) < count:
                await asyncio.sleep(0.001)


async def test_a_quick_call_is_not_hedged_and_costs_no_budget() -> None:
    calls, budget = Calls(), RetryBudget(1.0, 0.0)
    task = asyncio.create_task(hedged(calls, delay=60.0, budget=budget))
    await calls.started(1)
    calls.gates[0].set()
    assert await task == 0
    assert budget.balance() == 1.0


@pytest.mark.parametrize("winner", [0, 1])
async def test_the_first_success_wins_and_the_loser_is_cancelled_and_awaited(winner: int) -> None:
    calls, budget = Calls(), RetryBudget(1.0, 0.0)
    task = asyncio.create_task(hedged(calls, delay=0.001, budget=budget))
    await calls.started(2)
    assert budget.balance() == 0.0
    calls.gates[winner].set()
    assert await task == winner
    assert calls.cancelled == [1 - winner]
    assert sorted(calls.ended) == [0, 1]


async def test_without_budget_there_is_no_second_call() -> None:
    calls = Calls()
    task = asyncio.create_task(hedged(calls, delay=0.001, budget=RetryBudget(0.0, 0.0)))
    await calls.started(1)
    await asyncio.sleep(0.01)
    assert len(calls.gates) == 1
    calls.gates[0].set()
    assert await task == 0


async def test_one_failure_waits_for_the_other() -> None:
    for failing in (0, 1):
        calls = Calls()
        calls.errors = {failing: ConnectionError("down")}
        task = asyncio.create_task(hedged(calls, delay=0.001))
        await calls.started(2)
        calls.gates[failing].set()
        await asyncio.sleep(0)
        assert not task.done()
        calls.gates[1 - failing].set()
        assert await task == 1 - failing


async def test_when_all_fail_the_last_is_raised_with_a_note_of_the_other() -> None:
    calls = Calls()
    calls.errors = {0: ConnectionError("first"), 1: TimeoutError("second")}
    task = asyncio.create_task(hedged(calls, delay=0.001))
    await calls.started(2)
    calls.gates[0].set()
    await asyncio.sleep(0.001)
    calls.gates[1].set()
    with pytest.raises(TimeoutError, match="second") as caught:
        await task
    assert caught.value.__notes__ == ["the other call of the hedge: ConnectionError: first"]


async def test_a_first_call_that_fails_early_just_fails() -> None:
    calls = Calls()
    calls.errors = {0: ConnectionError("down")}
    task = asyncio.create_task(hedged(calls, delay=60.0))
    await calls.started(1)
    calls.gates[0].set()
    with pytest.raises(ConnectionError):
        await task
    assert len(calls.gates) == 1


@pytest.mark.parametrize("count", [1, 2])
async def test_cancelling_cancels_and_awaits_all(count: int) -> None:
    calls = Calls()
    task = asyncio.create_task(hedged(calls, delay=0.001 if count == 2 else 60.0))
    await calls.started(count)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert sorted(calls.cancelled) == sorted(calls.ended) == list(range(count))


async def test_two_at_once_do_not_know_each_other() -> None:
    a, b = Calls(), Calls()
    tasks = [asyncio.create_task(hedged(calls, delay=0.001)) for calls in (a, b)]
    await a.started(2)
    await b.started(2)
    a.gates[0].set()
    b.gates[1].set()
    assert await asyncio.gather(*tasks) == [0, 1]
    assert (a.cancelled, b.cancelled) == ([1], [0])


async def test_a_quantile_is_told_and_asked() -> None:
    clock, calls = FakeClock(), Calls()
    quantile = Quantile(0.5, minimum_count=2, clock=clock)

    async def quick() -> str:
        clock.advance(0.01)
        return "ok"

    for _ in range(2):
        assert await hedged(quick, delay=quantile, clock=clock) == "ok"
    assert quantile.value == pytest.approx(0.01, rel=0.02)
    task = asyncio.create_task(hedged(calls, delay=quantile, clock=clock))
    await calls.started(2)
    clock.advance(3.0)
    calls.gates[1].set()
    assert await task == 1
    # The first call lost after three seconds: it took at least those.
    assert quantile.count == 3
    calls.errors = {2: ConnectionError()}
    task = asyncio.create_task(hedged(calls, delay=quantile, clock=clock))
    await calls.started(3)
    calls.gates[2].set()
    with pytest.raises(ConnectionError):
        await task
    assert quantile.count == 3  # how quickly it fails is no latency
