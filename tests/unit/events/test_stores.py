"""What every store of events promises: at least once for each group, in order for each key."""

from __future__ import annotations

import asyncio
import logging
import sqlite3
from collections import defaultdict
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from tests.unit.events.servers import Nats
from tests.unit.sqlite.steps import steps_of
from tests.unit.state.servers import Valkey

from nexgate.errors import NexgateError
from nexgate.events import (
    BacklogFull,
    DurableOptions,
    Event,
    EventBus,
    EventError,
    EventStore,
    JetStream,
    MemoryEvents,
    RedisStreams,
    SqliteOutbox,
)
from nexgate.events._store import partition_of
from nexgate.resilience import Backoff
from nexgate.sqlite import StoreError, StoreFull
from nexgate.testing import wait_until

QUICK = DurableOptions(backoff=Backoff(base=0.01, cap=0.02), attempts=3, lease=5.0)
Make = Callable[..., EventStore]


@pytest.fixture(scope="module")
def valkey() -> Iterator[Valkey]:
    with Valkey() as server:
        yield server


@pytest.fixture(scope="module")
def nats() -> Iterator[Nats]:
    with Nats() as server:
        yield server


@pytest.fixture(params=["memory", "sqlite", "sqlite-full", "redis", "jetstream"])
def make(request: pytest.FixtureRequest, tmp_path: Path) -> Make:
    """Makes stores over the same events: the second one is another process's."""
    kind = request.param
    name = f"t{abs(hash(request.node.nodeid)) % 10**9}"
    if kind == "memory":
        memory: dict[tuple[Any, ...], MemoryEvents] = {}
        return lambda **options: memory.setdefault(
            tuple(sorted(options.items())), MemoryEvents(**options)
        )
    if kind.startswith("sqlite"):
        synchronous: Any = "full" if kind == "sqlite-full" else "normal"
        return lambda **options: SqliteOutbox(
            tmp_path / "events.db", synchronous=synchronous, **options
        )
    if kind == "redis":
        url = request.getfixturevalue("valkey").url
        return lambda **options: RedisStreams(url, prefix=name, partitions=4, **options)
    url = request.getfixturevalue("nats").url
    return lambda **options: JetStream(url, stream=name, partitions=4, **options)


Bus = Callable[..., Any]


@asynccontextmanager
async def running(store: EventStore, **options: Any) -> AsyncIterator[EventBus]:
    bus = EventBus(store=store, errors="collect", **options)
    try:
        yield bus
    finally:
        await bus.aclose(2)


async def test_each_group_handles_each_event_and_typed_data_comes_through(make: Make) -> None:
    heard: dict[str, list[Any]] = defaultdict(list)
    async with running(make()) as bus:
        for group in ("mail", "stats"):

            async def handle(event: Event, group: str = group) -> None:
                heard[group].append((event.name, event.data["id"]))

            bus.subscribe("user.*", handle, group=group, durable=QUICK)
        bus.subscribe("user.*", lambda event: heard["now"].append(event.data["id"]))
        await bus.start()
        await wait_until(lambda: _joined(bus))
        for number in range(10):
            await bus.publish(Event("user.created", {"id": number}))
            await bus.publish(Event("other.thing", {"id": number}))
        assert heard["now"] == list(range(10))
        await wait_until(lambda: len(heard["mail"]) == len(heard["stats"]) == 10, 20)
    assert sorted(heard["mail"]) == [("user.created", number) for number in range(10)]


def _joined(bus: EventBus) -> bool:
    """Whether every group of the bus has said what it wants: from there on is "now"."""
    assert bus.store is not None
    store: Any = bus.store
    known = getattr(store, "_groups", None) or getattr(store, "_matches", {})
    assert bus._consumers is not None
    return all(name in known for name in bus._consumers._groups)


async def test_what_was_published_before_a_group_began_is_its_own_if_it_says_so(
    make: Make,
) -> None:
    heard: list[int] = []
    async with running(make()) as bus:
        await bus.start()
        for number in range(5):
            await bus.publish(Event("a", number))
        bus.subscribe(
            "a",
            lambda event: heard.append(event.data),
            group="late",
            durable=DurableOptions(start="beginning"),
        )
        await wait_until(lambda: len(heard) == 5, 20)
    assert sorted(heard) == list(range(5))


