"""An ASGI application as an instance: requests and answers, through our own edge."""

from __future__ import annotations

import asyncio
import json
import logging
from typing import Any

import pytest
from tests.unit.asgi.serving import answer, edge_for, only_http, read_body

from nexgate.errors import Cause
from nexgate.exchange import Exchange, Hook, Response
from nexgate.policies.rewrite import strip_prefix
from nexgate.testing import RawClient, wait_until
from nexgate.upstream import UpstreamTimeouts
from nexgate.upstream.balancer import PeakLatency

GET = b"GET / HTTP/1.1\r\nHost: example.com\r\n\r\n"


# -------------------------------------------------------------------- what the application sees


async def test_the_scope_tells_what_a_service_would_be_told() -> None:
    seen: list[Any] = []

    @only_http
    async def app(scope: Any, receive: Any, send: Any) -> None:
        seen.append(scope)
        await answer(send)

    async with edge_for(app) as edge, edge.client() as client:
        response = await client.request(
            b"GET /caf%C3%A9/a%20b?x=%20&y HTTP/1.1\r\nHost: Shop.example:8443\r\n"
            b"Accept: a\r\nAccept: b\r\nConnection: keep-alive, X-Mine\r\nX-Mine: 1\r\n"
            b"TE: gzip\r\nX-Forwarded-For: 6.6.6.6\r\nX-Request-Id: forged\r\n\r\n"
        )
    assert response.status == 200
    scope = seen[0]
    headers = scope.pop("headers")
    assert scope == {
        "type": "http",
        "asgi": {"version": "3.0", "spec_version": "2.4"},
        "http_version": "1.1",
        "method": "GET",
        "scheme": "http",
        "path": "/café/a b",
        "raw_path": b"/caf%C3%A9/a%20b",
        "query_string": b"x=%20&y",
        "root_path": "",
        "client": ("127.0.0.1", 0),
        "server": ("Shop.example", 8443),
        "state": {},
        "extensions": {"http.response.early_hint": {}},
    }
    request_id = dict(headers)[b"x-request-id"]
    assert request_id != b"forged"
    assert headers == [
        (b"host", b"Shop.example:8443"),
        (b"accept", b"a"),
        (b"accept", b"b"),
        (b"x-forwarded-for", b"127.0.0.1"),
        (b"x-forwarded-proto", b"http"),
        (b"x-forwarded-host", b"Shop.example:8443"),
        (b"via", b"1.1 nexgate"),
        (b"x-request-id", request_id),
    ]


@pytest.mark.parametrize(
    ("options", "root", "path", "raw"),
    [
        ({}, "/sh op", "/sh op/a b", b"/sh%20op/a%20b"),
        ({"root_path": ""}, "", "/a b", b"/a%20b"),
        ({"root_path": "/x"}, "/x", "/x/a b", b"/x/a%20b"),
    ],
)
async def test_a_prefix_that_the_route_takes_off_is_the_root_path(
    options: Any, root: str, path: str, raw: bytes
) -> None:
    seen: list[Any] = []

    @only_http
    async def app(scope: Any, receive: Any, send: Any) -> None:
        seen.append(scope)
        await answer(send)

    prepare = strip_prefix("/sh%20op")
    async with edge_for(app, prepare=prepare, **options) as edge:
        await edge.get("/sh%20op/a%20b", "X-Forwarded-Prefix: /evil")
    assert (seen[0]["root_path"], seen[0]["path"], seen[0]["raw_path"]) == (root, path, raw)
    assert dict(seen[0]["headers"])[b"x-forwarded-prefix"] == b"/sh%20op"


async def test_a_root_path_is_put_in_front_of_the_path() -> None:
    seen: list[Any] = []

    @only_http
    async def app(scope: Any, receive: Any, send: Any) -> None:
        seen.append(scope)
        await answer(send)

    async with edge_for(app, root_path="/shop/") as edge:
        await edge.get("/a%20b")
    assert (seen[0]["root_path"], seen[0]["path"]) == ("/shop", "/shop/a b")
    assert seen[0]["raw_path"] == b"/shop/a%20b"


def test_a_root_path_must_start_with_a_slash() -> None:
    from nexgate.upstream import AsgiInstance

    loop = asyncio.new_event_loop()
    try:
        with pytest.raises(ValueError, match="root_path"):
            AsgiInstance(only_http, "asgi:x", loop, service="s", root_path="shop")
    finally:
        loop.close()


