"""``call``, the decorator, ``with`` and ``guard``: what counts, and what overlapping calls do."""

from __future__ import annotations

import asyncio
import contextlib
import functools
from collections.abc import AsyncIterator, Iterator
from typing import Any

import pytest
from tests.unit.resilience.clocks import FakeClock

from nexgate.resilience import (
    CallRecorded,
    CircuitBreaker,
    CircuitConfig,
    CircuitEvent,
    CircuitOpenError,
    CircuitState,
)


class Upstream:
    """Something to call that answers when it is told to."""

    def __init__(self) -> None:
        self.calls = 0
        self.gate = asyncio.Event()

    async def wait(self) -> str:
        self.calls += 1
        await self.gate.wait()
        return "ok"

    async def fail(self) -> str:
        self.calls += 1
        raise ConnectionError("down")


def half_open(calls: int = 1, **options: Any) -> CircuitBreaker:
    clock = FakeClock()
    breaker = CircuitBreaker(
        CircuitConfig(1, 30.0, calls, jitter=0.0), "users", clock=clock, **options
    )
    breaker.record(breaker.acquire(clock.now), False, 0.1, clock.now)
    clock.advance(30.0)
    return breaker


def fail_plainly() -> str:
    raise ConnectionError("down")


# --- call -----------------------------------------------------------------------------------------


async def test_call_takes_functions_of_both_kinds_with_their_arguments() -> None:
    async def later(a: int, *, b: int) -> int:
        return a + b

    def now(a: int, *, b: int) -> int:
        return a - b

    breaker = CircuitBreaker(CircuitConfig())
    assert await breaker.call(later, 3, b=2) == 5
    assert await breaker.call(now, 3, b=2) == 1
    assert await breaker.call(lambda: later(1, b=1)) == 2


async def test_an_open_circuit_raises_and_does_not_call() -> None:
    upstream, clock = Upstream(), FakeClock()
    breaker = CircuitBreaker(CircuitConfig(failure_threshold=2, jitter=0), "users", clock=clock)
    for _ in range(2):
        with pytest.raises(ConnectionError):
            await breaker.call(upstream.fail)
    with pytest.raises(CircuitOpenError) as caught:
        await breaker.call(upstream.fail)
    assert upstream.calls == 2
    error = caught.value
    assert (error.name, error.state, error.retry_after) == ("users", CircuitState.OPEN, 30.0)


async def test_a_herd_of_a_thousand_gets_exactly_its_trials() -> None:
    upstream, breaker = Upstream(), half_open(3)
    tasks = [asyncio.create_task(breaker.call(upstream.wait)) for _ in range(1000)]
    await asyncio.sleep(0)
    assert upstream.calls == 3
    upstream.gate.set()
    results = await asyncio.gather(*tasks, return_exceptions=True)
    assert results.count("ok") == 3
    assert sum(isinstance(r, CircuitOpenError) for r in results) == 997
    assert breaker.state is CircuitState.CLOSED


async def test_cancelled_trials_give_their_permits_back_and_count_neither_way() -> None:
    upstream, breaker = Upstream(), half_open(2)
    first, second = (asyncio.create_task(breaker.call(upstream.wait)) for _ in range(2))
    await asyncio.sleep(0)
    with pytest.raises(CircuitOpenError):
        await breaker.call(upstream.wait)
    first.cancel()
    with pytest.raises(asyncio.CancelledError):
        await first
    third = asyncio.create_task(breaker.call(upstream.wait))
    await asyncio.sleep(0)
    assert (upstream.calls, breaker.state) == (3, CircuitState.HALF_OPEN)
    upstream.gate.set()
    assert await asyncio.gather(second, third) == ["ok", "ok"]
    assert breaker.state is CircuitState.CLOSED


@pytest.mark.parametrize("error", [KeyboardInterrupt, GeneratorExit, SystemExit])
async def test_what_ends_the_program_says_nothing_about_the_service(error: Any) -> None:
    breaker = half_open()

    def interrupted() -> None:
        raise error

    for _ in range(5):
        with pytest.raises(error):
            await breaker.call(interrupted)
        with pytest.raises(error):
            breaker(interrupted)()
        with pytest.raises(error), breaker:
            interrupted()
    assert breaker.state is CircuitState.HALF_OPEN