async def test_events_of_a_key_come_in_order_whatever_fails_in_between(make: Make) -> None:
    done: dict[str, list[int]] = defaultdict(list)
    tries: dict[tuple[str, int], int] = defaultdict(int)

    async def flaky(event: Event) -> None:
        number = event.data
        tries[event.key or "", number] += 1
        await asyncio.sleep(0)
        if number % 4 == 1 and tries[event.key or "", number] < 3:
            raise LookupError("not yet")
        done[event.key or ""].append(number)

    async with running(make()) as bus:
        bus.subscribe("a", flaky, group="g", durable=QUICK)
        await bus.start()
        await wait_until(lambda: _joined(bus))
        for number in range(12):
            for key in ("x", "y", "z"):
                await bus.publish(Event("a", number, key=key))
        await wait_until(lambda: sum(map(len, done.values())) == 36, 30)
    assert done == {key: list(range(12)) for key in ("x", "y", "z")}


async def test_two_consumers_of_a_group_share_and_keep_the_order_of_keys(make: Make) -> None:
    done: dict[str, list[int]] = defaultdict(list)
    by: dict[str, int] = defaultdict(int)
    options = DurableOptions(lease=2.0, concurrency=2)

    def handler(name: str) -> Any:
        async def handle(event: Event) -> None:
            await asyncio.sleep(0.001)
            done[event.key or ""].append(event.data)
            by[name] += 1

        return handle

    async with running(make()) as one, running(make()) as two:
        for name, bus in (("one", one), ("two", two)):
            bus.subscribe("a", handler(name), group="g", durable=options)
            await bus.start()
            await wait_until(lambda bus=bus: _joined(bus))  # type: ignore[misc]
        for number in range(30):
            for key in range(8):
                await one.publish(Event("a", number, key=str(key)))
        await wait_until(lambda: sum(map(len, done.values())) == 240, 30)
    assert done == {str(key): list(range(30)) for key in range(8)}


async def test_an_event_that_cannot_be_handled_becomes_a_dead_letter_and_its_key_goes_on(
    make: Make,
) -> None:
    done: list[int] = []
    is_well = [False]

    def poison(event: Event) -> None:
        if event.data == 1 and not is_well[0]:
            raise LookupError("poison")
        done.append(event.data)

    async with running(make()) as bus:
        bus.subscribe("a", poison, group="g", durable=QUICK)
        await bus.start()
        await wait_until(lambda: _joined(bus))
        for number in range(3):
            await bus.publish(Event("a", number, key="k"))
        await wait_until(lambda: done == [0, 2], 20)
        store = bus.store
        assert store is not None
        (letter,) = await store.dead("g")
        assert (letter.event.data, letter.failures) == (1, 3)
        assert "poison" in letter.error
        is_well[0] = True
        assert await store.revive("g", [letter.id]) == 1
        await wait_until(lambda: done == [0, 2, 1], 20)
        assert await store.dead("g") == []
        assert await store.drop("g", [letter.id]) == 0


async def test_a_handler_that_hangs_is_cut_and_tried_again(make: Make) -> None:
    calls: list[int] = []

    async def hangs_once(event: Event) -> None:
        calls.append(1)
        if len(calls) == 1:
            await asyncio.Event().wait()

    async with running(make()) as bus:
        bus.subscribe("a", hangs_once, group="g", durable=QUICK, timeout=0.05)
        await bus.start()
        await wait_until(lambda: _joined(bus))
        await bus.publish(Event("a"))
        await wait_until(lambda: len(calls) == 2, 20)


async def test_an_event_that_is_published_twice_is_stored_once(make: Make) -> None:
    heard: list[str] = []
    async with running(make()) as bus:
        bus.subscribe("**", lambda event: heard.append(event.id), group="g", durable=QUICK)
        await bus.start()
        await wait_until(lambda: _joined(bus))
        for _ in range(3):
            await bus.publish(Event("a", id="once"))
        await bus.publish(Event("b", id="end"))
        await wait_until(lambda: "end" in heard, 20)
        await wait_until(lambda: "once" in heard, 20)
    assert sorted(heard) == ["end", "once"]


async def test_what_a_consumer_had_when_it_stopped_is_handled_by_the_next(make: Make) -> None:
    began, done = asyncio.Event(), []

    async def slow(event: Event) -> None:
        began.set()
        await asyncio.Event().wait()

    async with running(make()) as bus:
        bus.subscribe("a", slow, group="g", durable=DurableOptions(lease=2.0))
        await bus.start()
        await wait_until(lambda: _joined(bus))
        for number in range(3):
            await bus.publish(Event("a", number, key="k"))
        await began.wait()
        await bus.aclose(0.05)
    async with running(make()) as bus:
        bus.subscribe(
            "a", lambda event: done.append(event.data), group="g", durable=DurableOptions(lease=2.0)
        )
        await bus.start()
        await wait_until(lambda: len(done) == 3, 20)
    assert done == [0, 1, 2]


