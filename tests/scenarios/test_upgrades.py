"""Upgraded connections: which pass, which do not, and what reloads and shutdowns do to them."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator

import pytest
from tests.conftest import in_front_of
from tests.scenarios.support import FRAME, GET, Origin, echo, websocket

from nexgate import Gateway
from nexgate.gateway import Served
from nexgate.testing import (
    ExpectHead,
    RawClient,
    RecordingUpstream,
    ScriptedUpstream,
    Send,
    canned,
    wait_until,
)

GOING_AWAY = b"\x88\x02\x03\xe9"


@pytest.fixture
async def origin() -> AsyncIterator[Origin]:
    async with Origin() as process:
        yield process


def upgrade(protocol: str, extra: str = "") -> bytes:
    return (
        f"GET /up HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: {protocol}\r\n{extra}\r\n"
    ).encode()


@pytest.mark.parametrize("protocol", ["websocket", "WebSocket", "spdy-like/3", "foo"])
async def test_any_protocol_passes_once_the_service_agrees(origin: Origin, protocol: str) -> None:
    async with in_front_of(origin.url) as served, RawClient(served.url) as client:
        response = await client.request(upgrade(protocol))
        assert response.status == 101
        assert (response.value("upgrade") or "").lower() == protocol.lower()
        await client.send(b"\x00\xff" * 100_000)
        assert await client.read_exactly(200_000) == b"\x00\xff" * 100_000
        client.half_close()
        await client.read_eof()
        await wait_until(lambda: not served.runtime.edge.connections)
        await wait_until(lambda: not served.runtime.edge.tunnels)


async def test_what_is_sent_ahead_of_the_101_is_not_lost(origin: Origin) -> None:
    async with in_front_of(origin.url) as served, RawClient(served.url) as client:
        await client.send(upgrade("websocket") + FRAME)
        response = await client.read_response()
        assert response.status == 101
        assert await client.read_exactly(len(FRAME)) == FRAME


async def test_what_the_service_says_with_the_101_is_not_lost() -> None:
    hello = b"HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: foo\r\n\r\nhello"
    async with (
        ScriptedUpstream([ExpectHead(), Send(hello)]) as upstream,
        in_front_of(upstream.url) as served,
        RawClient(served.url) as client,
    ):
        assert (await client.request(upgrade("foo"))).status == 101
        assert await client.read_exactly(5) == b"hello"
        assert await client.read_eof() == b""


async def test_a_refused_upgrade_is_an_ordinary_answer() -> None:
    async with (
        RecordingUpstream(canned(426, b"no", [("Upgrade", "bar")])) as upstream,
        in_front_of(upstream.url) as served,
        RawClient(served.url) as client,
    ):
        for _ in range(2):
            response = await client.request(upgrade("foo"))
            assert (response.status, response.body) == (426, b"no")
        assert upstream.last.values("upgrade") == ["foo"]


@pytest.mark.parametrize("protocol", ["h2c", "HTTP/2.0", "TLS/1.0", "h2c, http/3"])
async def test_h2c_is_not_upgraded_and_keeps_its_body(protocol: str) -> None:
    async with (
        RecordingUpstream(canned(body=b"ok")) as upstream,
        in_front_of(upstream.url) as served,
        RawClient(served.url) as client,
    ):
        for framing, body in (
            ("Content-Length: 5", b"hello"),
            ("Transfer-Encoding: chunked", b"5\r\nhello\r\n0\r\n\r\n"),
        ):
            response = await client.request(
                f"POST / HTTP/1.1\r\nHost: a\r\nConnection: Upgrade, HTTP2-Settings\r\n"
                f"Upgrade: {protocol}\r\nHTTP2-Settings: AAMAAABk\r\n{framing}\r\n\r\n".encode()
                + body
            )
            assert (response.status, response.body) == (200, b"ok")
            assert upstream.last.body == b"hello"
            assert upstream.last.values("upgrade") == []
            assert upstream.last.values("connection") == []
            assert upstream.last.values("http2-settings") == []


async def test_slow_receivers_stop_the_sender(origin: Origin) -> None:
    """A tunnel holds a bounded amount, whichever side is slow."""
    async with (
        in_front_of(origin.url) as served,
        RawClient(served.url, read_ahead_bytes=0, receive_buffer_bytes=4096) as client,
    ):
        assert (await client.request(upgrade("foo"))).status == 101
        sent = 0
        with pytest.raises(TimeoutError):
            while sent < 200_000_000:
                await client.send(b"x" * 1_000_000, timeout=0.5)
                sent += 1_000_000
        assert sent < 100_000_000


def changing(url: str, on_change: str, version: int, *, drain: str = "400ms") -> Gateway:
    gateway = Gateway(on_change=on_change, timeouts={"drain": drain})
    gateway.service("upstream", url)
    gateway.route("/*", "upstream", response_headers={"set": {"X-Version": str(version)}})
    gateway.route("/same/*", "upstream")
    return gateway


@contextlib.asynccontextmanager
async def tunnel_at(served: Served, path: str) -> AsyncIterator[RawClient]:
    async with RawClient(served.url) as client:
        wire = upgrade("websocket").replace(b"/up", path.encode())
        assert (await client.request(wire)).status == 101
        await echo(client)
        yield client


@pytest.mark.parametrize("on_change", ["keep", "drain", "close"])
async def test_on_change_decides_what_a_reload_does_to_tunnels(
    origin: Origin, on_change: str
) -> None:
    async with changing(origin.url, on_change, 1).serving("127.0.0.1:0") as served:
        async with (
            tunnel_at(served, "/changed") as changed,
            tunnel_at(served, "/same/x") as same,
            RawClient(served.url) as stream,
        ):
            await stream.send(b"GET /drip/30/50 HTTP/1.1\r\nHost: a\r\n\r\n")
            await stream.read_until(b"hello")
            began = asyncio.get_running_loop().time()
            await served.reload(changing(origin.url, on_change, 2))
            if on_change == "keep":
                await asyncio.sleep(0.6)
                await echo(changed)
                assert b"0\r\n\r\n" in await stream.read_until(b"\r\n0\r\n\r\n")
            else:
                if on_change == "drain":
                    await echo(changed)
                assert await changed.read_eof() == GOING_AWAY
                took = asyncio.get_running_loop().time() - began
                assert took < 0.3 if on_change == "close" else 0.3 < took < 1.5
                try:
                    rest = await stream.read_eof()
                except ConnectionError:
                    rest = b""
                assert b"\r\n0\r\n\r\n" not in rest  # visibly cut
            await echo(same)  # others are never touched
        await wait_until(lambda: not served.runtime.edge.tunnels)


async def test_a_goodbye_never_lands_inside_a_frame(origin: Origin) -> None:
    async with (
        changing(origin.url, "close", 1).serving("127.0.0.1:0") as served,
        tunnel_at(served, "/changed") as client,
    ):
        half = b"\x82\x7e\x10\x00" + b"x" * 100  # 100 of 4,096 bytes
        await client.send(half)
        assert await client.read_exactly(len(half)) == half
        await served.reload(changing(origin.url, "close", 2))
        assert await client.read_eof() == b""


async def test_shutdown_gives_tunnels_the_drain_time_and_then_1001(origin: Origin) -> None:
    gateway = changing(origin.url, "keep", 1)
    async with contextlib.AsyncExitStack() as after:
        async with gateway.serving("127.0.0.1:0") as served:
            client = await after.enter_async_context(tunnel_at(served, "/up"))
        assert await client.read_eof() == GOING_AWAY


async def test_a_websocket_survives_a_reload_that_drops_its_route(origin: Origin) -> None:
    gone = Gateway()
    gone.route("/*", respond=410)
    async with (
        changing(origin.url, "keep", 1).serving("127.0.0.1:0") as served,
        websocket(served.port) as client,
        RawClient(served.url) as other,
    ):
        await served.reload(gone)
        await echo(client)
        assert (await other.request(GET)).status == 410