async def test_the_predicates_say_what_counts() -> None:
    breaker = CircuitBreaker(
        CircuitConfig(failure_threshold=2),
        counts=lambda error: isinstance(error, ConnectionError),
        fails=lambda result: result == 503,
    )

    async def answer(value: Any) -> Any:
        if isinstance(value, Exception):
            raise value
        return value

    assert await breaker.call(answer, 503) == 503
    assert breaker.failures == 1
    with pytest.raises(LookupError):
        await breaker.call(answer, LookupError())
    assert breaker.failures == 1  # neither a failure nor a success
    with pytest.raises(ConnectionError):
        await breaker.call(answer, ConnectionError())
    assert breaker.state is CircuitState.OPEN


@pytest.mark.parametrize("which", ["counts", "fails"])
async def test_a_failing_predicate_does_not_keep_the_permit(which: str) -> None:
    def fails(_: object) -> bool:
        raise LookupError("predicate")

    breaker = half_open(**{which: fails})
    for _ in range(3):
        with pytest.raises(LookupError, match="predicate"):
            await breaker.call(fail_plainly if which == "counts" else lambda: 1)
    assert breaker.statistics().trials_left == 1


async def test_a_fallback_answers_for_failures_and_refusals_only() -> None:
    breaker = CircuitBreaker(
        CircuitConfig(failure_threshold=3),
        counts=lambda error: not isinstance(error, LookupError),
        fails=lambda result: result == 503,
    )
    upstream = Upstream()

    async def cached(*args: Any, **kwargs: Any) -> Any:
        return "cached", args, kwargs

    async def answer(value: Any, *, key: int = 0) -> Any:
        if isinstance(value, Exception):
            raise value
        return value

    assert await breaker.call(answer, 200, fallback=cached) == 200
    answered = ("cached", (503,), {"key": 1})
    assert await breaker.call(answer, 503, key=1, fallback=cached) == answered
    with pytest.raises(LookupError):
        await breaker.call(answer, LookupError(), fallback=cached)
    assert await breaker.call(upstream.fail, fallback=lambda: "plain") == "plain"
    assert await breaker.call(upstream.fail, fallback=lambda: "plain") == "plain"
    assert breaker.state is CircuitState.OPEN
    assert await breaker.call(upstream.fail, fallback=lambda: "plain") == "plain"
    assert upstream.calls == 2


async def test_a_cancelled_call_does_not_run_its_fallback() -> None:
    upstream, breaker = Upstream(), CircuitBreaker()
    task = asyncio.create_task(breaker.call(upstream.wait, fallback=lambda: "fallback"))
    await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


# --- decorator ------------------------------------------------------------------------------------


async def test_two_overlapping_calls_of_a_decorated_function_are_two_calls() -> None:
    clock = FakeClock()
    breaker = CircuitBreaker(CircuitConfig(), clock=clock)
    events: list[CircuitEvent] = []
    breaker.on_event(events.append, CallRecorded)
    gates = {"a": asyncio.Event(), "b": asyncio.Event()}

    @breaker
    async def fetch(name: str) -> str:
        """Fetch it."""
        await gates[name].wait()
        if name == "b":
            raise ConnectionError(name)
        return name

    assert (fetch.__name__, fetch.__doc__) == ("fetch", "Fetch it.")
    a = asyncio.create_task(fetch("a"))
    await asyncio.sleep(0)
    clock.advance(1.0)
    b = asyncio.create_task(fetch("b"))
    await asyncio.sleep(0)
    clock.advance(1.0)
    gates["a"].set()
    assert await a == "a"
    clock.advance(3.0)
    gates["b"].set()
    with pytest.raises(ConnectionError):
        await b
    assert [(e.ok, e.seconds) for e in events if isinstance(e, CallRecorded)] == [
        (True, 2.0),
        (False, 4.0),
    ]
    assert breaker.failures == 1


def test_plain_functions_and_methods_can_be_decorated() -> None:
    breaker = CircuitBreaker(CircuitConfig(failure_threshold=1))

    class Client:
        @breaker(fallback=lambda self, key: f"cached {key}")
        def get(self, key: str) -> str:
            if key == "bad":
                raise ConnectionError
            return key

    client = Client()
    assert client.get("good") == "good"
    assert client.get("bad") == "cached bad"
    assert breaker.state is CircuitState.OPEN
    assert client.get("good") == "cached good"

    @breaker
    def never() -> None:
        raise AssertionError

    with pytest.raises(CircuitOpenError):
        never()


async def test_what_makes_a_coroutine_is_measured_to_its_end() -> None:
    upstream = Upstream()

    class Callable_:  # noqa: N801
        async def __call__(self) -> str:
            return await upstream.fail()

    for func in (
        functools.partial(upstream.fail),
        lambda: upstream.fail(),
        Callable_(),
    ):
        breaker = CircuitBreaker(CircuitConfig(failure_threshold=2))
        wrapped = breaker(functools.wraps(upstream.fail)(func))
        with pytest.raises(ConnectionError):
            await wrapped()
        assert breaker.failures == 1
        assert await breaker(fallback=lambda: "x")(func)() == "x"
        assert breaker.state is CircuitState.OPEN


