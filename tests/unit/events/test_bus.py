"""Who hears of what, in which order, and what becomes of those who fail."""

from __future__ import annotations

import asyncio
import gc
import logging
from contextlib import nullcontext
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, ClassVar

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import BaseModel

from nexgate.events import (
    Event,
    EventBus,
    EventError,
    HandlerCancelled,
    MemoryInbox,
    Retry,
    current_event,
    topic_of,
)
from nexgate.events._topics import matcher
from nexgate.resilience import Backoff
from nexgate.testing import wait_until

QUICK = Backoff(base=0.0, cap=0.0)


@pytest.fixture
def bus() -> EventBus:
    return EventBus(errors="collect")


# --- the tutorial's calls -------------------------------------------------------------------------


async def test_handlers_sync_and_async_hear_of_their_topic(bus: EventBus) -> None:
    heard: list[Any] = []

    async def later(event: Event) -> None:
        heard.append(("async", event.data["id"]))

    bus.subscribe("user.created", lambda event: heard.append(("sync", event.data["id"])))
    bus.subscribe("user.created", later)
    bus.subscribe("user.deleted", later)
    event = Event("user.created", {"id": 1})
    delivery = await bus.publish(event)
    assert heard == [("sync", 1), ("async", 1)]
    assert (delivery.handled, delivery.errors) == (2, ())
    assert event.timestamp.tzinfo is UTC
    assert (await bus.publish(Event("nobody.cares"))).handled == 0


async def test_middleware_sees_changes_and_stops_events(bus: EventBus) -> None:
    heard: list[str] = []

    async def rename(event: Event) -> Event:
        return event.replace(name="b") if event.name == "a" else event

    def stop(event: Event) -> Event | None:
        return None if event.data.get("secret") else event

    bus.add_middleware(rename)
    bus.add_middleware(stop)
    bus.subscribe("**", lambda event: heard.append(event.name))
    await bus.publish(Event("a"))
    delivery = await bus.publish(Event("c", {"secret": True}))
    assert heard == ["b"]
    assert delivery.is_stopped


async def test_a_middleware_that_raises_stops_the_event_and_is_told(bus: EventBus) -> None:
    def broken(event: Event) -> Event:
        raise LookupError("no")

    heard: list[Event] = []
    bus.add_middleware(broken)
    bus.subscribe("**", heard.append)
    delivery = await bus.publish(Event("a"))
    assert delivery.is_stopped
    assert isinstance(delivery.errors[0], LookupError)
    assert not heard
    bus.errors = "raise"
    with pytest.raises(ExceptionGroup):
        await bus.publish(Event("a"))


# --- topics ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("pattern", "yes", "no"),
    [
        ("user.*", ["user.created"], ["user", "user.a.b", "users.a", "auser.b"]),
        ("user.**", ["user", "user.a", "user.a.b"], ["users", "a.user"]),
        ("**", ["a", "a.b.c"], []),
        ("**.created", ["created", "user.created", "a.b.created"], ["created.x", "recreated"]),
        ("a.**.z", ["a.z", "a.b.z", "a.b.c.z"], ["a", "z", "a.b"]),
        ("*.created", ["user.created"], ["created", "a.b.created"]),
        ("a", ["a"], ["a.b", "b"]),
    ],
)
def test_patterns(pattern: str, yes: list[str], no: list[str]) -> None:
    matches = matcher(pattern)
    assert [each for each in yes if not matches(each)] == []
    assert [each for each in no if matches(each)] == []


@given(
    st.lists(st.sampled_from(["a", "b", "*", "**"]), min_size=1, max_size=5),
    st.lists(st.sampled_from(["a", "b"]), min_size=1, max_size=6),
)
def test_patterns_mean_what_they_say(pattern: list[str], topic: list[str]) -> None:
    def plainly(pattern: list[str], topic: list[str]) -> bool:
        if not pattern:
            return not topic
        if pattern[0] == "**":
            return any(plainly(pattern[1:], topic[n:]) for n in range(len(topic) + 1))
        return bool(topic) and pattern[0] in ("*", topic[0]) and plainly(pattern[1:], topic[1:])

    assert matcher(".".join(pattern))(".".join(topic)) == plainly(pattern, topic)


