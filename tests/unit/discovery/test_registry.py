"""Registering, finding, watching; on every store."""

from __future__ import annotations

import asyncio
import contextlib
from collections import Counter
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest
from tests.unit.state.servers import Valkey

from nexgate.discovery import Probing, ServiceInstance, ServiceRegistry
from nexgate.discovery._keys import instance_key, probe_key
from nexgate.state import LmdbState, MemoryState, RedisState, State, StateError, StateUnavailable
from nexgate.testing import RecordingUpstream, ScriptedUpstream, wait_until


def instance(number: int = 1, *, name: str = "api", **more: object) -> ServiceInstance:
    return ServiceInstance(str(number), name, f"http://127.0.0.1:{9000 + number}", **more)  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def valkey() -> AsyncIterator[Valkey]:
    with Valkey() as server:
        yield server


@pytest.fixture(params=["memory", "lmdb", "valkey"])
async def pair(
    request: pytest.FixtureRequest, tmp_path: Path, valkey: Valkey
) -> AsyncIterator[tuple[ServiceRegistry, ServiceRegistry]]:
    """Two registries as two processes would have them."""
    if request.param == "memory":
        one: State = MemoryState()
        two = one
    elif request.param == "lmdb":
        one, two = LmdbState(tmp_path / "s"), LmdbState(tmp_path / "s")
    else:
        prefix = f"{request.node.name}:"
        one, two = RedisState(valkey.url, prefix), RedisState(valkey.url, prefix)
    async with ServiceRegistry(one, ttl=1.0) as a, ServiceRegistry(two, ttl=1.0) as b:
        yield a, b
    await one.aclose()
    await two.aclose()


class Watch:
    def __init__(self, registry: ServiceRegistry, name: str = "api") -> None:
        self.sets: list[tuple[ServiceInstance, ...]] = []
        self.task = asyncio.create_task(self._run(registry, name))

    async def _run(self, registry: ServiceRegistry, name: str) -> None:
        async with contextlib.aclosing(registry.watch(name)) as sets:
            async for found in sets:
                self.sets.append(found)

    @property
    def health(self) -> str:
        return self.sets[-1][0].health if self.sets and self.sets[-1] else ""

    async def is_at(self, *ids: str, timeout: float = 3.0) -> None:
        await wait_until(lambda: self.sets and tuple(i.id for i in self.sets[-1]) == ids, timeout)


@pytest.fixture
async def watching() -> AsyncIterator[Callable[..., Watch]]:
    made: list[Watch] = []

    def start(registry: ServiceRegistry, name: str = "api") -> Watch:
        made.append(Watch(registry, name))
        return made[-1]

    yield start
    for watch in made:
        watch.task.cancel()
    await asyncio.gather(*(w.task for w in made), return_exceptions=True)


Pair = tuple[ServiceRegistry, ServiceRegistry]


async def test_who_registers_is_found_and_who_unregisters_is_not(pair: Pair) -> None:
    one, two = pair
    assert await two.get_instance("api") is None
    assert await one.register("api", instance())
    assert await one.get_instance("api") == instance()
    await two._views["api"].reload()
    assert await two.get_instances("api") == (instance(),)
    assert await two.names() == ("api",)
    await one.unregister("api", "1")
    assert await one.get_instances("api") == ()
    assert await two.names() == ()


async def test_a_watch_yields_whole_sets_the_first_at_once(
    pair: Pair, watching: Callable[..., Watch]
) -> None:
    one, two = pair
    watch = watching(two)
    await watch.is_at()
    await one.register("api", instance(1))
    await watch.is_at("1")
    await one.register("api", instance(2))
    await watch.is_at("1", "2")
    await one.register("other", instance(3, name="other"))
    await one.unregister("api", "1")
    await watch.is_at("2")
    assert [len(s) for s in watch.sets] == [0, 1, 2, 1]


async def test_a_registration_outlives_its_ttl_and_closing_ends_it_at_once(
    pair: Pair, watching: Callable[..., Watch]
) -> None:
    one, two = pair
    watch = watching(two)
    await one.register("api", instance(), ttl=0.3)
    await watch.is_at("1")
    await wait_until(lambda: one.statistics().renewals >= 6)
    assert [len(s) for s in watch.sets][-1] == 1
    await one.aclose()
    await watch.is_at(timeout=1.0)
    assert not any(len(s) == 0 for s in watch.sets[1:-1])