def test_generators_are_refused_with_what_to_do() -> None:
    breaker = CircuitBreaker()

    def plain() -> Iterator[int]:
        yield 1

    async def later() -> AsyncIterator[int]:
        yield 1

    for func in (plain, later):
        with pytest.raises(TypeError, match=r"breaker\.guard\(\)"):
            breaker(func)


# --- with -----------------------------------------------------------------------------------------


async def test_with_blocks_overlap_between_tasks_and_nest_within_one() -> None:
    clock = FakeClock()
    breaker = CircuitBreaker(CircuitConfig(failure_threshold=None, failure_ratio=1.0), clock=clock)
    events: list[Any] = []
    breaker.on_event(events.append, CallRecorded)
    gates = [asyncio.Event() for _ in range(3)]

    async def use(gate: asyncio.Event, error: Exception | None) -> None:
        with contextlib.suppress(ConnectionError):
            async with breaker:
                await gate.wait()
                if error:
                    raise error

    tasks = []
    for gate, error in zip(gates, (None, ConnectionError(), None), strict=True):
        tasks.append(asyncio.create_task(use(gate, error)))
        await asyncio.sleep(0)
        clock.advance(1.0)
    for index in (1, 0, 2):
        gates[index].set()
        await tasks[index]
        clock.advance(10.0)
    assert [(e.ok, e.seconds) for e in events] == [(False, 2.0), (True, 13.0), (True, 21.0)]
    events.clear()
    async with breaker:
        clock.advance(1.0)
        with pytest.raises(ConnectionError), breaker:
            clock.advance(1.0)
            raise ConnectionError
        async with breaker:
            clock.advance(1.0)
    assert [(e.ok, e.seconds) for e in events] == [(False, 1.0), (True, 1.0), (True, 3.0)]
    assert len(breaker._entered) == 0


async def test_a_refused_with_block_leaves_no_trace() -> None:
    breaker = half_open(1)
    async with breaker:
        for _ in range(3):
            with pytest.raises(CircuitOpenError):
                async with breaker:
                    raise AssertionError
        assert len(breaker._entered) == 1
    assert breaker.state is CircuitState.CLOSED
    assert len(breaker._entered) == 0


async def test_a_cancelled_with_block_gives_its_permit_back() -> None:
    breaker = half_open(1)

    async def use() -> None:
        async with breaker:
            await asyncio.Event().wait()

    task = asyncio.create_task(use())
    await asyncio.sleep(0)
    assert breaker.statistics().trials_left == 0
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert breaker.statistics().trials_left == 1


async def test_exit_stacks_and_generators_closed_elsewhere_leave_what_they_entered() -> None:
    breaker = half_open(2)
    async with contextlib.AsyncExitStack() as stack:
        await stack.enter_async_context(breaker)
        stack.enter_context(breaker)
        assert breaker.statistics().trials_left == 0
    assert breaker.state is CircuitState.CLOSED

    async def stream() -> AsyncIterator[int]:
        async with breaker:
            yield 1

    generator = stream()

    async def first() -> int:
        return await anext(generator)

    assert await asyncio.create_task(first()) == 1
    assert len(breaker._entered) == 1
    await generator.aclose()  # in this task, which entered nothing
    assert len(breaker._entered) == 0
    assert breaker.__exit__(None, None, None) is False  # nothing to leave: nothing happens


async def test_a_guard_is_one_call_and_can_say_how_it_went() -> None:
    breaker = CircuitBreaker(CircuitConfig(failure_threshold=3))
    async with breaker.guard() as call:
        call.fail()
    assert breaker.failures == 1
    call.__exit__(None, None, None)  # left twice, counted once
    assert breaker.failures == 1
    with breaker.guard() as call:
        call.ignore()
    with pytest.raises(ConnectionError):
        async with breaker.guard() as call:
            call.ignore()
            raise ConnectionError
    assert breaker.failures == 1
    with pytest.raises(RuntimeError, match="one call"), call:
        raise AssertionError
    call.__exit__(None, None, None)
    assert breaker.failures == 1
    with breaker.guard():
        pass
    assert breaker.failures == 0
    breaker.force_open()
    with pytest.raises(CircuitOpenError), breaker.guard():
        raise AssertionError