@pytest.mark.parametrize("bad", ["", ".", "a.", ".a", "a..b", "a b", "a.***", "a*", "é", "a" * 300])
async def test_what_is_no_topic_is_refused(bus: EventBus, bad: str) -> None:
    with pytest.raises(ValueError, match="is not a pattern"):
        bus.subscribe(bad, print)
    with pytest.raises(ValueError, match="is not a topic"):
        await bus.publish(Event(bad))
    with pytest.raises(ValueError, match="is not a topic"):
        await bus.publish(Event("a.*"))


async def test_ten_thousand_topics_do_not_fill_the_memory(bus: EventBus) -> None:
    for number in range(10_000):
        await bus.publish(Event(f"t.{number}"))
    assert len(bus._routes) <= 4096


# --- typed events ---------------------------------------------------------------------------------


@dataclass
class UserCreated:
    id: int
    name: str = ""


class OrderLineAdded(BaseModel):
    topic: ClassVar[str] = "shop.line"
    sku: str


class HTTPServerStarted(BaseModel):
    port: int


def test_a_type_has_a_topic() -> None:
    assert topic_of(UserCreated) == "user.created"
    assert topic_of(OrderLineAdded) == "shop.line"
    assert topic_of(HTTPServerStarted) == "http.server.started"
    with pytest.raises(TypeError, match="is no event"):
        topic_of(int)


async def test_typed_events_reach_typed_handlers_and_plain_ones(bus: EventBus) -> None:
    heard: list[Any] = []

    @bus.on(UserCreated)
    def typed(user: UserCreated) -> None:
        heard.append(user)

    @bus.on("user.*")
    def annotated(user: UserCreated) -> None:
        heard.append(user)

    @bus.on("user.*")
    def plain(event: Event) -> None:
        heard.append(event.data)

    user = UserCreated(1, "Ada")
    await bus.publish(user)
    assert heard == [user, user, user]
    heard.clear()
    await bus.publish(Event("user.created", {"id": "7", "name": "x"}))  # as it comes off a wire
    assert heard[:2] == [UserCreated(7, "x")] * 2
    delivery = await bus.publish(Event("user.created", {"name": "x"}))
    assert len(delivery.errors) == 2


# --- order ----------------------------------------------------------------------------------------


async def test_priorities_are_barriers_and_equals_keep_their_order(bus: EventBus) -> None:
    told: list[str] = []

    def handler(name: str, pause: bool) -> Any:
        async def handle(event: Event) -> None:
            if pause:
                await asyncio.sleep(0.01)
            told.append(name)

        return handle

    bus.subscribe("a", handler("last", False), priority=-1)
    bus.subscribe("a", handler("first slow", True), priority=1)
    bus.subscribe("a", lambda event: told.append("sync"), priority=1)
    bus.subscribe("a", handler("middle", False))
    await bus.publish(Event("a"))
    assert told == ["sync", "first slow", "middle", "last"]


async def test_async_handlers_of_one_priority_run_side_by_side(bus: EventBus) -> None:
    both = asyncio.Barrier(2)

    async def meet(event: Event) -> None:
        async with asyncio.timeout(5):
            await both.wait()

    bus.subscribe("a", meet)
    bus.subscribe("a", meet)
    assert (await bus.publish(Event("a"))).errors == ()


async def test_events_of_a_key_are_handled_in_order_and_others_beside_them(bus: EventBus) -> None:
    told: list[tuple[str, int]] = []
    gates = {0: asyncio.Event(), 1: asyncio.Event()}

    async def handle(event: Event) -> None:
        if event.key == "slow" and event.data in gates:
            await gates[event.data].wait()
        told.append((event.key or "", event.data))

    bus.subscribe("a", handle, in_order=True)
    tasks = [
        asyncio.create_task(bus.publish(Event("a", number, key=key)))
        for number in range(3)
        for key in ("slow", "quick")
    ]
    await wait_until(lambda: len(told) == 3)
    assert told == [("quick", 0), ("quick", 1), ("quick", 2)]
    gates[1].set()
    await asyncio.sleep(0)
    assert len(told) == 3
    gates[0].set()
    await asyncio.gather(*tasks)
    assert told[3:] == [("slow", 0), ("slow", 1), ("slow", 2)]


async def test_concurrency_is_limited(bus: EventBus) -> None:
    running, most = 0, 0

    async def handle(event: Event) -> None:
        nonlocal running, most
        running += 1
        most = max(most, running)
        await asyncio.sleep(0.001)
        running -= 1

    bus.subscribe("a", handle, concurrency=3)
    await asyncio.gather(*(bus.publish(Event("a")) for _ in range(12)))
    assert most == 3


