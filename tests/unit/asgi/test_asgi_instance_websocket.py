"""WebSockets between real clients and an application behind our edge."""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
from collections.abc import AsyncIterator
from typing import Any

import pytest
import websockets
from tests.unit.asgi.serving import Edge, answer, edge_for
from websockets.asyncio.client import ClientConnection
from websockets.asyncio.client import connect as connect_websocket

from nexgate.errors import Cause
from nexgate.exchange import Exchange, Hook, Response
from nexgate.http._websocket import accept_token
from nexgate.testing import wait_until
from nexgate.upstream import UpstreamTimeouts

KEY = b"dGhlIHNhbXBsZSBub25jZQ=="
HANDSHAKE = (
    b"GET /chat HTTP/1.1\r\nHost: example.com\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"
    b"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: " + KEY + b"\r\n\r\n"
)


def only_websocket(app: Any) -> Any:
    async def wrapped(scope: Any, receive: Any, send: Any) -> None:
        assert scope["type"] == "websocket"
        assert await receive() == {"type": "websocket.connect"}
        await app(scope, receive, send)

    return wrapped


async def accept(send: Any, **more: Any) -> None:
    await send({"type": "websocket.accept", **more})


@contextlib.asynccontextmanager
async def connected(edge: Edge, path: str = "/", **options: Any) -> AsyncIterator[ClientConnection]:
    options = {"compression": None, "ping_interval": None, "proxy": None, **options}
    async with connect_websocket(f"ws://127.0.0.1:{edge.port}{path}", **options) as client:
        yield client


@only_websocket
async def echo(scope: Any, receive: Any, send: Any) -> None:
    await accept(send)
    while True:
        message = await receive()
        if message["type"] == "websocket.disconnect":
            return
        await send({**message, "type": "websocket.send"})


# -------------------------------------------------------------------- messages


async def test_text_and_bytes_come_back() -> None:
    async with edge_for(echo) as edge, connected(edge) as client:
        for data in ("hello", b"\x00\xff", "", b"", "ü" * 70_000, b"x" * 1_000_000):
            await client.send(data)
            assert await client.recv() == data


async def test_fragments_arrive_as_one_message() -> None:
    async with edge_for(echo) as edge, connected(edge) as client:
        await client.send(["grü", "ß", "e"])
        assert await client.recv() == "grüße"


async def test_a_client_that_offers_compression_is_served_without() -> None:
    async with edge_for(echo) as edge, connected(edge, compression="deflate") as client:
        await client.send("a" * 1000)
        assert await client.recv() == "a" * 1000
        assert client.protocol.extensions == []


async def test_pings_are_answered_without_the_application() -> None:
    @only_websocket
    async def app(scope: Any, receive: Any, send: Any) -> None:
        await accept(send)
        await receive()

    async with edge_for(app) as edge, connected(edge) as client:
        async with asyncio.timeout(5):
            await (await client.ping(b"are you there"))


async def test_two_hundred_connections_do_not_mix() -> None:
    async with edge_for(echo) as edge:

        async def talk(name: str) -> None:
            async with connected(edge) as client:
                for n in range(5):
                    await client.send(f"{name}.{n}")
                    assert await client.recv() == f"{name}.{n}"

        await asyncio.gather(*(talk(str(n)) for n in range(200)))
        await wait_until(lambda: edge.instance.active == 0)
        assert edge.instance.total_requests == 200


async def test_many_small_messages_keep_their_order_under_back_pressure() -> None:
    """The application is slower than the client, and the client reads nothing until the end."""

    @only_websocket
    async def app(scope: Any, receive: Any, send: Any) -> None:
        await accept(send)
        for _ in range(20_000):
            message = await receive()
            await send({**message, "type": "websocket.send"})
        await send({"type": "websocket.close"})

    async with edge_for(app) as edge, connected(edge, max_queue=None) as client:
        for n in range(20_000):
            await client.send(str(n))
        assert [message async for message in client] == [str(n) for n in range(20_000)]