@pytest.mark.parametrize(
    "framing",
    [
        b"Content-Length: 11\r\n\r\nhello world",
        b"Transfer-Encoding: chunked\r\n\r\n6\r\nhello \r\n5\r\nworld\r\n0\r\n\r\n",
    ],
    ids=["counted", "chunked"],
)
async def test_content_goes_in_and_out(framing: bytes) -> None:
    @only_http
    async def app(scope: Any, receive: Any, send: Any) -> None:
        names = [name for name, _ in scope["headers"]]
        assert b"transfer-encoding" not in names
        await answer(send, await read_body(receive))

    async with edge_for(app) as edge, edge.client() as client:
        for _ in range(2):
            response = await client.request(b"POST / HTTP/1.1\r\nHost: a\r\n" + framing)
            assert response.body == b"hello world"


async def test_content_is_passed_on_as_it_arrives() -> None:
    pieces: list[bytes] = []

    @only_http
    async def app(scope: Any, receive: Any, send: Any) -> None:
        while True:
            message = await receive()
            pieces.append(message["body"])
            if not message["more_body"]:
                break
        await answer(send)

    async with edge_for(app) as edge, edge.client() as client:
        await client.send(b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 4\r\n\r\nab")
        await wait_until(lambda: pieces == [b"ab"])
        await client.send(b"cd")
        assert (await client.read_response()).status == 200
    assert pieces == [b"ab", b"cd"]


async def test_100_continue_is_sent_when_the_application_asks_for_content() -> None:
    asked = asyncio.Event()

    @only_http
    async def app(scope: Any, receive: Any, send: Any) -> None:
        assert b"expect" not in [name for name, _ in scope["headers"]]
        await asked.wait()
        await answer(send, await read_body(receive))

    head = b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 2\r\nExpect: 100-continue\r\n\r\n"
    async with edge_for(app) as edge, edge.client() as client:
        await client.send(head)
        await asyncio.sleep(0.05)
        assert client.received_bytes == 0
        asked.set()
        assert await client.read_until(b"\r\n\r\n") == b"HTTP/1.1 100 Continue\r\n\r\n"
        await client.send(b"ok")
        assert (await client.read_response()).body == b"ok"


async def test_an_answer_without_reading_sends_no_100() -> None:
    @only_http
    async def app(scope: Any, receive: Any, send: Any) -> None:
        await answer(send, b"no", 403)

    head = b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 2\r\nExpect: 100-continue\r\n\r\n"
    async with edge_for(app) as edge, edge.client() as client:
        response = await client.request(head)
        assert (response.status, response.interim) == (403, [])


# -------------------------------------------------------------------- what the client gets


async def test_a_single_message_gets_a_content_length() -> None:
    @only_http
    async def app(scope: Any, receive: Any, send: Any) -> None:
        await answer(send, b"hello", 201, [(b"x-a", b"1"), (b"Connection", b"close")])

    async with edge_for(app) as edge, edge.client() as client:
        for _ in range(2):  # what the application thinks of the connection is not ours to obey
            response = await client.request(GET)
            assert (response.status, response.body) == (201, b"hello")
            assert response.value("content-length") == "5"
            assert response.values("x-a") == ["1"]
            assert response.values("connection") == []


async def test_a_stream_without_length_is_chunked_and_flows_at_once() -> None:
    go_on = asyncio.Event()

    @only_http
    async def app(scope: Any, receive: Any, send: Any) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b"", "more_body": True})
        await send({"type": "http.response.body", "body": b"one", "more_body": True})
        await go_on.wait()
        await send({"type": "http.response.body", "body": b"two", "more_body": True})
        await send({"type": "http.response.body"})

    async with edge_for(app) as edge, edge.client() as client:
        await client.send(GET)
        head = await client.read_until(b"\r\n\r\n")
        assert b"Transfer-Encoding: chunked\r\n" in head
        assert await client.read_exactly(8) == b"3\r\none\r\n"
        go_on.set()
        assert await client.read_exactly(13) == b"3\r\ntwo\r\n0\r\n\r\n"


async def test_a_declared_length_is_kept() -> None:
    @only_http
    async def app(scope: Any, receive: Any, send: Any) -> None:
        headers = [(b"content-length", b"6")]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": b"one", "more_body": True})
        await send({"type": "http.response.body", "body": b"two"})

    async with edge_for(app) as edge:
        response = await edge.get()
    assert (response.value("content-length"), response.body) == ("6", b"onetwo")


