"""Filters: before, after, around; sync and async; what they may change, and when they fail."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator
from typing import Any

import pytest
from tests.conftest import gateway_to

from nexgate import Cause, ConfigError, Gateway, Refused, Request, Response
from nexgate.gateway import Served
from nexgate.testing import RawClient, RecordingUpstream, canned, wait_until

GET = b"GET /a HTTP/1.1\r\nHost: a\r\n\r\n"
POST = b'POST /a HTTP/1.1\r\nHost: a\r\nContent-Length: 9\r\n\r\n{"a": 12}'


@contextlib.asynccontextmanager
async def talking_to(gateway: Gateway) -> AsyncIterator[tuple[Served, RawClient]]:
    async with gateway.serving("127.0.0.1:0") as served, RawClient(served.url) as client:
        yield served, client


async def test_they_run_in_order_and_responses_pass_them_in_reverse(
    upstream: RecordingUpstream,
) -> None:
    gateway = gateway_to(upstream.url)
    seen: list[str] = []

    @gateway.filter()
    def first(request: Request) -> None:
        seen.append("first before")

    @gateway.filter()
    async def second(request: Request, call_next: Any) -> Response:
        seen.append("second before")
        response = await call_next(request)
        seen.append("second after")
        return response

    @gateway.filter()
    async def third(request: Request) -> None:
        await asyncio.sleep(0)
        seen.append("third before")

    @gateway.filter()
    def fourth(request: Request, response: Response) -> None:
        seen.append("fourth after")

    @gateway.filter()
    async def fifth(request: Request, response: Response) -> None:
        await asyncio.sleep(0)
        seen.append("fifth after")

    async with talking_to(gateway) as (_, client):
        assert (await client.request(GET)).status == 200
    assert seen == [
        "first before",
        "second before",
        "third before",
        "fifth after",
        "fourth after",
        "second after",
    ]


async def test_a_filter_is_for_the_paths_it_names(upstream: RecordingUpstream) -> None:
    gateway = gateway_to(upstream.url)

    @gateway.filter("/admin/*")
    def deny(request: Request) -> Response:
        return Response.problem(403, detail="no")

    async with talking_to(gateway) as (_, client):
        for path, status in [
            ("/admin", 403),
            ("/admin/x", 403),
            ("/administrator", 200),
            ("/", 200),
        ]:
            response = await client.request(f"GET {path} HTTP/1.1\r\nHost: a\r\n\r\n".encode())
            assert response.status == status, path
        # Not around it by another spelling, either.
        for path in ("/%61dmin/x", "//admin/x", "/x/../admin/x", "/./admin"):
            response = await client.request(f"GET {path} HTTP/1.1\r\nHost: a\r\n\r\n".encode())
            assert response.status == 403, path


async def test_headers_can_be_changed_both_ways(upstream: RecordingUpstream) -> None:
    gateway = gateway_to(upstream.url)
    upstream.answer = canned(200, b"hi", [("X-Service", "1")])

    @gateway.filter()
    def before(request: Request) -> None:
        request.headers["X-Added"] = "1"
        request.headers.remove("Accept")

    @gateway.filter()
    def after(request: Request, response: Response) -> None:
        del response.headers["X-Service"]
        response.headers["X-Gateway"] = "1"
        response.status = 202

    async with talking_to(gateway) as (_, client):
        for _ in range(3):  # what the connection remembers must not be changed with it
            response = await client.request(
                b"GET / HTTP/1.1\r\nHost: a\r\nAccept: x\r\nX-Kept: 1\r\n\r\n"
            )
            assert (response.status, response.reason) == (202, "Accepted")
            assert response.value("x-gateway") == "1"
            assert response.value("x-service") is None
            assert upstream.last.values("x-added") == ["1"]
            assert upstream.last.values("accept") == []
            assert upstream.last.values("x-kept") == ["1"]


async def test_no_value_can_inject_a_line(upstream: RecordingUpstream) -> None:
    gateway = gateway_to(upstream.url)

    @gateway.filter()
    def inject(request: Request) -> None:
        request.headers["X-Evil"] = "a\r\nX-Injected: 1"

    async with talking_to(gateway) as (_, client):
        assert (await client.request(GET)).status == 500
    assert upstream.requests == []


@pytest.mark.parametrize("kind", ["sync", "async", "around", "after", "wrong type"])
async def test_one_that_raises_is_a_500_with_its_name_in_the_log(
    kind: str, upstream: RecordingUpstream, caplog: pytest.LogCaptureFixture
) -> None:
    gateway = gateway_to(upstream.url)

    def sync(request: Request) -> None:
        raise ZeroDivisionError("sync")

    async def asynchronous(request: Request) -> None:
        await asyncio.sleep(0)
        raise ZeroDivisionError("async")

    async def around(request: Request, call_next: Any) -> Response:
        await call_next(request)
        raise ZeroDivisionError("around")

    def after(request: Request, response: Response) -> None:
        raise ZeroDivisionError("after")

    def wrong_type(request: Request) -> Any:
        return "text"

    chosen: Any = {
        "sync": sync,
        "async": asynchronous,
        "around": around,
        "after": after,
        "wrong type": wrong_type,
    }[kind]
    gateway.filter()(chosen)
    async with talking_to(gateway) as (served, client):
        for _ in range(3):
            response = await client.request(GET)
            assert response.status == 500
            problem = json.loads(response.body)
            assert problem["type"].endswith("/filter-failed")
            assert "ZeroDivision" not in response.body.decode()
        assert chosen.__name__ in caplog.text
        instance = next(iter(served.runtime.services["upstream"].instances.values()))
        await wait_until(lambda: instance.active == 0)
        assert instance.waiting == 0


async def test_refused_is_the_problem_it_names(upstream: RecordingUpstream) -> None:
    gateway = gateway_to(upstream.url)

    @gateway.filter()
    async def refuse(request: Request) -> None:
        raise Refused(Cause.MISDIRECTED, "not here")

    async with talking_to(gateway) as (_, client):
        response = await client.request(GET)
        assert response.status == 421
        assert b"not here" in response.body


async def test_a_body_is_read_and_still_forwarded(upstream: RecordingUpstream) -> None:
    gateway = gateway_to(upstream.url)
    seen: list[Any] = []

    @gateway.filter()
    async def read(request: Request) -> None:
        seen.append(await request.json())

    async with talking_to(gateway) as (_, client):
        await client.request(POST)
        assert upstream.last.body == b'{"a": 12}'
        assert upstream.last.values("content-length") == ["9"]
        await client.send(POST[:-3])
        await asyncio.sleep(0.02)
        await client.send(POST[-3:])
        await client.read_response()
        assert upstream.last.body == b'{"a": 12}'
        await client.request(
            b"POST /a HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n"
            b'9\r\n{"a": 12}\r\n0\r\n\r\n'
        )
        assert upstream.last.body == b'{"a": 12}'
    assert seen == [{"a": 12}] * 3


async def test_a_body_can_be_replaced(upstream: RecordingUpstream) -> None:
    gateway = gateway_to(upstream.url)

    @gateway.filter()
    async def replace(request: Request) -> None:
        request.replace_body((await request.body()).upper())

    async with talking_to(gateway) as (_, client):
        for wire in (
            POST,
            (
                b"POST /a HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n"
                b"3\r\nabc\r\n0\r\n\r\n"
            ),
        ):
            await client.request(wire)
            assert upstream.last.body == upstream.last.body.upper() != b""
            assert upstream.last.values("content-length") == [str(len(upstream.last.body))]
            assert upstream.last.values("transfer-encoding") == []


async def test_a_body_beyond_the_buffer_is_413(upstream: RecordingUpstream) -> None:
    gateway = gateway_to(upstream.url, section={"limits": {"max_buffered_body_bytes": "1KiB"}})

    @gateway.filter()
    async def read(request: Request) -> None:
        await request.body()

    async with talking_to(gateway) as (_, client):
        response = await client.request(
            b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 2000\r\n\r\n" + bytes(2000)
        )
        assert response.status == 413
    assert upstream.requests == []


async def test_expect_continue_is_answered_when_a_filter_wants_the_body(
    upstream: RecordingUpstream,
) -> None:
    gateway = gateway_to(upstream.url)

    @gateway.filter()
    async def read(request: Request) -> None:
        await request.body()

    async with talking_to(gateway) as (_, client):
        await client.send(
            b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 2\r\nExpect: 100-continue\r\n\r\n"
        )
        assert (await client.read_until(b"\r\n\r\n")).startswith(b"HTTP/1.1 100")
        await client.send(b"ok")
        assert (await client.read_response()).status == 200
        assert upstream.last.body == b"ok"
        assert upstream.last.values("expect") == []


async def test_a_response_can_be_read_and_replaced(upstream: RecordingUpstream) -> None:
    gateway = gateway_to(upstream.url)

    @gateway.filter()
    async def upper(request: Request, call_next: Any) -> Response:
        response = await call_next(request)
        response.body = (await response.read()).upper()
        return response

    async with talking_to(gateway) as (_, client):
        for answer in (
            canned(200, b"hello"),
            (
                b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
                b"3\r\nhel\r\n2\r\nlo\r\n0\r\n\r\n"
            ),
            b"HTTP/1.1 200 OK\r\nConnection: close\r\n\r\nhello",
        ):
            upstream.answer = answer
            response = await client.request(GET)
            assert response.body == b"HELLO"
            assert response.value("content-length") == "5"


async def test_a_response_beyond_the_buffer_is_502(upstream: RecordingUpstream) -> None:
    gateway = gateway_to(upstream.url, section={"limits": {"max_buffered_body_bytes": "1KiB"}})
    upstream.answer = canned(200, bytes(5000))

    @gateway.filter()
    async def read(request: Request, response: Response) -> None:
        await response.read()

    async with talking_to(gateway) as (_, client):
        assert (await client.request(GET)).status == 502


async def test_state_and_parameters_reach_later_filters(upstream: RecordingUpstream) -> None:
    gateway = Gateway()
    gateway.service("s", upstream.url)
    gateway.route("/users/{user_id:int}/{rest:path}", "s", name="users")
    seen: list[Any] = []

    @gateway.filter()
    def first(request: Request) -> None:
        request.state["user"] = "ada"

    @gateway.filter()
    def second(request: Request) -> None:
        seen.append((request.state["user"], request.path_params, request.route, request.method))
        seen.append((request.query, request.cookies, request.host, request.scheme, request.client))

    async with talking_to(gateway) as (_, client):
        await client.request(
            b"GET /users/42/a%20b?x=1&x=2&y=%C3%A9 HTTP/1.1\r\nHost: Ex.com:80\r\n"
            b'Cookie: a=1; b="2"\r\n\r\n'
        )
    assert seen == [
        ("ada", {"user_id": 42, "rest": "a b"}, "users", "GET"),
        ({"x": "2", "y": "é"}, {"a": "1", "b": "2"}, "ex.com", "http", "127.0.0.1"),
    ]


async def test_a_client_that_leaves_cancels_the_filter(upstream: RecordingUpstream) -> None:
    gateway = gateway_to(upstream.url, section={"timeouts": {"half_close": 0}})
    cancelled = asyncio.Event()

    @gateway.filter()
    async def wait(request: Request) -> None:
        try:
            await asyncio.sleep(60)
        except asyncio.CancelledError:
            cancelled.set()
            raise

    async with gateway.serving("127.0.0.1:0") as served:
        async with RawClient(served.url) as client:
            await client.send(GET)
            await wait_until(lambda: any(c.exchange for c in served.runtime.edge.connections))
        await asyncio.wait_for(cancelled.wait(), 3)
    assert upstream.requests == []


async def test_filters_also_see_what_no_route_takes(upstream: RecordingUpstream) -> None:
    gateway = Gateway()
    gateway.service("s", upstream.url)
    gateway.route("/known", "s")

    @gateway.filter()
    def mark(request: Request, response: Response) -> None:
        response.headers["X-Seen"] = str(response.status)

    async with talking_to(gateway) as (_, client):
        assert (await client.request(GET)).value("x-seen") == "404"


def test_parameters_that_say_nothing_are_a_configuration_error() -> None:
    gateway = Gateway()
    gateway.route("/", respond=204)
    gateway.filter()(lambda a, b, c: None)
    with pytest.raises(ConfigError, match="cannot be used as a filter"):
        gateway.build()


async def test_a_filter_decides_about_an_upgrade_too(upstream: RecordingUpstream) -> None:
    gateway = gateway_to(upstream.url)

    @gateway.filter()
    def deny(request: Request) -> Response | None:
        return Response(401) if request.is_upgrade else None

    async with talking_to(gateway) as (_, client):
        response = await client.request(
            b"GET / HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"
            b"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n\r\n"
        )
        assert response.status == 401
    assert upstream.requests == []