async def test_a_client_that_does_not_read_holds_the_application_back() -> None:
    sent = 0

    @only_websocket
    async def app(scope: Any, receive: Any, send: Any) -> None:
        nonlocal sent
        await accept(send)
        while True:
            await send({"type": "websocket.send", "bytes": b"x" * 16_384})
            sent += 16_384

    async with edge_for(app) as edge:
        async with edge.client(read_ahead_bytes=0, receive_buffer_bytes=4096) as client:
            await client.send(HANDSHAKE)
            await client.read_until(b"\r\n\r\n")
            last = -1
            while sent != last:
                last = sent
                await asyncio.sleep(0.1)
            assert sent < 8 * 1024 * 1024
        await wait_until(lambda: not edge.instance.calls)  # the lost client ends it


async def test_an_application_that_does_not_receive_holds_the_client_back() -> None:
    go_on = asyncio.Event()
    got = 0

    @only_websocket
    async def app(scope: Any, receive: Any, send: Any) -> None:
        nonlocal got
        await accept(send)
        await go_on.wait()
        while (message := await receive())["type"] == "websocket.receive":
            got += len(message["bytes"])

    total = 2000
    async with edge_for(app) as edge, connected(edge) as client:
        sent = 0

        async def flood() -> None:
            nonlocal sent
            for _ in range(total):
                await client.send(b"x" * 16_384)
                sent += 1

        task = asyncio.create_task(flood())
        last = -1
        while sent != last:
            last = sent
            await asyncio.sleep(0.1)
        assert sent < total
        assert got == 0
        go_on.set()
        await task
        await client.close()
        await wait_until(lambda: got == total * 16_384)


async def test_a_message_beyond_the_limit_closes_with_1009() -> None:
    ends: list[Any] = []

    @only_websocket
    async def app(scope: Any, receive: Any, send: Any) -> None:
        await accept(send)
        ends.append(await receive())

    async with edge_for(app) as edge:
        edge.instance.max_message_bytes = 1000
        async with connected(edge) as client:
            with contextlib.suppress(websockets.ConnectionClosed):
                await client.send("x" * 1001)
            await client.wait_closed()
            assert client.close_code == 1009
        await wait_until(lambda: ends)
    assert (ends[0]["type"], ends[0]["code"]) == ("websocket.disconnect", 1009)


# -------------------------------------------------------------------- handshake


async def test_the_scope_tells_the_handshake() -> None:
    seen: list[Any] = []

    @only_websocket
    async def app(scope: Any, receive: Any, send: Any) -> None:
        seen.append(scope)
        await accept(send, subprotocol="chat.v1", headers=[(b"X-Mine", b"1")])

    async with edge_for(app, root_path="/r") as edge:
        options = {"subprotocols": ["chat.v2", "chat.v1"], "origin": "https://a.example"}
        async with connected(edge, "/caf%C3%A9?x=1", **options) as client:
            assert client.subprotocol == "chat.v1"
            assert client.response is not None
            assert client.response.headers["X-Mine"] == "1"
    scope = seen[0]
    headers = dict(scope.pop("headers"))
    assert scope == {
        "type": "websocket",
        "asgi": {"version": "3.0", "spec_version": "2.4"},
        "http_version": "1.1",
        "scheme": "ws",
        "path": "/r/café",
        "raw_path": b"/r/caf%C3%A9",
        "query_string": b"x=1",
        "root_path": "/r",
        "client": ("127.0.0.1", 0),
        "server": ("127.0.0.1", edge.port),
        "subprotocols": ["chat.v2", "chat.v1"],
        "state": {},
        "extensions": {"websocket.http.response": {}},
    }
    assert headers[b"origin"] == b"https://a.example"
    assert headers[b"x-forwarded-for"] == b"127.0.0.1"


async def test_the_answer_on_the_wire() -> None:
    async with edge_for(echo) as edge, edge.client() as client:
        # The first frame comes together with the handshake.
        await client.send(HANDSHAKE + b"\x81\x82\x00\x00\x00\x00hi")
        response = await client.read_response()
        assert response.status == 101
        assert response.value("upgrade") == "websocket"
        assert response.value("connection") == "Upgrade"
        assert response.value("sec-websocket-accept") == accept_token(KEY).decode()
        assert await client.read_exactly(4) == b"\x81\x02hi"


def without(name: bytes) -> bytes:
    return b"\r\n".join(line for line in HANDSHAKE.split(b"\r\n") if not line.startswith(name))