@pytest.mark.parametrize(
    ("method", "status", "length"),
    [("HEAD", 200, "5"), ("GET", 304, "5"), ("GET", 204, None), ("HEAD", 204, None)],
)
async def test_answers_without_content(method: str, status: int, length: str | None) -> None:
    @only_http
    async def app(scope: Any, receive: Any, send: Any) -> None:
        await answer(send, b"hello", status, [(b"content-length", b"5")])

    async with edge_for(app) as edge, edge.client() as client:
        for _ in range(2):
            request = f"{method} / HTTP/1.1\r\nHost: a\r\n\r\n".encode()
            response = await client.request(request)
            assert (response.status, response.body) == (status, b"")
            assert response.value("content-length") == length


async def test_trailers_reach_a_client_that_takes_them() -> None:
    @only_http
    async def app(scope: Any, receive: Any, send: Any) -> None:
        assert "http.response.trailers" in scope["extensions"]
        await send({"type": "http.response.start", "status": 200, "headers": [], "trailers": True})
        await send({"type": "http.response.body", "body": b"x"})
        await send(
            {
                "type": "http.response.trailers",
                "headers": [(b"x-sum", b"1"), (b"content-length", b"9")],
            }
        )

    async with edge_for(app) as edge:
        response = await edge.get("/", "TE: trailers", "Connection: TE")
    assert response.body == b"x"
    assert response.trailers == [("x-sum", "1")]


async def test_early_hints_are_interim_responses() -> None:
    @only_http
    async def app(scope: Any, receive: Any, send: Any) -> None:
        await send({"type": "http.response.early_hint", "links": [b"</a.css>; rel=preload"]})
        await answer(send)

    async with edge_for(app) as edge:
        response = await edge.get()
    assert [i.status for i in response.interim] == [103]
    assert response.interim[0].value("link") == "</a.css>; rel=preload"


async def test_an_upgrade_to_something_else_is_plain_http() -> None:
    @only_http
    async def app(scope: Any, receive: Any, send: Any) -> None:
        names = {name for name, _ in scope["headers"]}
        assert not names & {b"upgrade", b"connection"}
        await answer(send, b"plain")

    async with edge_for(app) as edge:
        response = await edge.get("/", "Connection: Upgrade", "Upgrade: irc/6.9")
    assert (response.status, response.body) == (200, b"plain")


# -------------------------------------------------------------------- applications that fail


async def silent(scope: Any, receive: Any, send: Any) -> None:
    pass


async def raises(scope: Any, receive: Any, send: Any) -> None:
    raise LookupError("a secret of the application")


async def raises_after_start(scope: Any, receive: Any, send: Any) -> None:
    await send({"type": "http.response.start", "status": 200, "headers": []})
    raise LookupError("a secret of the application")


async def cancels_itself(scope: Any, receive: Any, send: Any) -> None:
    raise asyncio.CancelledError


async def starts_twice(scope: Any, receive: Any, send: Any) -> None:
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.start", "status": 200, "headers": []})


async def sends_content_first(scope: Any, receive: Any, send: Any) -> None:
    await send({"type": "http.response.body", "body": b""})


async def injects(scope: Any, receive: Any, send: Any) -> None:
    await answer(send, b"", 200, [(b"x", b"a\r\nSet-Cookie: evil=1")])


async def names_badly(scope: Any, receive: Any, send: Any) -> None:
    await answer(send, b"", 200, [(b"x: y", b"a")])


async def counts_twice(scope: Any, receive: Any, send: Any) -> None:
    await answer(send, b"", 200, [(b"content-length", b"0"), (b"content-length", b"0")])


async def counts_in_words(scope: Any, receive: Any, send: Any) -> None:
    await answer(send, b"", 200, [(b"content-length", b"+0")])


async def has_an_odd_status(scope: Any, receive: Any, send: Any) -> None:
    await answer(send, b"", 101)


async def sends_too_much_at_once(scope: Any, receive: Any, send: Any) -> None:
    await answer(send, b"hello", 200, [(b"content-length", b"4")])


async def sends_too_little_at_once(scope: Any, receive: Any, send: Any) -> None:
    await answer(send, b"hello", 200, [(b"content-length", b"6")])