# --- options --------------------------------------------------------------------------------------


async def test_once_is_once_also_when_two_come_together(bus: EventBus) -> None:
    heard: list[Event] = []

    async def handle(event: Event) -> None:
        await asyncio.sleep(0)
        heard.append(event)

    subscription = bus.subscribe("a", handle, once=True)
    await asyncio.gather(*(bus.publish(Event("a")) for _ in range(5)))
    assert len(heard) == 1
    assert not subscription.is_active


async def test_where_filters_and_a_cancelled_subscription_hears_nothing(bus: EventBus) -> None:
    heard: list[int] = []
    with bus.subscribe("a", lambda event: heard.append(event.data), where=lambda e: e.data > 1):
        for number in range(4):
            await bus.publish(Event("a", number))
    await bus.publish(Event("a", 9))
    assert heard == [2, 3]


async def test_a_handler_that_hangs_is_cut_after_its_timeout(bus: EventBus) -> None:
    async def hang(event: Event) -> None:
        await asyncio.Event().wait()

    bus.subscribe("a", hang, timeout=0.01)
    delivery = await bus.publish(Event("a"))
    assert "took longer than 0.01s" in str(delivery.errors[0])


async def test_a_timeout_of_the_handlers_own_is_its_own(bus: EventBus) -> None:
    async def own(event: Event) -> None:
        raise TimeoutError("mine")

    bus.subscribe("a", own, timeout=5)
    assert str((await bus.publish(Event("a"))).errors[0]) == "mine"


async def test_a_handler_is_tried_again_and_then_its_event_is_a_dead_letter() -> None:
    letters: list[Any] = []
    bus = EventBus(errors="collect", dead_letter=letters.append)
    left = [3]

    async def flaky(event: Event) -> None:
        left[0] -= 1
        if left[0] >= 0:
            raise LookupError("not yet")

    bus.subscribe("a", flaky, retry=Retry(4, QUICK))
    assert (await bus.publish(Event("a"))).errors == ()
    left[0] = 10
    delivery = await bus.publish(Event("a"))
    assert (delivery.failures[0].attempts, len(letters), len(bus.dead_letters)) == (4, 1, 1)
    left[0] = 0
    assert (await bus.redeliver(letters[0])).errors == ()
    assert not bus.dead_letters


async def test_an_event_that_was_handled_is_not_handled_again(bus: EventBus) -> None:
    now = [0.0]
    heard: list[Event] = []
    inbox = MemoryInbox(size=2, ttl=10, clock=lambda: now[0])
    bus.subscribe("a", heard.append, inbox=inbox)
    for each in ("1", "1", "2", "3", "2"):
        await bus.publish(Event("a", id=each))
    assert [each.id for each in heard] == ["1", "2", "3"]
    now[0] = 11.0
    await bus.publish(Event("a", id="3"))
    assert len(heard) == 4


async def test_one_that_failed_is_handled_again(bus: EventBus) -> None:
    fails = [True]

    def handle(event: Event) -> None:
        if fails.pop():
            raise LookupError

    bus.subscribe("a", handle, inbox=MemoryInbox())
    assert (await bus.publish(Event("a", id="1"))).errors
    fails.append(False)
    assert not (await bus.publish(Event("a", id="1"))).errors
    assert not fails


# --- failures -------------------------------------------------------------------------------------


@pytest.mark.parametrize("policy", ["log", "collect", "raise"])
async def test_a_handler_that_fails_keeps_nobody_from_hearing(
    policy: Any, caplog: pytest.LogCaptureFixture
) -> None:
    bus = EventBus(errors=policy)
    heard: list[Event] = []

    def broken(event: Event) -> None:
        raise LookupError("broken handler")

    async def broken_too(event: Event) -> None:
        raise ValueError("broken, too")

    for handler in (broken, broken_too, heard.append):
        bus.subscribe("a", handler)
    expectation = pytest.raises(ExceptionGroup) if policy == "raise" else nullcontext()
    with expectation as caught:
        delivery = await bus.publish(Event("a"))
    assert len(heard) == 1
    assert ("broken handler" in caplog.text) == (policy == "log")
    assert bus.statistics().failed == 2
    if policy == "raise":
        assert caught is not None
        assert {type(each) for each in caught.value.exceptions} == {LookupError, ValueError}
    else:
        assert [type(each) for each in delivery.errors] == [LookupError, ValueError]
        assert delivery.failures[0].handler.endswith("broken")