@pytest.mark.parametrize(
    "request_head",
    [
        without(b"Sec-WebSocket-Key"),
        HANDSHAKE.replace(KEY, b"c2hvcnQ="),
        HANDSHAKE.replace(b"GET", b"POST"),
        HANDSHAKE.replace(b"\r\n\r\n", b"\r\nSec-WebSocket-Protocol: a b\r\n\r\n"),
        HANDSHAKE.replace(b"\r\n\r\n", b"\r\nContent-Length: 1\r\n\r\n") + b"x",
    ],
    ids=["no key", "short key", "POST", "subprotocol", "content"],
)
async def test_a_bad_handshake_never_reaches_the_application(request_head: bytes) -> None:
    async with edge_for(echo) as edge, edge.client() as client:
        response = await client.request(request_head)
        assert response.status == 400
        assert edge.log[0].cause is Cause.BAD_REQUEST
        assert not edge.instance.calls
        assert edge.instance.active == 0


@pytest.mark.parametrize(
    "request_head",
    [without(b"Sec-WebSocket-Version"), HANDSHAKE.replace(b"Version: 13", b"Version: 8")],
)
async def test_another_version_is_told_ours(request_head: bytes) -> None:
    async with edge_for(echo) as edge, edge.client() as client:
        response = await client.request(request_head)
        assert response.status == 400
        assert response.value("sec-websocket-version") == "13"
        assert json.loads(response.body)["detail"] == "the only WebSocket version is 13"
        assert (await client.request(HANDSHAKE)).status == 101  # on the same connection


async def test_websocket_among_other_protocols_is_one() -> None:
    async with edge_for(echo) as edge, edge.client() as client:
        head = HANDSHAKE.replace(b"Upgrade: websocket", b"Upgrade: irc, WebSocket")
        assert (await client.request(head)).status == 101


async def test_closing_before_accepting_is_403() -> None:
    ends: list[Any] = []

    @only_websocket
    async def app(scope: Any, receive: Any, send: Any) -> None:
        await send({"type": "websocket.close", "code": 4000})
        ends.append(await receive())

    async with edge_for(app) as edge, edge.client() as client:
        response = await client.request(HANDSHAKE)
        assert (response.status, response.body) == (403, b"")
        await wait_until(lambda: ends)
    assert (ends[0]["type"], ends[0]["code"]) == ("websocket.disconnect", 1006)


async def test_an_application_may_answer_the_handshake_with_a_response() -> None:
    @only_websocket
    async def app(scope: Any, receive: Any, send: Any) -> None:
        start = {"status": 401, "headers": [(b"www-authenticate", b"Bearer")]}
        await send({"type": "websocket.http.response.start", **start})
        body = {"body": b"who ", "more_body": True}
        await send({"type": "websocket.http.response.body", **body})
        await send({"type": "websocket.http.response.body", "body": b"are you?"})

    async with edge_for(app) as edge, edge.client() as client:
        for _ in range(2):
            response = await client.request(HANDSHAKE)
            assert (response.status, response.body) == (401, b"who are you?")
            assert response.value("www-authenticate") == "Bearer"


async def accepts_unoffered(scope: Any, receive: Any, send: Any) -> None:
    await accept(send, subprotocol="soap")


async def writes_the_handshake(scope: Any, receive: Any, send: Any) -> None:
    await accept(send, headers=[(b"Sec-WebSocket-Protocol", b"soap")])


async def sends_first(scope: Any, receive: Any, send: Any) -> None:
    await send({"type": "websocket.send", "text": "too early"})


async def answers_half(scope: Any, receive: Any, send: Any) -> None:
    await send({"type": "websocket.http.response.start", "status": 401, "headers": []})
    await accept(send)


async def raises(scope: Any, receive: Any, send: Any) -> None:
    raise LookupError("a secret")


async def returns(scope: Any, receive: Any, send: Any) -> None:
    pass


@pytest.mark.parametrize(
    "app",
    [accepts_unoffered, writes_the_handshake, sends_first, answers_half, raises, returns],
)
async def test_a_failure_before_accepting_is_a_problem(
    app: Any, caplog: pytest.LogCaptureFixture
) -> None:
    async with edge_for(only_websocket(app)) as edge, edge.client() as client:
        response = await client.request(HANDSHAKE)
        assert response.status == 500
        assert json.loads(response.body)["type"].endswith("/application-failed")
        assert (await client.request(HANDSHAKE)).status == 500
    assert len([r for r in caplog.records if r.levelno >= logging.ERROR]) == 2


