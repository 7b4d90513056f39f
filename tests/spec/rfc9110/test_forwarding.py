"""What a service receives, byte by byte, and what a client gets back (RFC 9110 §7)."""

from __future__ import annotations

import re

import pytest
from tests.conftest import in_front_of

from nexgate.testing import RawClient, RecordingUpstream, canned


def forwarded(upstream: RecordingUpstream) -> list[bytes]:
    """The lines the service got, without those whose value differs from run to run."""
    return [line for line in upstream.last.lines if not line.startswith(b"X-Request-Id:")]


async def test_a_plain_request_is_passed_on_byte_for_byte(
    client: RawClient, upstream: RecordingUpstream
) -> None:
    await client.request(
        b"GET /a/b?x=1&y=%20&&z HTTP/1.1\r\nhOsT: example.com:8080\r\nX-Odd:   spaced \t\r\n"
        b"Accept:*/*\r\nEmpty:\r\nX-Bytes: \xe9\xff\r\nX-Odd: again\r\n\r\n"
    )
    assert forwarded(upstream) == [
        b"GET /a/b?x=1&y=%20&&z HTTP/1.1",
        b"Host: example.com:8080",
        b"X-Odd: spaced",
        b"Accept: */*",
        b"Empty: ",
        b"X-Bytes: \xe9\xff",
        b"X-Odd: again",
        b"X-Forwarded-For: 127.0.0.1",
        b"X-Forwarded-Proto: http",
        b"X-Forwarded-Host: example.com:8080",
        b"Via: 1.1 nexgate",
    ]


async def test_connection_fields_end_here(client: RawClient, upstream: RecordingUpstream) -> None:
    await client.request(
        b"GET / HTTP/1.1\r\nHost: a\r\nConnection: keep-alive, X-Private, authorization\r\n"
        b"Keep-Alive: timeout=5\r\nProxy-Connection: close\r\nX-Private: 1\r\nAuthorization: no\r\n"
        b"TE: gzip\r\nProxy-Authorization: secret\r\nHTTP2-Settings: AAMAAABkAAQAAP__\r\n"
        b"Upgrade: h2c\r\nX-Kept: 1\r\n\r\n"
    )
    names = {line.split(b":")[0].lower() for line in forwarded(upstream)[1:]}
    assert names == {
        b"host",
        b"x-kept",
        b"x-forwarded-for",
        b"x-forwarded-proto",
        b"x-forwarded-host",
        b"via",
    }


async def test_te_trailers_is_the_one_te_that_passes(
    client: RawClient, upstream: RecordingUpstream
) -> None:
    await client.request(
        b"GET / HTTP/1.1\r\nHost: a\r\nConnection: TE\r\nTE: trailers, deflate\r\n\r\n"
    )
    assert upstream.last.values("te") == ["trailers"]
    assert upstream.last.values("connection") == ["TE"]


@pytest.mark.parametrize(
    "name",
    ["X_Forwarded_For", "Transfer_Encoding", "Content_Length", "X_Custom", "_"],
)
async def test_names_with_underscores_are_dropped(
    name: str, client: RawClient, upstream: RecordingUpstream
) -> None:
    await client.request(f"GET / HTTP/1.1\r\nHost: a\r\n{name}: chunked\r\n\r\n".encode())
    assert upstream.last.values(name) == []


async def test_underscores_can_be_refused_or_allowed_but_never_pose_as_ours(
    upstream: RecordingUpstream,
) -> None:
    wire = b"GET / HTTP/1.1\r\nHost: a\r\nX_Mine: 1\r\nX_Forwarded_For: 6.6.6.6\r\n\r\n"
    async with (
        in_front_of(upstream.url, {"underscores": "reject"}) as served,
        RawClient(served.url) as client,
    ):
        assert (await client.request(wire)).status == 400
    async with (
        in_front_of(upstream.url, {"underscores": "allow"}) as served,
        RawClient(served.url) as client,
    ):
        await client.request(wire)
        assert upstream.last.values("X_Mine") == ["1"]
        assert upstream.last.values("X_Forwarded_For") == []


