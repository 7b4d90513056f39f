"""Chunked bodies of requests (RFC 9112 §7.1): what is malformed never looks complete to a
service.
"""

from __future__ import annotations

import pytest

from nexgate.gateway import Served
from nexgate.testing import Outcome, RawClient, RecordingUpstream, wait_until

HEAD = b"POST / HTTP/1.1\r\nHost: example.com\r\nTransfer-Encoding: chunked\r\n\r\n"

MALFORMED: list[tuple[str, bytes]] = [
    ("a size that is not hexadecimal", b"5g\r\nhello\r\n0\r\n\r\n"),
    ("a size with 0x", b"0x5\r\nhello\r\n0\r\n\r\n"),
    ("a size with a plus", b"+5\r\nhello\r\n0\r\n\r\n"),
    ("a size with an underscore", b"1_0\r\nhello\r\n0\r\n\r\n"),
    ("a negative size", b"-5\r\nhello\r\n0\r\n\r\n"),
    ("an empty size", b"\r\nhello\r\n0\r\n\r\n"),
    ("a space before the size", b" 5\r\nhello\r\n0\r\n\r\n"),
    ("a space after the size", b"5 \r\nhello\r\n0\r\n\r\n"),
    ("a tab after the size", b"5\t\r\nhello\r\n0\r\n\r\n"),
    ("a size of 2**64 + 5", b"10000000000000005\r\nhello\r\n0\r\n\r\n"),
    ("bare LF after the size", b"5\nhello\r\n0\r\n\r\n"),
    ("bare LF after the data", b"5\r\nhello\n0\r\n\r\n"),
    ("junk after the data", b"5\r\nhelloX\r\n0\r\n\r\n"),
    ("no line end after the data", b"5\r\nhello0\r\n\r\n"),
    ("a bare CR in an extension", b"5;a\rb\r\nhello\r\n0\r\n\r\n"),
    ("a bare LF in an extension", b"5;a\nb\r\nhello\r\n0\r\n\r\n"),
    ("a NUL in an extension", b"5;\x00\r\nhello\r\n0\r\n\r\n"),
    ("a comma instead of an extension", b"5,\r\nhello\r\n0\r\n\r\n"),
    ("an endless extension", b"5;" + b"a" * 2000 + b"\r\nhello\r\n0\r\n\r\n"),
    ("a flood of extensions", b"".join(b"1;" + b"x" * 900 + b"\r\na\r\n" for _ in range(60))),
    ("a folded trailer", b"0\r\nX: a\r\n b\r\n\r\n"),
    ("a trailer without a colon", b"0\r\nX\r\n\r\n"),
    ("a trailer with a space before its colon", b"0\r\nX : a\r\n\r\n"),
    ("bare LF in the trailers", b"0\r\nX: a\nY: b\r\n\r\n"),
    ("a large trailer section", b"0\r\n" + b"X: " + b"a" * 9000 + b"\r\n\r\n"),
    ("many trailers", b"0\r\n" + b"X: a\r\n" * 51 + b"\r\n"),
]


def no_half_request_is_open(upstream: RecordingUpstream) -> bool:
    """A connection that carried a part of a request is closed; an unused one may wait in the
    pool.
    """
    return all(
        c.outcome is not Outcome.RUNNING or not c.received_bytes for c in upstream.connections
    )


@pytest.mark.parametrize("body", [m[1] for m in MALFORMED], ids=[m[0] for m in MALFORMED])
@pytest.mark.parametrize("slowly", [False, True], ids=["at once", "byte by byte"])
async def test_malformed_is_400_and_never_complete_upstream(
    body: bytes, slowly: bool, served: Served, upstream: RecordingUpstream
) -> None:
    if slowly and len(body) > 3000:
        pytest.skip("long inputs are covered in one piece")
    async with RawClient(served.url) as client:
        if slowly:
            try:
                await client.send_slowly(HEAD + body)
            except (ConnectionError, OSError):
                pass
        else:
            await client.send(HEAD + body)
        response = await client.read_response()
        assert response.status == 400
        assert response.value("connection") == "close"
        assert await client.read_eof() == b""
    await wait_until(lambda: no_half_request_is_open(upstream))
    assert upstream.requests == []


async def test_framing_is_made_anew_and_extensions_end_here(
    client: RawClient, upstream: RecordingUpstream
) -> None:
    await client.request(HEAD + b"5;ext=1\r\nhello\r\n00006\r\n world\r\n0;last\r\n\r\n")
    request = upstream.last
    assert request.body == b"hello world"
    assert b"ext" not in request.raw
    assert request.values("transfer-encoding") == ["chunked"]
    assert request.values("content-length") == []


async def test_trailers_are_passed_on_but_not_those_that_frame_route_or_authenticate(
    client: RawClient, upstream: RecordingUpstream
) -> None:
    await client.request(
        HEAD
        + b"1\r\na\r\n0\r\nX-Checksum: 1\r\nContent-Length: 9\r\nHost: evil\r\nAuthorization: x\r\n"
        b"Transfer-Encoding: chunked\r\nX-Forwarded-For: 1.2.3.4\r\nCookie: a=b\r\n\r\n"
    )
    request = upstream.last
    assert request.trailers == (("X-Checksum", "1"),) or list(request.trailers) == [
        ("X-Checksum", "1")
    ]
    assert request.values("x-checksum") == []


async def test_one_byte_chunks_of_an_honest_sender_pass(
    client: RawClient, upstream: RecordingUpstream
) -> None:
    await client.request(HEAD + b"1\r\na\r\n" * 20_000 + b"0\r\n\r\n")
    assert upstream.last.body == b"a" * 20_000


@pytest.mark.parametrize("cut", range(1, 30, 3))
async def test_a_client_that_leaves_mid_body_never_makes_a_complete_request(
    cut: int, served: Served, upstream: RecordingUpstream
) -> None:
    body = b"5\r\nhello\r\n6\r\n world\r\n0\r\n\r\n"
    async with RawClient(served.url) as client:
        await client.send(HEAD + body[: min(cut, len(body) - 1)])
        await upstream.wait_for_connections(1)
    await wait_until(lambda: no_half_request_is_open(upstream))
    assert upstream.requests == []
