"""A service is held to the standard a client is held to: what it garbles becomes a 502 or a broken
message.
"""

from __future__ import annotations

import pytest
from tests.conftest import in_front_of

from nexgate.testing import (
    Close,
    ExpectHead,
    RawClient,
    Reset,
    ScriptedUpstream,
    Send,
    SendSlowly,
    Step,
)

GET = b"GET / HTTP/1.1\r\nHost: example.com\r\n\r\n"

BAD_HEADS: list[tuple[str, bytes]] = [
    ("not HTTP", b"220 smtp ready\r\n\r\n"),
    ("HTTP/2", b"HTTP/2.0 200 OK\r\nContent-Length: 0\r\n\r\n"),
    ("HTTP/1.2", b"HTTP/1.2 200 OK\r\nContent-Length: 0\r\n\r\n"),
    ("status of two digits", b"HTTP/1.1 20 OK\r\nContent-Length: 0\r\n\r\n"),
    ("status 000", b"HTTP/1.1 000 No\r\nContent-Length: 0\r\n\r\n"),
    ("status 600", b"HTTP/1.1 600 No\r\nContent-Length: 0\r\n\r\n"),
    ("status 999", b"HTTP/1.1 999 No\r\nContent-Length: 0\r\n\r\n"),
    ("bare LF", b"HTTP/1.1 200 OK\nContent-Length: 0\n\n\r\n\r\n"),
    ("NUL in the reason", b"HTTP/1.1 200 O\x00K\r\nContent-Length: 0\r\n\r\n"),
    ("a bare CR in a value", b"HTTP/1.1 200 OK\r\nX: a\rb\r\nContent-Length: 0\r\n\r\n"),
    ("a folded field", b"HTTP/1.1 200 OK\r\nX: a\r\n b\r\nContent-Length: 0\r\n\r\n"),
    ("a space before a colon", b"HTTP/1.1 200 OK\r\nX : a\r\nContent-Length: 0\r\n\r\n"),
    (
        "CL and TE",
        b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    ),
    ("two CLs", b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\nContent-Length: 0\r\n\r\n"),
    ("a list of CLs", b"HTTP/1.1 200 OK\r\nContent-Length: 0, 0\r\n\r\n"),
    ("a malformed CL", b"HTTP/1.1 200 OK\r\nContent-Length: +0\r\n\r\n"),
    ("TE gzip", b"HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip\r\n\r\n"),
    ("TE gzip, chunked", b"HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n"),
    ("TE identity", b"HTTP/1.1 200 OK\r\nTransfer-Encoding: identity\r\n\r\n"),
    ("TE on HTTP/1.0", b"HTTP/1.0 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n"),
    (
        "101 unasked",
        b"HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n",
    ),
    ("endless interim responses", b"HTTP/1.1 103 Early Hints\r\n\r\n" * 40),
    ("a large head", b"HTTP/1.1 200 OK\r\nX: " + b"a" * 70_000 + b"\r\nContent-Length: 0\r\n\r\n"),
]


@pytest.mark.parametrize("wire", [b[1] for b in BAD_HEADS], ids=[b[0] for b in BAD_HEADS])
@pytest.mark.parametrize("send", [Send, SendSlowly], ids=["at once", "byte by byte"])
async def test_a_malformed_head_is_502(
    wire: bytes, send: type, request: pytest.FixtureRequest
) -> None:
    if send is SendSlowly and len(wire) > 2000:
        pytest.skip("long inputs are covered in one piece")
    async with (
        ScriptedUpstream([ExpectHead(), send(wire), Close()]) as upstream,
        in_front_of(upstream.url) as served,
        RawClient(served.url) as client,
    ):
        response = await client.request(GET)
        assert response.status == 502
        assert b"upstream-malformed" in response.body
        # The client's side is fine: its connection lives on.
        assert response.value("connection") is None
        await upstream.wait_until_idle()


CUT: list[tuple[str, list[Step]]] = [
    (
        "fixed length, closed",
        [Send(b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nhello"), Close()],
    ),
    ("fixed length, reset", [Send(b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nhello"), Reset()]),
    (
        "chunked, closed",
        [Send(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n"), Close()],
    ),
    (
        "chunked, in a chunk",
        [Send(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nff\r\nhello"), Close()],
    ),
    (
        "chunked, before the end",
        [
            Send(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n"),
            Close(),
        ],
    ),
    (
        "chunked, malformed later",
        [
            Send(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\nzz\r\n"),
            Close(),
        ],
    ),
    (
        "chunked, reset",
        [Send(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n"), Reset()],
    ),
]


@pytest.mark.parametrize("steps", [c[1] for c in CUT], ids=[c[0] for c in CUT])
@pytest.mark.parametrize("version", [b"HTTP/1.1", b"HTTP/1.0"])
async def test_a_message_cut_short_is_visibly_broken_for_the_client(
    steps: list[Step], version: bytes
) -> None:
    async with (
        ScriptedUpstream([ExpectHead(), *steps]) as upstream,
        in_front_of(upstream.url) as served,
        RawClient(served.url) as client,
    ):
        await client.send(b"GET / " + version + b"\r\nHost: example.com\r\n\r\n")
        try:
            response = await client.read_response()
        except ConnectionResetError:
            return  # the only way to say it to a client that reads until the close
        assert response.status in (200, 502)
        if response.status == 200:
            assert not response.complete
            assert b"0\r\n\r\n" not in response.raw


async def test_closed_before_any_answer_is_502_for_a_post_and_not_repeated() -> None:
    async with (
        ScriptedUpstream([ExpectHead(), Close()]) as upstream,
        in_front_of(upstream.url) as served,
        RawClient(served.url) as client,
    ):
        response = await client.request(b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 0\r\n\r\n")
        assert response.status == 502
        assert b"upstream-closed" in response.body
        assert len(upstream.connections) == 1


async def test_what_follows_a_response_is_nobodys_answer() -> None:
    """Response splitting: surplus bytes must never be taken for the answer to the next request."""
    poison = b"HTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\npoison"
    async with (
        ScriptedUpstream(
            [
                ExpectHead(),
                Send(b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\ngood" + poison),
                Close(),
            ]
        ) as upstream,
        in_front_of(upstream.url) as served,
        RawClient(served.url) as client,
    ):
        for _ in range(3):
            response = await client.request(GET)
            assert response.body == b"good"
        assert len(upstream.connections) == 3


async def test_unsolicited_bytes_on_an_idle_connection_discard_it() -> None:
    good = b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\ngood"
    poison = b"HTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\npoison"

    async with (
        ScriptedUpstream([ExpectHead(), Send(good), SendSlowly(poison, 0.001)]) as upstream,
        in_front_of(upstream.url) as served,
        RawClient(served.url) as client,
    ):
        assert (await client.request(GET)).body == b"good"
        await upstream.wait_until_idle()
        assert (await client.request(GET)).body == b"good"


@pytest.mark.parametrize("status", [204, 304])
async def test_statuses_without_content_ignore_a_claimed_body(status: int) -> None:
    wire = b"HTTP/1.1 %d X\r\nContent-Length: 5\r\n\r\nhello" % status
    async with (
        ScriptedUpstream([ExpectHead(), Send(wire), Close()]) as upstream,
        in_front_of(upstream.url) as served,
        RawClient(served.url) as client,
    ):
        response = await client.request(GET)
        assert response.status == status
        assert response.body == b""
        again = await client.request(GET)
        assert again.status == status
