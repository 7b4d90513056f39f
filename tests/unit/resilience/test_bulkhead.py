"""Never more than the limit inside, nobody waits for room that is there, nothing leaks."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from nexgate.resilience import AdaptiveLimit, Bulkhead, BulkheadFullError, Priority, Ticket

LOW, NORMAL, HIGH = Priority.LOW, Priority.NORMAL, Priority.HIGH
ALL = {LOW: 1.0, NORMAL: 1.0, HIGH: 1.0}


async def ticks(count: int = 5) -> None:
    for _ in range(count):
        await asyncio.sleep(0)


def admitted(bulkhead: Bulkhead, priority: Priority) -> int:
    count = 0
    while bulkhead.try_enter(priority):
        count += 1
    return count


# --- the core -------------------------------------------------------------------------------------


def test_priorities_are_admitted_up_to_their_share() -> None:
    bulkhead = Bulkhead(100)
    assert [admitted(bulkhead, p) for p in (LOW, NORMAL, HIGH)] == [80, 15, 5]


@pytest.mark.parametrize("limit", [1, 2, 3, 4])
def test_a_small_limit_admits_one_of_each(limit: int) -> None:
    for priority in Priority:
        assert admitted(Bulkhead(limit), priority) >= 1


def test_shares_are_the_callers_to_choose() -> None:
    assert admitted(Bulkhead(100, shares={LOW: 0.55}), LOW) == 55
    assert admitted(Bulkhead(100, shares=ALL), LOW) == 100


def test_who_waits_goes_by_priority_then_by_arrival() -> None:
    bulkhead, order = Bulkhead(1, queue=10), []
    assert bulkhead.try_enter()
    for name, priority in (("a", LOW), ("b", NORMAL), ("c", HIGH), ("d", NORMAL), ("e", HIGH)):
        bulkhead.enqueue(priority, lambda name=name: order.append(name))
    for _ in range(5):
        bulkhead.leave()
    assert order == ["c", "e", "b", "d", "a"]
    assert (bulkhead.active, bulkhead.waiting) == (1, 0)


def test_a_full_queue_evicts_the_newest_of_the_lowest_for_a_higher_priority() -> None:
    bulkhead, order = Bulkhead(1, queue=3), []
    assert bulkhead.try_enter()
    tickets = {}
    for name, priority in (("a", LOW), ("b", LOW), ("c", NORMAL)):
        tickets[name] = bulkhead.enqueue(
            priority,
            lambda name=name: order.append(name),
            lambda name=name: order.append(f"-{name}"),
        )
    assert bulkhead.enqueue(LOW, lambda: None) is None  # not for its like
    assert bulkhead.enqueue(NORMAL, lambda: order.append("d")) is not None
    assert bulkhead.enqueue(HIGH, lambda: order.append("e")) is not None
    assert order == ["-b", "-a"]
    assert bulkhead.enqueue(NORMAL, lambda: None) is None
    assert bulkhead.enqueue(HIGH, lambda: order.append("f")) is not None
    assert order == ["-b", "-a"]  # "d" had nobody to tell
    for _ in range(3):
        bulkhead.leave()
    assert order == ["-b", "-a", "e", "f", "c"]
    assert tickets["a"] is not None
    assert not bulkhead.cancel(tickets["a"])


def test_without_a_queue_nobody_waits() -> None:
    bulkhead = Bulkhead(1)
    assert bulkhead.try_enter()
    for priority in Priority:
        assert bulkhead.enqueue(priority, lambda: None) is None


def test_who_enqueues_where_there_is_room_is_in_at_once() -> None:
    bulkhead, order = Bulkhead(1), []
    ticket = bulkhead.enqueue(NORMAL, lambda: order.append("in"))
    assert ticket is not None
    assert (ticket.state, order, bulkhead.active) == ("granted", ["in"], 1)
    assert not bulkhead.cancel(ticket)
    assert bulkhead.active == 1  # it is inside; leaving is another matter


def test_a_limit_that_grows_lets_in_and_one_that_shrinks_throws_nobody_out() -> None:
    bulkhead, order = Bulkhead(1, queue=10, shares=ALL), []
    assert bulkhead.try_enter()
    for n in range(5):
        bulkhead.enqueue(NORMAL, lambda n=n: order.append(n))
    bulkhead.limit = 4
    assert order == [0, 1, 2]
    bulkhead.limit = 1
    assert bulkhead.active == 4
    for _ in range(3):
        bulkhead.leave()
    assert order == [0, 1, 2]
    bulkhead.leave()
    assert order == [0, 1, 2, 3]
    with pytest.raises(ValueError, match="limit"):
        bulkhead.limit = 0
    bulkhead.queue = 0
    assert bulkhead.waiting == 1
    with pytest.raises(ValueError, match="queue"):
        bulkhead.queue = -1


def test_leaving_twice_is_said_and_does_no_harm() -> None:
    bulkhead = Bulkhead(1)
    with pytest.raises(RuntimeError, match="left twice"):
        bulkhead.leave()
    assert admitted(bulkhead, HIGH) == 1


def test_ten_thousand_callbacks_that_leave_at_once_do_not_recurse(
    caplog: pytest.LogCaptureFixture,
) -> None:
    bulkhead, seen = Bulkhead(1, queue=10_000), []

    def done(n: int) -> None:
        seen.append(n)
        bulkhead.leave()

    assert bulkhead.try_enter()
    for n in range(10_000):
        bulkhead.enqueue(NORMAL, lambda n=n: done(n))
    bulkhead.leave()
    assert seen == list(range(10_000))
    assert bulkhead.active == 0
    assert not caplog.records


def test_a_callback_that_queues_and_leaves_loses_no_wake_up() -> None:
    bulkhead, order = Bulkhead(1, queue=5), []

    def first() -> None:
        bulkhead.enqueue(HIGH, lambda: order.append("high"))
        bulkhead.leave()

    assert bulkhead.try_enter()
    bulkhead.enqueue(LOW, first)
    bulkhead.leave()
    assert order == ["high"]


def test_a_failing_callback_is_logged_and_the_next_gets_in(
    caplog: pytest.LogCaptureFixture,
) -> None:
    bulkhead, order = Bulkhead(2, queue=5), []

    def fails() -> None:
        raise LookupError("mine")

    assert admitted(bulkhead, HIGH) == 2
    bulkhead.enqueue(NORMAL, fails)
    bulkhead.enqueue(NORMAL, lambda: order.append("next"))
    with caplog.at_level(logging.ERROR):
        bulkhead.leave()
    bulkhead.leave()
    assert order == ["next"]
    assert "waited for a bulkhead" in caplog.text


def test_an_adaptive_limit_is_told_and_followed() -> None:
    limit = AdaptiveLimit(20, 10, 100, window=1.0, minimum_calls=1)
    bulkhead = Bulkhead(limit, queue=100, shares=ALL)
    assert admitted(bulkhead, NORMAL) == 20
    bulkhead.leave(0.1, now=0.0)
    bulkhead.leave(now=1.0)  # says nothing
    assert bulkhead.limit == 20
    bulkhead.leave(0.1, now=1.5)
    assert bulkhead.limit == limit.limit == 20
    for second in range(2, 20):
        while bulkhead.try_enter():
            pass
        bulkhead.leave(0.1, now=float(second))
    assert bulkhead.limit == limit.limit > 20
    before = bulkhead.limit
    bulkhead.leave(5.0, dropped=True, now=30.0)
    bulkhead.leave(5.0, dropped=True, now=31.0)
    assert bulkhead.limit < before


@pytest.mark.parametrize(
    ("settings", "names"),
    [
        ({"limit": 0}, "limit"),
        ({"limit": 1, "queue": -1}, "queue"),
        ({"limit": 1, "wait": -1}, "wait"),
        ({"limit": 1, "wait": float("inf")}, "wait"),
        ({"limit": 1, "shares": {LOW: 0.0}}, "shares"),
        ({"limit": 1, "shares": {LOW: 0.99}}, "shares"),
    ],
)
def test_settings_that_cannot_work_are_refused_by_name(settings: Any, names: str) -> None:
    with pytest.raises(ValueError, match=names):
        Bulkhead(**settings)


class Bulkheads(RuleBasedStateMachine):
    """Any sequence of entering, waiting, cancelling, leaving and resizing."""

    @initialize(limit=st.integers(1, 8), queue=st.integers(0, 5))
    def start(self, limit: int, queue: int) -> None:
        self.bulkhead = Bulkhead(limit, queue)
        self.peak = limit
        self.inside = 0
        self.waiting: list[Ticket] = []
        self.granted: list[Ticket] = []

    @rule(priority=st.sampled_from(Priority))
    def enter(self, priority: Priority) -> None:
        room = self.bulkhead._rooms[priority]
        is_in = self.bulkhead.try_enter(priority)
        assert is_in == (self.inside < room)
        self.inside += is_in

    @rule(priority=st.sampled_from(Priority), leaves=st.booleans())
    def wait(self, priority: Priority, leaves: bool) -> None:
        ticket: Ticket | None = None

        def granted() -> None:
            if leaves:
                self.bulkhead.leave()
            else:
                self.inside += 1
            if ticket is not None:
                self.waiting.remove(ticket)

        def refused() -> None:
            assert ticket is not None
            newest = [t for t in self.waiting if t.priority == ticket.priority][-1]
            assert newest is ticket
            assert ticket.priority == min(t.priority for t in self.waiting)
            self.waiting.remove(ticket)

        before = len(self.waiting)
        had_room = self.inside < self.bulkhead._rooms[priority]
        ticket = self.bulkhead.enqueue(priority, granted, refused)
        if ticket is None:
            assert not had_room
            assert before >= self.bulkhead.queue
            assert all(t.priority >= priority for t in self.waiting)
        elif ticket.state == "waiting":
            assert not had_room
            self.waiting.append(ticket)
        else:
            assert had_room

    @precondition(lambda self: self.waiting)
    @rule(which=st.integers(0, 100))
    def cancel(self, which: int) -> None:
        ticket = self.waiting.pop(which % len(self.waiting))
        assert self.bulkhead.cancel(ticket)
        assert not self.bulkhead.cancel(ticket)

    @precondition(lambda self: self.inside)
    @rule()
    def leave(self) -> None:
        expected = self.next_in(self.inside - 1)
        self.inside -= 1
        self.bulkhead.leave()
        assert expected is None or expected.state == "granted"

    @rule(limit=st.integers(1, 8))
    def resize(self, limit: int) -> None:
        self.bulkhead.limit = limit

    def next_in(self, inside: int) -> Ticket | None:
        for priority in reversed(Priority):
            queued = [t for t in self.waiting if t.priority == priority]
            if queued:
                return queued[0] if inside < self.bulkhead._rooms[priority] else None
        return None

    @invariant()
    def holds(self) -> None:
        if not hasattr(self, "bulkhead"):
            return
        bulkhead = self.bulkhead
        assert bulkhead.active == self.inside
        assert bulkhead.waiting == len(self.waiting)
        for ticket in self.waiting:  # nobody waits for room that is there
            assert bulkhead.active >= bulkhead._rooms[ticket.priority]


TestBulkheads = Bulkheads.TestCase
TestBulkheads.settings = settings(
    max_examples=150,
    stateful_step_count=50,
    deadline=None,
    derandomize=True,
    suppress_health_check=list(HealthCheck),
)


# --- the async face -------------------------------------------------------------------------------


async def test_two_at_once_and_the_third_waits() -> None:
    bulkhead, inside, peak = Bulkhead(2, queue=10, shares=ALL), 0, 0

    async def use() -> None:
        nonlocal inside, peak
        async with bulkhead:
            inside += 1
            peak = max(peak, inside)
            await ticks(3)
            inside -= 1

    await asyncio.gather(*(use() for _ in range(10)))
    assert peak == 2
    assert (bulkhead.active, bulkhead.waiting) == (0, 0)
    assert len(bulkhead._entered) == 0


async def test_a_full_queue_refuses_at_once_and_a_wait_ends() -> None:
    bulkhead = Bulkhead(1, queue=1, wait=0.005)
    async with bulkhead:
        waiting = asyncio.create_task(bulkhead.enter().__aenter__())
        await ticks()
        with pytest.raises(BulkheadFullError, match="no more may wait") as caught:
            async with bulkhead:
                raise AssertionError
        assert caught.value.reason == "queue-full"
        with pytest.raises(BulkheadFullError, match="left in time"):
            await waiting
        assert bulkhead.waiting == 0
    assert bulkhead.active == 0


async def test_a_more_important_call_evicts() -> None:
    bulkhead = Bulkhead(1, queue=1)
    async with bulkhead:
        low = asyncio.create_task(bulkhead.enter(LOW).__aenter__())
        await ticks()
        high = asyncio.create_task(bulkhead.enter(HIGH).__aenter__())
        with pytest.raises(BulkheadFullError, match="more important"):
            await low
    slot = await high
    assert bulkhead.active == 1
    await slot.__aexit__(None, None, None)
    await slot.__aexit__(None, None, None)
    assert bulkhead.active == 0


async def test_cancelled_while_waiting_leaves_no_trace() -> None:
    bulkhead = Bulkhead(1, queue=5)
    async with bulkhead:
        tasks = [asyncio.create_task(bulkhead.enter().__aenter__()) for _ in range(3)]
        await ticks()
        assert bulkhead.waiting == 3
        tasks[1].cancel()
        with pytest.raises(asyncio.CancelledError):
            await tasks[1]
        assert bulkhead.waiting == 2
    await tasks[0]
    bulkhead.leave()
    await tasks[2]
    assert (bulkhead.active, bulkhead.waiting) == (1, 0)


async def test_a_slot_handed_to_a_cancelled_waiter_goes_on() -> None:
    bulkhead = Bulkhead(1, queue=5)
    assert bulkhead.try_enter()
    first, second = (asyncio.create_task(bulkhead.enter().__aenter__()) for _ in range(2))
    await ticks()
    bulkhead.leave()  # hands the slot to the first …
    first.cancel()  # … in the same tick
    with pytest.raises(asyncio.CancelledError):
        await first
    await second
    assert (bulkhead.active, bulkhead.waiting) == (1, 0)


async def test_a_waiter_evicted_and_cancelled_in_one_tick_leaves_nothing() -> None:
    bulkhead = Bulkhead(1, queue=1)
    assert bulkhead.try_enter()
    low = asyncio.create_task(bulkhead.enter(LOW).__aenter__())
    await ticks()
    assert bulkhead.enqueue(HIGH, lambda: None) is not None
    low.cancel()
    with pytest.raises(asyncio.CancelledError):
        await low
    assert (bulkhead.active, bulkhead.waiting) == (1, 1)


async def test_a_slot_granted_in_the_tick_of_the_timeout_is_used() -> None:
    bulkhead = Bulkhead(1, queue=1, wait=0.0)
    assert bulkhead.try_enter()
    waiting = asyncio.create_task(bulkhead.enter().__aenter__())
    await ticks(1)
    asyncio.get_running_loop().call_later(0, bulkhead.leave)
    try:
        await waiting
    except BulkheadFullError:
        await asyncio.sleep(0.005)
        assert bulkhead.active == 0
    else:
        assert bulkhead.active == 1


async def test_cancelled_while_using_makes_room() -> None:
    bulkhead = Bulkhead(1)

    async def use() -> None:
        async with bulkhead:
            await asyncio.Event().wait()

    task = asyncio.create_task(use())
    await ticks()
    assert bulkhead.active == 1
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert bulkhead.active == 0


async def test_a_slot_is_for_one_call() -> None:
    bulkhead = Bulkhead(2, shares=ALL)
    slot = bulkhead.enter()
    async with slot:
        with pytest.raises(RuntimeError, match="one call"):
            await slot.__aenter__()
        async with bulkhead:
            assert bulkhead.active == 2
    assert bulkhead.active == 0


async def test_blocks_tell_an_adaptive_limit_what_says_something() -> None:
    seen: list[tuple[float, int, bool]] = []

    class Recording(AdaptiveLimit):
        def observe(self, seconds: float, in_flight: int, dropped: bool, now: float) -> None:
            seen.append((seconds, in_flight, dropped))

    now = 0.0
    bulkhead = Bulkhead(Recording(), clock=lambda: now)
    async with bulkhead:
        async with bulkhead:
            now = 2.0
        with pytest.raises(TimeoutError):
            async with bulkhead:
                now = 5.0
                raise TimeoutError
        with pytest.raises(ConnectionError):
            async with bulkhead:
                raise ConnectionError
    assert seen == [(2.0, 2, False), (3.0, 2, True), (5.0, 1, False)]


@settings(
    max_examples=100, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck)
)
@given(
    calls=st.lists(
        st.tuples(
            st.sampled_from(Priority),
            st.integers(0, 6),  # ticks before it asks
            st.integers(0, 4),  # ticks inside
            st.one_of(st.none(), st.integers(0, 14)),  # tick in which it is cancelled
        ),
        max_size=12,
    ),
    limit=st.integers(1, 3),
    queue=st.integers(0, 4),
)
def test_cancelled_at_any_point_nothing_leaks(
    calls: list[tuple[Priority, int, int, int | None]], limit: int, queue: int
) -> None:
    async def run() -> None:
        bulkhead, inside = Bulkhead(limit, queue, 60.0), 0

        async def call(priority: Priority, before: int, within: int) -> None:
            nonlocal inside
            await ticks(before)
            async with bulkhead.enter(priority):
                inside += 1
                assert inside <= limit
                try:
                    await ticks(within)
                finally:
                    inside -= 1

        tasks = [asyncio.create_task(call(p, b, w)) for p, b, w, _ in calls]
        for tick in range(15):
            for task, (*_, cancelled_at) in zip(tasks, calls, strict=True):
                if cancelled_at == tick:
                    task.cancel()
            await asyncio.sleep(0)
        for result in await asyncio.gather(*tasks, return_exceptions=True):
            assert result is None or isinstance(result, (BulkheadFullError, asyncio.CancelledError))
        assert (bulkhead.active, bulkhead.waiting, inside) == (0, 0, 0)

    with contextlib.closing(asyncio.new_event_loop()) as loop:
        loop.run_until_complete(asyncio.wait_for(run(), 10))