async def test_who_stops_renewing_is_gone_with_its_lease(
    pair: Pair, watching: Callable[..., Watch]
) -> None:
    one, two = pair
    watch = watching(two)
    await one.register("api", instance(), ttl=0.3)
    await watch.is_at("1")
    assert one._beating is not None
    one._beating.cancel()  # as good as dead
    await watch.is_at(timeout=1.0)


async def test_a_registry_full_of_dead_leases_empties_itself(
    pair: Pair, watching: Callable[..., Watch]
) -> None:
    one, two = pair
    for number in range(200):
        record = instance(number).to_json()
        await one.state.set(instance_key("api", str(number)), record, ttl=0.5)
    await one.register("api", instance(999))
    watch = watching(two)
    await wait_until(lambda: watch.sets and len(watch.sets[-1]) == 201)
    await watch.is_at("999")


async def test_the_later_registration_of_an_id_has_it_and_the_earlier_takes_it_back(
    pair: Pair, watching: Callable[..., Watch], caplog: pytest.LogCaptureFixture
) -> None:
    one, two = pair
    watch = watching(two)
    old, new = instance(1), ServiceInstance("1", "api", "http://127.0.0.1:9999")
    await one.register("api", old, ttl=0.3)
    await two.register("api", new, ttl=0.3)
    await wait_until(lambda: "another process registered 1 of api" in caplog.text)
    assert (await two.get_instances("api"))[0].url == new.url
    await one.unregister("api", "1")  # the earlier ends: it must not take the later with it
    assert (await two.get_instances("api"))[0].url == new.url
    await one.register("api", old, ttl=0.3)
    await wait_until(lambda: watch.sets[-1][0].url == old.url)
    await one.unregister("api", "1")
    await wait_until(lambda: watch.sets[-1] and watch.sets[-1][0].url == new.url)


async def test_a_store_that_forgot_is_told_again(pair: Pair) -> None:
    one, _ = pair
    await one.register("api", instance(), ttl=0.3)
    await one.state.delete(instance_key("api", "1"))
    await wait_until(lambda: one.statistics().repairs == 1)
    await one._views["api"].reload() if "api" in one._views else None
    assert await one.get_instances("api") == (instance(),)


async def test_anyone_may_unregister_an_instance(pair: Pair) -> None:
    one, two = pair
    await two.register("api", instance())
    await one.unregister("api", "1")
    await one.unregister("api", "never was")
    assert await one.names() == ()


async def test_weights_decide_and_unhealthy_ones_are_left_out(pair: Pair) -> None:
    one, _ = pair
    await one.register("api", instance(1, weight=1))
    await one.register("api", instance(2, weight=9, health="healthy"))
    await one.register("api", instance(3, weight=90, health="unhealthy"))
    picked = Counter([(await one.get_instance("api")).id for _ in range(2000)])  # type: ignore[union-attr]
    assert picked["3"] == 0
    assert 100 < picked["1"] < 320


async def test_bad_records_are_skipped_with_one_warning_each(
    pair: Pair, caplog: pytest.LogCaptureFixture
) -> None:
    one, _ = pair
    bad = {
        "a": b"",
        "b": b"[" * 100_000,
        "c": b"\xff",
        "d": b'{"id":"d","name":"api","url":"http://h:0"}',
        "e": b'{"id":"x","name":"api","url":"http://h:1"}',
        "f": b'{"id":"f","name":"other","url":"http://h:1"}',
        "g": b'{"id":"g","name":"api","url":"http://h:1","weight":1e999}',
        "h": b'{"id":"h","name":"api","url":"http://user:pass@h:1"}',
        "i": b'{"id":"i","name":"api","url":"http://h:1","metadata":{"a":1}}',
        "j": b"null",
    }
    for name, data in bad.items():
        await one.state.set(instance_key("api", name), data)
    await one.state.set("services/api/h/1", b"nonsense")
    await one.register("api", instance())
    for _ in range(3):
        assert await one.get_instances("api") == (instance(),)
        await one._views["api"].reload()
    assert caplog.text.count("is skipped") == len(bad)