@pytest.mark.parametrize(
    "app",
    [
        silent,
        raises,
        raises_after_start,
        starts_twice,
        sends_content_first,
        injects,
        names_badly,
        counts_twice,
        counts_in_words,
        has_an_odd_status,
        sends_too_much_at_once,
        sends_too_little_at_once,
    ],
)
async def test_a_failure_before_any_content_is_a_problem(
    app: Any, caplog: pytest.LogCaptureFixture
) -> None:
    async with edge_for(only_http(app)) as edge, edge.client() as client:
        for _ in range(2):  # the connection lives on
            response = await client.request(GET)
            assert response.status == 500
            assert json.loads(response.body)["type"].endswith("/application-failed")
            assert b"secret" not in response.raw
            assert b"evil" not in response.raw
        assert [e.cause for e in edge.log] == [Cause.APP_FAILED] * 2
    messages = [r for r in caplog.records if r.levelno >= logging.ERROR]
    assert len(messages) == 2
    assert edge.log[0].id.decode() in messages[0].getMessage()
    assert (messages[0].exc_info is None) == (app is silent)


async def test_an_application_that_cancels_itself_is_not_waited_for() -> None:
    async with edge_for(only_http(cancels_itself)) as edge:
        assert (await edge.get()).status == 503


async def raises_within(send: Any) -> None:
    raise LookupError("half way")


async def returns_within(send: Any) -> None:
    pass


async def sends_too_much(send: Any) -> None:
    await send({"type": "http.response.body", "body": b"x" * 8})


async def sends_too_little(send: Any) -> None:
    await send({"type": "http.response.body", "body": b"x"})


@pytest.mark.parametrize("declared", [True, False], ids=["counted", "chunked"])
@pytest.mark.parametrize("end", [raises_within, returns_within, sends_too_much, sends_too_little])
async def test_a_failure_within_the_content_breaks_the_answer_off(
    end: Any, declared: bool, caplog: pytest.LogCaptureFixture
) -> None:
    @only_http
    async def app(scope: Any, receive: Any, send: Any) -> None:
        headers = [(b"content-length", b"10")] if declared else []
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": b"hello", "more_body": True})
        await end(send)

    async with edge_for(app) as edge:
        response = await edge.get()
        if not declared and end in (sends_too_much, sends_too_little):
            assert response.complete
            return
        assert not response.complete
        assert response.body == b"hello"
        assert edge.log[0].cause is Cause.APP_FAILED
    assert any(r.levelno >= logging.ERROR for r in caplog.records)


async def test_an_application_that_catches_its_mistake_may_still_answer() -> None:
    @only_http
    async def app(scope: Any, receive: Any, send: Any) -> None:
        with pytest.raises(ValueError):
            await answer(send, b"", 200, [(b"x", b"\n")])
        await answer(send, b"better", 400)

    async with edge_for(app) as edge:
        response = await edge.get()
    assert (response.status, response.body) == (400, b"better")


async def test_messages_after_the_answer_are_a_mistake() -> None:
    seen: list[str] = []

    @only_http
    async def app(scope: Any, receive: Any, send: Any) -> None:
        await answer(send)
        assert (await receive())["type"] == "http.disconnect"
        with pytest.raises(RuntimeError, match="after the answer"):
            await send({"type": "http.response.body", "body": b"more"})
        seen.append("raised")

    async with edge_for(app) as edge:
        assert (await edge.get()).status == 200
        await wait_until(lambda: seen)


# -------------------------------------------------------------------- time


async def test_an_application_that_does_not_answer_times_out() -> None:
    ended = asyncio.Event()

    @only_http
    async def app(scope: Any, receive: Any, send: Any) -> None:
        try:
            await asyncio.sleep(60)
        finally:
            ended.set()

    async with edge_for(app) as edge:
        edge.instance.timeouts = UpstreamTimeouts(first_byte=0.2)
        response = await edge.get()
        assert response.status == 504
        assert json.loads(response.body)["type"].endswith("/upstream-timeout")
        async with asyncio.timeout(2):
            await ended.wait()


async def test_waiting_for_a_slow_upload_is_not_the_applications_fault() -> None:
    @only_http
    async def app(scope: Any, receive: Any, send: Any) -> None:
        await answer(send, await read_body(receive))

    async with edge_for(app) as edge, edge.client() as client:
        edge.instance.timeouts = UpstreamTimeouts(first_byte=0.2)
        await client.send(b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 2\r\n\r\na")
        await asyncio.sleep(0.6)
        await client.send(b"b")
        assert (await client.read_response()).body == b"ab"


async def test_an_answer_that_stalls_is_broken_off() -> None:
    @only_http
    async def app(scope: Any, receive: Any, send: Any) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b"a", "more_body": True})
        await asyncio.sleep(60)

    async with edge_for(app) as edge:
        edge.instance.timeouts = UpstreamTimeouts(body=0.2)
        response = await edge.get()
        assert not response.complete
        assert edge.log[0].cause is Cause.UPSTREAM_STALLED


