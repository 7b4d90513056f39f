from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from nexgate.testing import (
    ExpectHead,
    Hang,
    Outcome,
    RawClient,
    RawResponse,
    ReadToEnd,
    Reset,
    ScriptedUpstream,
    Send,
)

GET = b"GET / HTTP/1.1\r\nHost: a\r\n\r\n"


@asynccontextmanager
async def client_of(*answers: bytes) -> AsyncIterator[RawClient]:
    script = [ExpectHead(), *(Send(answer) for answer in answers)]
    async with ScriptedUpstream(script) as upstream, RawClient(upstream.url) as client:
        yield client


async def response_to_get(*answers: bytes) -> RawResponse:
    async with client_of(*answers) as client:
        return await client.request(GET)


async def test_a_counted_response_is_read_with_its_fields_in_order() -> None:
    wire = b"HTTP/1.1 200 All Fine\r\nX-A: 1\r\nx-a:2\r\nContent-Length: 3\r\n\r\nabc"
    response = await response_to_get(wire, b"rest")
    assert (response.status, response.reason, response.version) == (200, "All Fine", "HTTP/1.1")
    assert response.headers == [("X-A", "1"), ("x-a", "2"), ("Content-Length", "3")]
    assert response.values("X-A") == ["1", "2"]
    assert response.value("content-length") == "3"
    assert response.value("absent") is None
    assert (response.body, response.raw, response.complete) == (b"abc", wire, True)
    with pytest.raises(ValueError, match="X-A came 2 times"):
        response.value("X-A")


async def test_a_chunked_response_is_decoded_and_its_trailers_kept_apart() -> None:
    wire = (
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip, Chunked\r\n\r\n"
        b"A;name=value\r\n0123456789\r\n1\r\n!\r\n0\r\nX-Sum: 42\r\n\r\n"
    )
    response = await response_to_get(wire)
    assert response.body == b"0123456789!"
    assert response.trailers == [("X-Sum", "42")]
    assert response.raw == wire
    assert response.complete


async def test_a_close_delimited_response_ends_with_the_connection() -> None:
    response = await response_to_get(b"HTTP/1.0 200 OK\r\n\r\none", b"two")
    assert (response.body, response.complete) == (b"onetwo", True)


@pytest.mark.parametrize("status", [b"204 No Content", b"304 Not Modified"])
async def test_some_statuses_have_no_body_whatever_their_fields_say(status: bytes) -> None:
    answer = b"HTTP/1.1 " + status + b"\r\nContent-Length: 9\r\n\r\n"
    response = await response_to_get(answer)
    assert (response.body, response.complete) == (b"", True)