async def test_two_watches_and_one_cancelled(pair: Pair, watching: Callable[..., Watch]) -> None:
    one, two = pair
    first, second = watching(two), watching(two)
    await first.is_at()
    await second.is_at()
    first.task.cancel()
    await one.register("api", instance())
    await second.is_at("1")
    assert two.statistics().watched == 1


async def test_cancelling_a_registration_leaves_it_to_aclose(pair: Pair) -> None:
    one, two = pair
    task = asyncio.create_task(one.register("api", instance()))
    await asyncio.sleep(0)
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    await one.aclose()
    assert await two.names() == ()
    with pytest.raises(StateError):
        await one.register("api", instance())


@pytest.mark.parametrize("name", ["", "a/b", "../x", "ä", "x" * 65, "-a", "a b"])
async def test_a_name_that_could_be_something_else_is_refused(name: str) -> None:
    async with ServiceRegistry() as registry:
        with pytest.raises(ValueError):
            await registry.get_instance(name)
        with pytest.raises(ValueError):
            ServiceInstance("1", name, "http://h:1")
        with pytest.raises(ValueError, match="not of"):
            await registry.register("other", instance())


async def test_ids_may_be_anything_printable(pair: Pair) -> None:
    one, _ = pair
    for text in ("a/b", "../../x", "ä €", "h", "i/1", "%2F", "unix:/run/x"):
        await one.register("api", ServiceInstance(text, "api", "http://h:1"))
    assert len(await one.get_instances("api")) == 7
    for text in ("", "x" * 129, "a\nb", "€" * 100):
        with pytest.raises(ValueError):
            ServiceInstance(text, "api", "http://h:1")


class Broken(MemoryState):
    """A store that is away while ``is_away``."""

    __slots__ = ("is_away",)

    def __init__(self) -> None:
        super().__init__()
        self.is_away = True

    def _check(self) -> None:
        if self.is_away:
            raise StateUnavailable("it is away")

    async def scan(self, prefix: str) -> dict[str, bytes]:
        self._check()
        return self.scan_now(prefix)

    async def set(self, key: str, value: bytes, *, ttl: float | None = None) -> None:
        self._check()
        self.set_now(key, value, ttl=ttl)

    async def add(self, key: str, value: bytes, *, ttl: float | None = None) -> bool:
        self._check()
        return self.add_now(key, value, ttl=ttl)

    async def replace(
        self, key: str, expected: bytes, value: bytes, *, ttl: float | None = None
    ) -> bool:
        self._check()
        return self.replace_now(key, expected, value, ttl=ttl)


async def test_a_store_that_is_away_does_not_keep_anyone_from_starting(
    caplog: pytest.LogCaptureFixture,
) -> None:
    state = Broken()
    async with ServiceRegistry(state, ttl=1.0) as registry:
        assert not await registry.register("api", instance())
        with pytest.raises(StateUnavailable, match="nothing is known about api"):
            await registry.get_instances("api")
        state.is_away = False
        await wait_until(lambda: state.scan_now("services/"))
        assert await registry.get_instances("api") == (instance(),)
        assert caplog.text.count("cannot be renewed") <= 1
        state.is_away = True
        await registry.unregister("api", "1")  # delete works on this one


async def test_names_from_requests_do_not_fill_the_memory() -> None:
    async with ServiceRegistry() as registry:
        for number in range(1100):
            await registry.get_instances(f"s{number}")
        assert registry.statistics().watched <= 1024


# --- health ---------------------------------------------------------------------------------------

FAST = Probing(interval=0.1, timeout=0.09, jitter=0.1, healthy_after=2, unhealthy_after=2)
OK = b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n"
BAD = b"HTTP/1.1 503 Service Unavailable\r\nContent-Length: 0\r\n\r\n"


@contextlib.asynccontextmanager
async def checking(*registries: ServiceRegistry) -> AsyncIterator[list[asyncio.Task[None]]]:
    tasks = [asyncio.create_task(registry.health_check()) for registry in registries]
    yield tasks
    for task in tasks:
        task.cancel()
    for result in await asyncio.gather(*tasks, return_exceptions=True):
        assert isinstance(result, asyncio.CancelledError)