async def test_absolute_form_wins_over_host(client: RawClient, upstream: RecordingUpstream) -> None:
    await client.request(b"GET http://Other.example:81/p?q HTTP/1.1\r\nHost: example.com\r\n\r\n")
    assert upstream.last.lines[:2] == [b"GET /p?q HTTP/1.1", b"Host: Other.example:81"]
    await client.request(b"GET http://other.example HTTP/1.1\r\nHost: example.com\r\n\r\n")
    assert upstream.last.lines[:2] == [b"GET / HTTP/1.1", b"Host: other.example"]
    await client.request(b"GET http://other.example?q HTTP/1.1\r\nHost: example.com\r\n\r\n")
    assert upstream.last.lines[:2] == [b"GET /?q HTTP/1.1", b"Host: other.example"]


async def test_via_is_appended(client: RawClient, upstream: RecordingUpstream) -> None:
    await client.request(b"GET / HTTP/1.1\r\nHost: a\r\nVia: 1.0 fred, 1.1 p.example.net\r\n\r\n")
    assert upstream.last.values("via") == ["1.0 fred, 1.1 p.example.net, 1.1 nexgate"]


async def test_an_http10_request_is_forwarded_as_http11_and_answered_to_its_taste(
    client: RawClient, upstream: RecordingUpstream
) -> None:
    upstream.answer = canned(200, b"hello")
    response = await client.request(b"GET / HTTP/1.0\r\nHost: a\r\nConnection: keep-alive\r\n\r\n")
    assert response.value("connection") == "keep-alive"
    assert response.body == b"hello"
    assert upstream.last.lines[0] == b"GET / HTTP/1.1"
    assert upstream.last.values("via") == ["1.0 nexgate"]
    upstream.answer = (
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n"
    )
    response = await client.request(b"GET / HTTP/1.0\r\nHost: a\r\nConnection: keep-alive\r\n\r\n")
    assert response.body == b"hello"
    assert response.value("transfer-encoding") is None
    assert response.value("connection") == "close"


async def test_strangers_forwarded_fields_are_replaced(
    client: RawClient, upstream: RecordingUpstream
) -> None:
    await client.request(
        b"GET / HTTP/1.1\r\nHost: a\r\nX-Forwarded-For: 1.2.3.4\r\nForwarded: for=1.2.3.4\r\n"
        b"X-Forwarded-Proto: https\r\nX-Forwarded-Host: evil\r\nX-Real-IP: 1.2.3.4\r\n"
        b"X-Forwarded-Port: 1\r\nX-Original-URL: /admin\r\nX-Rewrite-URL: /admin\r\n\r\n"
    )
    assert upstream.last.values("x-forwarded-for") == ["127.0.0.1"]
    assert upstream.last.values("x-forwarded-proto") == ["http"]
    assert upstream.last.values("x-forwarded-host") == ["a"]
    for name in ("forwarded", "x-real-ip", "x-forwarded-port", "x-original-url", "x-rewrite-url"):
        assert upstream.last.values(name) == []


@pytest.mark.parametrize(
    ("mode", "sent", "expected"),
    [
        (
            "x-forwarded",
            b"X-Forwarded-For: 203.0.113.9, 10.0.0.2\r\nX-Forwarded-Proto: https\r\n",
            {"x-forwarded-for": "203.0.113.9, 10.0.0.2, 127.0.0.1", "x-forwarded-proto": "https"},
        ),
        (
            "rfc7239",
            b'Forwarded: for="[2001:db8::1]:4711";proto=https\r\n',
            {"forwarded": 'for="[2001:db8::1]:4711";proto=https, for=127.0.0.1;proto=http;host=a'},
        ),
        (
            "both",
            b"",
            {"x-forwarded-for": "127.0.0.1", "forwarded": "for=127.0.0.1;proto=http;host=a"},
        ),
        ("off", b"", {}),
    ],
)
async def test_trusted_proxies_are_believed_and_extended(
    mode: str, sent: bytes, expected: dict[str, str], upstream: RecordingUpstream
) -> None:
    section = {"trusted_proxies": ["127.0.0.0/8", "10.0.0.0/8"], "forwarded": mode}
    async with in_front_of(upstream.url, section) as served, RawClient(served.url) as client:
        await client.request(b"GET / HTTP/1.1\r\nHost: a\r\n" + sent + b"\r\n")
    for name, value in expected.items():
        assert upstream.last.values(name) == [value]
    if mode == "off":
        assert upstream.last.values("x-forwarded-for") == []


