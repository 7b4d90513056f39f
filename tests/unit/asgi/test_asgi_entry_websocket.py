"""WebSockets through the gateway as an ASGI application: to services and to applications."""

from __future__ import annotations

import asyncio
import contextlib
import json
import re
from collections.abc import AsyncIterator
from typing import Any

import pytest
import websockets
from starlette.applications import Starlette
from starlette.routing import Mount
from tests.unit.asgi.serving import Edge, entry_for, uvicorn_with
from websockets.asyncio.client import ClientConnection
from websockets.asyncio.client import connect as connect_websocket
from websockets.asyncio.server import ServerConnection, serve

from nexgate.edge._asgi import AsgiEntry
from nexgate.exchange import Exchange, Hook, Response
from nexgate.http._websocket import accept_token
from nexgate.testing import (
    RecordingUpstream,
    ScriptedConnection,
    ScriptedUpstream,
    canned,
    wait_until,
)

CONNECT = {"type": "websocket.connect"}
DENIAL = {"websocket.http.response": {}}


class Server:
    """Plays an ASGI server: gives messages, keeps what was sent."""

    def __init__(self, *messages: Any, extensions: Any = None, **scope: Any) -> None:
        self.scope = {
            "type": "websocket",
            "http_version": "1.1",
            "scheme": "wss",
            "path": "/x",
            "raw_path": b"/x",
            "query_string": b"q=1",
            "root_path": "",
            "headers": [
                (b"host", b"example.com"),
                (b"connection", b"Upgrade"),
                (b"upgrade", b"websocket"),
                (b"sec-websocket-key", b"dGhlIHNhbXBsZSBub25jZQ=="),
                (b"sec-websocket-version", b"13"),
                (b"sec-websocket-extensions", b"permessage-deflate"),
                (b"origin", b"https://a.example"),
            ],
            "client": ("192.0.2.7", 1234),
            "server": ("127.0.0.1", 80),
            "subprotocols": [],
            "extensions": extensions,
            **scope,
        }
        self.messages: asyncio.Queue[Any] = asyncio.Queue()
        for message in (CONNECT, *messages):
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
        async with asyncio.timeout(10):
            await entry(self.scope, self.receive, self.send)

    def receives(self, **what: Any) -> None:
        self.messages.put_nowait({"type": "websocket.receive", **what})

    def loses(self, code: int, reason: str = "") -> None:
        self.messages.put_nowait({"type": "websocket.disconnect", "code": code, "reason": reason})


async def echo_application(scope: Any, receive: Any, send: Any) -> None:
    assert scope["type"] == "websocket"
    await receive()
    chosen = scope["subprotocols"][:1]
    await send({"type": "websocket.accept", "subprotocol": chosen[0] if chosen else None})
    while (message := await receive())["type"] == "websocket.receive":
        await send({**message, "type": "websocket.send"})


@contextlib.asynccontextmanager
async def echo_service() -> AsyncIterator[str]:
    async def echo(connection: ServerConnection) -> None:
        with contextlib.suppress(websockets.ConnectionClosed):
            async for message in connection:
                await connection.send(message)

    async with serve(echo, "127.0.0.1", 0, subprotocols=["chat"]) as server:  # type: ignore[list-item]
        port = next(iter(server.sockets)).getsockname()[1]
        yield f"http://127.0.0.1:{port}"


@contextlib.asynccontextmanager
async def both_kinds(kind: str, **options: Any) -> AsyncIterator[tuple[AsgiEntry, Edge]]:
    if kind == "application":
        async with entry_for(echo_application, **options) as found:
            yield found
    else:
        async with echo_service() as url, entry_for(url, **options) as found:
            yield found


@contextlib.asynccontextmanager
async def connected(url: str, path: str = "/", **options: Any) -> AsyncIterator[ClientConnection]:
    url = url.replace("http", "ws") + path
    options = {"ping_interval": None, "proxy": None, "subprotocols": ["chat"], **options}
    async with connect_websocket(url, **options) as client:
        yield client


