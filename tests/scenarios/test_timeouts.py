"""Every timeout by its name, with its status, and without harm to what is merely slow."""

from __future__ import annotations

import asyncio
import time
from typing import Any

import pytest
from tests.conftest import in_front_of

from nexgate.testing import (
    ExpectHead,
    Hang,
    RawClient,
    ReadRequest,
    RecordingUpstream,
    ScriptedUpstream,
    Send,
    SendSlowly,
    Step,
    canned,
)

GET = b"GET / HTTP/1.1\r\nHost: a\r\n\r\n"
HEAD_AND_PART = b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nhello"


async def test_head_408_counts_from_the_first_byte(upstream: RecordingUpstream) -> None:
    section = {"timeouts": {"head": "300ms", "idle": "10s"}}
    async with in_front_of(upstream.url, section) as served, RawClient(served.url) as client:
        await client.request(GET)
        await asyncio.sleep(0.5)  # idle, not slow
        await client.send(b"GET / HT")
        response = await client.read_response()
        assert response.status == 408
        assert b"request-head-timeout" in response.body


async def test_a_client_that_says_nothing_is_closed_without_a_word(
    upstream: RecordingUpstream,
) -> None:
    section = {"timeouts": {"head": "300ms"}}
    async with in_front_of(upstream.url, section) as served, RawClient(served.url) as client:
        assert await client.read_eof() == b""


async def test_idle_connections_are_closed(upstream: RecordingUpstream) -> None:
    section = {"timeouts": {"idle": "300ms"}}
    async with in_front_of(upstream.url, section) as served, RawClient(served.url) as client:
        await client.request(GET)
        started = time.monotonic()
        assert await client.read_eof() == b""
        assert 0.25 < time.monotonic() - started < 1.5


async def test_body_408_is_about_progress(upstream: RecordingUpstream) -> None:
    section = {"timeouts": {"body": "400ms"}}
    head = b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 10\r\n\r\n"
    async with in_front_of(upstream.url, section) as served:
        async with RawClient(served.url) as client:
            await client.send(head)
            await client.send_slowly(b"0123456789", 0.1)  # one second in all, but moving
            assert (await client.read_response()).status == 200
        async with RawClient(served.url) as client:
            await client.send(head + b"01234")
            response = await client.read_response()
            assert response.status == 408
            assert b"request-body-timeout" in response.body


async def test_a_client_that_stops_reading_is_cut(upstream: RecordingUpstream) -> None:
    upstream.answer = canned(200, bytes(30_000_000))
    section = {"timeouts": {"write": "400ms"}}
    async with in_front_of(upstream.url, section) as served:
        client = RawClient(served.url, read_ahead_bytes=0, receive_buffer_bytes=8192)
        async with client:
            await client.send(GET)
            async with asyncio.timeout(5):
                while served.runtime.edge.connections:
                    await asyncio.sleep(0.05)


SERVICE: list[tuple[str, list[Step], dict[str, Any], int, bytes]] = [
    ("first byte", [ReadRequest(), Hang()], {"first_byte": "300ms"}, 504, b"upstream-timeout"),
    ("total", [ReadRequest(), Hang()], {"total": "300ms"}, 504, b"total-timeout"),
]


@pytest.mark.parametrize(
    ("steps", "timeout", "status", "slug"), [s[1:] for s in SERVICE], ids=[s[0] for s in SERVICE]
)
async def test_a_silent_service_is_504(
    steps: list[Step], timeout: dict[str, Any], status: int, slug: bytes
) -> None:
    async with (
        ScriptedUpstream(steps) as upstream,
        in_front_of(upstream.url, timeout=timeout) as served,
        RawClient(served.url) as client,
    ):
        response = await client.request(GET)
        assert response.status == status
        assert slug in response.body
        assert (await client.request(GET)).status == status  # the client's connection lives on


@pytest.mark.parametrize("timeout", [{"body": "300ms"}, {"total": "400ms"}])
async def test_an_answer_that_stalls_is_broken_off(timeout: dict[str, str]) -> None:
    async with (
        ScriptedUpstream([ExpectHead(), Send(HEAD_AND_PART), Hang()]) as upstream,
        in_front_of(upstream.url, timeout=timeout) as served,
        RawClient(served.url) as client,
    ):
        response = await client.request(GET)
        assert response.body == b"hello"
        assert not response.complete


async def test_a_slow_but_moving_answer_passes() -> None:
    async with (
        ScriptedUpstream([ExpectHead(), SendSlowly(HEAD_AND_PART + b"world", 0.02)]) as upstream,
        in_front_of(upstream.url, timeout={"body": "300ms", "first_byte": "2s"}) as served,
        RawClient(served.url) as client,
    ):
        response = await client.request(GET)
        assert response.body == b"helloworld"


async def test_connecting_into_the_void_is_504() -> None:
    """A listener whose backlog is full answers no handshake: the nearest thing to a black hole."""
    import socket

    hole = socket.socket()
    hole.bind(("127.0.0.1", 0))
    hole.listen(0)
    fillers = []
    try:
        for _ in range(8):
            filler = socket.socket()
            filler.setblocking(False)
            filler.connect_ex(hole.getsockname())
            fillers.append(filler)
        url = f"http://127.0.0.1:{hole.getsockname()[1]}"
        async with (
            in_front_of(url, timeout={"connect": "300ms"}) as served,
            RawClient(served.url) as client,
        ):
            started = time.monotonic()
            response = await client.request(GET)
            assert response.status == 504
            assert b"upstream-connect-timeout" in response.body
            assert time.monotonic() - started < 2
    finally:
        for filler in fillers:
            filler.close()
        hole.close()


async def test_a_route_may_have_its_own() -> None:
    async with ScriptedUpstream([ReadRequest(), Hang()]) as upstream:
        from nexgate.gateway import Gateway

        gateway = Gateway()
        gateway.service("s", upstream.url, timeout={"first_byte": "30s"})
        gateway.route("/quick", "s", timeout={"first_byte": "200ms"})
        async with gateway.serving("127.0.0.1:0") as served, RawClient(served.url) as client:
            response = await client.request(b"GET /quick HTTP/1.1\r\nHost: a\r\n\r\n")
            assert response.status == 504


async def test_a_full_pool_is_503_with_retry_after() -> None:
    pool = {"max_connections": 1, "max_idle": 1, "max_waiting": 1, "wait": "300ms"}
    async with (
        ScriptedUpstream([ReadRequest(), Hang()]) as upstream,
        in_front_of(upstream.url, pool=pool) as served,
        RawClient(served.url) as first,
        RawClient(served.url) as second,
        RawClient(served.url) as third,
    ):
        await first.send(GET)
        await upstream.wait_for_connections(1)
        await second.send(GET)
        await asyncio.sleep(0.05)
        response = await third.request(GET)  # the queue is full: at once
        assert response.status == 503
        assert response.value("retry-after") == "1"
        response = await second.read_response()  # it waited, in vain
        assert response.status == 503
        assert b"overloaded" in response.body