@pytest.mark.parametrize(
    ("fields", "client_address"),
    [
        (b"", "127.0.0.1"),
        (b"X-Forwarded-For: 203.0.113.9\r\n", "203.0.113.9"),
        (b"X-Forwarded-For: 6.6.6.6, 203.0.113.9, 10.1.1.1\r\n", "203.0.113.9"),
        (b"X-Forwarded-For: 6.6.6.6\r\nX-Forwarded-For: 203.0.113.9\r\n", "203.0.113.9"),
        (b"X-Forwarded-For: 203.0.113.9:4711\r\n", "203.0.113.9"),
        (b"X-Forwarded-For: [2001:db8::1]:4711\r\n", "2001:db8::1"),
        (b"X-Forwarded-For: unknown\r\n", "127.0.0.1"),
        (b"X-Forwarded-For: 203.0.113.9, garbage\r\n", "127.0.0.1"),
        (b'Forwarded: for=203.0.113.9;proto=https, for="10.2.2.2"\r\n', "203.0.113.9"),
        (b"Forwarded: for=_hidden, for=10.2.2.2\r\n", "10.2.2.2"),
        (b"Forwarded: for=203.0.113.9;;\r\n", "127.0.0.1"),
    ],
)
async def test_the_client_is_found_from_the_right(
    fields: bytes, client_address: str, upstream: RecordingUpstream
) -> None:
    from tests.conftest import gateway_to

    from nexgate import Response

    gateway = gateway_to(upstream.url, section={"trusted_proxies": ["127.0.0.0/8", "10.0.0.0/8"]})

    @gateway.filter()
    def tell(request):  # type: ignore[no-untyped-def]
        return Response(200, request.client)

    async with gateway.serving("127.0.0.1:0") as served, RawClient(served.url) as client:
        response = await client.request(b"GET / HTTP/1.1\r\nHost: a\r\n" + fields + b"\r\n")
        assert response.body.decode() == client_address


async def test_request_ids_are_new_unique_and_not_the_clients(
    client: RawClient, upstream: RecordingUpstream
) -> None:
    for _ in range(3):
        await client.request(b"GET / HTTP/1.1\r\nHost: a\r\nX-Request-Id: forged\r\n\r\n")
    ids = [r.values("x-request-id") for r in upstream.requests]
    assert all(len(i) == 1 and re.fullmatch(r"[0-9a-f]{10}-[0-9a-f]+", i[0]) for i in ids)
    assert len({i[0] for i in ids}) == 3


async def test_the_id_may_travel_in_another_field(upstream: RecordingUpstream) -> None:
    section = {"request_id": "X-Trace"}
    async with in_front_of(upstream.url, section) as served, RawClient(served.url) as client:
        await client.request(b"GET / HTTP/1.1\r\nHost: a\r\nX-Trace: forged\r\n\r\n")
    values = upstream.last.values("x-trace")
    assert len(values) == 1
    assert values != ["forged"]


async def test_a_trusted_request_id_is_kept_unless_it_is_odd(upstream: RecordingUpstream) -> None:
    section = {"request_id": {"trust": True}}
    async with in_front_of(upstream.url, section) as served, RawClient(served.url) as client:
        await client.request(b"GET / HTTP/1.1\r\nHost: a\r\nX-Request-Id: abc-1\r\n\r\n")
        assert upstream.last.values("x-request-id") == ["abc-1"]
        await client.request(b'GET / HTTP/1.1\r\nHost: a\r\nX-Request-Id: "x"{}\r\n\r\n')
        assert upstream.last.values("x-request-id") != ['"x"{}']