async def test_no_more_keys_are_worked_on_at_once_than_the_group_says(make: Make) -> None:
    running_now, most, done = [0], [0], []

    async def handle(event: Event) -> None:
        running_now[0] += 1
        most[0] = max(most[0], running_now[0])
        await asyncio.sleep(0.005)
        running_now[0] -= 1
        done.append(event.data)

    async with running(make()) as bus:
        bus.subscribe("a", handle, group="g", durable=DurableOptions(concurrency=2))
        await bus.start()
        await wait_until(lambda: _joined(bus))
        for number in range(20):
            await bus.publish(Event("a", number, key=str(number)))
        await wait_until(lambda: len(done) == 20, 20)
    assert most[0] == 2


async def test_a_consumer_that_stops_leaves_nothing_claimed(make: Make) -> None:
    done: list[int] = []

    async def handle(event: Event) -> None:
        await asyncio.sleep(0.001)
        done.append(event.data)

    options = DurableOptions(lease=60.0, concurrency=1)
    for turn in range(4):
        async with running(make()) as bus:
            bus.subscribe("a", handle, group="g", durable=options)
            await bus.start()
            await wait_until(lambda bus=bus: _joined(bus))  # type: ignore[misc]
            for number in range(25):
                await bus.publish(Event("a", turn * 25 + number, key=str(number % 3)))
            await asyncio.sleep(0.01)
    async with running(make()) as bus:
        bus.subscribe("a", handle, group="g", durable=options)
        await bus.start()
        await wait_until(lambda: len(done) == 100, 20)  # within their leases
    assert sorted(done) == list(range(100))


async def test_a_group_that_is_no_more_is_forgotten(make: Make) -> None:
    heard: list[int] = []
    async with running(make()) as bus:
        await bus.start()
        assert bus.store is not None
        bus.subscribe("a", lambda event: heard.append(event.data), group="old", durable=QUICK)
        await wait_until(lambda: _joined(bus))
        await bus.publish(Event("a", 1))
        await wait_until(lambda: heard == [1], 20)
    async with running(make()) as bus:
        await bus.start()
        assert bus.store is not None
        await bus.store.leave("old")
        await bus.store.leave("nobody")
        bus.subscribe(
            "a",
            lambda event: heard.append(event.data),
            group="old",
            durable=DurableOptions(start="now"),
        )
        await wait_until(lambda: _joined(bus))
        await bus.publish(Event("a", 2))
        await wait_until(lambda: heard == [1, 2], 20)


async def test_an_event_whose_handler_was_taken_away_waits_for_one_that_comes(make: Make) -> None:
    began, done = asyncio.Event(), []

    async def first(event: Event) -> None:
        began.set()
        await asyncio.sleep(0.05)

    async with running(make()) as bus:
        options = DurableOptions(lease=2.0)
        subscription = bus.subscribe("a", first, group="g", durable=options)
        await bus.start()
        await wait_until(lambda: _joined(bus))
        for number in range(3):
            await bus.publish(Event("a", number, key="k"))
        await asyncio.wait_for(began.wait(), 20)
        subscription.cancel()
        await asyncio.sleep(0.1)
        bus.subscribe("a", lambda event: done.append(event.data), group="g", durable=options)
        await wait_until(lambda: done == [1, 2], 20)


async def test_a_full_store_says_so_and_takes_more_when_there_is_room(make: Make) -> None:
    done: list[Any] = []
    go = asyncio.Event()

    async def handle(event: Event) -> None:
        await go.wait()
        done.append(event.data)

    store = make(max_pending=100)
    async with running(store) as bus:
        bus.subscribe("a", handle, group="g", durable=QUICK)
        await bus.start()
        await wait_until(lambda: _joined(bus))
        stored = 0
        with pytest.raises(BacklogFull):
            while stored < 2000:
                await bus.publish(Event("a", stored, key="k"))
                stored += 1
        go.set()
        await wait_until(lambda: len(done) == stored, 30)
        for number in range(200):
            try:
                await bus.publish(Event("a", number, key="k"))
                break
            except BacklogFull:
                await asyncio.sleep(0.01)
        else:
            pytest.fail("it stays full")


async def test_a_lease_that_is_lost_stops_the_work_of_that_key(
    make: Make, caplog: pytest.LogCaptureFixture
) -> None:
    store: Any = make()
    if not isinstance(store, (SqliteOutbox, RedisStreams)):
        pytest.skip("leases that the test can take away")
    caplog.set_level(logging.WARNING, "nexgate.events")
    began: list[int] = []
    cut: list[int] = []

    async def slow(event: Event) -> None:
        began.append(event.data)
        try:
            await asyncio.sleep(30)
        except asyncio.CancelledError:
            cut.append(event.data)
            raise

    async with running(store) as bus:
        bus.subscribe("a", slow, group="g", durable=DurableOptions(lease=0.6))
        await bus.start()
        await wait_until(lambda: _joined(bus))
        for number in range(2):
            await bus.publish(Event("a", number, key="k"))
        await wait_until(lambda: began == [0], 20)
        if isinstance(store, SqliteOutbox):
            await store.database.write(
                lambda c: (
                    c.execute("UPDATE nexgate_deliveries SET token = 'other', free_at = 9e18")
                    and None
                )
            )
        else:
            held = store._groups["g"].held
            for number in held:
                await store.link.ask(
                    lambda client, n=number: client.set(  # type: ignore[misc]
                        store._lease(store._groups["g"], n), "other"
                    )
                )
        await wait_until(lambda: cut == [0], 20)
        assert began == [0]