# -------------------------------------------------------------------- in uvicorn


@pytest.mark.parametrize("kind", ["service", "application"])
async def test_messages_come_back_through_uvicorn_and_starlette(kind: str) -> None:
    async with both_kinds(kind) as (entry, edge):
        app = Starlette(routes=[Mount("/api", app=entry)])
        async with (
            uvicorn_with(app) as url,
            connected(url, "/api/chat", subprotocols=["chat"]) as client,
        ):
            assert client.subprotocol == "chat"
            for data in ("hello", b"\x00\xff", "", b"", "ü" * 70_000, b"x" * 1_000_000):
                await client.send(data)
                assert await client.recv() == data
            await client.close(4321, "bye")
        await wait_until(lambda: edge.log)
        assert edge.log[0].status == 101
        assert edge.log[0].bytes_in > 1_000_000


@pytest.mark.parametrize("kind", ["service", "application"])
async def test_fifty_connections_do_not_mix(kind: str) -> None:
    async with both_kinds(kind) as (entry, edge), uvicorn_with(entry) as url:

        async def talk(name: str) -> None:
            async with connected(url) as client:
                for n in range(10):
                    await client.send(f"{name}.{n}")
                    assert await client.recv() == f"{name}.{n}"

        await asyncio.gather(*(talk(str(n)) for n in range(50)))
        await wait_until(lambda: edge.instance.active == 0)


@pytest.mark.parametrize("kind", ["service", "application"])
async def test_a_client_that_is_lost_ends_everything(kind: str) -> None:
    async with both_kinds(kind) as (entry, edge), uvicorn_with(entry) as url:
        async with connected(url) as client:
            await client.send("x")
            await client.recv()
            client.transport.abort()
        await wait_until(lambda: edge.instance.active == 0)


async def test_a_refusal_of_the_gateway_reaches_the_client_as_a_response() -> None:
    def refuse(exchange: Exchange) -> Response:
        return Response(401, b"who are you?", {"WWW-Authenticate": "Bearer"})

    hooks = (Hook("refuse", on_request=refuse),)
    async with entry_for(echo_application, hooks=hooks) as (entry, _), uvicorn_with(entry) as url:
        with pytest.raises(websockets.InvalidStatus) as caught:
            async with connected(url):
                pass
        response = caught.value.response
        assert (response.status_code, response.body) == (401, b"who are you?")
        assert response.headers["WWW-Authenticate"] == "Bearer"


async def test_a_client_that_does_not_read_holds_the_application_back() -> None:
    sent = 0

    async def app(scope: Any, receive: Any, send: Any) -> None:
        nonlocal sent
        assert scope["type"] == "websocket"
        await receive()
        await send({"type": "websocket.accept"})
        while True:
            await send({"type": "websocket.send", "bytes": b"x" * 16_384})
            sent += 16_384

    async with entry_for(app) as (entry, edge), uvicorn_with(entry) as url:
        async with connected(url, max_queue=1, compression=None) as client:
            last = -1
            while sent != last:
                last = sent
                await asyncio.sleep(0.1)
            client.transport.abort()
            assert sent < 16 * 1024 * 1024
        await wait_until(lambda: not edge.instance.calls)


# -------------------------------------------------------------------- the service's handshake


async def test_the_service_sees_a_handshake_of_ours() -> None:
    async with RecordingUpstream(canned(404)) as upstream:
        async with entry_for(upstream.url) as (entry, _):
            server = Server(extensions=DENIAL, subprotocols=["a", "b"], root_path="/r")
            server.scope["path"] = server.scope["raw_path"] = "/r/x"
            server.scope["raw_path"] = b"/r/x"
            await server.call(entry)
        request = upstream.last
        assert request.lines[0] == b"GET /x?q=1 HTTP/1.1"
        assert request.values("Upgrade") == ["websocket"]
        assert request.values("Connection") == ["Upgrade"]
        assert request.values("Sec-WebSocket-Version") == ["13"]
        assert request.values("Sec-WebSocket-Protocol") == ["a, b"]
        assert request.values("Sec-WebSocket-Extensions") == []
        assert request.values("Origin") == ["https://a.example"]
        assert request.values("X-Forwarded-Proto") == ["https"]
        assert request.values("X-Forwarded-Prefix") == ["/r"]
        (key,) = request.values("Sec-WebSocket-Key")
        assert key != "dGhlIHNhbXBsZSBub25jZQ=="


