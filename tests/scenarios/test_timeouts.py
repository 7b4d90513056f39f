"""Every timeout by its name, once, with what it answers."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any

import pytest
from tests.conftest import gateway_to, in_front_of
from tests.scenarios.support import GET

from nexgate.testing import (
    ExpectHead,
    Fault,
    FaultProxy,
    Hang,
    RawClient,
    RecordingUpstream,
    ScriptedUpstream,
    Send,
    Step,
    canned,
    wait_until,
)

SHORT = 0.4
TEXT = "400ms"


async def answer_after(
    steps: Sequence[Step], wire: bytes, section: dict[str, Any], **service: Any
) -> tuple[int, bytes, float]:
    async with (
        ScriptedUpstream(steps) as upstream,
        in_front_of(upstream.url, section, **service) as served,
        RawClient(served.url) as client,
    ):
        began = time.monotonic()
        response = await client.request(wire)
        took = time.monotonic() - began
        (instance,) = served.runtime.services["upstream"].instances.values()
        await wait_until(lambda: instance.active == 0)
        return response.status, response.body, took


CHUNKED_HEAD = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
HELLO = b"5\r\nhello\r\n"


@pytest.mark.parametrize(
    ("name", "section", "service", "wire", "steps", "status", "slug"),
    [
        ("head", {"head": TEXT}, {}, b"GET / HT", [], 408, b"request-head-timeout"),
        (
            "body",
            {"body": TEXT},
            {},
            b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 9\r\n\r\nhel",
            [ExpectHead(), Hang()],
            408,
            b"request-body-timeout",
        ),
        (
            "first_byte",
            {},
            {"timeout": {"first_byte": TEXT}},
            GET,
            [ExpectHead(), Hang()],
            504,
            b"upstream-timeout",
        ),
        (
            "first_byte, of half a head",
            {},
            {"timeout": {"first_byte": TEXT}},
            GET,
            [ExpectHead(), Send(b"HTTP/1.1 200 OK\r\nX:"), Hang()],
            504,
            b"upstream-timeout",
        ),
        (
            "total of a service",
            {},
            {"timeout": TEXT},
            GET,
            [ExpectHead(), Hang()],
            504,
            b"total-timeout",
        ),
        (
            "total of the gateway",
            {"total": TEXT},
            {},
            GET,
            [ExpectHead(), Hang()],
            504,
            b"total-timeout",
        ),
    ],
)
async def test_a_timeout_has_a_status_and_a_name(
    name: str,
    section: dict[str, Any],
    service: dict[str, Any],
    wire: bytes,
    steps: list[Step],
    status: int,
    slug: bytes,
) -> None:
    found, body, took = await answer_after(steps, wire, {"timeouts": section}, **service)
    assert found == status
    assert slug in body
    assert SHORT <= took < SHORT + 1.0


async def test_connect_a_service_that_swallows_the_handshake_is_504() -> None:
    """Over TLS: a plain connect to a local port cannot hang."""
    async with (
        RecordingUpstream() as upstream,
        FaultProxy(upstream.url, to_target=Fault(hang_after_bytes=0)) as wire,
        in_front_of(
            wire.url.replace("http:", "https:"), timeout={"connect": TEXT}, tls={"verify": False}
        ) as served,
        RawClient(served.url) as client,
    ):
        began = time.monotonic()
        response = await client.request(GET)
        assert response.status == 504
        assert b"upstream-connect-timeout" in response.body
        assert SHORT <= time.monotonic() - began < SHORT + 1.0


@pytest.mark.parametrize("limit", ["body", "total"])
async def test_a_body_that_stops_is_cut_visibly(limit: str) -> None:
    async with (
        ScriptedUpstream(
            [ExpectHead(), Send(CHUNKED_HEAD + b"5\r\nhello\r\n"), Hang()]
        ) as upstream,
        in_front_of(upstream.url, timeout={limit: TEXT}) as served,
        RawClient(served.url) as client,
    ):
        response = await client.request(GET)
        assert response.status == 200
        assert not response.complete
        await upstream.wait_until_idle()


async def test_a_body_that_makes_progress_is_not_cut() -> None:
    steps: list[Step] = [ExpectHead(), Send(CHUNKED_HEAD)]
    async with (
        ScriptedUpstream(
            [*steps, *[Send(b"1\r\nx\r\n")] * 3, Send(b"0\r\n\r\n"), Hang()]
        ) as upstream,
        FaultProxy(upstream.url, to_client=Fault(bytes_per_second=100)) as wire,
        in_front_of(wire.url, timeout={"body": TEXT}) as served,
        RawClient(served.url) as client,
    ):
        response = await client.request(GET)
        assert (response.status, response.body, response.complete) == (200, b"xxx", True)


async def test_an_idle_connection_is_closed_without_a_word() -> None:
    async with (
        RecordingUpstream() as upstream,
        in_front_of(upstream.url, {"timeouts": {"idle": TEXT, "head": TEXT}}) as served,
        RawClient(served.url) as used,
        RawClient(served.url) as silent,
    ):
        assert (await used.request(GET)).status == 200
        assert await used.read_eof(timeout=2.0) == b""
        assert await silent.read_eof(timeout=2.0) == b""


async def test_a_client_that_stops_reading_is_let_go() -> None:
    async with (
        RecordingUpstream(canned(body=b"x" * 30_000_000)) as upstream,
        in_front_of(upstream.url, {"timeouts": {"write": TEXT}}) as served,
        RawClient(served.url, read_ahead_bytes=0, receive_buffer_bytes=4096) as client,
    ):
        await client.send(GET)
        await wait_until(lambda: served.runtime.edge.connections)
        await wait_until(lambda: not served.runtime.edge.connections, 5.0)
        (instance,) = served.runtime.services["upstream"].instances.values()
        await wait_until(lambda: instance.active == 0)


async def test_a_slow_reader_that_reads_is_not() -> None:
    async with (
        RecordingUpstream(canned(body=b"x" * 3_000_000)) as upstream,
        in_front_of(upstream.url, {"timeouts": {"write": TEXT}}) as served,
        FaultProxy(served.url, to_client=Fault(bytes_per_second=2_000_000)) as wire,
        RawClient(wire.url) as client,
    ):
        response = await client.request(GET, timeout=10.0)
        assert len(response.body) == 3_000_000


async def test_waiting_for_a_connection_ends_in_503_with_retry_after() -> None:
    async with (
        ScriptedUpstream([ExpectHead(), Hang()]) as upstream,
        in_front_of(
            upstream.url, pool={"max_connections": 1, "max_idle": 1, "wait": TEXT}
        ) as served,
        RawClient(served.url) as first,
        RawClient(served.url) as second,
    ):
        await first.send(GET)
        await upstream.wait_for_connections(1)
        began = time.monotonic()
        response = await second.request(GET)
        assert response.status == 503
        assert response.value("retry-after") == "1"
        assert SHORT <= time.monotonic() - began < SHORT + 1.0


async def test_half_close_the_answer_is_waited_for_a_moment() -> None:
    async with (
        ScriptedUpstream([ExpectHead(), Hang()]) as upstream,
        in_front_of(upstream.url, {"timeouts": {"half_close": TEXT}}) as served,
        RawClient(served.url) as client,
    ):
        await client.send(GET)
        await upstream.wait_for_connections(1)
        client.half_close()
        began = time.monotonic()
        await upstream.wait_until_idle()
        assert SHORT - 0.05 <= time.monotonic() - began < SHORT + 1.0


async def test_a_route_has_its_own_timeouts() -> None:
    async with ScriptedUpstream([ExpectHead(), Hang()]) as upstream:
        gateway = gateway_to(upstream.url)
        gateway.route("/quick", "upstream", timeout={"first_byte": TEXT})
        async with gateway.serving("127.0.0.1:0") as served, RawClient(served.url) as client:
            response = await client.request(b"GET /quick HTTP/1.1\r\nHost: a\r\n\r\n")
            assert response.status == 504