async def _claims(store: EventStore, group: str = "g", lease: float = 5.0) -> list[Any]:
    """What there is to claim, as soon as there is something."""
    async with asyncio.timeout(20):
        while not (claims := await store.claim(group, 10, lease)):
            await store.wait(group, 0.1)
    return claims


@pytest.mark.parametrize("what", ["handler", "where"])
async def test_what_raises_besides_the_handlers_own_error_ends_in_a_dead_letter_too(
    make: Make, what: str
) -> None:
    calls = 0

    async def cancelled(event: Event) -> None:
        nonlocal calls
        calls += 1
        forgotten = asyncio.ensure_future(asyncio.sleep(30))
        forgotten.cancel()
        await forgotten

    def where(event: Event) -> bool:
        nonlocal calls
        calls += 1
        raise LookupError("no customer")

    heard: list[int] = []
    async with running(make()) as bus:
        options: dict[str, Any] = {"where": where} if what == "where" else {}
        bus.subscribe("bad", cancelled, group="g", durable=QUICK, **options)
        bus.subscribe("good", lambda event: heard.append(event.data), group="g", durable=QUICK)
        await bus.start()
        await wait_until(lambda: _joined(bus))
        await bus.publish(Event("bad", key="k"))
        await bus.publish(Event("good", 1, key="k"))
        await wait_until(lambda: heard == [1], 20)
        assert bus.store is not None
        (letter,) = await bus.store.dead("g")
    assert calls == QUICK.attempts == letter.failures
    assert ("no customer" if what == "where" else "HandlerCancelled") in letter.error


async def test_what_could_not_be_read_again_is_refused_by_publish(make: Make) -> None:
    heard: list[Any] = []
    async with running(make()) as bus:
        bus.subscribe("*", lambda event: heard.append(event.data), group="g", durable=QUICK)
        await bus.start()
        await wait_until(lambda: _joined(bus))
        for bad in (
            Event("a", key="k" * 2000),
            Event("a", id=""),
            Event("a", id="1\r\nX: 2"),
            Event("a", subject="x" * 2000),
            Event("a", float("nan")),
            Event("a", object()),
        ):
            with pytest.raises(EventError):
                await bus.publish(bad)
        await bus.publish(Event("a", "last"))
        await wait_until(lambda: heard == ["last"], 20)


@pytest.mark.parametrize("body", [b"{}", b"not json", b"\xff\x00", b""])
async def test_what_others_wrote_and_nobody_can_read_is_a_dead_letter(
    make: Make, body: bytes
) -> None:
    store = make()
    if isinstance(store, MemoryEvents):
        pytest.skip("nobody else writes to it")
    heard: list[int] = []
    async with running(store) as bus:
        bus.subscribe("**", lambda event: heard.append(event.data), group="g", durable=QUICK)
        await bus.start()
        await wait_until(lambda: _joined(bus))
        if isinstance(store, SqliteOutbox):
            await store.database.write(
                lambda c: (
                    c.execute(
                        "INSERT INTO nexgate_events (topic, key, body) VALUES ('a', 'k', ?)",
                        (body,),
                    )
                    and None
                )
            )
        elif isinstance(store, RedisStreams):
            for number in range(4):
                await store.link.ask(
                    lambda client, n=number: client.xadd(store._stream(n), {"e": body})  # type: ignore[misc]
                )
        else:
            assert isinstance(store, JetStream)
            for number in range(4):
                await store._js.publish(f"{store._stream}.{number}.a", body)
        for number in range(8):
            await bus.publish(Event("a", number, key=str(number)))
        await wait_until(lambda: sorted(heard) == list(range(8)), 20)
        letters = await store.dead("g")
        assert {(each.event, each.body) for each in letters} == {(None, body)}
        ids = [each.id for each in letters]
        assert len(set(ids)) == len(ids)
        assert await store.revive("g", ids) == 0
        assert len(await store.dead("g")) == len(ids)
        assert await store.drop("g", ids) == len(ids)
        assert await store.dead("g") == []


