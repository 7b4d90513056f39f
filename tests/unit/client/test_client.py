"""``ServiceClient``: what it sends, gives back, how it fails, and that it leaves nothing behind."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from nexgate.client import (
    Propagation,
    ServiceBodyTooLarge,
    ServiceClient,
    ServiceConnectionError,
    ServiceError,
    ServiceStatusError,
    ServiceTimeout,
    ServiceUnavailable,
    propagating,
)
from nexgate.config import InvalidConfig
from nexgate.discovery import ServiceInstance, ServiceRegistry, StaticProvider
from nexgate.errors import Cause, ConfigError, NexgateError, Site
from nexgate.exchange import Exchange
from nexgate.resilience import Deadline
from nexgate.testing import (
    Close,
    ExpectHead,
    Hang,
    RecordedRequest,
    RecordingUpstream,
    Reset,
    ScriptedConnection,
    ScriptedUpstream,
    Send,
    canned,
    wait_until,
)
from nexgate.testing._messages import read_request
from nexgate.upstream import AsgiStartupError

OK = canned(200, b'{"id": 1}', [("Content-Type", "application/json"), ("X-A", "b")])


@contextlib.asynccontextmanager
async def client_of(*urls: str, **options: Any) -> AsyncIterator[ServiceClient]:
    async with ServiceClient(list(urls), "users", **options) as client:
        yield client
        state = client._state
        await wait_until(lambda: not any(i.active for i in state.instances.values()))
        if state.guard.bulkhead is not None:
            assert state.guard.bulkhead.active == 0
        assert not client._under_way


# -------------------------------------------------------------------- asking


async def test_an_answer_has_status_fields_and_content() -> None:
    async with RecordingUpstream(OK) as upstream, client_of(upstream.url) as client:
        answer = await client.request("GET", "/users/1")
        assert answer.status == 200
        assert answer.ok
        assert answer.headers["x-a"] == "b"
        assert answer.json() == {"id": 1}
        assert answer.text == '{"id": 1}'
        assert answer.instance == upstream.url
        assert answer.raise_for_status() is answer


async def test_what_is_sent_is_what_was_said() -> None:
    async with RecordingUpstream(OK) as upstream, client_of(upstream.url) as client:
        await client.get("/a b/ü".replace(" ", "%20"), params={"q": "x y", "n": [1, 2], "no": None})
        assert upstream.last.target == "/a%20b/%C3%BC?q=x+y&n=1&n=2"
        assert upstream.last.values("host") == [upstream.url.removeprefix("http://")]
        await client.post("/verify", json={"token": "ä"}, headers={"X-Key": "k"})
        assert upstream.last.method == "POST"
        assert upstream.last.body == '{"token":"ä"}'.encode()
        assert upstream.last.values("content-type") == ["application/json"]
        assert upstream.last.values("x-key") == ["k"]
        await client.put("/text", content="ä", headers={"Content-Type": "text/x"})
        assert (upstream.last.body, upstream.last.values("content-type")) == (
            "ä".encode(),
            ["text/x"],
        )
        await client.post("/nothing")
        assert upstream.last.values("content-length") == ["0"]
        await client.patch("/x", content=b"\x00\xff")
        assert upstream.last.body == b"\x00\xff"
        assert (await client.delete("/x")).status == 200
        assert (await client.head("/x")).body == b""
        ids = {r.values("x-request-id")[0] for r in upstream.requests}
        assert len(ids) == len(upstream.requests)


@pytest.mark.parametrize(
    ("method", "path", "headers"),
    [
        ("GET", "no-slash", {}),
        ("GET", "/a\r\nX: y", {}),
        ("GET", "/a b", {}),
        ("GET", "/a#b", {}),
        ("GET\r\nX", "/", {}),
        ("", "/", {}),
        ("GET", "/", {"X\r\nY": "z"}),
        ("GET", "/", {"X": "y\r\nZ: 1"}),
        ("GET", "/", {"Transfer-Encoding": "chunked"}),
        ("GET", "/", {"Connection": "x"}),
        ("GET", "/", {"Content-Length": "3"}),
    ],
)
async def test_nothing_can_be_injected(method: str, path: str, headers: dict[str, str]) -> None:
    async with RecordingUpstream(OK) as upstream, client_of(upstream.url) as client:
        with pytest.raises(ValueError):
            await client.request(method, path, headers=headers)
        assert not upstream.requests
        assert (await client.get("/")).ok


async def test_a_body_may_be_streamed_and_so_may_an_answer() -> None:
    async def pieces() -> AsyncIterator[bytes]:
        for n in range(50):
            yield b"%03d" % n * 1000

    async with (
        RecordingUpstream(canned(body=b"z" * 300_000)) as upstream,
        client_of(upstream.url) as client,
    ):
        whole = b"".join([piece async for piece in pieces()])
        async with client.stream("POST", "/up", content=pieces()) as answer:
            assert answer.status == 200
            got = [piece async for piece in answer]
        assert b"".join(got) == b"z" * 300_000
        assert upstream.last.body == whole
        assert (await client.post("/up", content=pieces())).ok
        async with client.stream("GET", "/left") as answer:
            pass  # unread: the connection is given up, nothing else
        assert (await client.get("/")).ok


async def test_whoever_reads_slowly_slows_the_service_down() -> None:
    sent = 0

    async def service(connection: ScriptedConnection) -> None:
        nonlocal sent
        await read_request(connection)
        await connection.send(b"HTTP/1.1 200 OK\r\nContent-Length: 50000000\r\n\r\n")
        for _ in range(500):
            await connection.send(b"x" * 100_000)
            sent += 100_000

    async with (
        ScriptedUpstream(service, max_recorded_bytes=0) as upstream,
        client_of(upstream.url) as client,
        client.stream("GET", "/") as answer,
    ):
        await asyncio.sleep(0.3)
        assert sent < 20_000_000  # what the kernel's buffers hold, and a little
        total = 0
        async for piece in answer:
            total += len(piece)
        assert total == 50_000_000


async def test_a_body_that_is_too_large_is_refused_unless_it_is_streamed() -> None:
    async with (
        RecordingUpstream(canned(body=b"x" * 2000)) as upstream,
        client_of(upstream.url, max_body_bytes=1000) as client,
    ):
        with pytest.raises(ServiceBodyTooLarge, match="1000 bytes"):
            await client.get("/")
        async with client.stream("GET", "/") as answer:
            assert len(b"".join([p async for p in answer])) == 2000


async def test_a_thousand_at_once_get_each_their_own() -> None:
    def echo(request: RecordedRequest) -> bytes:
        return canned(body=request.target.encode())

    async with RecordingUpstream(echo) as upstream, client_of(upstream.url) as client:
        answers = await asyncio.gather(*(client.get(f"/{n}") for n in range(1000)))
        assert [a.text for a in answers] == [f"/{n}" for n in range(1000)]


# -------------------------------------------------------------------- failing


async def test_a_status_is_an_answer_until_somebody_says_otherwise() -> None:
    async with RecordingUpstream(canned(404, b"no")) as upstream, client_of(upstream.url) as client:
        answer = await client.get("/")
        assert answer.status == 404
        with pytest.raises(ServiceStatusError, match="answered 404: no") as caught:
            answer.raise_for_status()
        assert caught.value.response is answer


async def test_nobody_there_is_said_with_whom_and_why() -> None:
    async with client_of("http://127.0.0.1:1") as client:
        with pytest.raises(ServiceConnectionError) as caught:
            await client.post("/", json=1)
        error = caught.value
        assert (error.service, error.cause) == ("users", Cause.UPSTREAM_UNREACHABLE)
        assert error.site is Site.UPSTREAM_CONNECT
        assert error.retry_safe
        assert isinstance(error, ConnectionError)
        assert "users (http://127.0.0.1:1): the service could not be reached" in str(error)


@pytest.mark.parametrize(
    ("script", "cause", "kind"),
    [
        ([ExpectHead(), Reset()], Cause.UPSTREAM_CLOSED, ServiceConnectionError),
        (
            [ExpectHead(), Send(b"nonsense\r\n\r\n"), Close()],
            Cause.UPSTREAM_MALFORMED,
            ServiceConnectionError,
        ),
        (
            [ExpectHead(), Send(b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nabc"), Close()],
            Cause.UPSTREAM_CUT,
            ServiceConnectionError,
        ),
        ([ExpectHead(), Hang()], Cause.UPSTREAM_FIRST_BYTE_TIMEOUT, ServiceTimeout),
    ],
)
async def test_what_goes_wrong_on_the_way_is_told_apart(
    script: Any, cause: Cause, kind: type[ServiceError]
) -> None:
    async with (
        ScriptedUpstream(script) as upstream,
        client_of(upstream.url, timeout={"first_byte": "200ms"}) as client,
    ):
        with pytest.raises(kind) as caught:
            await client.post("/", json=1)
        assert caught.value.cause is cause
        assert not caught.value.retry_safe


async def test_an_answer_that_is_cut_is_an_error_where_it_is_read() -> None:
    script = [ExpectHead(), Send(b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nabc"), Close()]
    async with (
        ScriptedUpstream(script) as upstream,
        client_of(upstream.url) as client,
        client.stream("GET", "/") as answer,
    ):
        got = b""
        with pytest.raises(ServiceConnectionError):
            async for piece in answer:
                got += piece
        assert got == b"abc"


async def test_an_open_circuit_refuses_at_once_and_says_for_how_long() -> None:
    breaker = {"failures": 2, "open_for": "30s"}
    async with (
        RecordingUpstream(canned(500)) as upstream,
        client_of(upstream.url, breaker=breaker) as client,
    ):
        for _ in range(2):
            assert (await client.get("/")).status == 500
        with pytest.raises(ServiceUnavailable) as caught:
            await client.get("/")
        assert caught.value.cause is Cause.CIRCUIT_OPEN
        assert 20 < (caught.value.retry_after or 0) <= 30
        assert client.statistics().circuit == "open"
        assert len(upstream.requests) == 2


async def test_a_died_instance_is_stepped_over() -> None:
    async with (
        RecordingUpstream(OK) as upstream,
        client_of("http://127.0.0.1:1", upstream.url) as client,
    ):
        for _ in range(20):
            assert (await client.post("/", json=1)).ok


async def test_an_iterator_that_raises_raises_where_it_was_given() -> None:
    async def broken() -> AsyncIterator[bytes]:
        yield b"a"
        raise KeyError("mine")

    async with RecordingUpstream(OK) as upstream, client_of(upstream.url) as client:
        with pytest.raises(KeyError, match="mine"):
            await client.post("/", content=broken())
        assert (await client.get("/")).ok


# -------------------------------------------------------------------- time


async def test_time_is_limited_and_what_is_left_is_told() -> None:
    async with (
        ScriptedUpstream([ExpectHead(), Hang()]) as hung,
        RecordingUpstream(OK) as upstream,
        client_of(upstream.url) as client,
        client_of(hung.url) as waiting,
    ):
        await client.get("/", timeout=2.5)
        assert 2.0 < float(upstream.last.values("x-request-timeout")[0]) <= 2.5
        async with Deadline.after(1.0):
            await client.get("/", timeout="10s")
        assert 0.5 < float(upstream.last.values("x-request-timeout")[0]) <= 1.0
        await client.get("/")
        assert not upstream.last.values("x-request-timeout")
        with pytest.raises(ServiceTimeout) as caught:
            await waiting.get("/", timeout=0.2)
        assert caught.value.cause is Cause.TOTAL_TIMEOUT
        assert isinstance(caught.value, TimeoutError)


# -------------------------------------------------------------------- cancelling


@pytest.mark.parametrize("phase", ["connection", "place", "head", "body"])
async def test_a_cancelled_call_leaves_nothing_behind(phase: str) -> None:
    part = Send(b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nabc")
    script = [ExpectHead(), part, Hang()] if phase == "body" else [ExpectHead(), Hang()]
    options: dict[str, Any] = {"bulkhead": {"limit": 1, "queue": 5, "wait": "9s"}}
    if phase == "connection":
        options = {"pool": {"max_connections": 1, "wait": "9s"}}
    async with (
        ScriptedUpstream(script) as upstream,
        client_of(upstream.url, breaker={}, **options) as client,
    ):
        first = asyncio.create_task(client.get("/"))
        await wait_until(lambda: upstream.connections)
        tasks = [first]
        if phase in ("connection", "place"):
            tasks.append(asyncio.create_task(client.get("/")))
            await asyncio.sleep(0.05)
        for task in reversed(tasks):
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
        await wait_until(lambda: upstream.open_connections == 0)
        assert client.statistics().active == 0


async def test_closing_ends_what_is_under_way() -> None:
    async with ScriptedUpstream([ExpectHead(), Hang()]) as upstream:
        client = ServiceClient([upstream.url], "users")
        task = asyncio.create_task(client.get("/"))
        await wait_until(lambda: upstream.connections)
        await client.aclose()
        with pytest.raises(ServiceConnectionError, match="the client was closed before") as caught:
            await task
        assert caught.value.site is Site.GATEWAY, "it was not the service"
        with pytest.raises(NexgateError, match="closed"):
            await client.get("/")
        await client.aclose()


def test_a_client_belongs_to_one_event_loop() -> None:
    client = ServiceClient(["http://127.0.0.1:1"], "users")

    async def ask() -> None:
        with contextlib.suppress(ServiceError):
            await client.get("/")

    asyncio.run(ask())
    with pytest.raises(NexgateError, match="another event loop"):
        asyncio.run(ask())


def test_options_are_those_of_a_service_and_mistakes_are_explained() -> None:
    with pytest.raises(InvalidConfig, match="did you mean"):
        ServiceClient(["http://127.0.0.1:1"], "users", breakr={})
    with pytest.raises(InvalidConfig, match="not the URL"):
        ServiceClient(["127.0.0.1"], "users")


# -------------------------------------------------------------------- discovery


async def test_instances_come_from_a_registry_and_leave_with_it(tmp_path: Path) -> None:
    async with (
        RecordingUpstream(canned(body=b"a")) as a,
        RecordingUpstream(canned(body=b"b")) as b,
        ServiceRegistry(f"lmdb:{tmp_path}/state") as registry,
        ServiceClient(registry, "users", balancer="round-robin") as client,
    ):
        with pytest.raises(ServiceUnavailable) as caught:
            await client.get("/")
        assert caught.value.cause is Cause.NO_INSTANCE
        for name, upstream in (("1", a), ("2", b)):
            await registry.register("users", ServiceInstance(name, "users", upstream.url))

        async def seen() -> set[bytes]:
            return {(await client.get("/")).body for _ in range(6)}

        async def has_both() -> bool:
            return client.statistics().instances == 2 and await seen() == {b"a", b"b"}

        await wait_until(has_both)
        await registry.unregister("users", "1")
        await wait_until(lambda: client.statistics().instances == 1)
        assert await seen() == {b"b"}


async def test_any_provider_will_do_and_so_will_a_socket_and_an_application(
    tmp_path: Path,
) -> None:
    path = tmp_path / "sock"
    async with RecordingUpstream(OK, path=path) as upstream:
        provider = StaticProvider("users", [f"unix:{path}"])
        async with ServiceClient(provider, "users") as client:
            assert (await client.get("/x")).ok
            assert upstream.last.target == "/x"
    async with client_of("asgi:nexgate.demo.services:products") as client:
        assert (await client.get("/products")).json()[0]["sku"] == "tea"


# -------------------------------------------------------------------- propagation

TRACE = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"


async def test_calls_carry_on_the_trace_the_id_and_the_deadline_of_a_request() -> None:
    async with RecordingUpstream(OK) as upstream, client_of(upstream.url) as client:

        async def app(scope: Any, receive: Any, send: Any) -> None:
            await client.get("/inner")

        headers = [
            (b"traceparent", TRACE.encode()),
            (b"x-request-id", b"abc-1"),
            (b"x-request-timeout", b"800ms"),
            (b"authorization", b"not for others"),
        ]
        await Propagation(app)({"type": "http", "headers": headers}, None, None)
        inner = upstream.last
        assert inner.values("traceparent") == [TRACE]
        assert inner.values("x-request-id") == ["abc-1"]
        assert 0.3 < float(inner.values("x-request-timeout")[0]) <= 0.8
        assert not inner.values("authorization")
        await client.get("/outside")
        assert not upstream.last.values("traceparent")
        with propagating({"traceparent": TRACE, "Cookie": "a=b"}):
            await client.get("/by-hand")
        assert upstream.last.values("traceparent") == [TRACE]
        assert not upstream.last.values("cookie")


async def test_what_a_request_carries_cannot_break_a_call() -> None:
    async with RecordingUpstream(OK) as upstream, client_of(upstream.url) as client:

        async def app(scope: Any, receive: Any, send: Any) -> None:
            await client.get("/inner")

        headers = [(b"traceparent", b"a\r\nX: y"), (b"baggage", b"x" * 10_000)]
        await Propagation(app)({"type": "http", "headers": headers}, None, None)
        assert not upstream.last.values("traceparent")
        assert not upstream.last.values("baggage")


# -------------------------------------------------------------------- found by a review


async def test_changing_the_fields_of_an_answer_changes_no_other() -> None:
    """The instance remembers heads that repeat; the next answer had what was set on this one."""
    async with RecordingUpstream(OK) as upstream, client_of(upstream.url) as client:
        for _ in range(3):
            answer = await client.get("/")
            assert "X-Mine" not in answer.headers
            answer.headers.set("X-Mine", "1")
            answer.headers.remove("X-A")
        async with client.stream("GET", "/") as streamed:
            assert streamed.headers["X-A"] == "b"


async def test_what_a_caller_says_is_not_said_twice() -> None:
    async with RecordingUpstream(OK) as upstream, client_of(upstream.url) as client:
        with propagating({"traceparent": "00-outer", "baggage": "a=1", "X-Request-Id": "outer"}):
            await client.get("/", headers={"Traceparent": "00-mine", "X-Request-Id": "mine"})
        assert upstream.last.values("traceparent") == ["00-mine"]
        assert upstream.last.values("baggage") == ["a=1"]
        assert upstream.last.values("x-request-id") == ["mine"]


class SilentProvider:
    """Does not know yet, for as long as anybody asks."""

    name = "silent"

    async def watch(self) -> AsyncIterator[tuple[ServiceInstance, ...]]:
        await asyncio.sleep(60.0)
        yield ()


async def test_closing_while_it_opens_cancels_nobody_who_waits() -> None:
    """A ``CancelledError`` that nobody asked for looks like the end of the caller's own task."""
    client = ServiceClient(SilentProvider(), "users")
    calls = [asyncio.ensure_future(client.get("/")) for _ in range(3)]
    await asyncio.sleep(0.05)
    calls[0].cancel()
    await client.aclose()
    outcomes = await asyncio.gather(*calls, return_exceptions=True)
    assert isinstance(outcomes[0], asyncio.CancelledError)
    assert [str(outcome) for outcome in outcomes[1:]] == ["the client of users is closed"] * 2