async def test_a_handlers_own_policy_goes_before_the_buses(bus: EventBus) -> None:
    def broken(event: Event) -> None:
        raise LookupError

    bus.subscribe("a", broken, errors="raise")
    with pytest.raises(ExceptionGroup):
        await bus.publish(Event("a"))


async def test_an_inbox_tells_handlers_apart_and_two_at_once(bus: EventBus) -> None:
    inbox = MemoryInbox()
    heard: list[str] = []

    def hearing(name: str) -> Any:
        async def hear(event: Event) -> None:
            await asyncio.sleep(0)
            heard.append(name)

        return hear

    bus.subscribe("a", hearing("one"), inbox=inbox)
    with pytest.raises(EventError, match="say name="):
        bus.subscribe("a", hearing("two"), inbox=inbox)
    bus.subscribe("a", hearing("two"), inbox=inbox, name="two")
    bus.subscribe("a", hearing("elsewhere"), inbox=MemoryInbox())
    # A plugin's next version has the same handlers, before the last one's are ended.
    next_version = bus.owner("plugin").subscribe("b", hearing("next"), inbox=inbox)
    next_version.cancel()
    event = Event("a", id="1")
    await asyncio.gather(*(bus.publish(event) for _ in range(5)))
    assert sorted(heard) == ["elsewhere", "one", "two"]


async def test_an_inbox_that_fails_is_a_failure_of_the_handler(bus: EventBus) -> None:
    class Broken(MemoryInbox):
        async def has(self, handler: str, event: Event) -> bool:
            raise LookupError("no database")

    heard: list[Event] = []
    bus.subscribe("a", heard.append, inbox=Broken())
    bus.subscribe("a", heard.append)
    delivery = await bus.publish(Event("a"))
    assert [str(each) for each in delivery.errors] == ["no database"]
    assert len(heard) == 1


@pytest.mark.parametrize("is_async", [False, True])
async def test_what_cancels_itself_is_a_failure_like_any_other(
    bus: EventBus, is_async: bool
) -> None:
    heard: list[Event] = []

    async def awaiting(event: Event) -> None:
        forgotten = asyncio.ensure_future(asyncio.sleep(30))
        forgotten.cancel()
        await forgotten

    def raising(event: Event) -> None:
        raise asyncio.CancelledError

    bus.subscribe("a", awaiting if is_async else raising)
    bus.subscribe("a", heard.append)
    delivery = await bus.publish(Event("a"))
    assert [type(each) for each in delivery.errors] == [HandlerCancelled]
    assert len(heard) == 1


async def test_a_middleware_that_cancels_itself_does_not_cancel_the_publisher(
    bus: EventBus,
) -> None:
    async def awaiting(event: Event) -> Event:
        forgotten = asyncio.ensure_future(asyncio.sleep(30))
        forgotten.cancel()
        await forgotten
        return event

    bus.add_middleware(awaiting)
    delivery = await bus.publish(Event("a"))
    assert delivery.is_stopped
    assert [type(each) for each in delivery.errors] == [HandlerCancelled]


async def test_a_filter_that_raises_is_a_failure_and_the_others_hear(bus: EventBus) -> None:
    def where(event: Event) -> bool:
        raise LookupError("filter")

    heard: list[Event] = []
    bus.subscribe("a", heard.append, where=where)
    bus.subscribe("a", heard.append)
    delivery = await bus.publish(Event("a"))
    assert [str(each) for each in delivery.errors] == ["filter"]
    assert len(heard) == 1


async def test_handlers_of_one_name_keep_their_own_policies_and_letters(bus: EventBus) -> None:
    calls: list[str] = []
    is_broken = True

    def failing(name: str) -> Any:
        def handle(event: Event) -> None:
            calls.append(name)
            if is_broken:
                raise LookupError(name)

        return handle

    first = bus.subscribe("a", failing("one"), errors="raise")
    bus.subscribe("a", failing("two"), errors="collect")
    with pytest.raises(ExceptionGroup) as caught:
        await bus.publish(Event("a"))
    assert [str(each) for each in caught.value.exceptions] == ["one"]
    is_broken = False
    calls.clear()
    two = bus.dead_letters[1]
    assert (await bus.redeliver(two)).failures == ()
    assert calls == ["two"]
    one = bus.dead_letters[0]
    first.cancel()
    await bus.redeliver(one)  # to another of that name: a plugin's next version, say
    assert calls == ["two", "two"]