async def test_what_is_revived_is_the_groups_own(make: Make) -> None:
    heard: dict[str, list[Any]] = defaultdict(list)
    is_broken = True

    def fragile(event: Event) -> None:
        if is_broken:
            raise LookupError
        heard["g"].append((event.id, event.key, event.data))

    async with running(make()) as bus:
        assert bus.store is not None
        bus.subscribe("**", fragile, group="g", durable=QUICK)
        bus.subscribe("**", lambda e: heard["h"].append(e.data), group="h", durable=QUICK)
        await bus.start()
        await wait_until(lambda: _joined(bus))
        event = Event("a", 1, key="k")
        await bus.publish(event)
        async with asyncio.timeout(20):
            while not (letters := await bus.store.dead("g")):  # in the store
                await asyncio.sleep(0.02)
        await wait_until(lambda: heard["h"] == [1], 20)
        is_broken = False
        assert await bus.store.revive("g", [letters[0].id, "nobody's"]) == 1
        await wait_until(lambda: bool(heard["g"]), 20)
        await bus.publish(Event("a", 2, key="k"))
        await wait_until(lambda: len(heard["g"]) == 2 and len(heard["h"]) == 2, 20)
        assert await bus.store.dead("g") == []
    assert heard["g"][0] == (event.id, "k", 1)
    assert heard["h"] == [1, 2]


async def test_only_failures_count_as_failures(make: Make) -> None:
    store = make()
    await store.open()
    try:
        await store.join("g", ["a"], DurableOptions(start="beginning", lease=5.0))
        await store.append([Event("a", 1)])
        for _ in range(4):  # restarts
            claims = await _claims(store)
            assert claims[0].failures == 0
            await store.give_back("g", claims)
        for failed in range(3):
            (claim,) = await _claims(store)
            assert claim.failures == failed
            claim.failures += 1
            await store.retry("g", claim, 0.01)
            (claim,) = await _claims(store)
            assert claim.failures == failed + 1
            await store.give_back("g", [claim])
        (claim,) = await _claims(store)
        assert claim.failures == 3
        await store.done("g", claim)
        assert await store.claim("g", 10, 5.0) == []
    finally:
        await store.aclose()


async def test_a_middleware_that_fails_before_anything_is_stored_reaches_the_publisher(
    make: Make,
) -> None:
    heard: list[Any] = []

    def middleware(event: Event) -> Event:
        if event.data == "bad":
            raise LookupError("no tenant")
        return event

    bus = EventBus(store=make())  # whose failures are only logged
    bus.add_middleware(middleware)
    bus.subscribe("a", lambda event: heard.append(event.data), group="g", durable=QUICK)
    async with bus:
        await wait_until(lambda: _joined(bus))
        with pytest.raises(ExceptionGroup, match="middleware for a"):
            await bus.publish(Event("a", "bad"))
        await bus.publish(Event("a", "good"))
        await wait_until(lambda: heard == ["good"], 20)


async def test_a_bus_that_was_closed_takes_nothing_until_it_is_started_again(make: Make) -> None:
    heard: list[int] = []
    bus = EventBus(store=make(), errors="collect")
    bus.subscribe("a", lambda event: heard.append(event.data), group="g", durable=QUICK)
    for number in range(3):
        async with bus:
            await wait_until(lambda: _joined(bus))
            await bus.publish(Event("a", number))
            await wait_until(lambda n=number: len(heard) == n + 1, 20)  # type: ignore[misc]
        with pytest.raises(EventError, match="closed"):
            await bus.publish(Event("a", 99))
        await bus.aclose()
    assert heard == [0, 1, 2]


async def test_what_finishes_while_the_bus_closes_may_publish(make: Make) -> None:
    heard: list[str] = []
    began = asyncio.Event()

    async def ordering(event: Event) -> None:
        began.set()
        await asyncio.sleep(0.1)
        await bus.publish(Event("order.paid", key=event.key))
        heard.append(event.name)

    bus = EventBus(store=make(), errors="collect")
    bus.subscribe("order.created", ordering, group="g", durable=QUICK)
    async with bus:
        await wait_until(lambda: _joined(bus))
        await bus.publish(Event("order.created", key="k"))
        async with asyncio.timeout(20):
            await began.wait()
    assert heard == ["order.created"]
    assert not bus.dead_letters


# --- what only some have --------------------------------------------------------------------------