async def test_a_call_leaves_no_work_for_the_cycle_collector() -> None:
    """Each left a ring of five objects, 8 MB after 50,000 calls in a row."""
    async with RecordingUpstream(OK) as upstream, client_of(upstream.url) as client:
        await client.get("/")
        gc.collect()
        gc.disable()
        try:
            for _ in range(50):
                await client.get("/")
            left = sum(isinstance(each, Exchange) for each in gc.get_objects())
        finally:
            gc.enable()
        assert left <= 1


async def test_a_request_whose_time_is_over_gets_504_and_no_traceback() -> None:
    sent: list[dict[str, Any]] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await asyncio.sleep(30)

    async def send(message: dict[str, Any]) -> None:
        sent.append(message)

    for seconds in (b"1ms", b"0"):
        sent.clear()
        await Propagation(app)(
            {"type": "http", "headers": [(b"x-request-timeout", seconds)]}, None, send
        )
        assert sent[0]["status"] == 504


async def test_the_time_limit_counts_while_it_opens() -> None:
    """The first call waited two seconds for discovery, whatever it had been given."""
    client = ServiceClient(SilentProvider(), "users")
    started = asyncio.get_running_loop().time()
    with pytest.raises(ServiceTimeout) as caught:
        await client.get("/", timeout=0.1)
    assert caught.value.cause is Cause.TOTAL_TIMEOUT
    assert asyncio.get_running_loop().time() - started < 1.0
    await client.aclose()


