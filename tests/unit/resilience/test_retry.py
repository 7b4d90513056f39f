"""Calling again in user code: every reason to stop, and what is raised then."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest
from tests.unit.resilience.clocks import FakeClock

from nexgate.resilience import (
    Backoff,
    CircuitOpenError,
    CircuitState,
    Deadline,
    DeadlineExceeded,
    Retrier,
    RetryBudget,
    RetryPolicy,
    current_deadline,
    retry,
)

AT_ONCE = Backoff(0.0, 0.0)


class Flaky:
    """Raises its errors one after the other, then returns."""

    def __init__(self, *errors: Exception) -> None:
        self.errors = list(errors)
        self.calls = 0

    async def __call__(self, *args: Any, **kwargs: Any) -> Any:
        self.calls += 1
        if self.errors:
            raise self.errors.pop(0)
        return args, kwargs


class Sleeps:
    """Notes waits instead of waiting."""

    def __init__(self) -> None:
        self.waits: list[float] = []

    async def __call__(self, seconds: float) -> None:
        self.waits.append(seconds)
        await asyncio.sleep(0)


async def test_it_is_called_until_it_succeeds_with_growing_waits() -> None:
    sleep, flaky = Sleeps(), Flaky(ConnectionError("1"), ConnectionError("2"))
    retrier = Retrier(RetryPolicy(attempts=3), random=lambda: 1.0, sleep=sleep)
    assert await retrier.call(flaky, 1, key=2) == ((1,), {"key": 2})
    assert flaky.calls == 3
    assert sleep.waits == [0.025, 0.05]


async def test_the_last_error_is_raised_with_notes_of_the_others() -> None:
    flaky = Flaky(ConnectionError("one"), LookupError("two"), OSError("three"), OSError("four"))
    with pytest.raises(OSError, match="three") as caught:
        await Retrier(RetryPolicy(attempts=3, backoff=AT_ONCE)).call(flaky)
    assert caught.value.__notes__ == [
        "attempt 1 failed with ConnectionError: one",
        "attempt 2 failed with LookupError: two",
        "not tried again: that was attempt 3 of 3",
    ]


async def test_errors_that_are_not_meant_are_raised_at_once() -> None:
    flaky = Flaky(ConnectionError("one"), LookupError("two"))
    with pytest.raises(LookupError) as caught:
        await Retrier(RetryPolicy(backoff=AT_ONCE), on=ConnectionError).call(flaky)
    assert flaky.calls == 2
    assert caught.value.__notes__ == ["attempt 1 failed with ConnectionError: one"]


async def test_a_first_error_that_is_not_tried_again_has_no_notes() -> None:
    with pytest.raises(LookupError) as caught:
        await Retrier(on=ConnectionError).call(Flaky(LookupError()))
    assert not hasattr(caught.value, "__notes__")
    with pytest.raises(LookupError) as caught:
        await Retrier(RetryPolicy(attempts=1)).call(Flaky(LookupError()))
    assert not hasattr(caught.value, "__notes__")


async def test_a_spent_budget_stops() -> None:
    budget = RetryBudget(0.5, 0.0, clock=FakeClock())
    retrier = Retrier(RetryPolicy(backoff=AT_ONCE), budget=budget)
    with pytest.raises(ConnectionError) as caught:
        await retrier.call(Flaky(ConnectionError()))
    assert caught.value.__notes__ == ["not tried again: the retry budget is spent"]
    assert await retrier.call(Flaky(ConnectionError())) == ((), {})
    assert budget.balance() == 0.0


async def test_a_retry_after_is_waited_for_or_too_long() -> None:
    sleep = Sleeps()
    retrier = Retrier(RetryPolicy(max_retry_after=5.0), random=lambda: 0.0, sleep=sleep)
    await retrier.call(Flaky(CircuitOpenError("users", CircuitState.OPEN, 4.0)))
    assert sleep.waits == [4.0]
    with pytest.raises(CircuitOpenError) as caught:
        await retrier.call(Flaky(CircuitOpenError("users", CircuitState.OPEN, 30.0)))
    assert caught.value.__notes__ == [
        "not tried again: it asks to wait for longer than max_retry_after"
    ]


async def test_no_wait_begins_that_the_deadline_would_cut() -> None:
    sleep, budget = Sleeps(), RetryBudget(0.0, 1.0, clock=FakeClock())
    policy = RetryPolicy(backoff=Backoff(50.0, 50.0))
    retrier = Retrier(policy, deadline=10.0, budget=budget, random=lambda: 1.0, sleep=sleep)
    flaky = Flaky(ConnectionError())
    with pytest.raises(ConnectionError) as caught:
        await retrier.call(flaky)
    assert caught.value.__notes__ == ["not tried again: there is no time left before the deadline"]
    assert (flaky.calls, sleep.waits) == (1, [])
    assert budget.balance() == 10.0  # what is not sent is not paid for


async def test_an_attempt_under_way_ends_with_the_deadline() -> None:
    calls = 0

    @retry(RetryPolicy(backoff=AT_ONCE), deadline=0.02)
    async def slow() -> None:
        nonlocal calls
        calls += 1
        if calls == 1:
            raise ConnectionError("early")
        assert current_deadline() is not None
        await asyncio.Event().wait()

    with pytest.raises(DeadlineExceeded) as caught:
        await slow()
    assert calls == 2
    assert caught.value.__notes__ == ["attempt 1 failed with ConnectionError: early"]


async def test_the_deadline_around_is_kept_to() -> None:
    sleep = Sleeps()
    retrier = Retrier(
        RetryPolicy(backoff=Backoff(5.0, 5.0)), deadline=60.0, random=lambda: 1.0, sleep=sleep
    )
    async with Deadline.after(3.0):
        with pytest.raises(ConnectionError):
            await retrier.call(Flaky(ConnectionError()))
    assert sleep.waits == []
    with pytest.raises(DeadlineExceeded):
        await Retrier(deadline=Deadline(0.0)).call(Flaky())


async def test_an_attempt_that_takes_too_long_is_tried_again() -> None:
    calls = 0

    async def first_hangs() -> str:
        nonlocal calls
        calls += 1
        if calls == 1:
            await asyncio.Event().wait()
        return "ok"

    policy = RetryPolicy(per_try_timeout=0.005, backoff=AT_ONCE)
    assert await Retrier(policy, on=ConnectionError).call(first_hangs) == "ok"
    # A timeout of its own is an error like any other.
    with pytest.raises(TimeoutError):
        await Retrier(policy, on=ConnectionError).call(Flaky(TimeoutError()))


@pytest.mark.parametrize("where", ["attempt", "wait"])
async def test_cancelled_at_any_point_it_stops(where: str) -> None:
    calls, reached = 0, asyncio.Event()

    async def hang(*_: float) -> None:
        reached.set()
        await asyncio.Event().wait()

    async def call() -> None:
        nonlocal calls
        calls += 1
        if where == "wait":
            raise ConnectionError
        await hang()

    task = asyncio.create_task(Retrier(sleep=hang, deadline=60.0).call(call))
    await reached.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert calls == 1


async def test_two_overlapping_calls_of_a_decorated_function_count_their_own_attempts() -> None:
    attempts: dict[str, int] = {}

    @retry(RetryPolicy(attempts=3, backoff=AT_ONCE), on=ConnectionError)
    async def call(name: str, failures: int) -> int:
        """Call it."""
        attempts[name] = attempts.get(name, 0) + 1
        await asyncio.sleep(0)
        if attempts[name] <= failures:
            raise ConnectionError(name)
        return attempts[name]

    assert (call.__name__, call.__doc__) == ("call", "Call it.")
    results = await asyncio.gather(call("a", 2), call("b", 9), call("c", 0), return_exceptions=True)
    assert results[0] == 3
    assert isinstance(results[1], ConnectionError)
    assert results[2] == 1
    assert attempts == {"a": 3, "b": 3, "c": 1}


def test_what_cannot_be_repeated_is_refused() -> None:
    async def stream() -> AsyncIterator[int]:
        yield 1

    def plain() -> None:
        """Block."""

    with pytest.raises(TypeError, match="generator"):
        retry()(stream)  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="not async"):
        retry()(plain)  # type: ignore[arg-type]
