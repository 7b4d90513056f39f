"""What RFC 9112 says must be rejected is answered with an error and a close, and no byte of it
reaches a service.
"""

from __future__ import annotations

import asyncio

import pytest

from nexgate.gateway import Served
from nexgate.testing import RawClient, RecordingUpstream

H = b"Host: example.com\r\n"

# (name, bytes on the wire, expected status). Sections are RFC 9112's unless said otherwise.
REFUSED: list[tuple[str, bytes, int]] = [
    # §2.2 line ends and control characters
    ("bare LF as line end", b"GET / HTTP/1.1\nHost: example.com\n\n", 400),
    ("bare LF in the fields", b"GET / HTTP/1.1\r\nHost: example.com\nX: y\r\n\r\n", 400),
    ("bare CR in a value", b"GET / HTTP/1.1\r\n" + H + b"X: a\rY: b\r\n\r\n", 400),
    ("bare CR before LF is doubled", b"GET / HTTP/1.1\r\r\n" + H + b"\r\n", 400),
    ("NUL in a value", b"GET / HTTP/1.1\r\n" + H + b"X: a\x00b\r\n\r\n", 400),
    ("NUL in the target", b"GET /\x00 HTTP/1.1\r\n" + H + b"\r\n", 400),
    ("DEL in a value", b"GET / HTTP/1.1\r\n" + H + b"X: a\x7fb\r\n\r\n", 400),
    ("white space before the first field", b"GET / HTTP/1.1\r\n X: y\r\n" + H + b"\r\n", 400),
    ("two empty lines before the request", b"\r\n\r\nGET / HTTP/1.1\r\n" + H + b"\r\n", 400),
    # §3 request line
    ("two spaces after the method", b"GET  / HTTP/1.1\r\n" + H + b"\r\n", 400),
    ("tab in the request line", b"GET\t/ HTTP/1.1\r\n" + H + b"\r\n", 400),
    ("space at the end of the request line", b"GET / HTTP/1.1 \r\n" + H + b"\r\n", 400),
    ("space in the target", b"GET /a b HTTP/1.1\r\n" + H + b"\r\n", 400),
    ("no version", b"GET /\r\n" + H + b"\r\n", 400),
    ("lower-case version", b"GET / http/1.1\r\n" + H + b"\r\n", 400),
    ("version 1.1.1", b"GET / HTTP/1.1.1\r\n" + H + b"\r\n", 400),
    ("version 01.1", b"GET / HTTP/01.1\r\n" + H + b"\r\n", 400),
    ("version 1.2", b"GET / HTTP/1.2\r\n" + H + b"\r\n", 505),
    ("version 0.9", b"GET / HTTP/0.9\r\n" + H + b"\r\n", 505),
    ("version 2.0", b"PRI * HTTP/2.0\r\n\r\n", 505),
    ("a method with a slash", b"GE/T / HTTP/1.1\r\n" + H + b"\r\n", 400),
    ("an empty method", b" / HTTP/1.1\r\n" + H + b"\r\n", 400),
    ("a method in UTF-8", "GÉT / HTTP/1.1\r\n".encode() + H + b"\r\n", 400),
    # §3.2 target
    ("a relative target", b"GET index.html HTTP/1.1\r\n" + H + b"\r\n", 400),
    ("a fragment", b"GET /a#b HTTP/1.1\r\n" + H + b"\r\n", 400),
    ("a fragment in the query", b"GET /a?b#c HTTP/1.1\r\n" + H + b"\r\n", 400),
    ("a backslash", b"GET /a\\b HTTP/1.1\r\n" + H + b"\r\n", 400),
    ("raw UTF-8 in the path", "GET /é HTTP/1.1\r\n".encode() + H + b"\r\n", 400),
    ("raw UTF-8 in the query", "GET /?é HTTP/1.1\r\n".encode() + H + b"\r\n", 400),
    ("asterisk with GET", b"GET * HTTP/1.1\r\n" + H + b"\r\n", 400),
    ("another scheme", b"GET ftp://example.com/ HTTP/1.1\r\n" + H + b"\r\n", 400),
    ("absolute form with user info", b"GET http://u@example.com/ HTTP/1.1\r\n" + H + b"\r\n", 400),
    ("absolute form without host", b"GET http:///x HTTP/1.1\r\n" + H + b"\r\n", 400),
    ("absolute form, no Host field", b"GET http://example.com/ HTTP/1.1\r\n\r\n", 400),
    ("CONNECT", b"CONNECT example.com:443 HTTP/1.1\r\n" + H + b"\r\n", 501),
    ("TRACE", b"TRACE / HTTP/1.1\r\n" + H + b"\r\n", 501),
    # §3.2 Host
    ("no Host", b"GET / HTTP/1.1\r\n\r\n", 400),
    ("no Host, but another field", b"GET / HTTP/1.1\r\nX: y\r\n\r\n", 400),
    ("two Hosts", b"GET / HTTP/1.1\r\n" + H + H + b"\r\n", 400),
    ("two different Hosts", b"GET / HTTP/1.1\r\n" + H + b"Host: evil\r\n\r\n", 400),
    ("two Hosts on HTTP/1.0", b"GET / HTTP/1.0\r\n" + H + H + b"\r\n", 400),
    ("an empty Host", b"GET / HTTP/1.1\r\nHost:\r\n\r\n", 400),
    ("a list in Host", b"GET / HTTP/1.1\r\nHost: a, b\r\n\r\n", 400),
    ("a space in Host", b"GET / HTTP/1.1\r\nHost: a b\r\n\r\n", 400),
    ("a slash in Host", b"GET / HTTP/1.1\r\nHost: a/b\r\n\r\n", 400),
    ("user info in Host", b"GET / HTTP/1.1\r\nHost: u@a\r\n\r\n", 400),
    ("a bad port in Host", b"GET / HTTP/1.1\r\nHost: a:b\r\n\r\n", 400),
    ("a port too large", b"GET / HTTP/1.1\r\nHost: a:65536\r\n\r\n", 400),
    ("an empty port", b"GET / HTTP/1.1\r\nHost: a:\r\n\r\n", 400),
    ("an open bracket in Host", b"GET / HTTP/1.1\r\nHost: [::1\r\n\r\n", 400),
    # §5 field lines
    ("space before the colon", b"GET / HTTP/1.1\r\n" + H + b"X : y\r\n\r\n", 400),
    (
        "space before Content-Length's colon",
        b"POST / HTTP/1.1\r\n" + H + b"Content-Length : 1\r\n\r\na",
        400,
    ),
    ("no colon", b"GET / HTTP/1.1\r\n" + H + b"X\r\n\r\n", 400),
    ("an empty name", b"GET / HTTP/1.1\r\n" + H + b": y\r\n\r\n", 400),
    ("a name in UTF-8", b"GET / HTTP/1.1\r\n" + H + "É: y\r\n\r\n".encode(), 400),
    ("a name with a NUL", b"GET / HTTP/1.1\r\n" + H + b"X\x00: y\r\n\r\n", 400),
    ("folding with a space", b"GET / HTTP/1.1\r\n" + H + b"X: a\r\n b\r\n\r\n", 400),
    ("folding with a tab", b"GET / HTTP/1.1\r\n" + H + b"X: a\r\n\tb\r\n\r\n", 400),
    (
        "a folded Transfer-Encoding",
        b"POST / HTTP/1.1\r\n" + H + b"Transfer-Encoding:\r\n chunked\r\n\r\n0\r\n\r\n",
        400,
    ),
    # §6.1 Transfer-Encoding
    (
        "CL and TE",
        b"POST / HTTP/1.1\r\n"
        + H
        + b"Content-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        400,
    ),
    (
        "TE and CL",
        b"POST / HTTP/1.1\r\n"
        + H
        + b"Transfer-Encoding: chunked\r\nContent-Length: 0\r\n\r\n0\r\n\r\n",
        400,
    ),
    (
        "TE on HTTP/1.0",
        b"POST / HTTP/1.0\r\n" + H + b"Transfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        400,
    ),
    ("TE identity", b"POST / HTTP/1.1\r\n" + H + b"Transfer-Encoding: identity\r\n\r\n", 400),
    (
        "TE identity, chunked",
        b"POST / HTTP/1.1\r\n" + H + b"Transfer-Encoding: identity, chunked\r\n\r\n0\r\n\r\n",
        400,
    ),
    (
        "TE chunked, identity",
        b"POST / HTTP/1.1\r\n" + H + b"Transfer-Encoding: chunked, identity\r\n\r\n0\r\n\r\n",
        400,
    ),
    (
        "TE chunked with a comma before",
        b"POST / HTTP/1.1\r\n" + H + b"Transfer-Encoding: ,chunked\r\n\r\n0\r\n\r\n",
        400,
    ),
    (
        "TE chunked with a comma after",
        b"POST / HTTP/1.1\r\n" + H + b"Transfer-Encoding: chunked,\r\n\r\n0\r\n\r\n",
        400,
    ),
    (
        "TE chunked twice in a list",
        b"POST / HTTP/1.1\r\n" + H + b"Transfer-Encoding: chunked, chunked\r\n\r\n0\r\n\r\n",
        400,
    ),
    (
        "TE chunked in two fields",
        b"POST / HTTP/1.1\r\n"
        + H
        + b"Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        400,
    ),
    (
        "TE with an unknown coding",
        b"POST / HTTP/1.1\r\n" + H + b"Transfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n",
        501,
    ),
    ("TE without chunked", b"POST / HTTP/1.1\r\n" + H + b"Transfer-Encoding: gzip\r\n\r\n", 400),
    (
        "TE xchunked",
        b"POST / HTTP/1.1\r\n" + H + b"Transfer-Encoding: xchunked\r\n\r\n0\r\n\r\n",
        400,
    ),
    (
        "TE in quotes",
        b"POST / HTTP/1.1\r\n" + H + b'Transfer-Encoding: "chunked"\r\n\r\n0\r\n\r\n',
        400,
    ),
    (
        "TE with a parameter",
        b"POST / HTTP/1.1\r\n" + H + b"Transfer-Encoding: chunked;q=1\r\n\r\n0\r\n\r\n",
        400,
    ),
    (
        "TE with a vertical tab",
        b"POST / HTTP/1.1\r\n" + H + b"Transfer-Encoding: \x0bchunked\r\n\r\n0\r\n\r\n",
        400,
    ),
    (
        "TE with a no-break space",
        b"POST / HTTP/1.1\r\n" + H + b"Transfer-Encoding: chunked\xa0\r\n\r\n0\r\n\r\n",
        400,
    ),
    ("an empty TE", b"POST / HTTP/1.1\r\n" + H + b"Transfer-Encoding:\r\n\r\n", 400),
    # §6.2 Content-Length
    (
        "two equal CLs",
        b"POST / HTTP/1.1\r\n" + H + b"Content-Length: 1\r\nContent-Length: 1\r\n\r\na",
        400,
    ),
    (
        "two different CLs",
        b"POST / HTTP/1.1\r\n" + H + b"Content-Length: 1\r\nContent-Length: 2\r\n\r\na",
        400,
    ),
    ("a list of CLs", b"POST / HTTP/1.1\r\n" + H + b"Content-Length: 1, 1\r\n\r\na", 400),
    ("CL with a plus", b"POST / HTTP/1.1\r\n" + H + b"Content-Length: +1\r\n\r\na", 400),
    ("CL with a minus", b"POST / HTTP/1.1\r\n" + H + b"Content-Length: -1\r\n\r\na", 400),
    ("CL with an underscore", b"POST / HTTP/1.1\r\n" + H + b"Content-Length: 1_0\r\n\r\na", 400),
    ("CL in hexadecimal", b"POST / HTTP/1.1\r\n" + H + b"Content-Length: 0x1\r\n\r\na", 400),
    ("CL with a fraction", b"POST / HTTP/1.1\r\n" + H + b"Content-Length: 1.0\r\n\r\na", 400),
    (
        "CL in Arabic digits",
        b"POST / HTTP/1.1\r\n" + H + b"Content-Length: \xd9\xa1\r\n\r\na",
        400,
    ),
    (
        "CL in superscript",
        b"POST / HTTP/1.1\r\n" + H + b"Content-Length: \xb2\r\n\r\na",
        400,
    ),
    (
        "CL of 2**64",
        b"POST / HTTP/1.1\r\n" + H + b"Content-Length: 18446744073709551616\r\n\r\n",
        400,
    ),
    (
        "CL with 5,000 digits",
        b"POST / HTTP/1.1\r\n" + H + b"Content-Length: " + b"1" * 5000 + b"\r\n\r\n",
        400,
    ),
    ("an empty CL", b"POST / HTTP/1.1\r\n" + H + b"Content-Length:\r\n\r\n", 400),
    ("CL beyond the limit", b"POST / HTTP/1.1\r\n" + H + b"Content-Length: 104857601\r\n\r\n", 413),
    # RFC 9110
    ("an unknown expectation", b"GET / HTTP/1.1\r\n" + H + b"Expect: the-unexpected\r\n\r\n", 417),
    ("Connection is not a list", b"GET / HTTP/1.1\r\n" + H + b"Connection: a b\r\n\r\n", 400),
    ("a malformed Max-Forwards", b"OPTIONS / HTTP/1.1\r\n" + H + b"Max-Forwards: x\r\n\r\n", 400),
    # paths that two readers could read in two ways
    ("climbing above the root", b"GET /../etc HTTP/1.1\r\n" + H + b"\r\n", 400),
    ("climbing, encoded", b"GET /%2e%2e/etc HTTP/1.1\r\n" + H + b"\r\n", 400),
    ("an encoded slash", b"GET /a%2fb HTTP/1.1\r\n" + H + b"\r\n", 400),
    ("an encoded backslash", b"GET /a%5cb HTTP/1.1\r\n" + H + b"\r\n", 400),
    ("double encoding", b"GET /a/%252e%252e/b HTTP/1.1\r\n" + H + b"\r\n", 400),
    ("an encoded NUL", b"GET /a%00 HTTP/1.1\r\n" + H + b"\r\n", 400),
    ("an encoded line end", b"GET /a%0d%0aX:%20y HTTP/1.1\r\n" + H + b"\r\n", 400),
    ("a dot segment with parameters", b"GET /a/..;/b HTTP/1.1\r\n" + H + b"\r\n", 400),
    ("a broken percent-encoding", b"GET /a%zz HTTP/1.1\r\n" + H + b"\r\n", 400),
    # limits
    ("a long target", b"GET /" + b"a" * 8192 + b" HTTP/1.1\r\n" + H + b"\r\n", 414),
    ("an endless target", b"GET /" + b"a" * 70000, 414),
    ("a large head", b"GET / HTTP/1.1\r\n" + H + b"X: " + b"a" * 40000 + b"\r\n\r\n", 431),
    ("an endless head", b"GET / HTTP/1.1\r\n" + H + b"X: a\r\n" * 20000, 431),
    ("too many fields", b"GET / HTTP/1.1\r\n" + H + b"X: a\r\n" * 100 + b"\r\n", 431),
    # not HTTP
    ("a TLS hello", b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(64), 400),
    ("a line of noise", b"\xff\xfe\xfd\r\n\r\n", 400),
]