async def test_an_event_in_the_applications_own_transaction_is_published_with_it_or_never(
    tmp_path: Path,
) -> None:
    path = tmp_path / "shop.db"
    heard: list[int] = []
    async with running(SqliteOutbox(path)) as bus:
        bus.subscribe("order.*", lambda e: heard.append(e.data["id"]), group="g", durable=QUICK)
        await bus.start()
        await wait_until(lambda: _joined(bus))
        own = sqlite3.connect(path)
        own.execute("CREATE TABLE orders (id INTEGER)")
        own.commit()
        with pytest.raises(LookupError), own:
            own.execute("INSERT INTO orders VALUES (1)")
            await bus.publish(Event("order.created", {"id": 1}), within=own)
            raise LookupError
        with own:
            own.execute("INSERT INTO orders VALUES (2)")
            await bus.publish(Event("order.created", {"id": 2}), within=own)
        await wait_until(lambda: heard == [2], 20)
        assert own.execute("SELECT id FROM orders").fetchall() == [(2,)]
        own.close()
        other = sqlite3.connect(tmp_path / "another.db")
        with pytest.raises(StoreError, match=r"a connection to .*shop\.db: no such table"):
            await bus.publish(Event("order.created", {"id": 3}), within=other)
        other.close()


async def test_first_time_makes_at_least_once_once(tmp_path: Path) -> None:
    from nexgate.events import first_time

    own = sqlite3.connect(tmp_path / "own.db")
    event = Event("a", id="1")
    with own:
        assert first_time(own, "h", event)
    with own:
        assert not first_time(own, "h", event)
        assert first_time(own, "other", event)
    with pytest.raises(LookupError), own:
        assert first_time(own, "h", Event("a", id="2"))
        raise LookupError
    with own:
        assert first_time(own, "h", Event("a", id="2"))
    own.close()


async def test_a_disk_that_is_full_reaches_the_publisher_and_passes(tmp_path: Path) -> None:
    heard: list[Any] = []
    store = SqliteOutbox(tmp_path / "e.db", max_bytes=200_000, max_pending=None)
    async with running(store) as bus:
        await bus.start()
        with pytest.raises(StoreFull):
            while True:
                await bus.publish(Event("a", "x" * 2000))
        bus.subscribe(
            "a",
            lambda event: heard.append(1),
            group="g",
            durable=DurableOptions(start="beginning", lease=2.0),
        )
        await wait_until(lambda: len(heard) > 5, 20)


async def test_what_is_handled_is_deleted(tmp_path: Path) -> None:
    heard: list[int] = []
    store = SqliteOutbox(tmp_path / "e.db")
    async with running(store) as bus:
        bus.subscribe("a", lambda event: heard.append(event.data), group="g", durable=QUICK)
        await bus.start()
        await wait_until(lambda: _joined(bus))
        for number in range(1200):
            await bus.publish(Event("a", number, key=str(number % 16)))
        await wait_until(lambda: len(heard) == 1200, 30)
        count = await store.database.read(
            lambda c: c.execute("SELECT count(*) FROM nexgate_events").fetchone()[0]
        )
        assert count < 700


async def test_after_a_restart_of_the_machine_all_leases_are_void(tmp_path: Path) -> None:
    clock = [1_000_000.0]
    store = SqliteOutbox(tmp_path / "e.db", clock=lambda: clock[0])
    await store.open()
    await store.join("g", ["a"], DurableOptions(start="beginning"))
    await store.append([Event("a")])
    (claim,) = await store.claim("g", 10, 30.0)
    await store.retry("g", claim, 3600.0)
    clock[0] = 5.0  # it began anew
    await store.database.write(
        lambda c: c.execute("UPDATE nexgate_boot SET id = 'before'") and None
    )
    assert await store.claim("g", 10, 30.0) == []
    await store.aclose()
    await store.open()
    assert len(await store.claim("g", 10, 30.0)) == 1
    await store.aclose()


async def test_an_event_that_kills_its_consumers_takes_no_other_with_it(tmp_path: Path) -> None:
    clock = [0.0]
    store = SqliteOutbox(tmp_path / "e.db", clock=lambda: clock[0])
    await store.open()
    await store.join("g", ["*"], DurableOptions(start="beginning"))
    await store.append([Event("a", number) for number in range(5)])
    claims: list[Any] = []
    for _ in range(3):  # each consumer dies of the first of the batch
        claims = await store.claim("g", 10, 30.0)
        assert len(claims) == 5
        clock[0] += 31.0
    died, done = 3, []
    while claims := await store.claim("g", 10, 30.0):
        (alone,) = claims
        if alone.event.data == 0:
            died += 1
            clock[0] += 31.0
        else:
            done.append(alone.event.data)
            await store.done("g", alone)
    assert (died, sorted(done)) == (20, [1, 2, 3, 4])
    (letter,) = await store.dead("g")
    assert letter.event.data == 0
    assert "without an outcome" in letter.error
    await store.aclose()