async def test_an_answer_that_is_no_101_is_passed_on_where_the_server_can() -> None:
    reply = canned(404, b"nobody", [("X-A", "1")])
    async with RecordingUpstream(reply) as upstream, entry_for(upstream.url) as (entry, edge):
        server = Server(extensions=DENIAL)
        await server.call(entry)
        assert server.sent[0] == {
            "type": "websocket.http.response.start",
            "status": 404,
            "headers": [(b"x-a", b"1"), (b"content-length", b"6")],
        }
        assert b"".join(m["body"] for m in server.sent[1:]) == b"nobody"
        assert server.sent[-1]["more_body"] is False
        server = Server()
        await server.call(entry)
        assert [m["type"] for m in server.sent] == ["websocket.close"]
        await wait_until(lambda: edge.instance.active == 0)


@pytest.mark.parametrize("extensions", [DENIAL, None])
async def test_what_the_edge_refuses_is_refused(extensions: Any) -> None:
    async with RecordingUpstream() as upstream, entry_for(upstream.url) as (entry, _):
        server = Server(extensions=extensions)
        server.scope["headers"].append((b"host", b"two"))
        await server.call(entry)
        if extensions:
            assert server.sent[0]["status"] == 400
            assert json.loads(server.sent[1]["body"])["status"] == 400
        else:
            assert [m["type"] for m in server.sent] == ["websocket.close"]
        assert not upstream.requests


async def test_a_client_that_leaves_first_is_nothing() -> None:
    async with RecordingUpstream() as upstream, entry_for(upstream.url) as (entry, _):
        server = Server()
        server.messages.get_nowait()
        server.loses(1006)
        await server.call(entry)
        assert (server.sent, upstream.requests) == ([], [])


async def test_a_client_that_leaves_before_the_101_cancels_the_attempt() -> None:
    async with entry_for(silent_application) as (entry, edge):
        server = Server()
        server.loses(1006)
        await server.call(entry)
        assert edge.log[0].status == 499
        await wait_until(lambda: not edge.instance.calls)


async def silent_application(scope: Any, receive: Any, send: Any) -> None:
    assert scope["type"] == "websocket"
    await receive()
    await receive()


def key_of(head: bytes) -> bytes:
    found = re.search(rb"(?i)\r\nsec-websocket-key: (.*)\r\n", head)
    assert found is not None
    return found[1]


def switching(*more: str, accept: str = "", then: bytes = b"") -> Any:
    """A service that says 101 with these field lines, then ``then``, and hangs."""

    async def script(connection: ScriptedConnection) -> None:
        head = await connection.read_until(b"\r\n\r\n")
        key = key_of(head)
        token = accept or accept_token(key).decode()
        lines = ["HTTP/1.1 101 x", "Connection: Upgrade", "Upgrade: websocket"]
        lines += [f"Sec-WebSocket-Accept: {token}", *more, "", ""]
        await connection.send("\r\n".join(lines).encode() + then)
        while await connection.read_some():
            pass

    return script


