"""A scope read with the strictness of a head from the wire."""

from __future__ import annotations

from typing import Any

import pytest

from nexgate.edge._asgi._head import Mounted, mounted_path, read_head, read_target
from nexgate.errors import Cause, Refused
from nexgate.http import HeadLimits

LIMITS = HeadLimits()


# -------------------------------------------------------------------- where we are mounted


@pytest.mark.parametrize(
    ("path", "root", "raw", "expected"),
    [
        # not mounted
        ("/x", "", b"/x", ("", b"/x")),
        ("/a b", "", b"/a%20b", ("", b"/a%20b")),
        ("/x", "", None, ("", b"/x")),
        ("/a b/é%", "", None, ("", b"/a%20b/%C3%A9%25")),
        # ASGI, Starlette
        ("/api/x", "/api", b"/api/x", ("/api", b"/x")),
        ("/api", "/api", b"/api", ("/api", b"/")),
        ("/api/", "/api", b"/api/", ("/api", b"/")),
        ("/api//x", "/api", b"/api//x", ("/api", b"//x")),
        ("/api/a b", "/api", b"/api/a%20b", ("/api", b"/a%20b")),
        ("/é/x", "/é", b"/%C3%A9/x", ("/é", b"/x")),
        ("/api/api/x", "/api", b"/api/api/x", ("/api", b"/api/x")),
        ("/api/x", "/api", None, ("/api", b"/x")),
        ("/apis/x", "/api", b"/apis/x", ("", b"/apis/x")),
        # Nexios: the path has been cut already
        ("/x", "/api", b"/api/x", ("/api", b"/x")),
        ("/api/x", "/api", b"/api/api/x", ("/api", b"/api/x")),
        ("/", "/api", b"/api", ("/api", b"/")),
        # Litestar: and root_path does not say so
        ("/x", "", b"/api/x", ("/api", b"/x")),
        ("/x/", "", b"/api/x", ("/api", b"/x")),
        ("/x/", "", b"/api/x/", ("/api", b"/x/")),
        # a server that leaves the query in
        ("/x", "", b"/x?y=/z", ("", b"/x")),
        # a middleware has rewritten the path
        ("/new", "", b"/old", ("", b"/new")),
        ("/x/", "", b"/x", ("", b"/x/")),
        ("/api/new", "/api", b"/api/old", ("/api", b"/new")),
    ],
)
def test_the_mount_is_told_from_the_rest(
    path: str, root: str, raw: bytes | None, expected: tuple[str, bytes]
) -> None:
    scope: dict[str, Any] = {"path": path, "root_path": root}
    if raw is not None:
        scope["raw_path"] = raw
    assert mounted_path(scope) == Mounted(*expected)


def test_an_encoded_slash_is_not_the_end_of_a_prefix() -> None:
    with pytest.raises(Refused) as caught:
        mounted_path({"path": "/api/x", "root_path": "/api", "raw_path": b"/api%2Fx"})
    assert caught.value.cause is Cause.BAD_PATH


# -------------------------------------------------------------------- request line


def test_a_target_is_method_path_and_query() -> None:
    assert read_target("GET", b"/a", b"", LIMITS) == (b"GET", b"/a", None)
    assert read_target("PATCH", b"/a", b"x=%20", LIMITS) == (b"PATCH", b"/a", b"x=%20")
    assert read_target("OPTIONS", b"*", b"", LIMITS) == (b"OPTIONS", b"*", None)


@pytest.mark.parametrize(
    ("method", "query", "cause"),
    [
        ("G T", b"", Cause.BAD_REQUEST),
        ("GET\r\nX: y", b"", Cause.BAD_REQUEST),
        ("", b"", Cause.BAD_REQUEST),
        ("CONNECT", b"", Cause.NOT_IMPLEMENTED),
        ("TRACE", b"", Cause.NOT_IMPLEMENTED),
        ("GET", b"a b", Cause.BAD_REQUEST),
        ("GET", b"a\xff", Cause.BAD_REQUEST),
        ("GET", b"a" * 9000, Cause.URI_TOO_LONG),
    ],
)
def test_what_the_edge_refuses_is_refused(method: str, query: bytes, cause: Cause) -> None:
    with pytest.raises(Refused) as caught:
        read_target(method, b"/", query, LIMITS)
    assert caught.value.cause is cause


