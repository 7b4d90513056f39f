from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from time import perf_counter

import pytest

from nexgate.testing import (
    Fault,
    FaultProxy,
    Hang,
    Outcome,
    RawClient,
    ReadToEnd,
    ScriptedConnection,
    ScriptedUpstream,
    Send,
    free_port,
    wait_until,
)

GET = b"GET / HTTP/1.1\r\nHost: a\r\n\r\n"
OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nhi"


class FakeSleep:
    """Remembers what would have been slept."""

    def __init__(self) -> None:
        self.slept: list[float] = []

    async def __call__(self, seconds: float) -> None:
        self.slept.append(seconds)
        await asyncio.sleep(0)


@dataclass
class Bench:
    upstream: ScriptedUpstream
    wire: FaultProxy
    client: RawClient
    sleep: FakeSleep

    async def is_served(self) -> bool:
        return (await self.client.request(GET)).raw == OK


@asynccontextmanager
async def bench(
    upstream: ScriptedUpstream | None = None,
    *,
    to_target: Fault | None = None,
    to_client: Fault | None = None,
    seed: int = 0,
) -> AsyncIterator[Bench]:
    sleep = FakeSleep()
    async with upstream or ScriptedUpstream.replying(OK) as server:
        wire = FaultProxy(
            server.url, to_target=to_target, to_client=to_client, seed=seed, sleep=sleep
        )
        async with wire, RawClient(wire.url) as client:
            yield Bench(server, wire, client, sleep)


# -- healthy ---------------------------------------------------------------------------------


async def test_a_healthy_wire_delivers_and_counts() -> None:
    async with bench() as b:
        assert await b.is_served()
        assert await b.is_served()
        statistics = b.wire.statistics()
    assert (statistics.accepted, statistics.open, statistics.buffered_bytes) == (1, 1, 0)
    assert (statistics.bytes_to_target, statistics.bytes_to_client) == (2 * len(GET), 2 * len(OK))
    assert b.wire.statistics().bytes_to_target == 2 * len(GET)


async def test_an_end_is_passed_on_as_an_end() -> None:
    async with bench(ScriptedUpstream([ReadToEnd(), Send(b"bye")])) as b:
        await b.client.send(b"hello")
        b.client.half_close()
        assert await b.client.read_eof() == b"bye"
        await wait_until(lambda: b.wire.statistics().open == 0)
        assert b.upstream.connections[0].received == b"hello"


async def test_a_reset_of_the_client_reaches_the_target() -> None:
    async with bench(ScriptedUpstream([ReadToEnd()])) as b:
        await b.upstream.wait_for_connections(1)
        b.client.reset()
        await b.upstream.wait_until_idle()
        assert b.upstream.connections[0].outcome is Outcome.PEER_RESET
        assert b.wire.statistics().resets == 1


async def test_a_target_that_refuses_resets_the_client() -> None:
    async with FaultProxy(("127.0.0.1", free_port())) as wire, RawClient(wire.url) as client:
        with pytest.raises(ConnectionResetError):
            await client.read_eof()
        await wait_until(lambda: wire.statistics().failed_connects == 1)


async def test_a_receiver_that_does_not_read_stops_the_sender() -> None:
    upstream = ScriptedUpstream([Hang(reading=False)], read_ahead_bytes=0)
    async with bench(upstream) as b:
        with pytest.raises(TimeoutError):
            await b.client.send(bytes(64 << 20), timeout=0.08)
        assert b.wire.statistics().buffered_bytes <= 256 * 1024


# -- time ------------------------------------------------------------------------------------


async def test_latency_delays_one_direction() -> None:
    async with bench(to_client=Fault(latency=60)) as b:
        assert await b.is_served()
        assert len(b.sleep.slept) == 1
        assert 59 < b.sleep.slept[0] <= 60


async def test_latency_without_a_fake_really_takes_time() -> None:
    async with (
        ScriptedUpstream.replying(OK) as upstream,
        FaultProxy(upstream.url, to_client=Fault(latency=0.03)) as wire,
        RawClient(wire.url) as client,
    ):
        start = perf_counter()
        await client.request(GET)
        assert perf_counter() - start > 0.025  # uvloop's clock has steps of 1 ms