@pytest.mark.parametrize(
    "script",
    [
        switching(accept="s3pPLMBiTxaQ9kYGzzhZRbK+xOo="),
        switching("Sec-WebSocket-Extensions: permessage-deflate"),
        switching("Sec-WebSocket-Protocol: soap"),
        switching("Sec-WebSocket-Protocol: chat", "Sec-WebSocket-Protocol: chat"),
    ],
    ids=["accept", "extension", "subprotocol", "two subprotocols"],
)
async def test_a_service_that_garbles_the_handshake_is_a_502(script: Any) -> None:
    async with ScriptedUpstream(script) as upstream, entry_for(upstream.url) as (entry, edge):
        server = Server(extensions=DENIAL, subprotocols=["chat"])
        await server.call(entry)
        assert server.sent[0]["status"] == 502
        assert json.loads(server.sent[1]["body"])["type"].endswith("/upstream-malformed")
        assert edge.log[0].status == 502
        await wait_until(lambda: edge.instance.active == 0)


async def test_frames_that_come_with_the_101_are_not_lost() -> None:
    script = switching("X-A: 1", then=b"\x81\x02hi\x88\x02\x03\xe8")
    async with ScriptedUpstream(script) as upstream, entry_for(upstream.url) as (entry, _):
        server = Server()
        await server.call(entry)
        assert server.sent == [
            {"type": "websocket.accept", "subprotocol": None, "headers": [(b"x-a", b"1")]},
            {"type": "websocket.send", "text": "hi"},
            {"type": "websocket.close", "code": 1000, "reason": ""},
        ]


# -------------------------------------------------------------------- closing


@pytest.mark.parametrize(
    ("frame", "code"),
    [
        (b"\x88\x06\x10\xe1bye!", 4321),
        (b"\x88\x00", 1000),  # without a status
        (b"\x81\x81\x00\x00\x00\x00x", 1011),  # masked, by a server
        (b"\x81\x01\xff", 1011),  # not UTF-8
        (b"", 1011),  # nothing but the end
    ],
)
async def test_the_end_of_the_service_is_a_close_for_the_client(frame: bytes, code: int) -> None:
    async def script(connection: ScriptedConnection) -> None:
        await asyncio.wait_for(switch(connection), 5)

    async def switch(connection: ScriptedConnection) -> None:
        head = await connection.read_until(b"\r\n\r\n")
        key = key_of(head)
        await connection.send(
            b"HTTP/1.1 101 x\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"
            b"Sec-WebSocket-Accept: %b\r\n\r\n%b" % (accept_token(key), frame)
        )
        if frame:
            while await connection.read_some():
                pass

    async with ScriptedUpstream(script) as upstream, entry_for(upstream.url) as (entry, edge):
        server = Server()
        await server.call(entry)
        assert server.sent[-1]["type"] == "websocket.close"
        assert server.sent[-1]["code"] == code
        if frame:
            # It got our Close: its own status back, or what it did wrong.
            received = upstream.connections[0].received.partition(b"\r\n\r\n")[2]
            assert received[:1] == b"\x88"
        await wait_until(lambda: edge.instance.active == 0)


async def test_a_message_of_the_service_beyond_the_limit_is_1009() -> None:
    script = switching(then=b"\x82\x7e\x01\x00" + b"x" * 256)
    async with ScriptedUpstream(script) as upstream, entry_for(upstream.url) as (_, edge):
        server = Server()
        await server.call(AsgiEntry(edge.state, max_message_bytes=255))
        assert server.sent[-1]["code"] == 1009


@pytest.mark.parametrize("kind", ["service", "application"])
@pytest.mark.parametrize(("code", "expected"), [(4321, 4321), (1005, 1005), (1006, 1006)])
async def test_the_clients_code_reaches_the_other_side(kind: str, code: int, expected: int) -> None:
    ends: list[int] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        assert scope["type"] == "websocket"
        await receive()
        await send({"type": "websocket.accept"})
        ends.append((await receive())["code"])

    async def handler(connection: ServerConnection) -> None:
        with contextlib.suppress(websockets.ConnectionClosed):
            await connection.recv()
        ends.append(connection.close_code or 0)

    async with contextlib.AsyncExitStack() as stack:
        target: Any = app
        if kind == "service":
            service = await stack.enter_async_context(serve(handler, "127.0.0.1", 0))
            target = f"http://127.0.0.1:{next(iter(service.sockets)).getsockname()[1]}"
        entry, edge = await stack.enter_async_context(entry_for(target))
        server = Server()
        call = asyncio.create_task(server.call(entry))
        await wait_until(lambda: server.sent)
        server.loses(code, "bye" if code == 4321 else "")
        await call
        await wait_until(lambda: ends)
        assert ends == [expected]
        assert edge.log[0].status == 101
        await wait_until(lambda: edge.instance.active == 0)