async def test_a_bus_that_was_closed_says_so_and_can_be_started_again(bus: EventBus) -> None:
    heard: list[Event] = []
    bus.subscribe("a", heard.append)
    await bus.aclose()
    with pytest.raises(EventError, match="closed"):
        await bus.publish(Event("a"))
    with pytest.raises(EventError, match="closed"):
        bus.subscribe("a", heard.append)
    async with bus:
        await bus.publish(Event("a"))
    assert len(heard) == 1


async def test_cancelling_publish_cancels_what_it_started_and_is_no_failure(bus: EventBus) -> None:
    began, ended = [], []

    async def handle(event: Event) -> None:
        began.append(1)
        try:
            await asyncio.Event().wait()
        finally:
            ended.append(1)

    for _ in range(3):
        bus.subscribe("a", handle)
    task = asyncio.create_task(bus.publish(Event("a")))
    await wait_until(lambda: len(began) == 3)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert len(ended) == 3
    assert bus.statistics().failed == 0
    assert current_event.get() is None


# --- what causes what -----------------------------------------------------------------------------


async def test_events_carry_what_caused_them(bus: EventBus) -> None:
    seen: dict[str, Event] = {}

    async def first(event: Event) -> None:
        assert current_event.get() is event
        await bus.publish(Event("second"))

    async def second(event: Event) -> None:
        await bus.publish(Event("third"))

    bus.subscribe("first", first)
    bus.subscribe("second", second)
    bus.subscribe("**", lambda event: seen.__setitem__(event.name, event), priority=1)
    begin = Event("first", traceparent="00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01")
    await bus.publish(begin)
    assert seen["second"].causation == begin.id
    assert seen["third"].causation == seen["second"].id
    assert seen["third"].correlation == begin.id
    assert seen["third"].traceparent == begin.traceparent
    assert current_event.get() is None


async def test_spans_follow_an_event_through_its_handlers() -> None:
    spans: list[tuple[str, Any]] = []

    class Span:
        def __enter__(self) -> Span:
            return self

        def __exit__(self, *exc: object) -> None: ...

    class Tracer:
        def start_as_current_span(self, name: str, **options: Any) -> Span:
            spans.append((name, options["kind"].name))
            return Span()

    bus = EventBus(tracer=Tracer())

    async def handle(event: Event) -> None: ...

    bus.subscribe("a", handle)
    await bus.publish(Event("a"))
    assert spans == [("publish a", "PRODUCER"), ("handle a", "CONSUMER")]


# --- listening ------------------------------------------------------------------------------------


async def test_events_can_be_iterated(bus: EventBus) -> None:
    async with bus.listen("user.*") as events:
        await bus.publish(Event("user.a"))
        await bus.publish(Event("other.a"))
        await bus.publish(Event("user.b"))
        assert [(await anext(events)).name, (await anext(events)).name] == ["user.a", "user.b"]
        waiting = asyncio.ensure_future(anext(events))
        await asyncio.sleep(0)
        await bus.publish(Event("user.c"))
        assert (await waiting).name == "user.c"
    with pytest.raises(StopAsyncIteration):
        await anext(events)


@pytest.mark.parametrize(("overflow", "kept"), [("drop_oldest", [3, 4]), ("drop_newest", [0, 1])])
async def test_a_full_buffer_drops(bus: EventBus, overflow: Any, kept: list[int]) -> None:
    async with bus.listen("a", buffer=2, overflow=overflow) as events:
        for number in range(5):
            await bus.publish(Event("a", number))
        assert events.dropped == 3
        assert [(await anext(events)).data for _ in range(2)] == kept


async def test_a_full_buffer_can_make_publishers_wait(bus: EventBus) -> None:
    async with bus.listen("a", buffer=1, overflow="block") as events:
        await bus.publish(Event("a", 0))
        second = asyncio.create_task(bus.publish(Event("a", 1)))
        await asyncio.sleep(0.01)
        assert not second.done()
        assert (await anext(events)).data == 0
        await asyncio.wait_for(second, 5)
        assert (await anext(events)).data == 1
        third = asyncio.create_task(bus.publish(Event("a", 2)))
        fourth = asyncio.create_task(bus.publish(Event("a", 3)))
        await asyncio.sleep(0)
    await asyncio.wait_for(asyncio.gather(third, fourth), 5)