async def test_a_claim_costs_the_same_whatever_waits_behind_keys_that_are_not_free(
    tmp_path: Path,
) -> None:
    clock = [1000.0]
    store = SqliteOutbox(tmp_path / "e.db", clock=lambda: clock[0])
    await store.open()
    await store.join("g", ["*"], DurableOptions(start="beginning"))
    await store.append([Event("a", number, key=str(number % 2)) for number in range(4000)])
    await store.append([Event("a", number) for number in range(4000, 5000)])
    held = []
    while len(held) < 2:
        (claim,) = await store.claim("g", 1, 30.0)
        if claim.event.key is None:
            await store.done("g", claim)
        else:
            held.append(claim)
    for claim in held:
        await store.retry("g", claim, 60.0)
    handled = 0
    while handled < 1000:  # a claim looks at a thousand new ones, so some find nothing
        for claim in await store.claim("g", 100, 30.0):
            assert claim.event.key is None
            await store.done("g", claim)
            handled += 1
    with steps_of(store.database) as steps:
        assert await store.claim("g", 100, 30.0) == []
        await store.wait("g", 0.0)
    assert steps.hundreds < 10
    clock[0] += 61.0
    claims = await store.claim("g", 100, 30.0)
    numbers: dict[str | None, list[int]] = defaultdict(list)
    for claim in claims:
        numbers[claim.event.key].append(claim.event.data)
    assert numbers == {"0": list(range(0, 100, 2)), "1": list(range(1, 100, 2))}
    await store.aclose()


async def test_an_append_costs_the_same_however_many_wait(tmp_path: Path) -> None:
    store = SqliteOutbox(tmp_path / "e.db")
    await store.open()
    await store.append([Event("a", number) for number in range(20_000)])
    with steps_of(store.database) as steps:
        for number in range(200):
            await store.append([Event("a", number)])
    assert steps.hundreds < 200
    await store.aclose()


async def test_ids_are_remembered_after_their_events_are_deleted(tmp_path: Path) -> None:
    heard: list[int] = []
    store = SqliteOutbox(tmp_path / "e.db")
    async with running(store) as bus:
        bus.subscribe("a", lambda event: heard.append(event.data), group="g", durable=QUICK)
        await bus.start()
        await wait_until(lambda: _joined(bus))
        await bus.publish(Event("a", -1, id="payment 7"))
        for number in range(1200):
            await bus.publish(Event("a", number))
        await wait_until(lambda: len(heard) == 1201, 30)
        own = sqlite3.connect(tmp_path / "e.db")
        assert own.execute("SELECT min(seq) FROM nexgate_events").fetchone()[0] > 1
        await bus.publish(Event("a", -2, id="payment 7"))
        with own:
            await bus.publish(Event("a", -3, id="payment 7"), within=own)
            await bus.publish(Event("a", -4, id="payment 8"), within=own)
        with pytest.raises(LookupError), own:
            await bus.publish(Event("a", -5, id="payment 9"), within=own)
            raise LookupError
        await bus.publish(Event("a", -6, id="payment 9"))
        await wait_until(lambda: len(heard) == 1203, 20)
        own.execute("UPDATE nexgate_event_ids SET at = at - 100000")
        own.commit()
        own.close()
        for number in range(600):
            await bus.publish(Event("a", number))
        await wait_until(lambda: len(heard) == 1803, 30)
        await bus.publish(Event("a", -7, id="payment 7"))
        await wait_until(lambda: len(heard) == 1804, 30)
    assert [number for number in heard if number < 0] == [-1, -4, -6, -7]


async def test_an_event_for_which_a_dead_letter_had_no_room_is_refused(nats: Nats) -> None:
    store = JetStream(nats.url, stream="large", partitions=1)
    async with running(store) as bus:
        bus.subscribe("a", lambda event: 1 / 0, group="g", durable=QUICK)
        await bus.start()
        await wait_until(lambda: _joined(bus))
        with pytest.raises(EventError, match="bytes, NATS takes"):
            await bus.publish(Event("a", "x" * 1024 * 1024))
        await bus.publish(Event("a", "x" * (1024 * 1024 - 20_000), id="i" * 1000))
        async with asyncio.timeout(20):
            while not (letters := await store.dead("g")):  # in the store
                await asyncio.sleep(0.02)
        assert letters[0].id == "i" * 1000
        assert letters[0].event is not None
        assert "division by zero" in letters[0].error