# -------------------------------------------------------------------- fields


def head_of(*pairs: tuple[bytes, bytes], version: str = "1.1", **scope: Any) -> Any:
    return read_head(list(pairs), {"http_version": version, **scope}, LIMITS)


HOST = (b"host", b"example.com")


def test_fields_are_read_as_from_the_wire() -> None:
    head = head_of(HOST, (b"X-A", b" 1 "), (b"content-length", b"7"), (b"expect", b"100-continue"))
    assert head.host == b"example.com"
    assert head.content_length == 7
    assert not head.expects_continue  # the server says it
    assert (b"x-a", b"1") in [(f.name, f.value) for f in head.fields]


@pytest.mark.parametrize(
    ("pairs", "cause"),
    [
        ([], Cause.BAD_REQUEST),
        ([HOST, HOST], Cause.BAD_REQUEST),
        ([(b"host", b"a b")], Cause.BAD_REQUEST),
        ([HOST, (b"x", b"a\r\nb: c")], Cause.BAD_REQUEST),
        ([HOST, (b"x", b"a\nb: c")], Cause.BAD_REQUEST),
        ([HOST, (b"x", b"a\0")], Cause.BAD_REQUEST),
        ([HOST, (b"x: y", b"z")], Cause.BAD_REQUEST),
        ([HOST, (b"x\r\ny", b"z")], Cause.BAD_REQUEST),
        ([HOST, (b"x ", b"z")], Cause.BAD_REQUEST),
        ([HOST, (b"", b"z")], Cause.BAD_REQUEST),
        ([HOST, (b":path", b"/")], Cause.BAD_REQUEST),
        ([HOST, (b"content-length", b"1"), (b"content-length", b"1")], Cause.BAD_FRAMING),
        ([HOST, (b"content-length", b"+1")], Cause.BAD_FRAMING),
        ([HOST, (b"content-length", b"1"), (b"transfer-encoding", b"chunked")], Cause.BAD_FRAMING),
        ([HOST, (b"transfer-encoding", b"gzip")], Cause.BAD_FRAMING),
        ([HOST, *[(b"x", b"y")] * 101], Cause.HEAD_TOO_LARGE),
        ([HOST, (b"x", b"y" * 40_000)], Cause.HEAD_TOO_LARGE),
    ],
)
def test_what_the_edge_refuses_in_fields_is_refused(pairs: Any, cause: Cause) -> None:
    with pytest.raises(Refused) as caught:
        head_of(*pairs)
    assert caught.value.cause is cause


def test_http_2_gets_its_authority_as_host() -> None:
    assert head_of((b":authority", b"a.example"), version="2").authority == b"a.example"
    assert head_of((b":authority", b"a"), (b"host", b"b"), version="2").authority == b"b"
    assert head_of(version="2", server=("h", 81)).authority == b"h:81"
    assert head_of(version="3", server=("::1", 81)).authority == b"[::1]:81"
    assert head_of(version="2", server=("h", None)).authority == b"h"
    assert head_of(version="2").authority == b"localhost"


def test_http_2_crumbs_become_one_cookie_field() -> None:
    head = head_of((b"cookie", b"a=1"), (b"x", b"y"), (b"cookie", b"b=2"), HOST, version="2")
    assert [f.value for f in head.fields if f.name == b"cookie"] == [b"a=1; b=2"]


@pytest.mark.parametrize("name", [b"connection", b"transfer-encoding"])
def test_http_2_has_no_fields_of_a_connection(name: bytes) -> None:
    with pytest.raises(Refused):
        head_of(HOST, (name, b"chunked"), version="2")


def test_http_1_0_may_have_no_host() -> None:
    head = head_of(version="1.0")
    assert head.http10
    assert head.authority == b""
