"""Holes that a review of the core found, each as it was found."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import warnings
from typing import Any

import pytest
from tests.conftest import gateway_to, in_front_of

from nexgate import Response
from nexgate.gateway import Gateway
from nexgate.state import open_state
from nexgate.testing import (
    Close,
    ExpectHead,
    Hang,
    RawClient,
    ReadRequest,
    RecordingUpstream,
    ScriptedConnection,
    ScriptedUpstream,
    Send,
    SendSlowly,
    Sleep,
    canned,
    wait_until,
)
from nexgate.testing._messages import read_request
from nexgate.upstream import ServiceState, Votes
from nexgate.upstream.balancer import LeastRequests

GET = b"GET / HTTP/1.1\r\nHost: a\r\n\r\n"
POST = b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\nhello"
OK = canned(body=b"ok")
BUSY = canned(503, b"busy")


async def test_a_client_that_does_not_read_leaves_the_pool_as_it_was(
    upstream: RecordingUpstream,
) -> None:
    """Its full buffer paused a connection that had been given back, and others got 504."""
    upstream.answer = canned(200, bytes(20_000), [("Date", "x")])
    timeout = {"first_byte": "1s"}
    async with in_front_of(upstream.url, timeout=timeout) as served:
        lazy = RawClient(served.url, read_ahead_bytes=0, receive_buffer_bytes=4096)
        async with lazy, RawClient(served.url) as innocent:
            await lazy.send(GET * 400)
            await wait_until(
                lambda: any(not c.is_writable for c in served.runtime.edge.connections)
            )
            for _ in range(20):
                assert (await innocent.request(GET)).status == 200


async def test_a_filter_that_wakes_after_the_failure_has_nothing_to_say() -> None:
    """It sent its 200, and the 502 went out as content."""
    head = b"HTTP/1.1 200 OK\r\nContent-Length: 50\r\n\r\npart"
    async with ScriptedUpstream([ExpectHead(), Send(head), Sleep(0.1), Close()]) as upstream:
        gateway = gateway_to(upstream.url)

        @gateway.filter()
        async def outer(request: Any, response: Response) -> None:
            await asyncio.sleep(0.3)

        @gateway.filter()
        async def inner(request: Any, response: Response) -> None:
            await asyncio.sleep(0.2)

        async with gateway.serving("127.0.0.1:0") as served, RawClient(served.url) as client:
            response = await client.request(GET)
            assert response.status == 502
            assert response.complete
            assert bytes(client.received).count(b"HTTP/1.1") == 1


async def test_a_request_that_was_refused_is_not_forwarded_later(
    upstream: RecordingUpstream,
) -> None:
    gateway = gateway_to(upstream.url, timeout={"total": "200ms"})

    @gateway.filter()
    async def slow(request: Any) -> None:
        await asyncio.sleep(0.5)

    @gateway.filter()
    async def answer_slowly(request: Any, call_next: Any) -> Response:
        response: Response = await call_next(request)
        await asyncio.sleep(0.6)
        return response

    async with gateway.serving("127.0.0.1:0") as served, RawClient(served.url) as client:
        assert (await client.request(GET)).status == 504
        await asyncio.sleep(0.7)
    assert upstream.requests == []


async def test_the_total_time_ends_a_tunnel_on_both_sides() -> None:
    switch = (
        b"HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n"
    )
    async with (
        ScriptedUpstream([ExpectHead(), Send(switch), Hang()]) as upstream,
        in_front_of(upstream.url, timeout={"total": "300ms"}) as served,
        RawClient(served.url) as client,
    ):
        await client.send(
            b"GET / HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n"
        )
        await client.read_until(b"\r\n\r\n")
        assert await client.read_eof() == b"\x88\x02\x03\xe9"
        await wait_until(lambda: upstream.open_connections == 0)
        await wait_until(lambda: not served.runtime.edge.tunnels)


async def test_connection_cannot_name_what_the_gateway_sets(upstream: RecordingUpstream) -> None:
    """Or a client could take away the identity that a policy gave it."""
    gateway = gateway_to(upstream.url)

    @gateway.filter()
    def identify(request: Any) -> None:
        request.headers["X-User"] = "ada"

    async with gateway.serving("127.0.0.1:0") as served, RawClient(served.url) as client:
        await client.request(
            b"GET / HTTP/1.1\r\nHost: a\r\nConnection: X-User, X-Mine\r\nX-Mine: 1\r\n\r\n"
        )
    assert upstream.last.values("x-user") == ["ada"]
    assert upstream.last.values("x-mine") == []


async def test_a_large_upload_after_a_pause_goes_on(upstream: RecordingUpstream) -> None:
    """Reading stayed paused for ever when the client had not read its answers first."""
    upstream.answer = lambda request: canned(200, bytes(300_000 if request.method == "GET" else 2))
    async with in_front_of(upstream.url, {"timeouts": {"body": "2s"}}) as served:
        client = RawClient(served.url, read_ahead_bytes=0, receive_buffer_bytes=4096, timeout=10)
        async with client:
            body = bytes(400_000)
            post = b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: %d\r\n\r\n" % len(body)
            sender = asyncio.ensure_future(client.send(GET * 3 + post + body, timeout=10))
            await asyncio.sleep(0.3)
            for _ in range(3):
                assert len((await client.read_response()).body) == 300_000
            assert (await client.read_response()).status == 200
            await sender


async def test_an_idle_client_with_unread_bytes_is_closed_all_the_same(
    upstream: RecordingUpstream,
) -> None:
    upstream.answer = canned(200, bytes(3_000_000))
    section = {"timeouts": {"idle": "300ms", "write": "500ms"}}
    async with in_front_of(upstream.url, section) as served:
        client = RawClient(served.url, read_ahead_bytes=0, receive_buffer_bytes=4096)
        async with client:
            await client.send(GET)
            await wait_until(lambda: not served.runtime.edge.connections, 6)


async def test_a_flowing_answer_to_a_half_closed_client_goes_on() -> None:
    wire = b"HTTP/1.1 200 OK\r\nContent-Length: 20\r\n\r\n"
    async with (
        ScriptedUpstream(
            [ReadRequest(), Send(wire), SendSlowly(b"0123456789" * 2, 0.05)]
        ) as upstream,
        in_front_of(upstream.url, {"timeouts": {"half_close": "300ms"}}) as served,
        RawClient(served.url) as client,
    ):
        await client.send(GET)
        client.half_close()
        response = await client.read_response()
        assert response.body == b"0123456789" * 2


async def test_tables_of_what_was_seen_keep_nothing_large(upstream: RecordingUpstream) -> None:
    from nexgate.http import _fields, _head

    async with in_front_of(upstream.url) as served, RawClient(served.url) as client:
        for n in range(5):
            name = b"X" * 20_000 + b"%d" % n
            await client.request(b"GET / HTTP/1.1\r\nHost: a\r\n" + name + b": 1\r\n\r\n")
            await client.request(b"GET /" + b"p" * 4000 + b"%d HTTP/1.1\r\nHost: a\r\n\r\n" % n)
        async with RawClient(served.url) as other:
            host = b"h" * 20_000
            await other.request(b"GET / HTTP/1.1\r\nHost: " + host + b"\r\n\r\n")
        routes = served.runtime.edge.snapshot.known_routes
        assert routes is not None
        for table in (_fields._names, _head._hosts, _fields.LINES):
            assert all(len(key) <= 512 for key in table)
        assert all(sum(map(len, key)) <= 1024 for key in routes)


async def test_a_name_that_tls_cannot_use_is_502_and_hangs_nobody(
    upstream: RecordingUpstream,
) -> None:
    url = f"https://127.0.0.1:{upstream.port}"
    tls = {"server_name": ".example.com"}
    async with in_front_of(url, tls=tls) as served, RawClient(served.url) as client:
        assert (await client.request(GET)).status == 502
        instance = next(iter(served.runtime.services["upstream"].instances.values()))
        assert instance._connecting == 0


@pytest.mark.parametrize("swallow", [True, False])
async def test_a_cut_answer_is_told_to_the_filter_and_to_the_client(swallow: bool) -> None:
    head = b"HTTP/1.1 200 OK\r\nContent-Length: 50\r\n\r\npart"
    async with ScriptedUpstream([ExpectHead(), Send(head), Sleep(0.05), Close()]) as upstream:
        gateway = gateway_to(upstream.url)

        @gateway.filter()
        async def read(request: Any, response: Response) -> None:
            try:
                await response.read()
            except Exception:
                if not swallow:
                    raise

        async with gateway.serving("127.0.0.1:0") as served, RawClient(served.url) as client:
            assert (await client.request(GET)).status == 502


async def test_a_bad_answer_of_a_hedge_leaves_the_next_request_on_its_connection() -> None:
    """The connection had been handed on, and was then cancelled under whoever had it now."""
    asked: list[ScriptedConnection] = []
    are_waiting = asyncio.Event()

    async def script(connection: ScriptedConnection) -> None:
        await read_request(connection)
        asked.append(connection)
        if len(asked) == 1:
            await asyncio.sleep(5.0)
        await are_waiting.wait()
        await connection.send(BUSY)
        await read_request(connection)
        await connection.send(OK)

    async with ScriptedUpstream(script) as first, ScriptedUpstream(script) as second:
        gateway = gateway_to(
            first.url,
            second.url,
            hedge="50ms",
            balancer="round-robin",
            pool={"max_connections": 1, "wait": "5s"},
        )
        async with (
            gateway.serving("127.0.0.1:0") as served,
            RawClient(served.url) as hedged,
            RawClient(served.url) as one,
            RawClient(served.url) as other,
        ):
            await hedged.send(GET)
            await wait_until(lambda: len(asked) == 2)
            await one.send(POST)
            await other.send(POST)
            instances = served.runtime.services["upstream"].instances
            await wait_until(lambda: [i.active for i in instances.values()] == [2, 2])
            are_waiting.set()
            answers = [asyncio.ensure_future(c.read_response(timeout=1.5)) for c in (one, other)]
            done, _ = await asyncio.wait(answers, return_when="FIRST_COMPLETED")
            for answer in answers:
                answer.cancel()
            await asyncio.gather(*answers, return_exceptions=True)
            assert [answer.result().body for answer in done] == [b"ok"]
            assert len(asked) == 2


async def test_an_application_beside_the_instances_is_never_a_hedge() -> None:
    """Its answer went to nobody, and the client waited for ever when the first attempt failed."""
    asked: list[ScriptedConnection] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] == "lifespan":
            await receive()
            await send({"type": "lifespan.startup.complete"})
            await receive()
            await send({"type": "lifespan.shutdown.complete"})
            return
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b"app"})

    async def script(connection: ScriptedConnection) -> None:
        await read_request(connection)
        asked.append(connection)
        if len(asked) == 1:
            await asyncio.sleep(0.3)
            connection.reset()
        await connection.send(OK)

    async with ScriptedUpstream(script) as one, ScriptedUpstream(script) as other:
        gateway = Gateway()
        gateway.service("mixed", one.url, app, other.url, hedge="50ms", balancer="round-robin")
        gateway.route("/*", "mixed")
        async with gateway.serving("127.0.0.1:0") as served:
            for _ in range(3):
                asked.clear()
                async with RawClient(served.url, timeout=2.0) as client:
                    assert (await client.request(GET)).status == 200
            assert served.runtime.services["mixed"].hedges


async def test_a_request_for_an_upgrade_is_asked_once() -> None:
    """The tunnel of a hedge led nowhere, and the client waited for ever when the first failed."""
    asked: list[ScriptedConnection] = []

    async def script(connection: ScriptedConnection) -> None:
        await read_request(connection)
        asked.append(connection)
        if len(asked) == 1:
            await asyncio.sleep(0.3)
            connection.reset()
        await connection.send(
            b"HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n"
        )
        await asyncio.sleep(5.0)

    async with ScriptedUpstream(script) as one, ScriptedUpstream(script) as other:
        gateway = gateway_to(one.url, other.url, hedge="50ms")
        async with gateway.serving("127.0.0.1:0") as served, RawClient(served.url) as client:
            upgrade = GET[:-2] + b"Connection: Upgrade\r\nUpgrade: websocket\r\n\r\n"
            assert (await client.request(upgrade)).status == 502
            assert len(asked) == 1


async def test_a_retry_takes_a_kept_connection_where_no_new_one_may_be_opened() -> None:
    """It waited for a new one beside idle ones, and was refused for want of a connection."""
    is_dying = False

    async def script(connection: ScriptedConnection) -> None:
        await read_request(connection)
        await connection.send(OK)
        await read_request(connection)
        if is_dying:
            connection.reset()
        await connection.send(OK)

    async with ScriptedUpstream(script) as one, RecordingUpstream(OK) as other:
        gateway = gateway_to(
            one.url,
            other.url,
            balancer="round-robin",
            pool={"max_connections": 1, "wait": "500ms"},
        )
        async with gateway.serving("127.0.0.1:0") as served, RawClient(served.url) as client:
            for _ in range(2):
                assert (await client.request(GET)).status == 200
            is_dying = True
            for _ in range(2):
                assert (await client.request(GET)).status == 200
            assert len(other.connections) == 1


async def test_a_request_that_reached_nobody_falls_back_whatever_its_method() -> None:
    async with RecordingUpstream(OK) as spare:
        gateway = Gateway()
        gateway.service("gone", "http://127.0.0.1:1")
        gateway.service("full", "http://127.0.0.1:1", pool={"max_connections": 1, "max_waiting": 0})
        gateway.service("spare", spare.url)
        gateway.route("/full", "full", fallback="spare")
        gateway.route("/*", "gone", fallback="spare")
        async with gateway.serving("127.0.0.1:0") as served, RawClient(served.url) as client:
            for path in (b" / ", b" /full "):
                assert (await client.request(POST.replace(b" / ", path))).status == 200
                assert spare.last.body == b"hello"


async def test_an_instance_that_could_not_be_reached_costs_no_retry() -> None:
    """A dead instance in the way, and the connection that died as it was picked was the end."""

    count = 0

    async def every_other(connection: ScriptedConnection) -> None:
        nonlocal count
        await read_request(connection)
        count += 1
        if count % 2:
            connection.reset()
        await connection.send(OK)

    async with ScriptedUpstream(every_other) as upstream:
        gateway = gateway_to("http://127.0.0.1:1", upstream.url, balancer="round-robin")
        async with gateway.serving("127.0.0.1:0") as served, RawClient(served.url) as client:
            instances = served.runtime.services["upstream"].instances
            for _ in range(4):
                instances["http://127.0.0.1:1"].reached()
                assert (await client.request(GET)).status == 200


async def test_two_routes_without_a_name_may_share_a_path_and_each_has_its_guard() -> None:
    """The second took the place of the first, which then had no retry, no breaker, nothing."""
    answers = [BUSY, OK, BUSY, OK, BUSY, OK]
    retry = {"attempts": 2, "backoff_base": "1ms", "backoff_cap": "1ms"}
    async with RecordingUpstream(lambda _: answers.pop(0)) as upstream:
        gateway = Gateway()
        gateway.service("upstream", upstream.url)
        for host in ("a", "b", "c"):
            gateway.route("/*", "upstream", host=[host], retry=retry)
        async with gateway.serving("127.0.0.1:0") as served, RawClient(served.url) as client:
            for host in (b"a", b"b", b"c"):
                request = GET.replace(b"Host: a", b"Host: " + host)
                assert (await client.request(request)).status == 200
            assert len(served.runtime.services["upstream"].guards) == 3


@pytest.mark.parametrize(
    "record",
    [
        b'{"seconds": 1%b, "service": "s", "by": "x"}' % (b"0" * 400),
        b'{"seconds": 1, "service": "s", "by": "x", "url": ["http://a"]}',
        b"[" * 50_000,
    ],
    ids=["a number without end", "a list for a URL", "brackets"],
)
async def test_a_vote_that_is_nonsense_ends_nobodys_hearing(record: bytes) -> None:
    service = ServiceState("s", LeastRequests())
    state = open_state("memory")
    votes = Votes(state, asyncio.get_running_loop(), lambda: {"s": service})
    await asyncio.sleep(0.05)
    await state.set("votes/1", record, ttl=10)
    await asyncio.sleep(0.05)
    assert not votes._hearing.done()
    await votes.aclose()
    await state.aclose()


def impatient(gateway: Gateway) -> None:
    """Answers 418 itself after a moment; what is around it takes its time with the answer."""

    @gateway.filter()
    async def outer(request: Any, response: Response) -> None:
        if request.path == "/late":
            await asyncio.sleep(0.4)

    @gateway.filter()
    async def inner(request: Any, call_next: Any) -> Response:
        if request.path != "/late":
            answer: Response = await call_next(request)
            return answer
        try:
            async with asyncio.timeout(0.1):
                return await call_next(request)  # type: ignore[no-any-return]
        except TimeoutError:
            return Response(418, b"mine")


LATE = GET.replace(b" / ", b" /late ")


async def test_who_was_answered_by_a_filter_no_longer_waits_for_a_connection() -> None:
    """It got one, and the service's answer went out in place of the filter's."""
    is_free = asyncio.Event()

    async def script(connection: ScriptedConnection) -> None:
        await read_request(connection)
        await is_free.wait()
        await connection.send(OK)
        await read_request(connection)
        await connection.send(canned(body=b"late"))

    async with ScriptedUpstream(script) as upstream:
        gateway = gateway_to(upstream.url, pool={"max_connections": 1, "wait": "5s"})
        impatient(gateway)
        async with (
            gateway.serving("127.0.0.1:0") as served,
            RawClient(served.url) as first,
            RawClient(served.url) as client,
        ):
            await first.send(GET)
            await wait_until(lambda: bool(upstream.connections))
            await client.send(LATE)
            await asyncio.sleep(0.2)
            is_free.set()
            response = await client.read_response()
            assert (response.status, response.body) == (418, b"mine")
            assert (await first.read_response()).body == b"ok"


@pytest.mark.parametrize("phase", ["request", "response"])
async def test_who_was_answered_by_a_filter_hears_no_more_of_those_further_in(phase: str) -> None:
    """A slow filter within forwarded the request all the same, or sent its own answer instead."""
    async with RecordingUpstream(OK) as upstream:
        gateway = gateway_to(upstream.url)
        impatient(gateway)
        if phase == "request":

            @gateway.filter()
            async def slow(request: Any) -> None:
                await asyncio.sleep(0.2)

        else:

            @gateway.filter()
            async def slow_answer(request: Any, response: Response) -> None:
                await asyncio.sleep(0.2)

        async with gateway.serving("127.0.0.1:0") as served, RawClient(served.url) as client:
            response = await client.request(LATE)
            assert (response.status, response.body) == (418, b"mine")
            await asyncio.sleep(0.1)
            assert len(upstream.requests) == (phase == "response")


async def test_calls_tell_the_circuit_that_let_them_through() -> None:
    """After a reload they told another one, which opened for what it had never allowed."""
    is_failing = asyncio.Event()

    async def script(connection: ScriptedConnection) -> None:
        await read_request(connection)
        await is_failing.wait()
        await connection.send(canned(500))

    def configured(url: str, **route: Any) -> Gateway:
        gateway = Gateway()
        gateway.service("upstream", url, breaker={"failures": 3, "open_for": "1m"})
        gateway.route("/*", "upstream", name="mine", hedge="10s", **route)
        return gateway

    async with ScriptedUpstream(script) as upstream:
        before = configured(upstream.url, breaker={"failures": 50})
        async with before.serving("127.0.0.1:0") as served, contextlib.AsyncExitStack() as stack:
            clients = [await stack.enter_async_context(RawClient(served.url)) for _ in range(4)]
            for client in clients:
                await client.send(GET)
            await wait_until(lambda: len(upstream.connections) == 4)
            await served.reload(configured(upstream.url))
            is_failing.set()
            for client in clients:
                assert (await client.read_response()).status == 500
            breaker = served.runtime.services["upstream"].guard.breaker
            assert breaker is not None
            assert breaker.state.value == "closed"


async def test_clients_in_a_hurry_cannot_open_a_circuit_or_eject_an_instance() -> None:
    """Five requests that wait for a millisecond closed the service to everybody."""

    async def slow(connection: ScriptedConnection) -> None:
        await read_request(connection)
        await asyncio.sleep(0.3)
        await connection.send(OK)

    async with ScriptedUpstream(slow) as one, ScriptedUpstream(slow) as other:
        gateway = gateway_to(
            one.url, other.url, breaker={"failures": 3}, deadline="X-Request-Timeout"
        )
        async with gateway.serving("127.0.0.1:0") as served:
            hurried = GET[:-2] + b"X-Request-Timeout: 1ms\r\n\r\n"
            for _ in range(12):
                async with RawClient(served.url) as client:
                    assert (await client.request(hurried)).status == 504
            service = served.runtime.services["upstream"]
            assert not any(i.total_failures or i.active for i in service.instances.values())
            async with RawClient(served.url) as client:
                assert (await client.request(GET)).status == 200


async def test_what_failed_before_a_filter_began_is_not_forwarded_after_it(
    upstream: RecordingUpstream,
) -> None:
    """Too much content came with the head. The filter, that had yet to begin, took the failure for
    its own past, and the request was forwarded while the 413 was on its way.
    """
    gateway = gateway_to(upstream.url, section={"limits": {"max_body_bytes": 10}})

    @gateway.filter()
    async def outer(request: Any, response: Response) -> None:
        await asyncio.sleep(0.3)

    @gateway.filter()
    async def inner(request: Any) -> None:
        await asyncio.sleep(0.05)

    async with gateway.serving("127.0.0.1:0") as served, RawClient(served.url) as client:
        head = b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n"
        response = await client.request(head + b"14\r\n" + b"x" * 20 + b"\r\n0\r\n\r\n")
        assert response.status == 413
        await asyncio.sleep(0.1)
    assert upstream.connections == []


async def test_a_client_that_leaves_at_once_leaves_no_filter_unawaited(
    upstream: RecordingUpstream,
) -> None:
    """Python said so on standard error, for each."""
    gateway = gateway_to(upstream.url)

    @gateway.filter()
    async def slow(request: Any, response: Response) -> None:
        await asyncio.sleep(0)

    with warnings.catch_warnings():
        warnings.simplefilter("error")
        async with gateway.serving("127.0.0.1:0") as served:
            for turns in range(120):
                client = RawClient(served.url)
                await client.connect()
                await client.send(GET)
                for _ in range(turns % 30):
                    await asyncio.sleep(0)
                client.reset()
                await client.close()
            await wait_until(lambda: not served.runtime.edge.connections)
        gc.collect()