async def test_an_application_that_does_not_answer_the_handshake_times_out() -> None:
    @only_websocket
    async def app(scope: Any, receive: Any, send: Any) -> None:
        await receive()

    async with edge_for(app) as edge, edge.client() as client:
        edge.instance.timeouts = UpstreamTimeouts(first_byte=0.2)
        assert (await client.request(HANDSHAKE)).status == 504


async def test_an_open_websocket_may_be_silent_for_longer_than_any_timeout() -> None:
    async with edge_for(echo) as edge:
        edge.instance.timeouts = UpstreamTimeouts(first_byte=0.1, body=0.1)
        async with connected(edge) as client:
            await asyncio.sleep(0.5)
            await client.send("still here")
            assert await client.recv() == "still here"


async def test_a_client_that_leaves_before_the_answer_is_told_to_the_application() -> None:
    started = asyncio.Event()
    ends: list[Any] = []

    @only_websocket
    async def app(scope: Any, receive: Any, send: Any) -> None:
        started.set()
        ends.append(await receive())
        with pytest.raises(OSError, match="client is gone"):
            await accept(send)
        ends.append("refused")

    async with edge_for(app) as edge:
        async with edge.client() as client:
            await client.send(HANDSHAKE)
            await started.wait()
        await wait_until(lambda: len(ends) == 2)
        assert ends[0]["code"] == 1006
        assert edge.log[0].status == 499


# -------------------------------------------------------------------- policies


async def test_policies_see_the_101_and_may_change_it() -> None:
    async def slowly(exchange: Exchange, response: Response) -> None:
        await asyncio.sleep(0.02)
        response.headers.set("X-Seen", str(response.status))

    hooks = (Hook("slow", on_response=slowly),)
    async with edge_for(echo, hooks=hooks) as edge, connected(edge) as client:
        assert client.response is not None
        assert client.response.headers["X-Seen"] == "101"
        await client.send("x")
        assert await client.recv() == "x"


async def test_a_policy_may_refuse_what_the_application_accepted() -> None:
    ends: list[str] = []

    def refuse(exchange: Exchange, response: Response) -> Response:
        return Response(451, b"no")

    @only_websocket
    async def app(scope: Any, receive: Any, send: Any) -> None:
        try:
            await accept(send)
        except OSError:
            ends.append("told")

    async with edge_for(app, hooks=(Hook("refuse", on_response=refuse),)) as edge:
        async with edge.client() as client:
            response = await client.request(HANDSHAKE)
            assert (response.status, response.body) == (451, b"no")
        await wait_until(lambda: ends)
        assert edge.instance.active == 0


async def test_an_application_that_ends_while_a_policy_looks_still_says_goodbye() -> None:
    async def slowly(exchange: Exchange, response: Response) -> None:
        await asyncio.sleep(0.2)

    @only_websocket
    async def app(scope: Any, receive: Any, send: Any) -> None:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(0.05):
                await accept(send)

    hooks = (Hook("slow", on_response=slowly),)
    async with edge_for(app, hooks=hooks) as edge, connected(edge) as client:
        await client.wait_closed()
        assert client.close_code == 1000


# -------------------------------------------------------------------- closing


async def test_the_clients_close_reaches_the_application() -> None:
    ends: list[Any] = []

    @only_websocket
    async def app(scope: Any, receive: Any, send: Any) -> None:
        await accept(send)
        await asyncio.sleep(0.3)  # longer than the grace: what was sent before is not lost
        ends.append(await receive())
        ends.append(await receive())
        with pytest.raises(OSError, match="client is gone"):
            await send({"type": "websocket.send", "text": "too late"})

    async with edge_for(app) as edge:
        edge.instance.disconnect_grace = 1.0
        async with connected(edge) as client:
            await client.send("last words")
            await client.close(4321, "bye")
            assert (client.close_code, client.close_reason) == (4321, "bye")
        await wait_until(lambda: len(ends) == 2)
    assert ends == [
        {"type": "websocket.receive", "text": "last words"},
        {"type": "websocket.disconnect", "code": 4321, "reason": "bye"},
    ]


