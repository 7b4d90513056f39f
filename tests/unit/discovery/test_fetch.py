"""One strict request, against servers that lie, stall and cut."""

from __future__ import annotations

import asyncio
import ssl
from pathlib import Path

import pytest

from nexgate.fetch import FetchError, FetchLimits, Origin, fetch, fetching
from nexgate.testing import (
    Close,
    ExpectHead,
    Hang,
    Reset,
    ScriptedUpstream,
    Send,
    SendSlowly,
    free_port,
    wait_until,
)

QUICK = FetchLimits(connect=0.3, head=0.3, body=0.3, total=1.0, max_body_bytes=1000)
EMPTY = b"HTTP/1.1 204 No Content\r\n\r\n"


async def test_a_request_says_what_it_must_and_an_answer_is_whole() -> None:
    answer = b"HTTP/1.1 404 Not Found\r\nETag: x\r\nContent-Length: 5\r\n\r\nhello"
    async with ScriptedUpstream.replying(answer) as server:
        found = await fetch(
            server.url,
            "/a?b=%20",
            method="PUT",
            body=b"body",
            fields={"X-One": "1", "user-agent": "me"},
        )
        assert (found.status, found.body, found.headers["etag"]) == (404, b"hello", "x")
        (connection,) = server.connections
        head, _, body = bytes(connection.received).partition(b"\r\n\r\n")
        assert body == b"body"
        assert set(head.split(b"\r\n")) == {
            b"PUT /a?b=%20 HTTP/1.1",
            b"Host: " + server.url[7:].encode(),
            b"Accept: */*",
            b"X-One: 1",
            b"user-agent: me",
            b"Connection: close",
            b"Content-Length: 4",
        }
        await wait_until(lambda: server.open_connections == 0)


@pytest.mark.parametrize(
    ("answer", "body"),
    [
        (
            (
                b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
                b"3\r\nabc\r\n2\r\nde\r\n0\r\n\r\n"
            ),
            b"abcde",
        ),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n", b""),
        (b"HTTP/1.0 200 OK\r\n\r\nuntil the end", b"until the end"),
        (b"HTTP/1.1 100 Continue\r\n\r\n" + EMPTY, b""),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nabcdef", b"ab"),
    ],
)
@pytest.mark.parametrize("size", [1, 100_000])
async def test_every_framing_is_read_in_any_pieces(answer: bytes, body: bytes, size: int) -> None:
    script = [ExpectHead(), SendSlowly(answer, size=size), Close()]
    async with ScriptedUpstream(script) as server:
        assert (await fetch(server.url, limits=QUICK)).body == body