async def test_the_plans_timeouts_stand_over_the_services() -> None:
    @only_http
    async def app(scope: Any, receive: Any, send: Any) -> None:
        await asyncio.sleep(60)

    async with edge_for(app, plan={"timeouts": UpstreamTimeouts(first_byte=0.2)}) as edge:
        assert (await edge.get()).status == 504


# -------------------------------------------------------------------- policies


async def test_policies_see_and_change_the_answer() -> None:
    async def slowly(exchange: Exchange, response: Response) -> None:
        await asyncio.sleep(0.02)
        response.headers.set("X-Seen", str(response.status))

    @only_http
    async def app(scope: Any, receive: Any, send: Any) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})
        for _ in range(3):
            await send({"type": "http.response.body", "body": b"x" * 50_000, "more_body": True})
        await send({"type": "http.response.body"})

    async with edge_for(app, hooks=(Hook("slow", on_response=slowly),)) as edge:
        response = await edge.get()
    assert response.value("x-seen") == "200"
    assert response.body == b"x" * 150_000


@pytest.mark.parametrize("stream", [True, False], ids=["stream", "whole"])
async def test_a_policy_that_answers_otherwise_is_obeyed(stream: bool) -> None:
    ended: list[str] = []

    def replace(exchange: Exchange, response: Response) -> Response:
        return Response(418, b"mine")

    @only_http
    async def app(scope: Any, receive: Any, send: Any) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})
        if stream:
            with pytest.raises(OSError):  # what ASGI promises, no more
                while True:
                    await send({"type": "http.response.body", "body": b"x", "more_body": True})
        else:
            await send({"type": "http.response.body", "body": b"x"})
            await asyncio.sleep(0.3)  # in the background, which is its own business
        ended.append("regularly")

    async with edge_for(app, hooks=(Hook("replace", on_response=replace),)) as edge:
        response = await edge.get()
        assert (response.status, response.body) == (418, b"mine")
        await wait_until(lambda: ended)


async def test_the_instances_own_hook_sees_each_answer() -> None:
    @only_http
    async def app(scope: Any, receive: Any, send: Any) -> None:
        await answer(send, b"x")

    async with edge_for(app) as edge:
        edge.instance.on_response = lambda exchange, response: response.headers.set("X-I", "1")
        response = await edge.get()
        assert (response.value("x-i"), response.body) == ("1", b"x")


# -------------------------------------------------------------------- being an instance


async def test_requests_overlap_and_are_counted() -> None:
    here = asyncio.Event()
    active: list[int] = []

    async with edge_for(only_http(lambda *a: app(*a))) as edge:

        async def app(scope: Any, receive: Any, send: Any) -> None:
            active.append(edge.instance.active)
            if len(active) == 2:
                here.set()
            await here.wait()
            await answer(send, scope["path"].encode())

        one, two = await asyncio.gather(edge.get("/1"), edge.get("/2"))
        assert (one.body, two.body) == (b"/1", b"/2")
        assert max(active) == 2
        assert edge.instance.active == 0
        assert edge.instance.total_requests == 2
        assert [e.served_by for e in edge.log] == [("app", "asgi:tests:app")] * 2


async def test_health_changes_what_the_service_offers() -> None:
    @only_http
    async def app(scope: Any, receive: Any, send: Any) -> None:
        await answer(send)

    async with edge_for(app) as edge:
        edge.instance.set_healthy(False)
        assert (await edge.get()).status == 503
        edge.instance.set_healthy(True)
        assert (await edge.get()).status == 200


async def test_latency_is_measured_for_a_balancer_that_wants_it() -> None:
    @only_http
    async def app(scope: Any, receive: Any, send: Any) -> None:
        await asyncio.sleep(0.02)
        await answer(send)

    async with edge_for(app) as edge:
        await edge.get()
        edge.instance.latency = PeakLatency(10.0)
        await edge.get()
        assert 0.01 < edge.instance.latency.seconds < 1.0


async def test_pipelined_requests_are_answered_in_order() -> None:
    @only_http
    async def app(scope: Any, receive: Any, send: Any) -> None:
        await answer(send, scope["path"].encode())

    async with edge_for(app) as edge, RawClient(edge.url) as client:
        requests = [f"GET /{n} HTTP/1.1\r\nHost: a\r\n\r\n".encode() for n in range(20)]
        await client.send(b"".join(requests))
        bodies = [(await client.read_response()).body for _ in requests]
    assert bodies == [f"/{n}".encode() for n in range(20)]