async def test_probes_find_out_and_every_registry_sees_the_verdict(
    pair: Pair, watching: Callable[..., Watch]
) -> None:
    one, two = pair
    one._probing = two._probing = FAST
    answer = OK

    async def script(connection: object) -> None:
        await connection.read_until(b"\r\n\r\n")  # type: ignore[attr-defined]
        await connection.send(answer)  # type: ignore[attr-defined]

    async with ScriptedUpstream(script) as server:  # type: ignore[arg-type]
        watch = watching(two)
        await one.register("api", ServiceInstance("1", "api", server.url, health_path="/up?x=1"))
        async with checking(one, two):
            await wait_until(lambda: watch.health == "healthy")
            assert b"GET /up?x=1 HTTP/1.1\r\n" in server.connections[0].received
            assert (await two.get_instances("api"))[0].last_check > 1e9
            answer = BAD
            await wait_until(lambda: watch.health == "unhealthy")
            assert await two.get_instance("api") is None
            answer = OK
            await wait_until(lambda: watch.health == "healthy")
    assert [i.health for s in watch.sets for i in s] == [
        "unknown",
        "healthy",
        "unhealthy",
        "healthy",
    ]


async def test_one_of_two_probes_and_the_other_takes_over_when_it_ends(pair: Pair) -> None:
    one, two = pair
    one._probing = two._probing = FAST
    async with RecordingUpstream() as server:
        await one.register("api", ServiceInstance("1", "api", server.url))
        started = asyncio.get_running_loop().time()
        async with checking(one, two) as tasks:
            await wait_until(lambda: len(server.requests) >= 10)
            took = asyncio.get_running_loop().time() - started
            # Two probers would need half the time.
            assert took > 10 * FAST.interval * 0.75
            holder = await one.state.get(probe_key("api", "1"))
            tasks[0].cancel()
            tasks[1 - 0]
            count = len(server.requests)
            await wait_until(lambda: len(server.requests) >= count + 3, 2.0)
            assert holder is not None


async def test_what_hangs_or_speaks_no_http_is_unhealthy_and_holds_nobody_up(
    pair: Pair,
) -> None:
    one, _ = pair
    one._probing = Probing(interval=0.2, timeout=0.1, unhealthy_after=1, at_once=4)
    async with (
        ScriptedUpstream(lambda c: c.wait_lost()) as silent,
        ScriptedUpstream.replying(b"220 mail.example.com ESMTP\r\n\r\n") as mail,
        RecordingUpstream() as good,
    ):
        for number in range(10):
            await one.register("api", ServiceInstance(f"s{number}", "api", silent.url))
        await one.register("api", ServiceInstance("mail", "api", mail.url))
        await one.register("api", ServiceInstance("app", "api", "asgi:some.module:app"))
        await one.register("api", ServiceInstance("gone", "api", "unix:/nowhere.sock"))
        await one.register("api", ServiceInstance("good", "api", good.url))
        async with checking(one):

            async def is_known() -> bool:
                found = {i.id: i.health for i in await one.get_instances("api")}
                return (
                    found.pop("good") == "healthy"
                    and found.pop("app") == "unknown"
                    and set(found.values()) == {"unhealthy"}
                )

            await wait_until(is_known)
            assert (await one.get_instance("api")).id in ("app", "good")  # type: ignore[union-attr]


async def test_a_verdict_about_another_url_is_about_another_process(pair: Pair) -> None:
    one, _ = pair
    one._probing = Probing(interval=0.1, timeout=0.09, unhealthy_after=1)
    await one.register("api", ServiceInstance("1", "api", "http://127.0.0.1:1"))
    async with checking(one):

        async def is_unhealthy() -> bool:
            return (await one.get_instances("api"))[0].health == "unhealthy"

        await wait_until(is_unhealthy)
    await one.register("api", ServiceInstance("1", "api", "http://127.0.0.1:2"))
    assert (await one.get_instances("api"))[0].health == "unknown"
