"""What a route does with a request, from the client's bytes to the service's and back."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator

import pytest
from tests.scenarios.support import GET

from nexgate import Gateway
from nexgate.testing import RawClient, RawResponse, RecordingUpstream, canned


@pytest.fixture
async def upstream() -> AsyncIterator[RecordingUpstream]:
    async with RecordingUpstream(
        canned(body=b"ok", fields=[("Server", "origin"), ("X-Old", "1"), ("X-Gone", "1")])
    ) as server:
        yield server


async def ask(gateway: Gateway, target: str, method: str = "GET", fields: str = "") -> RawResponse:
    async with gateway.serving("127.0.0.1:0") as served, RawClient(served.url) as client:
        return await client.request(
            f"{method} {target} HTTP/1.1\r\nHost: example.com\r\n{fields}\r\n".encode()
        )


def gateway_for(upstream: RecordingUpstream, path: str, **route: object) -> Gateway:
    gateway = Gateway()
    gateway.service("upstream", upstream.url)
    gateway.route(path, "upstream", **route)
    return gateway


async def test_header_rules_in_their_order(upstream: RecordingUpstream) -> None:
    rules = {
        "rename": {"X-Old": "X-New"},
        "remove": ["X-Gone"],
        "default": {"X-Default": "d", "X-Kept": "d"},
        "set": {"X-Set": "s"},
        "add": {"X-Added": "2"},
    }
    gateway = gateway_for(upstream, "/*", request_headers=rules, response_headers=rules)
    response = await ask(
        gateway,
        "/",
        fields="X-Old: 1\r\nX-Gone: 1\r\nX-Kept: k\r\nX-Set: c\r\nX-Added: 1\r\n",
    )
    sent = upstream.last
    assert sent.values("x-old") == []
    assert sent.values("x-new") == ["1"]
    assert sent.values("x-gone") == []
    assert sent.values("x-default") == ["d"]
    assert sent.values("x-kept") == ["k"]
    assert sent.values("x-set") == ["s"]
    assert sent.values("x-added") == ["1", "2"]
    assert response.values("x-new") == ["1"]
    assert response.values("x-gone") == []
    assert response.values("x-set") == ["s"]
    assert response.body == b"ok"


@pytest.mark.parametrize(
    ("path", "route", "target", "seen"),
    [
        ("/api/*", {"strip_prefix": True}, "/api/a/b?c=d", "/a/b?c=d"),
        ("/api/*", {"strip_prefix": True}, "/api/", "/"),
        ("/api/v1/*", {"strip_prefix": "/api"}, "/api/v1/x", "/v1/x"),
        ("/old/{id}", {"rewrite": "/new/{id}"}, "/old/a%20b?q", "/new/a%20b?q"),
        ("/f/{rest:path}", {"rewrite": "/files/{rest}"}, "/f/a/b", "/files/a/b"),
        ("/*", {}, "/a/./b/../c", "/a/c"),
        ("/*", {}, "/%7Euser?x=%7E", "/~user?x=%7E"),
    ],
)
async def test_the_path_that_the_service_sees(
    upstream: RecordingUpstream, path: str, route: dict[str, object], target: str, seen: str
) -> None:
    response = await ask(gateway_for(upstream, path, **route), target)
    assert response.status == 200
    assert upstream.last.target == seen


async def test_redirects_and_fixed_answers() -> None:
    gateway = Gateway()
    gateway.route("/a/{rest:path}", redirect="https://example.org/{rest}")
    gateway.route("/b/{id}", redirect={"to": "/c/{id}", "status": 302, "keep_query": False})
    gateway.route("/d", respond=204)
    gateway.route("/e", respond={"status": 418, "body": "teapot", "headers": {"X-A": "b"}})
    moved = await ask(gateway, "/a/x/y?q=1")
    assert (moved.status, moved.value("location")) == (308, "https://example.org/x/y?q=1")
    found = await ask(gateway, "/b/7?q=1")
    assert (found.status, found.value("location")) == (302, "/c/7")
    assert (await ask(gateway, "/d")).status == 204
    teapot = await ask(gateway, "/e")
    assert (teapot.status, teapot.body, teapot.value("x-a")) == (418, b"teapot", "b")
    head = await ask(gateway, "/e", "HEAD")
    assert (head.body, head.value("content-length")) == (b"", "6")


async def test_405_names_what_is_allowed_and_options_is_answered() -> None:
    gateway = Gateway()
    gateway.route("/a", respond=200, methods=["GET", "POST"])
    response = await ask(gateway, "/a", "DELETE")
    assert response.status == 405
    allow = {m.strip() for m in (response.value("allow") or "").split(",")}
    assert allow >= {"GET", "HEAD", "POST"}
    options = await ask(gateway, "/a", "OPTIONS")
    assert (options.status, options.value("allow")) == (204, response.value("allow"))
    assert (await ask(gateway, "/b", "DELETE")).status == 404


@pytest.mark.parametrize(
    ("accept", "kind"),
    [
        ("", "application/problem+json"),
        ("Accept: */*\r\n", "application/problem+json"),
        ("Accept: application/json\r\n", "application/problem+json"),
        ("Accept: text/html,application/xhtml+xml,*/*;q=0.8\r\n", "text/html; charset=utf-8"),
        ("Accept: text/plain\r\n", "text/plain; charset=utf-8"),
    ],
)
async def test_problems_speak_the_clients_language(accept: str, kind: str) -> None:
    response = await ask(Gateway(), "/nowhere", fields=accept)
    assert response.status == 404
    assert response.value("content-type") == kind
    assert response.value("cache-control") == "no-store"
    if kind.endswith("json"):
        problem = json.loads(response.body)
        assert problem["type"].endswith("/no-route")
        assert problem["status"] == 404
        assert problem["request_id"]


async def test_explain_says_what_the_edge_does(upstream: RecordingUpstream) -> None:
    gateway = Gateway()
    gateway.service("upstream", upstream.url)
    gateway.route("/*", respond=404, name="rest")
    gateway.route("/a/*", "upstream", name="a", methods=["GET"])
    gateway.route("/a/{id:int}", "upstream", name="number", headers={"X-V": "2"})
    for method, target, fields, expected in (
        ("GET", "/a/7", [("X-V", "2")], "number"),
        ("GET", "/a/7", [], "a"),
        ("GET", "/b", [], "rest"),
    ):
        explanation = gateway.explain(method, f"http://example.com{target}", fields)
        assert explanation.matched is not None
        assert explanation.matched.name == expected
        lines = "".join(f"{name}: {value}\r\n" for name, value in fields)
        response = await ask(gateway, target, method, lines)
        assert response.status == (404 if expected == "rest" else 200)


async def test_two_reloads_at_once_end_in_the_later_one(upstream: RecordingUpstream) -> None:
    def version(number: int, service: str) -> Gateway:
        gateway = Gateway()
        gateway.service(service, upstream.url, health={"path": "/health", "interval": "20ms"})
        gateway.route("/*", service, response_headers={"set": {"X-Version": str(number)}})
        return gateway

    async with (
        version(0, "first").serving("127.0.0.1:0") as served,
        RawClient(served.url) as client,
    ):
        for number in range(1, 9, 2):
            # Both bring the same new service, and only one of them can be it.
            both = (version(number, f"new{number}"), version(number + 1, f"new{number}"))
            await asyncio.gather(*map(served.reload, both))
            response = await client.request(GET)
            assert response.value("x-version") == str(number + 1)
        assert list(served.runtime.services) == ["new7"]
    # Nothing of what was replaced goes on asking.
    await upstream.wait_until_idle()
    asked = len(upstream.requests)
    await asyncio.sleep(0.1)
    assert len(upstream.requests) == asked
