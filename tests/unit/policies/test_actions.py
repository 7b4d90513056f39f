"""What routes do: header rules, rewriting, redirects, fixed answers, splits, problems."""

from __future__ import annotations

import json
from typing import Any

import pytest

from nexgate import Gateway
from nexgate.testing import RawClient, RecordingUpstream, canned


def get(path: str, **headers: str) -> bytes:
    fields = "".join(f"{name.replace('_', '-')}: {value}\r\n" for name, value in headers.items())
    return f"GET {path} HTTP/1.1\r\nHost: a\r\n{fields}\r\n".encode()


async def test_header_rules_change_what_they_say_and_nothing_else(
    upstream: RecordingUpstream,
) -> None:
    upstream.answer = canned(200, b"", [("X-Old", "1"), ("Server", "x"), ("X-Kept", "1")])
    rules = {
        "rename": {"X-Old": "X-New"},
        "remove": ["X-Gone"],
        "default": {"X-Default": "d", "X-Kept": "not this"},
        "set": {"X-Set": "s"},
        "add": {"X-Add": "a"},
    }
    gateway = Gateway()
    gateway.service("s", upstream.url)
    gateway.route(
        "/*",
        "s",
        request_headers=rules,
        response_headers={**rules, "remove": ["Server"]},
    )
    async with gateway.serving("127.0.0.1:0") as served, RawClient(served.url) as client:
        for _ in range(2):
            response = await client.request(
                get("/", X_Old="1", X_Gone="1", X_Kept="1", X_Set="client", X_Add="client")
            )
            seen = upstream.last
            assert seen.values("x-old") == [] == seen.values("x-gone")
            assert seen.values("x-new") == ["1"]
            assert seen.values("x-default") == ["d"]
            assert seen.values("x-kept") == ["1"]
            assert seen.values("x-set") == ["s"]
            assert seen.values("x-add") == ["client", "a"]
            assert response.value("server") is None
            assert response.values("x-new") == ["1"]
            assert response.values("x-set") == ["s"]
            assert response.values("x-kept") == ["1"]


async def test_response_rules_reach_problems_too() -> None:
    gateway = Gateway()
    gateway.service("s", "http://127.0.0.1:1")
    gateway.route("/*", "s", response_headers={"set": {"X-Frame-Options": "DENY"}})
    async with gateway.serving("127.0.0.1:0") as served, RawClient(served.url) as client:
        response = await client.request(get("/"))
        assert response.status == 502
        assert response.value("x-frame-options") == "DENY"


@pytest.mark.parametrize(
    ("options", "sent", "seen"),
    [
        ({"path": "/api/*", "strip_prefix": True}, "/api/users?q=1", "/users?q=1"),
        ({"path": "/api/*", "strip_prefix": True}, "/api", "/"),
        ({"path": "/api/*", "strip_prefix": True}, "/api/", "/"),
        ({"path": "/api/v1/{id}", "strip_prefix": "/api"}, "/api/v1/7", "/v1/7"),
        ({"path": "/u/{id}", "rewrite": "/users/{id}/profile"}, "/u/a%20b", "/users/a%20b/profile"),
        ({"path": "/f/{rest:path}", "rewrite": "/files/{rest}"}, "/f/a/b/c", "/files/a/b/c"),
        ({"path": "/x/{id:int}", "rewrite": "/y/{id}"}, "/x/007?a", "/y/007?a"),
    ],
)
async def test_paths_are_changed_for_the_service(
    options: dict[str, Any], sent: str, seen: str, upstream: RecordingUpstream
) -> None:
    gateway = Gateway()
    gateway.service("s", upstream.url)
    gateway.route(options.pop("path"), "s", **options)
    async with gateway.serving("127.0.0.1:0") as served, RawClient(served.url) as client:
        for _ in range(2):
            assert (await client.request(get(sent))).status == 200
            assert upstream.last.target == seen
        if options.get("strip_prefix"):
            assert upstream.last.values("x-forwarded-prefix") == ["/api"]


@pytest.mark.parametrize(
    ("to", "path", "sent", "location"),
    [
        ("/new/{rest}", "/old/{rest:path}", "/old/a/b?x=1", "/new/a/b?x=1"),
        ("https://example.com/{id}", "/i/{id}", "/i/a%2Bb", "https://example.com/a%2Bb"),
        ("/{rest}", "/go/{rest:path}", "/go/evil.example/x", "/evil.example/x"),
        ("/a?b=1", "/x", "/x?c=2", "/a?b=1&c=2"),
    ],
)
async def test_redirects(to: str, path: str, sent: str, location: str) -> None:
    gateway = Gateway()
    gateway.route(path, redirect=to)
    async with gateway.serving("127.0.0.1:0") as served, RawClient(served.url) as client:
        response = await client.request(get(sent))
        assert response.status == 308
        assert response.value("location") == location


