"""Python functions on the exchanges: what they may do, and what becomes of their mistakes."""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest
from tests.scenarios.support import GET

from nexgate import Gateway, Request, Response
from nexgate.gateway import Served
from nexgate.testing import (
    ExpectHead,
    Hang,
    RawClient,
    RecordingUpstream,
    ScriptedUpstream,
    canned,
    wait_until,
)

POST = b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\nhello"
CHUNKED = (
    b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n"
    b"3\r\nhel\r\n2\r\nlo\r\n0\r\n\r\n"
)
CallNext = Callable[[Request], Any]


@pytest.fixture
async def upstream() -> AsyncIterator[RecordingUpstream]:
    async with RecordingUpstream(canned(body=b"from the service")) as server:
        yield server


def filtered(url: str, *filters: Callable[..., Any], **section: Any) -> Gateway:
    gateway = Gateway(**section)
    gateway.service("upstream", url)
    gateway.route("/*", "upstream", filters=filters)
    return gateway


async def nothing_is_left(served: Served) -> None:
    (instance,) = served.runtime.services["upstream"].instances.values()
    await wait_until(lambda: instance.active == 0)
    await wait_until(lambda: instance.connections == instance.idle_connections)
    assert instance.waiting == 0


def before_sync(request: Request) -> None:
    request.headers.set("X-By", "sync")


async def before_async(request: Request) -> None:
    await asyncio.sleep(0)
    request.headers.set("X-By", "async")


async def before_waiting(request: Request) -> None:
    await asyncio.sleep(0.02)
    request.headers.set("X-By", "waiting")


async def around(request: Request, call_next: CallNext) -> Response:
    request.headers.set("X-By", "around")
    response: Response = await call_next(request)
    return response


@pytest.mark.parametrize("body", [b"", POST, CHUNKED], ids=["no body", "counted", "chunked"])
@pytest.mark.parametrize("function", [before_sync, before_async, before_waiting, around])
async def test_a_filter_changes_the_request(
    upstream: RecordingUpstream, function: Callable[..., Any], body: bytes
) -> None:
    async with (
        filtered(upstream.url, function).serving("127.0.0.1:0") as served,
        RawClient(served.url) as client,
    ):
        for _ in range(3):
            response = await client.request(body or GET)
            assert (response.status, response.body) == (200, b"from the service")
            assert upstream.last.values("x-by") == [function.__name__.rpartition("_")[2]]
            assert upstream.last.body == (b"hello" if body else b"")
        await nothing_is_left(served)


def after_sync(request: Request, response: Response) -> None:
    response.headers.set("X-By", "sync")


async def after_async(request: Request, response: Response) -> None:
    await asyncio.sleep(0.01)
    response.headers.set("X-By", "async")


async def after_read(request: Request, response: Response) -> None:
    expected = b"" if request.method == "HEAD" else b"from the service"
    assert await response.read() == expected
    response.headers.set("X-By", "read")


async def after_replace(request: Request, response: Response) -> None:
    response.body = b"from the " + b"filter"
    response.headers.set("X-By", "replace")


async def around_replace(request: Request, call_next: CallNext) -> Response:
    response: Response = await call_next(request)
    text = (await response.read()).decode()
    return Response(response.status, text.replace("service", "filter"), {"X-By": "replace"})


@pytest.mark.parametrize("framing", ["counted", "chunked", "until close"])
@pytest.mark.parametrize(
    "function", [after_sync, after_async, after_read, after_replace, around_replace]
)
async def test_a_filter_changes_the_response(
    upstream: RecordingUpstream, function: Callable[..., Any], framing: str
) -> None:
    if framing == "chunked":
        upstream.answer = (
            b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
            b"4\r\nfrom\r\nc\r\n the service\r\n0\r\n\r\n"
        )
    elif framing == "until close":
        upstream.answer = b"HTTP/1.1 200 OK\r\nConnection: close\r\n\r\nfrom the service"
    expected = b"from the " + (b"filter" if "replace" in function.__name__ else b"service")
    async with (
        filtered(upstream.url, function).serving("127.0.0.1:0") as served,
        RawClient(served.url) as client,
    ):
        for _ in range(3):
            response = await client.request(GET)
            assert (response.status, response.body) == (200, expected)
            assert response.complete
            assert response.value("x-by") == function.__name__.rpartition("_")[2]
        head = await client.request(b"HEAD / HTTP/1.1\r\nHost: a\r\n\r\n")
        assert head.status == 200
        if framing == "counted" and function is not around_replace:
            # What a GET would get, whoever looked at the content that is not there.
            assert head.value("content-length") == str(len(expected))
        await nothing_is_left(served)