async def test_redis_gone_and_back_loses_nothing(caplog: pytest.LogCaptureFixture) -> None:
    heard: list[int] = []
    with Valkey("--appendonly", "yes", "--appendfsync", "always") as server:
        store = RedisStreams(server.url, partitions=2, timeout=0.5)
        async with running(store) as bus:
            bus.subscribe(
                "a",
                lambda event: heard.append(event.data),
                group="g",
                durable=DurableOptions(lease=2.0),
            )
            await bus.start()
            await wait_until(lambda: _joined(bus))
            await bus.publish(Event("a", 0))
            await wait_until(lambda: heard == [0], 20)
            server.kill()
            with pytest.raises(NexgateError):
                await bus.publish(Event("a", 1))
            server.start()
            for number in range(2, 5):
                event = Event("a", number, id=str(number))
                async with asyncio.timeout(30):
                    while True:
                        try:
                            await bus.publish(event)
                            break
                        except NexgateError:  # it listens, and is still reading its file
                            await asyncio.sleep(0.05)
            await wait_until(lambda: {2, 3, 4} <= set(heard), 30)


async def test_events_behind_a_key_that_is_retried_do_not_stop_the_others(
    valkey: Valkey,
) -> None:
    heard: dict[str, list[int]] = defaultdict(list)
    is_down = True

    def deliver(event: Event) -> None:
        if event.key == "down" and is_down:
            raise ConnectionError
        heard[event.key or ""].append(event.data)

    store = RedisStreams(valkey.url, prefix="parked", partitions=1)
    options = DurableOptions(backoff=Backoff(base=0.5, cap=0.5), attempts=1000)
    async with running(store) as bus:
        bus.subscribe("a", deliver, group="g", durable=options)
        await bus.start()
        await wait_until(lambda: _joined(bus))
        for number in range(1000):
            await bus.publish(Event("a", number, key="down"))
        for number in range(100):
            await bus.publish(Event("a", number, key="up"))
        await wait_until(lambda: len(heard["up"]) == 100, 20)
        assert heard["down"] == []
        is_down = False
        await wait_until(lambda: len(heard["down"]) == 1000, 20)
    assert heard == {"up": list(range(100)), "down": list(range(1000))}


async def test_a_server_that_lost_everything_is_worked_with_again(valkey: Valkey) -> None:
    heard: list[int] = []
    store = RedisStreams(valkey.url, prefix="lost", partitions=2)
    async with running(store) as bus:
        options = DurableOptions(lease=0.5)
        bus.subscribe("a", lambda e: heard.append(e.data), group="g", durable=options)
        await bus.start()
        await wait_until(lambda: _joined(bus))
        await bus.publish(Event("a", 0))
        await wait_until(lambda: heard == [0], 20)
        await store.link.ask(lambda client: client.flushall())
        for number in range(1, 5):
            await bus.publish(Event("a", number, key=str(number)))
        await wait_until(lambda: sorted(heard) == [0, 1, 2, 3, 4], 20)


async def test_ten_thousand_at_once_take_their_turns(valkey: Valkey) -> None:
    store = RedisStreams(valkey.url, prefix="crowd", partitions=4)
    await store.open()
    await store.join("g", ["**"], DurableOptions())
    await asyncio.gather(*(store.append([Event("a", number)]) for number in range(10_000)))
    (group,) = await store.groups()
    assert group.waiting == 10_000
    clients = await store.link.ask(lambda client: client.info("clients"))
    assert clients["connected_clients"] < 60
    await store.aclose()


async def test_a_busy_partition_leaves_the_others_their_turn(valkey: Valkey) -> None:
    store = RedisStreams(valkey.url, prefix="turns", partitions=2)
    await store.open()
    await store.join("g", ["**"], DurableOptions(start="beginning"))
    await store.append([Event("a", number, key="0") for number in range(100)])
    other = next(str(n) for n in range(1, 99) if _partition(str(n)) != _partition("0"))
    await store.append([Event("b", number, key=other) for number in range(4)])
    names = []
    for _ in range(8):
        for claim in await store.claim("g", 4, 30.0):
            names.append(claim.event.name)
            await store.done("g", claim)
    await store.aclose()
    assert names.count("b") == 4


def _partition(key: str) -> int:
    return partition_of(Event("a", key=key), 2)


async def test_a_stream_forgets_what_every_group_has_handled(valkey: Valkey) -> None:
    heard: list[int] = []
    store = RedisStreams(valkey.url, prefix="trim", partitions=1)
    async with running(store) as bus:
        bus.subscribe("a", lambda event: heard.append(event.data), group="g", durable=QUICK)
        await bus.start()
        await wait_until(lambda: _joined(bus))
        for number in range(1000):
            await bus.publish(Event("a", number))
        await wait_until(lambda: len(heard) == 1000, 30)
        assert await store.link.ask(lambda client: client.xlen("trim:0")) < 600


async def test_nats_that_is_away_is_an_error_of_ours() -> None:
    with pytest.raises(NexgateError):
        await JetStream("nats://127.0.0.1:1", timeout=0.2).open()
    with pytest.raises(NexgateError, match=r"127\.0\.0\.1:1"):
        await RedisStreams("redis://user:secret@127.0.0.1:1").open()
