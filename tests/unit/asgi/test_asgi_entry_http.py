"""The gateway as an ASGI application: called directly, message by message, and in uvicorn."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest
from starlette.applications import Starlette
from starlette.routing import Mount
from tests.unit.asgi.serving import answer, entry_for, only_http, read_body, uvicorn_with

from nexgate.edge import EdgeTimeouts
from nexgate.edge._asgi import BrokenResponseError
from nexgate.errors import Cause
from nexgate.exchange import Exchange, Hook, Response
from nexgate.testing import (
    ExpectHead,
    Hang,
    RawClient,
    RecordingUpstream,
    ScriptedUpstream,
    Send,
    canned,
    wait_until,
)

GET = b"GET /api/x?y=1 HTTP/1.1\r\nHost: example.com\r\n\r\n"


class Server:
    """Plays an ASGI server: gives messages, keeps what was sent."""

    def __init__(self, *messages: Any, extensions: Any = None, **scope: Any) -> None:
        self.scope = {
            "type": "http",
            "http_version": "1.1",
            "method": "GET",
            "scheme": "https",
            "path": "/x",
            "raw_path": b"/x",
            "query_string": b"",
            "root_path": "",
            "headers": [(b"host", b"example.com")],
            "client": ("192.0.2.7", 1234),
            "server": ("127.0.0.1", 80),
            "extensions": extensions,
            **scope,
        }
        self.messages: asyncio.Queue[Any] = asyncio.Queue()
        for message in messages:
            self.messages.put_nowait(message)
        self.sent: list[Any] = []
        self.writable = asyncio.Event()
        self.writable.set()

    async def receive(self) -> Any:
        return await self.messages.get()

    async def send(self, message: Any) -> None:
        await self.writable.wait()
        self.sent.append(message)

    async def call(self, entry: Any) -> None:
        await entry(self.scope, self.receive, self.send)

    @property
    def status(self) -> int:
        assert self.sent[0]["type"] == "http.response.start"
        return int(self.sent[0]["status"])

    @property
    def headers(self) -> list[tuple[bytes, bytes]]:
        return list(self.sent[0]["headers"])

    @property
    def body(self) -> bytes:
        return b"".join(m["body"] for m in self.sent[1:])


END = {"type": "http.request", "body": b"", "more_body": False}
GONE = {"type": "http.disconnect"}


def content(body: bytes, more: bool = False) -> Any:
    return {"type": "http.request", "body": body, "more_body": more}


# -------------------------------------------------------------------- requests


async def test_a_request_goes_to_the_service_and_back() -> None:
    reply = canned(
        201, b"hello", [("X-A", "1"), ("Date", "Mon"), ("Connection", "X-B"), ("X-B", "2")]
    )
    async with RecordingUpstream(reply) as upstream, entry_for(upstream.url) as (entry, edge):
        server = Server(END, query_string=b"q=%20", path="/a b", raw_path=b"/a%20b")
        await server.call(entry)
        assert server.status == 201
        assert server.headers == [(b"x-a", b"1"), (b"content-length", b"5")]
        assert server.body == b"hello"
        assert server.sent[-1]["more_body"] is False
        assert upstream.last.lines[0] == b"GET /a%20b?q=%20 HTTP/1.1"
        assert upstream.last.values("X-Forwarded-For") == ["192.0.2.7"]
        assert upstream.last.values("X-Forwarded-Proto") == ["https"]
        assert upstream.last.values("X-Forwarded-Prefix") == []
        assert [e.status for e in edge.log] == [201]
        assert edge.state.total_exchanges == 1


@pytest.mark.parametrize(
    ("headers", "framing"),
    [
        ([(b"content-length", b"6")], "Content-Length"),
        ([(b"transfer-encoding", b"chunked")], "Transfer-Encoding"),
        ([], "Transfer-Encoding"),
    ],
)
async def test_content_is_framed_for_the_service(headers: Any, framing: str) -> None:
    async with RecordingUpstream() as upstream, entry_for(upstream.url) as (entry, _):
        server = Server(content(b"abc", True), content(b"", True), content(b"def"), method="POST")
        server.scope["headers"] += headers
        await server.call(entry)
        assert server.status == 200
        assert upstream.last.body == b"abcdef"
        assert len(upstream.last.values(framing)) == 1


async def test_content_of_one_message_without_length_is_counted() -> None:
    async with RecordingUpstream() as upstream, entry_for(upstream.url) as (entry, _):
        await Server(content(b"abc"), method="POST", http_version="2").call(entry)
        assert upstream.last.body == b"abc"
        assert upstream.last.values("Content-Length") == ["3"]


@pytest.mark.parametrize("body", [b"abc", b"abcdefg"])
async def test_content_that_belies_its_length_is_refused(body: bytes) -> None:
    async with RecordingUpstream() as upstream, entry_for(upstream.url) as (entry, edge):
        server = Server(content(body), method="POST")
        server.scope["headers"].append((b"content-length", b"5"))
        await server.call(entry)
        assert server.status == 400
        assert edge.log[0].cause is Cause.BAD_BODY
        assert not upstream.requests


async def test_an_upgrade_through_http_is_not_passed_on() -> None:
    async with RecordingUpstream() as upstream, entry_for(upstream.url) as (entry, _):
        server = Server(END)
        server.scope["headers"] += [(b"connection", b"upgrade"), (b"upgrade", b"irc")]
        await server.call(entry)
        assert server.status == 200
        assert upstream.last.values("Upgrade") == []


@pytest.mark.parametrize(
    ("change", "status"),
    [
        ({"headers": []}, 400),
        ({"headers": [(b"host", b"a"), (b"x", b"\r\ny: z")]}, 400),
        ({"method": "TRACE"}, 501),
        ({"path": "/a\\b", "raw_path": b"/a\\b"}, 400),
        ({"raw_path": b"/../x", "path": "/../x"}, 400),
    ],
)
async def test_what_the_edge_refuses_is_answered_with_a_problem(change: Any, status: int) -> None:
    async with RecordingUpstream() as upstream, entry_for(upstream.url) as (entry, edge):
        server = Server(END, **change)
        await server.call(entry)
        assert server.status == status
        assert json.loads(server.body)["status"] == status
        assert edge.state.refused == 1
        assert not upstream.requests


async def test_a_peer_is_trusted_only_when_it_is_said() -> None:
    from nexgate.edge._asgi import AsgiEntry

    async with RecordingUpstream() as upstream, entry_for(upstream.url) as (entry, edge):
        for trusting in (entry, AsgiEntry(edge.state, trust_peer=True)):
            server = Server(END)
            server.scope["headers"].append((b"x-forwarded-for", b"198.51.100.1"))
            await server.call(trusting)
        seen = [r.values("X-Forwarded-For") for r in upstream.requests]
        assert seen == [["192.0.2.7"], ["198.51.100.1, 192.0.2.7"]]
        assert [e.client for e in edge.log] == ["192.0.2.7", "198.51.100.1"]


async def test_other_scopes_are_not_ours() -> None:
    async with RecordingUpstream() as upstream, entry_for(upstream.url) as (entry, _):
        with pytest.raises(ValueError, match="lifespan"):
            await entry({"type": "lifespan"}, None, None)


# -------------------------------------------------------------------- answers


async def test_an_answer_of_the_gateway_itself_needs_no_service() -> None:
    def stop(exchange: Exchange) -> Response:
        return Response(418, b"no", {"X-A": "1"})

    async with entry_for("http://127.0.0.1:9", hooks=(Hook("stop", on_request=stop),)) as (e, _):
        server = Server(END)
        await server.call(e)
    assert (server.status, server.body) == (418, b"no")
    assert server.headers == [(b"x-a", b"1"), (b"content-length", b"2")]
    assert len(server.sent) == 2


async def test_head_keeps_the_length_and_drops_the_content() -> None:
    async with (
        RecordingUpstream(canned(200, b"hello")) as upstream,
        entry_for(upstream.url) as (entry, _),
    ):
        server = Server(END, method="HEAD")
        await server.call(entry)
    assert server.headers == [(b"content-length", b"5")]
    assert server.body == b""


async def test_204_has_no_length() -> None:
    async with RecordingUpstream(canned(204)) as upstream, entry_for(upstream.url) as (entry, _):
        server = Server(END)
        await server.call(entry)
    assert (server.status, server.headers) == (204, [])


async def test_an_unreachable_service_is_a_502() -> None:
    async with entry_for("http://127.0.0.1:9") as (entry, _):
        server = Server(END)
        await server.call(entry)
    assert server.status == 502


@pytest.mark.parametrize(
    "framing", [b"Content-Length: 10\r\n\r\nabc", b"Transfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n"]
)
async def test_a_service_that_dies_within_its_answer_breaks_it_off(framing: bytes) -> None:
    script = [ExpectHead(), Send(b"HTTP/1.1 200 OK\r\n" + framing)]
    async with ScriptedUpstream(script) as upstream, entry_for(upstream.url) as (entry, edge):
        server = Server(END)
        with pytest.raises(BrokenResponseError):
            await server.call(entry)
        assert server.status == 200
        assert all(m.get("more_body", True) for m in server.sent)
        assert edge.log[0].cause is Cause.UPSTREAM_CUT


async def test_early_hints_pass_where_the_server_takes_them() -> None:
    script = [
        ExpectHead(),
        Send(b"HTTP/1.1 103 Early Hints\r\nLink: </a>; rel=preload\r\n\r\n" + canned()),
    ]
    for extensions in (None, {"http.response.early_hint": {}}):
        async with ScriptedUpstream(script) as upstream, entry_for(upstream.url) as (entry, _):
            server = Server(END, extensions=extensions)
            await server.call(entry)
            kinds = [m["type"] for m in server.sent]
            assert kinds[-2:] == ["http.response.start", "http.response.body"]
            if extensions:
                assert server.sent[0]["links"] == [b"</a>; rel=preload"]
            else:
                assert len(kinds) == 2


# -------------------------------------------------------------------- flow and ends


async def test_a_server_that_does_not_take_more_holds_the_service_back() -> None:
    sent = 0
    piece = b"x" * 16_384

    @only_http
    async def app(scope: Any, receive: Any, send: Any) -> None:
        nonlocal sent
        await send({"type": "http.response.start", "status": 200, "headers": []})
        for _ in range(500):
            await send({"type": "http.response.body", "body": piece, "more_body": True})
            sent += len(piece)
        await send({"type": "http.response.body"})

    async with entry_for(app) as (entry, _):
        server = Server(END)
        server.writable.clear()
        call = asyncio.create_task(server.call(entry))
        await wait_until(lambda: sent)
        await asyncio.sleep(0.1)
        assert sent <= 6 * len(piece)
        server.writable.set()
        await call
        assert len(server.body) == 500 * len(piece)


async def test_a_service_that_does_not_read_holds_the_server_back() -> None:
    go_on = asyncio.Event()

    @only_http
    async def app(scope: Any, receive: Any, send: Any) -> None:
        await go_on.wait()
        await answer(send, str(len(await read_body(receive))).encode())

    async with entry_for(app) as (entry, _):
        pieces = [content(b"x" * 16_384, True) for _ in range(100)]
        server = Server(*pieces, END, method="POST")
        server.scope["headers"].append((b"transfer-encoding", b"chunked"))
        call = asyncio.create_task(server.call(entry))
        await wait_until(lambda: server.messages.qsize() < 100)
        await asyncio.sleep(0.1)
        assert server.messages.qsize() > 90
        go_on.set()
        await call
        assert server.body == b"1638400"


async def test_a_client_that_leaves_cancels_the_attempt() -> None:
    async with (
        ScriptedUpstream([ExpectHead(), Hang()]) as upstream,
        entry_for(upstream.url) as (entry, edge),
    ):
        server = Server(END)
        call = asyncio.create_task(server.call(entry))
        await wait_until(lambda: upstream.connections and upstream.connections[0].received)
        server.messages.put_nowait(GONE)
        await call
        assert server.sent == []
        assert edge.log[0].status == 499
        assert edge.instance.active == 0


async def test_a_client_that_left_before_we_looked_is_nothing() -> None:
    async with RecordingUpstream() as upstream, entry_for(upstream.url) as (entry, edge):
        server = Server(GONE)
        await server.call(entry)
        assert (server.sent, edge.log, upstream.requests) == ([], [], [])


async def test_a_cancelled_call_cancels_its_exchange() -> None:
    async with (
        ScriptedUpstream([ExpectHead(), Hang()]) as upstream,
        entry_for(upstream.url) as (entry, edge),
    ):
        call = asyncio.create_task(Server(END).call(entry))
        await wait_until(lambda: upstream.connections and upstream.connections[0].received)
        call.cancel()
        with pytest.raises(asyncio.CancelledError):
            await call
        assert edge.instance.active == 0
        assert len(edge.log) == 1


async def test_a_send_that_raises_oserror_is_the_end_of_the_client() -> None:
    async with (
        RecordingUpstream(canned(200, b"x")) as upstream,
        entry_for(upstream.url) as (entry, edge),
    ):
        server = Server(END)

        async def send(message: Any) -> None:
            raise OSError("gone")

        await entry(server.scope, server.receive, send)
        assert len(edge.log) == 1


async def test_a_receive_that_raises_ends_the_exchange(caplog: pytest.LogCaptureFixture) -> None:
    async with (
        ScriptedUpstream([ExpectHead(), Hang()]) as upstream,
        entry_for(upstream.url) as (entry, edge),
    ):
        server = Server()
        server.scope["headers"].append((b"content-length", b"5"))

        async def receive() -> Any:
            raise LookupError("a broken middleware")

        await entry(server.scope, receive, server.send)
        assert edge.log[0].status == 499
    assert "a broken middleware" in caplog.text


async def test_a_client_that_stops_sending_gets_408() -> None:
    timeouts = EdgeTimeouts(body=0.1)
    async with (
        RecordingUpstream() as upstream,
        entry_for(upstream.url, timeouts=timeouts) as (entry, edge),
    ):
        server = Server(content(b"a", True), method="POST")
        server.scope["headers"].append((b"content-length", b"5"))
        await server.call(entry)
        assert server.status == 408
        assert edge.log[0].cause is Cause.BODY_TIMEOUT


async def test_a_client_that_stops_reading_is_cut_off() -> None:
    timeouts = EdgeTimeouts(write=0.1)
    async with (
        RecordingUpstream(canned(200, b"x")) as upstream,
        entry_for(upstream.url, timeouts=timeouts) as (entry, _edge),
    ):
        server = Server(END)
        server.writable.clear()
        with pytest.raises(BrokenResponseError):
            await server.call(entry)


async def test_an_answer_before_the_content_is_in_does_not_wait_for_it() -> None:
    async with (
        RecordingUpstream() as upstream,
        entry_for(upstream.url, plan={"max_body_bytes": 3}) as (entry, _),
    ):
        server = Server(content(b"abcd", True), method="POST")
        server.scope["headers"].append((b"transfer-encoding", b"chunked"))
        await server.call(entry)
        assert server.status == 413


async def test_a_hundred_calls_at_once() -> None:
    @only_http
    async def app(scope: Any, receive: Any, send: Any) -> None:
        await asyncio.sleep(0.01)
        await answer(send, await read_body(receive))

    async with entry_for(app) as (entry, edge):
        servers = [Server(content(b"%d" % n), method="POST") for n in range(100)]
        await asyncio.gather(*(s.call(entry) for s in servers))
        assert [s.body for s in servers] == [b"%d" % n for n in range(100)]
        assert edge.instance.active == 0


# -------------------------------------------------------------------- in uvicorn


def mounted(entry: Any) -> Starlette:
    return Starlette(routes=[Mount("/api", app=entry)])


async def test_mounted_in_starlette_the_prefix_ends_here() -> None:
    async with RecordingUpstream(canned(200, b"hello")) as upstream:
        async with (
            entry_for(upstream.url) as (entry, _),
            uvicorn_with(mounted(entry)) as url,
            RawClient(url) as client,
        ):
            for _ in range(2):
                response = await client.request(GET)
                assert (response.status, response.body) == (200, b"hello")
                assert len(response.values("date")) == 1
        request = upstream.last
        assert request.lines[0] == b"GET /x?y=1 HTTP/1.1"
        assert request.values("X-Forwarded-Prefix") == ["/api"]


async def test_content_streams_through_uvicorn_both_ways() -> None:
    @only_http
    async def app(scope: Any, receive: Any, send: Any) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})
        while True:
            message = await receive()
            body = message["body"].upper()
            await send({"type": "http.response.body", "body": body, "more_body": True})
            if not message["more_body"]:
                break
        await send({"type": "http.response.body"})

    async with (
        entry_for(app) as (entry, _),
        uvicorn_with(mounted(entry)) as url,
        RawClient(url) as client,
    ):
        await client.send(
            b"POST /api/ HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n"
        )
        await client.read_until(b"\r\n\r\n")
        assert await client.read_exactly(8) == b"3\r\nABC\r\n"
        await client.send(b"3\r\ndef\r\n0\r\n\r\n")
        assert await client.read_until(b"0\r\n\r\n") == b"3\r\nDEF\r\n0\r\n\r\n"


async def test_uvicorn_cuts_the_connection_of_a_broken_answer() -> None:
    script = [ExpectHead(), Send(b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nabc")]
    async with (
        ScriptedUpstream(script) as upstream,
        entry_for(upstream.url) as (entry, _),
        uvicorn_with(entry) as url,
        RawClient(url) as client,
    ):
        response = await client.request(GET)
        assert (response.status, response.body) == (200, b"abc")
        assert not response.complete


async def test_a_client_of_uvicorn_that_leaves_cancels_the_attempt() -> None:
    async with (
        ScriptedUpstream([ExpectHead(), Hang()]) as upstream,
        entry_for(upstream.url) as (entry, edge),
        uvicorn_with(entry) as url,
    ):
        async with RawClient(url) as client:
            await client.send(GET)
            await wait_until(lambda: upstream.connections)
        await wait_until(lambda: edge.log)
        assert edge.log[0].status == 499


async def test_a_slow_client_of_uvicorn_holds_the_application_back() -> None:
    sent = 0
    piece = b"x" * 65_536

    @only_http
    async def app(scope: Any, receive: Any, send: Any) -> None:
        nonlocal sent
        await send({"type": "http.response.start", "status": 200, "headers": []})
        while True:
            await send({"type": "http.response.body", "body": piece, "more_body": True})
            sent += len(piece)

    async with entry_for(app) as (entry, edge), uvicorn_with(entry) as url:
        async with RawClient(url, read_ahead_bytes=0, receive_buffer_bytes=4096) as client:
            await client.send(GET)
            await client.read_until(b"\r\n\r\n")
            last = -1
            while sent != last:
                last = sent
                await asyncio.sleep(0.1)
            assert sent < 8 * 1024 * 1024
        await wait_until(lambda: not edge.instance.calls)