async def test_the_body_may_be_read_replaced_and_is_forwarded(upstream: RecordingUpstream) -> None:
    async def shout(request: Request) -> None:
        body = await request.body()
        assert await request.body() == body
        request.replace_body(body.upper() + b"!")

    async def look(request: Request) -> None:
        assert await request.body() == b"HELLO!"

    async with (
        filtered(upstream.url, shout, look).serving("127.0.0.1:0") as served,
        RawClient(served.url) as client,
    ):
        for wire in (POST, CHUNKED):
            assert (await client.request(wire)).status == 200
            assert upstream.last.body == b"HELLO!"
            assert upstream.last.values("content-length") == ["6"]
        # Slowly, and with an expectation that the filter's reading satisfies.
        await client.send(POST.replace(b"\r\n\r\nhello", b"\r\nExpect: 100-continue\r\n\r\n"))
        assert await client.read_until(b"\r\n\r\n") == b"HTTP/1.1 100 Continue\r\n\r\n"
        await client.send_slowly(b"hello")
        assert (await client.read_response()).status == 200
        assert upstream.last.body == b"HELLO!"
        await nothing_is_left(served)


async def test_a_body_beyond_the_limit_is_413_and_a_response_beyond_it_502(
    upstream: RecordingUpstream,
) -> None:
    async def read_both(request: Request, call_next: CallNext) -> Response:
        await request.body()
        response: Response = await call_next(request)
        await response.read()
        return response

    limits = {"max_buffered_body_bytes": 1000}
    async with (
        filtered(upstream.url, read_both, limits=limits).serving("127.0.0.1:0") as served,
        RawClient(served.url) as client,
        RawClient(served.url) as other,
    ):
        large = b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 2000\r\n\r\n" + b"x" * 2000
        response = await client.request(large)
        assert response.status == 413
        assert not upstream.requests
        upstream.answer = canned(body=b"y" * 5000)
        response = await other.request(GET)
        assert response.status == 502
        await nothing_is_left(served)


def raise_before(request: Request) -> None:
    raise RuntimeError("secret detail")


async def raise_before_async(request: Request) -> None:
    await asyncio.sleep(0)
    raise RuntimeError("secret detail")


def raise_after(request: Request, response: Response) -> None:
    raise RuntimeError("secret detail")


async def raise_after_async(request: Request, response: Response) -> None:
    await asyncio.sleep(0)
    raise RuntimeError("secret detail")


async def raise_around_first(request: Request, call_next: CallNext) -> Response:
    raise RuntimeError("secret detail")


async def raise_around_last(request: Request, call_next: CallNext) -> Response:
    await call_next(request)
    raise RuntimeError("secret detail")


def return_nonsense(request: Request) -> Any:
    return 42


async def return_nothing_around(request: Request, call_next: CallNext) -> Any:
    await call_next(request)


@pytest.mark.parametrize("wire", [GET, POST], ids=["GET", "POST"])
@pytest.mark.parametrize(
    "function",
    [
        raise_before,
        raise_before_async,
        raise_after,
        raise_after_async,
        raise_around_first,
        raise_around_last,
        return_nonsense,
        return_nothing_around,
    ],
)
async def test_a_filter_that_fails_is_500_and_named_in_the_log(
    upstream: RecordingUpstream,
    function: Callable[..., Any],
    wire: bytes,
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.ERROR, "nexgate")
    async with (
        filtered(upstream.url, function).serving("127.0.0.1:0") as served,
        RawClient(served.url) as client,
    ):
        for _ in range(2):
            response = await client.request(wire)
            assert response.status == 500
            problem = json.loads(response.body)
            assert problem["type"].endswith("/filter-failed")
            assert b"secret" not in response.body
        assert function.__name__ in caplog.text
        assert problem["request_id"] in caplog.text
        await nothing_is_left(served)