async def test_an_answer_to_head_has_no_body() -> None:
    async with client_of(b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\n") as client:
        response = await client.request(b"HEAD / HTTP/1.1\r\n\r\n")
    assert (response.body, response.complete) == (b"", True)


async def test_interim_responses_are_listed_before_the_final_one() -> None:
    response = await response_to_get(
        b"HTTP/1.1 100 Continue\r\n\r\n",
        b"HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n",
    )
    assert response.status == 200
    assert [(r.status, r.headers) for r in response.interim] == [
        (100, []),
        (103, [("Link", "</a>")]),
    ]


async def test_switching_protocols_is_final() -> None:
    async with client_of(b"HTTP/1.1 101 Switching Protocols\r\n\r\nframes") as client:
        assert (await client.request(GET)).status == 101
        assert await client.read_exactly(6) == b"frames"


@pytest.mark.parametrize(
    ("answer", "body", "problem"),
    [
        (b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nhalf", b"half", "5 bytes of the body"),
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n4\r\nhalf\r\n", b"half", "closed"),
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n+4\r\nhalf", b"", "chunk size"),
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n1\r\naX\r\n", b"a", "junk"),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 1_0\r\n\r\n", b"", "not a number"),
    ],
)
async def test_a_broken_body_is_incomplete_and_says_why(
    answer: bytes, body: bytes, problem: str
) -> None:
    response = await response_to_get(answer)
    assert not response.complete
    assert response.body == body
    assert response.problem is not None
    assert problem in response.problem


async def test_a_body_cut_by_a_reset_is_incomplete() -> None:
    head = b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\n"
    script = [ExpectHead(), Send(head), ExpectHead(), Reset()]
    async with ScriptedUpstream(script) as upstream, RawClient(upstream.url) as client:
        await client.send(GET)
        reading = asyncio.create_task(client.read_response())
        await client.send(GET)
        response = await reading
    assert not response.complete
    assert response.problem is not None
    assert "broke" in response.problem


async def test_a_head_that_breaks_off_raises_with_what_came() -> None:
    async with client_of(b"HTTP/1.1 200 O") as client:
        with pytest.raises(EOFError, match=r"HTTP/1\.1 200 O"):
            await client.request(GET)


async def test_something_that_is_no_response_raises() -> None:
    async with client_of(b"SSH-2.0-OpenSSH\r\n\r\n") as client:
        with pytest.raises(ValueError, match="not a status line"):
            await client.request(GET)


async def test_a_timeout_says_what_had_arrived() -> None:
    async with (
        ScriptedUpstream([Send(b"HTTP/1.1"), Hang()]) as upstream,
        RawClient(upstream.url, timeout=0.03) as client,
    ):
        with pytest.raises(TimeoutError, match=r"received 8 bytes.*HTTP/1\.1"):
            await client.read_response()


async def test_a_read_that_was_cancelled_loses_nothing() -> None:
    async with (
        ScriptedUpstream([Send(b"ab"), ExpectHead(), Send(b"c\n")]) as upstream,
        RawClient(upstream.url) as client,
    ):
        with pytest.raises(TimeoutError):
            await client.read_until(b"\n", timeout=0.01)
        await client.send(GET)
        assert await client.read_until(b"\n") == b"abc\n"


async def test_reset_is_seen_as_a_reset() -> None:
    async with ScriptedUpstream([ReadToEnd()]) as upstream:
        async with RawClient(upstream.url) as client:
            await upstream.wait_for_connections(1)
            client.reset()
            await upstream.wait_until_idle()
        assert upstream.connections[0].outcome is Outcome.PEER_RESET


async def test_half_close_still_reads_the_answer() -> None:
    async with (
        ScriptedUpstream([ReadToEnd(), Send(b"bye")]) as upstream,
        RawClient(upstream.url) as client,
    ):
        await client.send(b"hello")
        client.half_close()
        assert await client.read_eof() == b"bye"
        assert client.is_closed_by_peer


async def test_a_slow_reader_leaves_bytes_in_the_kernel() -> None:
    async with ScriptedUpstream([Send(bytes(1 << 20)), Hang()]) as upstream:
        client = RawClient(upstream.url, read_ahead_bytes=0, receive_buffer_bytes=4096)
        async with client:
            assert len(await client.read_some(100)) == 100
            assert client.received_bytes < 1 << 18


async def test_pieces_sent_slowly_arrive_as_sent() -> None:
    async with ScriptedUpstream([ReadToEnd()]) as upstream:
        async with RawClient(upstream.url) as client:
            await client.send_slowly(GET, size=3)
            await client.close()
        await upstream.wait_until_idle()
        assert upstream.connections[0].received == GET


async def test_sending_on_a_closed_connection_says_so() -> None:
    async with ScriptedUpstream([]) as upstream, RawClient(upstream.url) as client:
        await client.read_eof()
        await client.close()
        await client.close()
        with pytest.raises(ConnectionResetError, match="closed"):
            await client.send(GET)


def test_an_https_target_without_a_context_is_refused() -> None:
    with pytest.raises(ValueError, match="pass ssl="):
        RawClient("https://127.0.0.1:1")


async def test_the_local_address_is_what_the_server_sees() -> None:
    async with ScriptedUpstream([Hang()]) as upstream, RawClient(upstream.url) as client:
        await upstream.wait_for_connections(1)
        assert upstream.connections[0].peer_address == client.local_address