async def test_a_redirect_never_leads_to_another_host_by_accident() -> None:
    gateway = Gateway(path={"merge_slashes": False})
    gateway.route("/go/{rest:path}", redirect="/{rest}")
    async with gateway.serving("127.0.0.1:0") as served, RawClient(served.url) as client:
        response = await client.request(get("/go//evil.example/"))
        assert response.value("location") == "/evil.example/"


async def test_fixed_answers() -> None:
    gateway = Gateway()
    gateway.route("/hello", respond={"body": "hello", "headers": {"X-A": "1"}})
    gateway.route("/gone", respond=410)
    async with gateway.serving("127.0.0.1:0") as served, RawClient(served.url) as client:
        response = await client.request(get("/hello"))
        assert (response.status, response.body) == (200, b"hello")
        assert response.value("content-type") == "text/plain; charset=utf-8"
        assert response.value("x-a") == "1"
        head = await client.request(b"HEAD /hello HTTP/1.1\r\nHost: a\r\n\r\n")
        assert (head.body, head.value("content-length")) == (b"", "5")
        assert (await client.request(get("/gone"))).status == 410


async def test_a_split_keeps_its_shares(upstream: RecordingUpstream) -> None:
    async with RecordingUpstream() as other:
        gateway = Gateway()
        gateway.service("old", upstream.url)
        gateway.service("new", other.url)
        gateway.route(
            "/*", split=[{"service": "old", "weight": 80}, {"service": "new", "weight": 20}]
        )
        async with gateway.serving("127.0.0.1:0") as served, RawClient(served.url) as client:
            for _ in range(500):
                await client.request(get("/"))
        assert 50 < len(other.requests) < 160
        assert len(upstream.requests) + len(other.requests) == 500


@pytest.mark.parametrize(
    ("accept", "kind"),
    [
        (None, "application/problem+json"),
        ("*/*", "application/problem+json"),
        ("application/json", "application/problem+json"),
        ("text/html,application/xhtml+xml,*/*;q=0.8", "text/html; charset=utf-8"),
        ("application/json, text/html", "application/problem+json"),
        ("text/plain", "text/plain; charset=utf-8"),
    ],
)
async def test_problems_come_in_the_form_asked_for(accept: str | None, kind: str) -> None:
    gateway = Gateway()
    gateway.route("/x", respond=204)
    async with gateway.serving("127.0.0.1:0") as served, RawClient(served.url) as client:
        response = await client.request(get("/nope", **({"Accept": accept} if accept else {})))
        assert response.status == 404
        assert response.value("content-type") == kind
        if "json" in kind:
            problem = json.loads(response.body)
            assert problem["type"] == "https://nexgate.dev/problems/no-route"
            assert problem["status"] == 404
            assert problem["site"] == "gateway"
            assert problem["request_id"]


async def test_405_tells_what_is_allowed_and_options_is_answered() -> None:
    gateway = Gateway()
    gateway.route("/x", methods=["GET"], respond=204)
    gateway.route("/x", methods=["POST"], respond=201)
    async with gateway.serving("127.0.0.1:0") as served, RawClient(served.url) as client:
        response = await client.request(b"DELETE /x HTTP/1.1\r\nHost: a\r\n\r\n")
        assert response.status == 405
        assert response.value("allow") == "GET, HEAD, POST"
        response = await client.request(b"OPTIONS /x HTTP/1.1\r\nHost: a\r\n\r\n")
        assert (response.status, response.value("allow")) == (204, "GET, HEAD, POST")


async def test_predicates_choose_between_routes_of_one_path() -> None:
    gateway = Gateway()
    gateway.route("/x", respond={"body": "plain"})
    gateway.route("/x", headers={"X-Version": "2"}, respond={"body": "header"})
    gateway.route("/x", query={"beta": True}, respond={"body": "query"})
    gateway.route("/x", cookies={"group": {"regex": "[ab]"}}, respond={"body": "cookie"})
    gateway.route("/x", host="*.example.com", respond={"body": "host"})
    async with gateway.serving("127.0.0.1:0") as served, RawClient(served.url) as client:
        for wire, body in [
            (get("/x"), b"plain"),
            (get("/x", X_Version="2"), b"header"),
            (get("/x", X_Version="3"), b"plain"),
            (get("/x?beta"), b"query"),
            (get("/x", Cookie="group=a"), b"cookie"),
            (get("/x", Cookie="group=c"), b"plain"),
            (b"GET /x HTTP/1.1\r\nHost: API.example.com:80\r\n\r\n", b"host"),
        ]:
            assert (await client.request(wire)).body == body
