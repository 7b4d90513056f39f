from __future__ import annotations

import asyncio
import ssl
from pathlib import Path

import pytest

from nexgate.testing import (
    Close,
    ExpectHead,
    HalfClose,
    Hang,
    Outcome,
    RawClient,
    ReadExactly,
    ReadRequest,
    ReadToEnd,
    Repeat,
    Reset,
    ScriptedConnection,
    ScriptedUpstream,
    Send,
    SendSlowly,
    Sleep,
    Step,
    wait_until,
)

GET = b"GET / HTTP/1.1\r\nHost: a\r\n\r\n"
OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nhi"


async def test_steps_run_in_order_and_every_byte_is_recorded() -> None:
    script = [ExpectHead(), ReadExactly(4), Send(OK), Sleep(0), Close()]
    async with ScriptedUpstream(script) as upstream, RawClient(upstream.url) as client:
        response = await client.request(GET + b"bodymore")
        assert (response.status, response.body) == (200, b"hi")
        assert await client.read_eof() == b""
        await upstream.wait_until_idle()
    (connection,) = upstream.connections
    assert connection.received == GET + b"bodymore"
    assert connection.sent_bytes == len(OK)
    assert connection.outcome is Outcome.FINISHED


async def test_a_script_that_ends_closes_the_connection() -> None:
    async with ScriptedUpstream([]) as upstream, RawClient(upstream.url) as client:
        assert await client.read_eof() == b""


async def test_a_reset_comes_after_the_bytes_sent_before_it() -> None:
    script = [ExpectHead(), Send(b"HTTP/1.1 200 OK\r\nContent-Le"), Reset()]
    async with ScriptedUpstream(script) as upstream, RawClient(upstream.url) as client:
        await client.send(GET)
        assert await client.read_exactly(27) == b"HTTP/1.1 200 OK\r\nContent-Le"
        with pytest.raises(ConnectionResetError):
            await client.read_eof()


async def test_slowly_sent_bytes_arrive_whole() -> None:
    script = [ExpectHead(), SendSlowly(OK), SendSlowly(OK, size=7)]
    async with ScriptedUpstream(script) as upstream, RawClient(upstream.url) as client:
        assert (await client.request(GET)).body == b"hi"
        assert (await client.read_response()).raw == OK


async def test_half_close_ends_one_direction_only() -> None:
    script = [HalfClose(), ReadToEnd()]
    async with ScriptedUpstream(script) as upstream, RawClient(upstream.url) as client:
        assert await client.read_eof() == b""
        await client.send(b"still listening?")
        client.half_close()
        await upstream.wait_until_idle()
        assert upstream.connections[0].received == b"still listening?"
        assert upstream.connections[0].outcome is Outcome.FINISHED


async def test_a_hanging_upstream_answers_nothing_and_notices_the_peers_close() -> None:
    async with ScriptedUpstream([ExpectHead(), Hang()]) as upstream:
        async with RawClient(upstream.url) as client:
            with pytest.raises(TimeoutError, match="received 0 bytes"):
                await client.request(GET, timeout=0.02)
        await upstream.wait_until_idle()
        assert upstream.connections[0].outcome is Outcome.PEER_CLOSED


async def test_an_upstream_that_reads_nothing_blocks_its_sender() -> None:
    upstream = ScriptedUpstream([Hang(reading=False)], read_ahead_bytes=0)
    async with upstream, RawClient(upstream.url) as client:
        with pytest.raises(TimeoutError, match="sending"):
            await client.send(bytes(64 * 1024 * 1024), timeout=0.05)
        assert upstream.connections[0].received_bytes < 1024 * 1024


async def test_repeat_serves_a_keep_alive_connection_until_the_peer_closes() -> None:
    script = [Repeat([ReadRequest(), Send(OK)])]
    async with ScriptedUpstream(script) as upstream:
        async with RawClient(upstream.url) as client:
            for _ in range(3):
                assert (await client.request(GET)).status == 200
        await upstream.wait_until_idle()
        assert upstream.connections[0].received == 3 * GET
        assert upstream.connections[0].outcome is Outcome.PEER_CLOSED


async def test_repeat_with_a_count_goes_on_with_the_next_step() -> None:
    script = [Repeat([ReadRequest(), Send(OK)], times=2), Send(b"done")]
    async with ScriptedUpstream(script) as upstream, RawClient(upstream.url) as client:
        await client.request(GET)
        await client.request(GET)
        assert await client.read_eof() == b"done"


async def test_a_function_picks_the_script_of_each_connection() -> None:
    def first_one_is_reset(connection: ScriptedConnection) -> list[Step]:
        if connection.index == 0:
            return [Reset()]
        return [ReadRequest(), Send(OK)]

    async with ScriptedUpstream(first_one_is_reset) as upstream:
        async with RawClient(upstream.url) as client:
            with pytest.raises(ConnectionResetError):
                await client.read_eof()
        async with RawClient(upstream.url) as client:
            assert (await client.request(GET)).status == 200
        assert [c.index for c in upstream.connections] == [0, 1]