async def test_the_applications_close_reaches_the_client() -> None:
    late: list[str] = []

    @only_websocket
    async def app(scope: Any, receive: Any, send: Any) -> None:
        await accept(send)
        await send({"type": "websocket.send", "text": "last words"})
        await send({"type": "websocket.close", "code": 4321, "reason": "bye"})
        with pytest.raises(RuntimeError, match="after"):
            await send({"type": "websocket.send", "text": "more"})
        assert (await receive())["code"] == 4321
        await asyncio.sleep(0.4)  # longer than the grace: leaving was its own idea
        late.append("cleaned up")

    async with edge_for(app) as edge:
        async with connected(edge) as client:
            assert await client.recv() == "last words"
            await client.wait_closed()
            assert (client.close_code, client.close_reason) == (4321, "bye")
        await wait_until(lambda: late)


@pytest.mark.parametrize(
    ("end", "code"), [("return", 1000), ("raise", 1011), ("bad code", 1011), ("cancel", 1001)]
)
async def test_an_application_that_ends_closes(
    end: str, code: int, caplog: pytest.LogCaptureFixture
) -> None:
    @only_websocket
    async def app(scope: Any, receive: Any, send: Any) -> None:
        await accept(send)
        await receive()
        if end == "raise":
            raise LookupError("a secret")
        if end == "bad code":
            await send({"type": "websocket.close", "code": 1006})
        if end == "cancel":
            raise asyncio.CancelledError

    async with edge_for(app) as edge, connected(edge) as client:
        await client.send("go")
        await client.wait_closed()
        assert client.close_code == code
        assert "secret" not in (client.close_reason or "")
    failed = [r for r in caplog.records if r.levelno >= logging.ERROR]
    assert len(failed) == (1 if code == 1011 else 0)


@pytest.mark.parametrize("how", ["reset", "half close"])
async def test_a_client_that_is_lost_is_1006(how: str) -> None:
    ends: list[Any] = []

    @only_websocket
    async def app(scope: Any, receive: Any, send: Any) -> None:
        await accept(send)
        ends.append(await receive())

    async with edge_for(app) as edge, edge.client() as client:
        assert (await client.request(HANDSHAKE)).status == 101
        if how == "reset":
            client.reset()
        else:
            client.half_close()
            assert await client.read_eof() == b""
        await wait_until(lambda: ends)
        await wait_until(lambda: edge.instance.active == 0)
    assert (ends[0]["type"], ends[0]["code"]) == ("websocket.disconnect", 1006)


async def test_an_application_that_does_not_notice_the_end_is_cancelled() -> None:
    ends: list[str] = []

    @only_websocket
    async def app(scope: Any, receive: Any, send: Any) -> None:
        await accept(send)
        try:
            await asyncio.sleep(60)
        except asyncio.CancelledError:
            ends.append("cancelled")
            raise

    async with edge_for(app) as edge:
        async with connected(edge):
            pass
        await wait_until(lambda: ends)


async def test_a_client_that_does_not_answer_our_close_is_not_waited_for_for_ever(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("nexgate.upstream._asgi._websocket.CLOSE_WAIT", 0.2)

    @only_websocket
    async def app(scope: Any, receive: Any, send: Any) -> None:
        await accept(send)

    async with edge_for(app) as edge, edge.client() as client:
        assert (await client.request(HANDSHAKE)).status == 101
        assert await client.read_eof() == b"\x88\x02\x03\xe8"
        await wait_until(lambda: edge.instance.active == 0)


async def test_rubbish_instead_of_frames_is_1002() -> None:
    ends: list[Any] = []

    @only_websocket
    async def app(scope: Any, receive: Any, send: Any) -> None:
        await accept(send)
        ends.append(await receive())

    async with edge_for(app) as edge, edge.client() as client:
        assert (await client.request(HANDSHAKE)).status == 101
        await client.send(b"GET / HTTP/1.1\r\n\r\n")
        assert (await client.read_eof())[:1] == b"\x88"
        await wait_until(lambda: ends)
    assert (ends[0]["type"], ends[0]["code"]) == ("websocket.disconnect", 1002)


async def test_closing_the_instance_says_1001() -> None:
    async with edge_for(echo) as edge, connected(edge) as client:
        await client.send("x")
        await client.recv()
        await edge.instance.aclose()
        await client.wait_closed()
        assert client.close_code == 1001
        assert not edge.instance.calls


async def test_an_http_request_to_the_same_application_is_http() -> None:
    async def app(scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] == "http":
            await answer(send, b"http")
        else:
            await echo(scope, receive, send)

    async with edge_for(app) as edge:
        assert (await edge.get()).body == b"http"
        async with connected(edge) as client:
            await client.send("ws")
            assert await client.recv() == "ws"
