"""Expect, interim responses, pipelining, early answers, half-close, vanishing peers (RFC 9110 §10,
§15; RFC 9112 §9).
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from typing import Any

import pytest
from tests.conftest import in_front_of

from nexgate.gateway import Gateway, Served
from nexgate.testing import (
    Close,
    ExpectHead,
    Hang,
    RawClient,
    ReadExactly,
    ReadRequest,
    RecordingUpstream,
    ScriptedUpstream,
    Send,
    Sleep,
    canned,
    wait_until,
)

POST5 = b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\nExpect: 100-continue\r\n\r\n"
OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"


async def test_continue_is_the_services_to_give() -> None:
    async with (
        ScriptedUpstream(
            [
                ExpectHead(),
                Send(b"HTTP/1.1 100 Continue\r\n\r\n"),
                ReadExactly(5),
                Send(OK),
                Close(),
            ]
        ) as upstream,
        in_front_of(upstream.url) as served,
        RawClient(served.url) as client,
    ):
        await client.send(POST5)
        assert await client.read_until(b"\r\n\r\n") == b"HTTP/1.1 100 Continue\r\n\r\n"
        await client.send(b"hello")
        assert (await client.read_response()).body == b"ok"
        assert b"Expect: 100-continue" in upstream.connections[0].received


async def test_a_final_answer_instead_of_continue_spares_the_body() -> None:
    refusal = b"HTTP/1.1 401 Unauthorized\r\nContent-Length: 0\r\n\r\n"
    async with (
        ScriptedUpstream([ExpectHead(), Send(refusal), Hang()]) as upstream,
        in_front_of(upstream.url) as served,
        RawClient(served.url) as client,
    ):
        response = await client.request(POST5)
        assert response.status == 401
        assert (
            response.value("connection") == "close"
        )  # whether the body comes is the client's choice


async def test_early_hints_pass_in_order() -> None:
    hints = b"HTTP/1.1 103 Early Hints\r\nLink: </a>; rel=preload\r\n\r\n"
    async with (
        ScriptedUpstream([ExpectHead(), Send(hints), Send(hints), Send(OK), Close()]) as upstream,
        in_front_of(upstream.url) as served,
        RawClient(served.url) as client,
    ):
        response = await client.request(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")
        assert [i.status for i in response.interim] == [103, 103]
        assert response.body == b"ok"


async def test_pipelined_requests_are_answered_in_order(
    client: RawClient, upstream: RecordingUpstream
) -> None:
    upstream.answer = lambda request: canned(200, request.target.encode())
    wire = b"".join(b"GET /%d HTTP/1.1\r\nHost: a\r\n\r\n" % n for n in range(200))
    post = b"POST /p%d HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\n\r\nabc"
    chunked = (
        b"POST /c%d HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n"
    )
    wire += b"".join((post % n) + (chunked % n) for n in range(50))
    await client.send(wire)
    seen = [(await client.read_response()).body.decode() for _ in range(300)]
    assert seen[:200] == [f"/{n}" for n in range(200)]
    assert seen[200:] == [f"/{kind}{n}" for n in range(50) for kind in "pc"]


async def test_pipelined_answers_of_our_own_do_not_recurse(client: RawClient) -> None:
    await client.send(b"OPTIONS * HTTP/1.1\r\nHost: a\r\n\r\n" * 3000)
    for _ in range(3000):
        assert (await client.read_response()).status == 204


async def test_an_early_answer_reaches_a_client_that_is_still_sending() -> None:
    early = b"HTTP/1.1 413 Content Too Large\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"
    async with (
        ScriptedUpstream([ExpectHead(), Send(early), Close()]) as upstream,
        in_front_of(upstream.url) as served,
        RawClient(served.url) as client,
    ):
        await client.send(b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 50000000\r\n\r\n")
        sender = asyncio.ensure_future(client.send(bytes(1_000_000)))
        response = await client.read_response()
        assert response.status == 413
        sender.cancel()
        await asyncio.gather(sender, return_exceptions=True)


async def test_half_close_still_gets_its_answer() -> None:
    async with (
        ScriptedUpstream([ReadRequest(), Sleep(0.2), Send(OK), Close()]) as upstream,
        in_front_of(upstream.url) as served,
        RawClient(served.url) as client,
    ):
        await client.send(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")
        client.half_close()
        response = await client.read_response()
        assert response.body == b"ok"
        assert await client.read_eof() == b""


@pytest.mark.parametrize("how", ["reset", "close"])
async def test_a_client_that_goes_away_cancels_the_request_upstream(how: str) -> None:
    async with (
        ScriptedUpstream([ExpectHead(), Hang()]) as upstream,
        in_front_of(upstream.url, {"timeouts": {"half_close": "300ms"}}) as served,
    ):
        async with RawClient(served.url) as client:
            await client.send(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")
            await upstream.wait_for_connections(1)
            if how == "reset":
                client.reset()
        await wait_until(lambda: upstream.open_connections == 0, 3)
        await wait_until(lambda: not served.runtime.edge.connections)
        instance = next(iter(served.runtime.services["upstream"].instances.values()))
        assert instance.active == 0


async def test_a_client_that_goes_away_mid_response_stops_the_flow() -> None:
    async def endless(connection) -> None:  # type: ignore[no-untyped-def]
        await connection.read_until(b"\r\n\r\n")
        await connection.send(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
        while True:
            await connection.send(b"400\r\n" + bytes(1024) + b"\r\n")
            await asyncio.sleep(0)

    async with (
        ScriptedUpstream(endless) as upstream,
        in_front_of(upstream.url) as served,
    ):
        async with RawClient(served.url) as client:
            await client.send(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")
            await client.read_exactly(100_000)
        await wait_until(lambda: upstream.open_connections == 0)


async def test_connections_are_reused_and_closed_ones_are_noticed(
    client: RawClient, upstream: RecordingUpstream
) -> None:
    for _ in range(5):
        assert (await client.request(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")).status == 200
    assert len(upstream.connections) == 1
    upstream.answer = b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"
    for _ in range(3):
        assert (await client.request(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")).status == 200
    assert len(upstream.connections) == 3


async def test_a_large_body_flows_both_ways(client: RawClient, upstream: RecordingUpstream) -> None:
    body = bytes(range(256)) * 40_000
    upstream.answer = lambda request: canned(200, request.body)
    for framing in (
        b"Content-Length: %d\r\n\r\n%b" % (len(body), body),
        b"Transfer-Encoding: chunked\r\n\r\n%x\r\n%b\r\n0\r\n\r\n" % (len(body), body),
    ):
        sender = asyncio.ensure_future(client.send(b"POST / HTTP/1.1\r\nHost: a\r\n" + framing))
        response = await client.read_response(timeout=20)
        await sender
        assert response.body == body


async def test_the_body_limit_also_holds_for_chunked(upstream: RecordingUpstream) -> None:
    section = {"limits": {"max_body_bytes": "1KiB"}}
    async with in_front_of(upstream.url, section) as served, RawClient(served.url) as client:
        response = await client.request(
            b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n401\r\n" + bytes(1025)
        )
        assert response.status == 413
        assert upstream.requests == []


BUFFERED = {"buffer_request": "1KiB"}


async def test_a_buffered_request_meets_its_service_only_when_it_is_whole() -> None:
    async with (
        RecordingUpstream(canned(body=b"ok")) as upstream,
        buffering(upstream.url) as served,
        RawClient(served.url) as client,
    ):
        (instance,) = served.runtime.services["upstream"].instances.values()
        await client.send(b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\nhel")
        (connection,) = served.runtime.edge.connections
        await wait_until(lambda: connection.exchange is not None)
        assert (instance.active, instance.connections) == (0, 0)
        await client.send(b"lo")
        assert (await client.read_response()).body == b"ok"
        assert upstream.requests[0].body == b"hello"


async def test_of_a_long_request_only_the_beginning_is_buffered() -> None:
    async with (
        RecordingUpstream(canned(body=b"ok")) as upstream,
        buffering(upstream.url) as served,
        RawClient(served.url) as client,
    ):
        (instance,) = served.runtime.services["upstream"].instances.values()
        await client.send(b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 2000\r\n\r\n")
        await client.send(b"x" * 1500)
        await wait_until(lambda: instance.active == 1)
        await client.send(b"y" * 500)
        assert (await client.read_response()).body == b"ok"
        assert upstream.requests[0].body == b"x" * 1500 + b"y" * 500


async def test_whoever_waits_to_be_asked_for_content_that_is_buffered_is_asked() -> None:
    async with (
        RecordingUpstream(canned(body=b"ok")) as upstream,
        buffering(upstream.url) as served,
        RawClient(served.url) as client,
    ):
        await client.send(POST5)
        assert await client.read_until(b"\r\n\r\n") == b"HTTP/1.1 100 Continue\r\n\r\n"
        await client.send(b"hello")
        assert (await client.read_response()).body == b"ok"
        assert b"Expect" not in upstream.requests[0].head


async def test_a_buffered_request_that_never_comes_whole_never_meets_the_service() -> None:
    async with (
        RecordingUpstream(canned(body=b"ok")) as upstream,
        buffering(upstream.url, timeouts={"body": "200ms"}) as served,
        RawClient(served.url) as client,
    ):
        await client.send(b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\nhel")
        assert (await client.read_response()).status == 408
        assert not upstream.requests
        (instance,) = served.runtime.services["upstream"].instances.values()
        assert instance.active == 0


@contextlib.asynccontextmanager
async def buffering(url: str, **section: Any) -> AsyncIterator[Served]:
    gateway = Gateway(**section)
    gateway.service("upstream", url)
    gateway.route("/*", "upstream", **BUFFERED)
    async with gateway.serving("127.0.0.1:0") as served:
        yield served