async def test_response_fields_pass_but_connection_fields_do_not(
    client: RawClient, upstream: RecordingUpstream
) -> None:
    upstream.answer = (
        b"HTTP/1.1 299 Very Custom\r\nServer: x\r\nSet-Cookie: a=1\r\nSet-Cookie: b=2\r\n"
        b"Connection: X-Hop\r\nX-Hop: 1\r\nKeep-Alive: timeout=3\r\nProxy-Authenticate: Basic\r\n"
        b'Alt-Svc: h2=":443"\r\nDate: Mon, 23 Nov 2026 00:00:00 GMT\r\nContent-Length: 2\r\n\r\nok'
    )
    for _ in range(2):  # the second time from what was remembered
        response = await client.request(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")
        assert (response.status, response.reason) == (299, "Very Custom")
        assert [(n.lower(), v) for n, v in response.headers] == [
            ("server", "x"),
            ("set-cookie", "a=1"),
            ("set-cookie", "b=2"),
            ("date", "Mon, 23 Nov 2026 00:00:00 GMT"),
            ("content-length", "2"),
        ]


async def test_a_missing_date_is_added(client: RawClient, upstream: RecordingUpstream) -> None:
    for _ in range(2):
        response = await client.request(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")
        assert len(response.values("date")) == 1


async def test_head_keeps_the_length_and_sends_no_content(
    client: RawClient, upstream: RecordingUpstream
) -> None:
    upstream.answer = canned(200, b"hello", [("Date", "x")])
    get = await client.request(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")
    for _ in range(2):
        head = await client.request(b"HEAD / HTTP/1.1\r\nHost: a\r\n\r\n")
        assert head.value("content-length") == "5"
        assert head.body == b""
    again = await client.request(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")
    assert get.body == again.body == b"hello"


async def test_304_may_tell_a_length(client: RawClient, upstream: RecordingUpstream) -> None:
    upstream.answer = b'HTTP/1.1 304 Not Modified\r\nETag: "x"\r\nContent-Length: 5\r\n\r\n'
    response = await client.request(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")
    assert response.status == 304
    assert response.value("content-length") == "5"
    assert (await client.request(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")).status == 304


async def test_the_host_can_be_the_instances_or_a_fixed_one(upstream: RecordingUpstream) -> None:
    wire = b"GET / HTTP/1.1\r\nHost: client.example\r\n\r\n"
    async with (
        in_front_of(upstream.url, host="instance") as served,
        RawClient(served.url) as client,
    ):
        await client.request(wire)
        assert upstream.last.values("host") == [f"127.0.0.1:{upstream.port}"]
        assert upstream.last.values("x-forwarded-host") == ["client.example"]
    async with (
        in_front_of(upstream.url, host="api.test") as served,
        RawClient(served.url) as client,
    ):
        await client.request(wire)
        assert upstream.last.values("host") == ["api.test"]


async def test_options_asterisk_and_max_forwards(
    client: RawClient, upstream: RecordingUpstream
) -> None:
    response = await client.request(b"OPTIONS * HTTP/1.1\r\nHost: a\r\n\r\n")
    assert response.status == 204
    response = await client.request(b"OPTIONS / HTTP/1.1\r\nHost: a\r\nMax-Forwards: 0\r\n\r\n")
    assert response.status == 204
    assert upstream.requests == []
    await client.request(b"OPTIONS / HTTP/1.1\r\nHost: a\r\nMax-Forwards: 3\r\n\r\n")
    assert upstream.last.values("max-forwards") == ["2"]


async def test_fields_of_one_request_do_not_leak_into_the_next(
    client: RawClient, upstream: RecordingUpstream
) -> None:
    """A connection remembers the fields it read last; what they were must always be what was
    sent.
    """
    for n in range(4):
        await client.request(f"GET /{n} HTTP/1.1\r\nHost: a\r\nX-N: {n % 2}\r\n\r\n".encode())
    await client.request(b"GET /plain HTTP/1.1\r\nHost: b\r\n\r\n")
    assert [r.values("x-n") for r in upstream.requests] == [["0"], ["1"], ["0"], ["1"], []]
    assert upstream.last.values("host") == ["b"]
    assert upstream.last.values("x-forwarded-host") == ["b"]