async def jittered(seed: int) -> list[float]:
    async with bench(to_target=Fault(jitter=1000), seed=seed) as b:
        assert await b.is_served()
        return [round(seconds) for seconds in b.sleep.slept]


async def test_jitter_follows_its_seed() -> None:
    assert await jittered(1) == await jittered(1)
    assert await jittered(1) != await jittered(2)


async def test_jitter_keeps_the_order_of_bytes() -> None:
    data = bytes(range(256)) * 20
    upstream = ScriptedUpstream([ReadToEnd()])
    async with (
        upstream,
        FaultProxy(upstream.url, to_target=Fault(jitter=0.002)) as wire,
        RawClient(wire.url) as client,
    ):
        await client.send_slowly(data, size=64)
        client.half_close()
        await upstream.wait_until_idle()
    assert upstream.connections[0].received == data


async def test_a_bandwidth_is_spent_in_slices() -> None:
    async with bench(to_target=Fault(bytes_per_second=500)) as b:
        assert await b.is_served()
        assert len(b.sleep.slept) == -(-len(GET) // 10)
        assert sum(b.sleep.slept) == pytest.approx(len(GET) / 500)


async def test_a_dripping_wire_sends_one_byte_at_a_time() -> None:
    async with bench(to_target=Fault(drip=True, drip_interval=3)) as b:
        assert await b.is_served()
        assert b.sleep.slept == [3] * len(GET)


# -- endings ---------------------------------------------------------------------------------


async def test_reset_after_bytes_delivers_exactly_those() -> None:
    async with bench(to_client=Fault(reset_after_bytes=20)) as b:
        await b.client.send(GET)
        assert await b.client.read_exactly(20) == OK[:20]
        with pytest.raises(ConnectionResetError):
            await b.client.read_eof()
        await wait_until(lambda: b.wire.statistics().resets == 1)


async def test_cut_after_bytes_looks_like_an_end() -> None:
    async with bench(to_client=Fault(cut_after_bytes=len(OK) - 1)) as b:
        response = await b.client.request(GET)
        assert (response.body, response.complete) == (b"h", False)
        await wait_until(lambda: b.wire.statistics().cuts == 1)
        await b.upstream.wait_until_idle()


async def test_hang_after_bytes_waits_and_goes_on_when_the_fault_is_lifted() -> None:
    async with bench(to_client=Fault(hang_after_bytes=5)) as b:
        await b.client.send(GET)
        assert await b.client.read_exactly(5) == OK[:5]
        with pytest.raises(TimeoutError):
            await b.client.read_some(timeout=0.02)
        b.wire.fault = Fault()
        assert await b.client.read_exactly(len(OK) - 5) == OK[5:]


async def test_half_close_after_bytes_leaves_the_other_direction_alone() -> None:
    upstream = ScriptedUpstream([Send(OK), ReadToEnd()])
    async with bench(upstream, to_client=Fault(half_close_after_bytes=4)) as b:
        assert await b.client.read_eof() == OK[:4]
        await b.client.send(b"go on")
        b.client.half_close()
        await upstream.wait_until_idle()
        assert upstream.connections[0].received == b"go on"
        assert upstream.connections[0].outcome is Outcome.FINISHED


async def test_a_black_hole_accepts_and_reads_nothing() -> None:
    async with bench() as b:
        b.wire.black_hole()
        async with RawClient(b.wire.url) as client:
            await client.send(GET)
            with pytest.raises(TimeoutError):
                await client.read_some(timeout=0.03)
            assert b.wire.statistics().bytes_to_target == 0
            b.wire.fault = Fault()
            assert (await client.read_response()).status == 200


async def test_a_black_holed_connection_does_not_reach_the_target() -> None:
    hole = Fault(hang_after_bytes=0)
    async with bench(to_target=hole, to_client=hole) as b:
        await wait_until(lambda: b.wire.statistics().accepted == 1)
        assert b.upstream.connections == []
        b.wire.fault = Fault()
        assert await b.is_served()


# -- changes while running -------------------------------------------------------------------


async def test_a_fault_set_on_a_living_connection_counts_from_then() -> None:
    async with bench() as b:
        assert await b.is_served()
        b.wire.to_client = Fault(cut_after_bytes=10)
        await b.client.send(GET)
        assert await b.client.read_eof() == OK[:10]


async def test_an_ending_after_zero_bytes_happens_at_once() -> None:
    async with bench() as b:
        assert await b.is_served()
        b.wire.fault = Fault(reset_after_bytes=0)
        with pytest.raises(ConnectionResetError):
            await b.client.read_eof()


async def test_fault_sets_both_directions_and_reads_none_when_they_differ() -> None:
    async with bench() as b:
        assert b.wire.fault == Fault()
        b.wire.to_client = Fault(latency=1)
        assert b.wire.fault is None
        b.wire.fault = Fault(drip=True)
        assert b.wire.to_target == b.wire.to_client == b.wire.fault == Fault(drip=True)


async def test_refuse_and_accept_again_on_the_same_port() -> None:
    async with bench() as b:
        assert await b.is_served()
        port = b.wire.port
        await b.wire.refuse()
        with pytest.raises(ConnectionRefusedError):
            await RawClient(b.wire.url).connect()
        assert await b.is_served()
        await b.wire.accept()
        assert b.wire.port == port
        async with RawClient(b.wire.url) as client:
            assert (await client.request(GET)).status == 200


async def test_pause_loses_nothing() -> None:
    async with bench() as b:
        assert await b.is_served()
        b.wire.pause()
        await b.client.send(GET)
        with pytest.raises(TimeoutError):
            await b.client.read_some(timeout=0.02)
        b.wire.resume()
        assert (await b.client.read_response()).raw == OK


async def test_a_connection_accepted_while_paused_waits_too() -> None:
    async with bench() as b:
        b.wire.pause()
        async with RawClient(b.wire.url) as client:
            await client.send(GET)
            with pytest.raises(TimeoutError):
                await client.read_some(timeout=0.02)
            b.wire.resume()
            assert (await client.read_response()).status == 200


async def test_reset_all_ends_every_connection() -> None:
    async with bench() as b:
        assert await b.is_served()
        b.wire.reset_all()
        with pytest.raises(ConnectionResetError):
            await b.client.read_eof()
        await wait_until(lambda: b.wire.statistics().open == 0)


# -- life ------------------------------------------------------------------------------------


async def test_stopping_ends_connections_in_every_state() -> None:
    async def talk_on(connection: ScriptedConnection) -> None:
        while True:
            await connection.send(bytes(1 << 16))

    async with ScriptedUpstream(talk_on) as upstream:
        async with FaultProxy(upstream.url) as wire:
            busy = RawClient(wire.url, read_ahead_bytes=0)
            idle = RawClient(wire.url)
            await busy.connect()
            await wait_until(lambda: wire.statistics().bytes_to_client > 0)
            wire.black_hole()
            await idle.connect()
            await wait_until(lambda: wire.statistics().open == 2)
        assert wire.statistics().open == 0
        await upstream.wait_until_idle()
        await busy.close()
        await idle.close()


async def test_two_connections_do_not_share_a_byte() -> None:
    async def echo(connection: ScriptedConnection) -> None:
        while piece := await connection.read_some():
            await connection.send(piece)

    async with (
        ScriptedUpstream(echo) as upstream,
        FaultProxy(upstream.url, to_client=Fault(drip=True)) as wire,
        RawClient(wire.url) as one,
        RawClient(wire.url) as two,
    ):
        await asyncio.gather(one.send(b"1" * 500), two.send(b"2" * 500))
        assert await asyncio.gather(one.read_exactly(500), two.read_exactly(500)) == [
            b"1" * 500,
            b"2" * 500,
        ]


def test_a_fault_has_at_most_one_ending_and_no_negative_numbers() -> None:
    with pytest.raises(ValueError, match="at most one ending"):
        Fault(reset_after_bytes=1, cut_after_bytes=2)
    with pytest.raises(ValueError, match="negative"):
        Fault(latency=-1)
    with pytest.raises(ValueError, match="negative"):
        Fault(bytes_per_second=0)