@pytest.mark.parametrize(
    ("script", "phase", "words"),
    [
        ([ExpectHead(), Close()], "head", "without an answer"),
        ([ExpectHead(), Send(b"HTTP/1.1 200"), Close()], "head", "inside the head"),
        ([ExpectHead(), Hang()], "head", "no answer within"),
        ([ExpectHead(), Send(b"SSH-2.0-x\r\n\r\n")], "head", "malformed"),
        ([ExpectHead(), Send(b"HTTP/1.1 200 OK\r\nA: " + b"x" * 40_000), Hang()], "head", "bytes"),
        ([ExpectHead(), Send(b"HTTP/1.1 101 X\r\n\r\n")], "head", "another protocol"),
        ([ExpectHead(), Send(b"HTTP/1.1 100 X\r\n\r\n" * 9)], "head", "interim"),
        (
            [
                ExpectHead(),
                Send(b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\n"),
            ],
            "head",
            "malformed",
        ),
        (
            [ExpectHead(), Send(b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nabc"), Close()],
            "body",
            "inside the answer",
        ),
        (
            [ExpectHead(), Send(b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nabc"), Hang()],
            "body",
            "nothing came",
        ),
        (
            [ExpectHead(), Send(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n")],
            "body",
            "malformed",
        ),
        (
            [ExpectHead(), Send(b"HTTP/1.1 200 OK\r\nContent-Length: 1001\r\n\r\n" + b"x" * 1001)],
            "body",
            "more than 1000",
        ),
        (
            [ExpectHead(), Send(b"HTTP/1.1 200 OK\r\n\r\n"), SendSlowly(b"x" * 99, 0.1)],
            "body",
            "whole answer within",
        ),
    ],
)
async def test_what_is_no_answer_is_an_error_with_its_phase(
    script: list[object], phase: str, words: str
) -> None:
    async with ScriptedUpstream(script) as server:  # type: ignore[arg-type]
        with pytest.raises(FetchError, match=words) as caught:
            await fetch(server.url, limits=QUICK)
        assert caught.value.phase == phase


async def test_a_reset_is_an_error() -> None:
    async with ScriptedUpstream([ExpectHead(), Reset()]) as server:
        with pytest.raises(FetchError):
            await fetch(server.url, limits=QUICK)


async def test_what_cannot_be_connected_says_connect(tmp_path: Path) -> None:
    for url in (f"http://127.0.0.1:{free_port()}", f"unix:{tmp_path / 'none'}", "http://a..b"):
        with pytest.raises((FetchError, ValueError)) as caught:
            await fetch(url, limits=QUICK)
        if isinstance(caught.value, FetchError):
            assert caught.value.phase == "connect"
    async with ScriptedUpstream([Hang()]) as server:
        with pytest.raises(FetchError) as caught:
            await fetch(server.url.replace("http", "https"), limits=QUICK)
        assert caught.value.phase == "connect"  # type: ignore[union-attr]


async def test_https_is_verified_and_unix_sockets_are_spoken_to(tmp_path: Path) -> None:
    import trustme

    authority = trustme.CA()
    server_context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("127.0.0.1", "api.example").configure_cert(server_context)
    ours = ssl.create_default_context()
    authority.configure_trust(ours)
    async with ScriptedUpstream.replying(EMPTY, ssl=server_context) as server:
        assert (await fetch(server.url, ssl=ours)).status == 204
        assert (await fetch(server.url, ssl=ours, server_name="api.example")).status == 204
        with pytest.raises(FetchError, match="TLS"):
            await fetch(server.url)
        with pytest.raises(FetchError, match="TLS"):
            await fetch(server.url, ssl=ours, server_name="other.example")
    async with ScriptedUpstream.replying(EMPTY, path=tmp_path / "s") as server:
        assert (await fetch(server.url)).status == 204
        assert b"Host: localhost\r\n" in server.connections[0].received


@pytest.mark.parametrize(
    ("target", "fields", "method"),
    [
        ("", {}, "GET"),
        ("x", {}, "GET"),
        ("/a b", {}, "GET"),
        ("/\r\nX: y", {}, "GET"),
        ("/#f", {}, "GET"),
        ("/", {"X": "a\r\nY: b"}, "GET"),
        ("/", {"X Y": "a"}, "GET"),
        ("/", {"Content-Length": "3"}, "GET"),
        ("/", {}, "GET /x HTTP/1.1\r\nA: b\r\n\r\nGET"),
    ],
)
async def test_nothing_can_be_smuggled_into_a_request(
    target: str, fields: dict[str, str], method: str
) -> None:
    with pytest.raises(ValueError):
        await fetch("http://127.0.0.1:1", target, fields=fields, method=method)


async def test_a_stream_gives_lines_as_they_come() -> None:
    head = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
    script = [
        ExpectHead(),
        Send(head + b"5\r\none\nt\r\n"),
        Send(b"6\r\nwo\r\n\nx\r\n0\r\n\r\n"),
    ]
    async with ScriptedUpstream(script) as server, fetching(server.url) as stream:
        assert [line async for line in stream.lines()] == [b"one", b"two", b"", b"x"]
    script = [ExpectHead(), Send(b"HTTP/1.1 200 OK\r\n\r\n" + b"x" * 5000), Hang()]
    limits = FetchLimits(max_line_bytes=1000)
    async with ScriptedUpstream(script) as server, fetching(server.url, limits=limits) as stream:
        with pytest.raises(FetchError, match="a line has more"):
            _ = [line async for line in stream.lines()]


async def test_cancelling_ends_the_connection_and_two_do_not_meet() -> None:
    async with ScriptedUpstream([ExpectHead(), Hang()]) as server:
        tasks = [asyncio.create_task(fetch(server.url)) for _ in range(2)]
        await server.wait_for_connections(2)
        tasks[0].cancel()
        await asyncio.gather(tasks[0], return_exceptions=True)
        await wait_until(lambda: server.open_connections == 1)
        assert not tasks[1].done()
        tasks[1].cancel()
        await asyncio.gather(tasks[1], return_exceptions=True)
        await wait_until(lambda: server.open_connections == 0)


def test_origins_are_read_and_spelt() -> None:
    assert Origin.parse("https://[::1]:8443/").authority == "[::1]:8443"
    assert Origin.parse("http://API.example:80").authority == "api.example"
    assert str(Origin.parse("unix:/run/x")) == "unix:/run/x"
    for bad in ("h:1", "http://", "http://h:0", "http://u@h", "http://h/p", "ftp://h", "unix:x"):
        with pytest.raises(ValueError):
            Origin.parse(bad)