FOLLOWED = b"GET /followed HTTP/1.1\r\nHost: example.com\r\n\r\n"


@pytest.mark.parametrize(("wire", "status"), [r[1:] for r in REFUSED], ids=[r[0] for r in REFUSED])
async def test_refused_and_closed_and_nothing_reaches_the_service(
    wire: bytes, status: int, served: Served, upstream: RecordingUpstream
) -> None:
    async with RawClient(served.url) as client:
        await client.send(wire)
        response = await client.read_response()
        assert response.status == status
        assert response.value("content-type") == "application/problem+json"
        assert response.value("connection") == "close"
        # Whatever is on the connection after a message that cannot be trusted is not a message.
        try:
            await client.send(FOLLOWED)
            assert await client.read_eof() == b""
        except (ConnectionError, OSError):
            pass
    assert upstream.requests == []
    assert all(not c.received for c in upstream.connections)


@pytest.mark.parametrize(("wire", "status"), [r[1:] for r in REFUSED], ids=[r[0] for r in REFUSED])
async def test_the_same_byte_by_byte(
    wire: bytes, status: int, served: Served, upstream: RecordingUpstream
) -> None:
    if len(wire) > 2000:
        pytest.skip("long inputs are covered in one piece")
    async with RawClient(served.url) as client:
        try:
            await client.send_slowly(wire)
        except (ConnectionError, OSError):
            pass
        response = await client.read_response()
        assert response.status == status
    assert upstream.requests == []


async def test_messages_before_the_bad_one_are_answered_first(
    served: Served, upstream: RecordingUpstream
) -> None:
    good = b"GET /good HTTP/1.1\r\nHost: example.com\r\n\r\n"
    async with RawClient(served.url) as client:
        await client.send(good + good + b"GET / HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n" + good)
        assert (await client.read_response()).status == 200
        assert (await client.read_response()).status == 200
        assert (await client.read_response()).status == 400
        assert await client.read_eof() == b""
    assert [r.target for r in upstream.requests] == ["/good", "/good"]


async def test_one_empty_line_before_a_request_is_ignored(client: RawClient) -> None:
    for _ in range(2):
        response = await client.request(b"\r\nGET / HTTP/1.1\r\nHost: example.com\r\n\r\n")
        assert response.status == 200


async def test_the_answer_survives_what_the_client_still_sends(served: Served) -> None:
    """Closing with unread bytes would reset the connection and destroy the answer (§9.6)."""
    async with RawClient(served.url) as client:
        await client.send(
            b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: x\r\n\r\n" + b"z" * 200_000
        )
        await asyncio.sleep(0.05)
        assert (await client.read_response()).status == 400