async def test_a_coroutine_function_is_a_script() -> None:
    async def echo_line(connection: ScriptedConnection) -> None:
        await connection.send(await connection.read_until(b"\n"))

    async with ScriptedUpstream(echo_line) as upstream, RawClient(upstream.url) as client:
        await client.send(b"one\ntwo")
        assert await client.read_until(b"\n") == b"one\n"


async def test_an_assertion_in_a_script_fails_the_test() -> None:
    async def picky(connection: ScriptedConnection) -> None:
        head = await connection.read_until(b"\r\n\r\n")
        assert b"X-Missing" in head, "no X-Missing"

    with pytest.raises(AssertionError, match="no X-Missing"):
        async with ScriptedUpstream(picky) as upstream, RawClient(upstream.url) as client:
            await client.send(GET)
            await client.read_eof()


async def test_replying_finds_the_end_of_counted_and_chunked_requests() -> None:
    counted = b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\nhello"
    chunked = (
        b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n"
        b"5;x=y\r\nhello\r\n0\r\nX-Trailer: t\r\n\r\n"
    )
    async with ScriptedUpstream.replying(OK) as upstream, RawClient(upstream.url) as client:
        await client.send(counted + chunked + GET)
        for _ in range(3):
            assert (await client.read_response()).body == b"hi"
        assert upstream.requests_answered == 3
        await client.send_slowly(chunked)
        assert (await client.read_response()).status == 200


async def test_replying_answers_head_without_a_body() -> None:
    async with ScriptedUpstream.replying(OK) as upstream, RawClient(upstream.url) as client:
        response = await client.request(b"HEAD / HTTP/1.1\r\nHost: a\r\n\r\n")
        assert (response.body, response.complete) == (b"", True)
        assert (await client.request(GET)).body == b"hi"


async def test_replying_closes_after_an_answer_that_says_so() -> None:
    bye = b"HTTP/1.1 200 OK\r\nConnection: close\r\n\r\nbye"
    async with ScriptedUpstream.replying(bye) as upstream, RawClient(upstream.url) as client:
        assert (await client.request(GET)).body == b"bye"


async def test_a_unix_socket_serves_and_leaves_no_file(tmp_path: Path) -> None:
    path = tmp_path / "upstream.sock"
    async with ScriptedUpstream.replying(OK, path=path) as upstream:
        assert upstream.url == f"unix:{path}"
        async with RawClient(upstream.url) as client:
            assert (await client.request(GET)).status == 200
    assert not path.exists()


async def test_tls_serves(server_tls: ssl.SSLContext, client_tls: ssl.SSLContext) -> None:
    async with ScriptedUpstream.replying(OK, ssl=server_tls) as upstream:
        assert upstream.url.startswith("https://")
        async with RawClient(upstream.url, ssl=client_tls) as client:
            assert (await client.request(GET)).body == b"hi"
            assert client.peer_certificate


async def test_tls_can_be_reset(server_tls: ssl.SSLContext, client_tls: ssl.SSLContext) -> None:
    async with (
        ScriptedUpstream([ExpectHead(), Reset()], ssl=server_tls) as upstream,
        RawClient(upstream.url, ssl=client_tls) as client,
    ):
        with pytest.raises(ConnectionResetError):
            await client.request(GET)


async def test_an_upstream_that_stops_listening_refuses_and_comes_back_on_its_port() -> None:
    async with ScriptedUpstream.replying(OK) as upstream, RawClient(upstream.url) as old:
        await upstream.wait_for_connections(1)
        await upstream.stop_listening()
        with pytest.raises(ConnectionRefusedError):
            await RawClient(upstream.url).connect()
        assert (await old.request(GET)).status == 200
        await upstream.start()
        async with RawClient(upstream.url) as new:
            assert (await new.request(GET)).status == 200


async def test_stopping_ends_scripts_that_wait_and_connections_that_are_open() -> None:
    async with ScriptedUpstream([Hang(reading=False)]) as upstream:
        clients = [RawClient(upstream.url) for _ in range(3)]
        for client in clients:
            await client.connect()
        await upstream.wait_for_connections(3)
        assert upstream.open_connections == 3
    assert upstream.open_connections == 0
    assert {c.outcome for c in upstream.connections} == {Outcome.STOPPED}
    for client in clients:
        await client.close()


async def test_recording_is_bounded_but_counting_is_not() -> None:
    upstream = ScriptedUpstream([ReadToEnd()], max_recorded_bytes=10)
    async with upstream, RawClient(upstream.url) as client:
        await client.send(bytes(1000))
        await wait_until(lambda: upstream.connections[0].received_bytes == 1000)
        assert len(upstream.connections[0].received) == 10


async def test_two_scripts_at_once_do_not_share_a_connection() -> None:
    async def name_of_the_connection(connection: ScriptedConnection) -> None:
        await connection.read_until(b"?")
        await connection.send(b"%d" % connection.index)

    async with ScriptedUpstream(name_of_the_connection) as upstream:
        clients = [RawClient(upstream.url) for _ in range(5)]
        for number, client in enumerate(clients):
            await client.connect()
            await upstream.wait_for_connections(number + 1)
        for client in clients:
            await client.send(b"?")
        names = await asyncio.gather(*(client.read_eof() for client in clients))
        assert names == [b"0", b"1", b"2", b"3", b"4"]
        for client in clients:
            await client.close()