async def test_a_service_that_does_not_answer_the_close_is_not_waited_for_for_long(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("nexgate.edge._asgi._websocket._GOODBYE", 0.1)
    async with ScriptedUpstream(switching()) as upstream, entry_for(upstream.url) as (entry, edge):
        server = Server()
        call = asyncio.create_task(server.call(entry))
        await wait_until(lambda: server.sent)
        server.loses(1001)
        async with asyncio.timeout(2):
            await call
        assert edge.instance.active == 0


async def test_a_cancelled_call_ends_the_tunnel() -> None:
    async with entry_for(echo_application) as (entry, edge):
        server = Server()
        call = asyncio.create_task(server.call(entry))
        await wait_until(lambda: server.sent)
        call.cancel()
        with pytest.raises(asyncio.CancelledError):
            await call
        assert edge.instance.active == 0
        await wait_until(lambda: not edge.instance.calls)


async def test_a_server_that_does_not_take_messages_holds_the_application_back() -> None:
    sent = 0

    async def app(scope: Any, receive: Any, send: Any) -> None:
        nonlocal sent
        assert scope["type"] == "websocket"
        await receive()
        await send({"type": "websocket.accept"})
        for _ in range(1000):
            await send({"type": "websocket.send", "bytes": b"x" * 4096})
            sent += 1

    async with entry_for(app) as (entry, _):
        server = Server()
        server.writable.clear()
        call = asyncio.create_task(server.call(entry))
        await wait_until(lambda: sent)
        await asyncio.sleep(0.1)
        assert sent < 30
        server.writable.set()
        await call
        assert len(server.sent) == 1002
        assert server.sent[-1]["type"] == "websocket.close"


async def test_a_service_that_does_not_take_messages_holds_the_server_back() -> None:
    async def script(connection: ScriptedConnection) -> None:
        head = await connection.read_until(b"\r\n\r\n")
        key = key_of(head)
        await connection.send(
            b"HTTP/1.1 101 x\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"
            b"Sec-WebSocket-Accept: %b\r\n\r\n" % accept_token(key)
        )
        connection.hold()
        await connection.wait_lost()

    async with (
        ScriptedUpstream(script, read_ahead_bytes=0) as upstream,
        entry_for(upstream.url) as (entry, edge),
    ):
        server = Server()
        call = asyncio.create_task(server.call(entry))
        await wait_until(lambda: server.sent)
        for _ in range(1000):
            server.receives(bytes=b"x" * 65_536)
        last = -1
        while (left := server.messages.qsize()) != last:
            last = left
            await asyncio.sleep(0.1)
        assert left > 500
        call.cancel()
        with pytest.raises(asyncio.CancelledError):
            await call
        upstream.connections[0].reset()
        await wait_until(lambda: edge.instance.active == 0)


async def test_policies_see_the_101_of_a_tunnel() -> None:
    seen: list[int] = []

    async def look(exchange: Exchange, response: Response) -> None:
        await asyncio.sleep(0.01)
        seen.append(response.status)
        response.headers.set("X-Seen", "1")

    hooks = (Hook("look", on_response=look),)
    async with entry_for(echo_application, hooks=hooks) as (entry, _):
        server = Server()
        call = asyncio.create_task(server.call(entry))
        await wait_until(lambda: server.sent)
        assert server.sent[0]["headers"] == [(b"x-seen", b"1")]
        server.receives(text="x")
        await wait_until(lambda: len(server.sent) == 2)
        server.loses(1000)
        await call
    assert seen == [101]