async def test_hooks_after_a_failed_one_still_run_and_see_the_problem(
    upstream: RecordingUpstream,
) -> None:
    seen: list[tuple[str, int]] = []

    def outer(request: Request, response: Response) -> None:
        seen.append(("outer", response.status))

    async def wrap(request: Request, call_next: CallNext) -> Response:
        response: Response = await call_next(request)
        seen.append(("wrap", response.status))
        return response

    async with (
        filtered(upstream.url, outer, wrap, raise_after).serving("127.0.0.1:0") as served,
        RawClient(served.url) as client,
    ):
        assert (await client.request(GET)).status == 500
        assert seen == [("wrap", 500), ("outer", 500)]


async def test_a_filter_answers_instead_of_the_service(upstream: RecordingUpstream) -> None:
    def gate(request: Request) -> Response | None:
        if request.headers.get("authorization") is None:
            return Response.problem(401, detail="who are you?")
        return None

    async with (
        filtered(upstream.url, gate).serving("127.0.0.1:0") as served,
        RawClient(served.url) as client,
    ):
        assert (await client.request(GET)).status == 401
        assert (await client.request(POST)).status == 401
        assert not upstream.requests
        allowed = GET.replace(b"\r\n\r\n", b"\r\nAuthorization: x\r\n\r\n")
        assert (await client.request(allowed)).status == 200


async def test_a_client_that_goes_away_cancels_the_filter_and_the_request() -> None:
    cancelled: list[str] = []

    async def patient(request: Request, call_next: CallNext) -> Response:
        try:
            response: Response = await call_next(request)
        except asyncio.CancelledError:
            cancelled.append(request.path)
            raise
        return response

    async with (
        ScriptedUpstream([ExpectHead(), Hang()]) as upstream,
        filtered(upstream.url, patient, timeouts={"half_close": "100ms"}).serving(
            "127.0.0.1:0"
        ) as served,
    ):
        async with RawClient(served.url) as client:
            await client.send(GET)
            await upstream.wait_for_connections(1)
        await wait_until(lambda: cancelled == ["/"])
        await upstream.wait_until_idle()
        await nothing_is_left(served)
        await wait_until(lambda: not served.runtime.edge.connections)


async def test_a_filter_that_gives_up_waiting_answers_and_releases_the_service() -> None:
    async def impatient(request: Request, call_next: CallNext) -> Response:
        try:
            async with asyncio.timeout(0.1):
                response: Response = await call_next(request)
        except TimeoutError:
            return Response(200, "an old answer")
        return response

    async with (
        ScriptedUpstream([ExpectHead(), Hang()]) as upstream,
        filtered(upstream.url, impatient).serving("127.0.0.1:0") as served,
        RawClient(served.url) as client,
    ):
        for _ in range(3):
            assert (await client.request(GET)).body == b"an old answer"
        await upstream.wait_until_idle()
        await nothing_is_left(served)


async def test_two_exchanges_in_one_filter_do_not_mix(upstream: RecordingUpstream) -> None:
    upstream.answer = lambda request: canned(body=request.target.encode())

    async def slow_first(request: Request, call_next: CallNext) -> Response:
        request.state["path"] = request.path
        await asyncio.sleep(0.05 if request.path == "/1" else 0.01)
        response: Response = await call_next(request)
        await asyncio.sleep(0.05 if request.path == "/2" else 0.01)
        response.headers.set("X-Path", request.state["path"])
        return response

    async with filtered(upstream.url, slow_first).serving("127.0.0.1:0") as served:

        async def ask(path: str) -> None:
            async with RawClient(served.url) as client:
                response = await client.request(f"GET {path} HTTP/1.1\r\nHost: a\r\n\r\n".encode())
                assert response.body.decode() == response.value("x-path") == path

        await asyncio.gather(*(ask(f"/{n}") for n in range(20)))