async def test_a_listener_that_nobody_has_listens_no_more(bus: EventBus) -> None:
    async for _ in _some(bus):
        break
    gc.collect()
    assert bus.statistics().subscriptions == 0


def _some(bus: EventBus) -> Any:
    listener = bus.listen("a")
    asyncio.get_running_loop().call_soon(lambda: asyncio.ensure_future(bus.publish(Event("a"))))
    return listener


async def test_closing_the_bus_ends_listeners_and_waits_for_handlers(bus: EventBus) -> None:
    go, ended = asyncio.Event(), []

    async def slow(event: Event) -> None:
        await go.wait()
        ended.append(event)

    bus.subscribe("a", slow)
    listener = bus.listen("b")
    publishing = asyncio.create_task(bus.publish(Event("a")))
    await asyncio.sleep(0)
    closing = asyncio.create_task(bus.aclose(5))
    await asyncio.sleep(0)
    assert not closing.done()
    go.set()
    await closing
    await publishing
    assert len(ended) == 1
    assert [event async for event in listener] == []
    with pytest.raises(EventError, match="closed"):
        bus.subscribe("a", print)


# --- the rest -------------------------------------------------------------------------------------


async def test_an_owners_subscriptions_end_together_after_what_is_under_way(bus: EventBus) -> None:
    go, told = asyncio.Event(), []

    async def slow(event: Event) -> None:
        await go.wait()
        told.append("slow")

    owner = bus.owner("plugin x")
    owner.subscribe("a", slow)

    @owner.on("b")
    def b(event: Event) -> None:
        told.append("b")

    bus.subscribe("b", lambda event: told.append("other"))
    publishing = asyncio.create_task(owner.publish(Event("a")))
    await asyncio.sleep(0)
    closing = asyncio.create_task(owner.aclose())
    await asyncio.sleep(0)
    assert not closing.done()
    await bus.publish(Event("b"))
    go.set()
    await closing
    await publishing
    assert told == ["other", "slow"]
    with pytest.raises(EventError, match="plugin x has ended"):
        owner.subscribe("a", slow)
    assert bus.statistics().subscriptions == 1


async def test_what_was_published_can_be_recorded_and_replayed(bus: EventBus) -> None:
    with bus.record() as recorded:
        await bus.publish(Event("user.created", {"id": 1}))
        await bus.publish(Event("mail.sent"))
    await bus.publish(Event("user.deleted"))
    assert recorded.names == ["user.created", "mail.sent"]
    assert recorded.one("user.*").data == {"id": 1}
    with pytest.raises(AssertionError, match="0 events match order"):
        recorded.one("order.*")
    again: list[str] = []
    bus.subscribe("**", lambda event: again.append(event.id))
    await bus.replay(recorded)
    assert again == [event.id for event in recorded]


async def test_an_invoker_stands_between_the_bus_and_handlers() -> None:
    def invoker(handler: Any) -> Any:
        def call(event: Event) -> Any:
            return handler(event, "injected")

        return call

    bus = EventBus(invoker=invoker)
    heard: list[Any] = []
    bus.subscribe("a", lambda event, service: heard.append(service))
    await bus.publish(Event("a"))
    assert heard == ["injected"]


async def test_handlers_may_subscribe_and_cancel_while_they_are_called(bus: EventBus) -> None:
    heard: list[str] = []
    second = bus.subscribe("a", lambda event: heard.append("second"), priority=-1)

    def first(event: Event) -> None:
        heard.append("first")
        second.cancel()
        bus.subscribe("a", lambda event: heard.append("new"))

    bus.subscribe("a", first)
    await bus.publish(Event("a"))
    await bus.publish(Event("a"))
    assert heard.count("new") == 1
    assert heard[0] == "first"


def test_ids_sort_by_the_time_of_their_making() -> None:
    ids = [Event("a").id for _ in range(5000)]
    assert ids == sorted(ids)
    assert len(set(ids)) == 5000
    import uuid

    assert uuid.UUID(ids[0]).version == 7


def test_an_event_says_when_it_happened() -> None:
    at = datetime(2026, 1, 2, 3, 4, 5, 678901, UTC)
    event = Event("a", time=at)
    assert event.timestamp == at
    assert event.time_text == "2026-01-02T03:04:05.678901Z"
    assert event.replace(data=1).id == event.id


async def test_a_group_needs_a_store(bus: EventBus, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.ERROR)
    with pytest.raises(EventError, match="needs a bus with a store"):
        bus.subscribe("a", print, group="g")