async def test_an_application_that_cannot_be_had_is_said_and_leaves_none_running() -> None:
    for url in ("asgi:nexgate.nothing:app", "asgi:nexgate.demo.services:nothing"):
        client = ServiceClient(["asgi:nexgate.demo.services:products", url], "users")
        for _ in range(2):
            with pytest.raises(ConfigError, match="cannot be imported"):
                await client.get("/")
        await client.aclose()


class Lifespan:
    """An application that counts how often it runs."""

    def __init__(self, *, starts: bool) -> None:
        self.starts = starts
        self.running = 0

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        assert scope["type"] == "lifespan"
        await receive()
        if not self.starts:
            await send({"type": "lifespan.startup.failed", "message": "no"})
            return
        self.running += 1
        await send({"type": "lifespan.startup.complete"})
        await receive()
        self.running -= 1
        await send({"type": "lifespan.shutdown.complete"})


good = Lifespan(starts=True)
bad = Lifespan(starts=False)


async def test_when_one_application_cannot_start_the_others_are_shut_down(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setitem(sys.modules, "two_applications", sys.modules[__name__])
    urls = ["asgi:two_applications:good", "asgi:two_applications:bad"]
    client = ServiceClient(urls, "users")
    for _ in range(2):
        with pytest.raises(AsgiStartupError):
            await client.get("/")
        assert good.running == 0
    await client.aclose()


async def test_what_is_counted_stays_counted_when_an_instance_leaves() -> None:
    async with (
        RecordingUpstream(OK) as a,
        RecordingUpstream(OK) as b,
        ServiceRegistry() as registry,
        ServiceClient(registry, "users", balancer="round-robin") as client,
    ):
        for name, upstream in (("1", a), ("2", b)):
            await registry.register("users", ServiceInstance(name, "users", upstream.url))
        await wait_until(lambda: client.statistics().instances == 2)
        for _ in range(10):
            await client.get("/")
        found = {each.url: each for each in client.statistics().by_instance}
        assert found.keys() == {a.url, b.url}
        assert all(
            (i.requests, i.active, i.idle, i.failures) == (5, 0, 1, 0) for i in found.values()
        )
        assert all(i.is_healthy and i.is_available and not i.is_ejected for i in found.values())
        await registry.unregister("users", "1")
        await wait_until(lambda: client.statistics().instances == 1)
        assert client.statistics().requests == 10


async def test_statistics_say_who_is_left_alone() -> None:
    async with (
        RecordingUpstream(canned(503)) as bad,
        RecordingUpstream(OK) as good,
        client_of(
            bad.url, good.url, balancer="round-robin", outlier={"failures": 1, "panic": 0.0}
        ) as client,
    ):
        for _ in range(4):
            await client.get("/")
        ejected = {each.url for each in client.statistics().by_instance if each.is_ejected}
        assert ejected == {bad.url}
    async with client_of("asgi:nexgate.demo.services:products") as client:
        await client.get("/products")
        assert client.statistics().by_instance[0].requests == 1


async def test_a_caller_may_say_for_whom_it_calls() -> None:
    """These were dropped without a word, as a gateway drops what a stranger says."""
    fields = {"X-Forwarded-For": "192.0.2.1", "Forwarded": "for=192.0.2.1", "Via": "1.1 front"}
    async with RecordingUpstream(OK) as upstream, client_of(upstream.url) as client:
        await client.get("/", headers=fields)
        assert {name: upstream.last.values(name)[0] for name in fields} == fields


@pytest.mark.parametrize("content", [5, {"a": 1}, ["x"], iter([b"x"])])
async def test_what_is_no_content_is_refused_before_anything_is_sent(content: Any) -> None:
    async with RecordingUpstream(OK) as upstream, client_of(upstream.url) as client:
        with pytest.raises(TypeError, match="content is bytes, text or an async iterator"):
            await client.post("/", content=content)
        with pytest.raises(ValueError, match="low, normal, high, not 'urgent'"):
            await client.get("/", importance="urgent")
        assert client.statistics().requests == 0


async def test_an_answer_has_one_reader_at_a_time_and_says_so() -> None:
    async def late(connection: ScriptedConnection) -> None:
        await read_request(connection)
        await connection.send(b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\n")
        await both.wait()
        await connection.send(b"abc")

    both = asyncio.Event()
    async with (
        ScriptedUpstream(late) as upstream,
        client_of(upstream.url) as client,
        client.stream("GET", "/") as answer,
    ):
        first = asyncio.create_task(answer.read())
        await asyncio.sleep(0)
        with pytest.raises(RuntimeError, match="one reader at a time"):
            await answer.read()
        both.set()
        assert await first == b"abc"
