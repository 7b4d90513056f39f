"""Gate 1: a storm of malformed things from both sides, and afterwards all is as it was."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import logging
import os
import tracemalloc
from random import Random

import pytest
from tests.conftest import in_front_of
from tests.fuzz.mutations import pieces, response, traffic
from tests.scenarios.support import GET, show

from nexgate.http import _fields, _head
from nexgate.testing import (
    ExpectHead,
    RawClient,
    RecordingUpstream,
    ScriptedConnection,
    ScriptedUpstream,
    canned,
    wait_until,
)

STORM = 1500
AT_ONCE = 50


async def hostile_client(url: str, seed: int) -> None:
    """Sends something that is almost HTTP and leaves in one way or another."""
    random = Random(seed)
    async with RawClient(url, timeout=2.0) as client:
        with contextlib.suppress(ConnectionError, TimeoutError):
            for piece in pieces(random, traffic(random)):
                await client.send(piece)
            end = random.random()
            if end < 0.2:
                client.reset()
            elif end < 0.4:
                client.half_close()
                await client.read_eof()
            elif end < 0.8:
                await client.read_some()
            elif end < 0.9:
                await client.read_eof(timeout=0.05)


async def hostile_service(connection: ScriptedConnection) -> None:
    """Answers with something that is almost HTTP, or not at all."""
    random = Random(connection.index)
    while True:
        await ExpectHead().run(connection)
        if random.random() < 0.1:
            connection.reset()
            return
        for piece in pieces(random, response(random, random.random() < 0.7)):
            await connection.send(piece)
        if random.random() < 0.3:
            return


async def storm(url: str, first: int, count: int) -> None:
    seeds = iter(range(first, first + count))

    async def some() -> None:
        for seed in seeds:
            await hostile_client(url, seed)

    # A few tasks, not one for each client: what those leave behind would be taken for a leak.
    await asyncio.gather(*(some() for _ in range(AT_ONCE)))


def open_files() -> int:
    return len(os.listdir("/proc/self/fd"))  # noqa: PTH208  # a list of names is all it takes


async def test_gate1_after_a_storm_everything_is_as_it_was(
    caplog: pytest.LogCaptureFixture,
) -> None:
    # pytest keeps what is logged, a megabyte of refusals if a test before has raised the level.
    caplog.set_level(logging.WARNING, logger="nexgate")
    section = {"timeouts": {"head": "1s", "body": "1s", "idle": "1s", "half_close": "200ms"}}
    async with (
        ScriptedUpstream(hostile_service) as upstream,
        in_front_of(
            upstream.url, section, timeout={"first_byte": "1s", "body": "1s"}, pool={"idle": "1s"}
        ) as served,
    ):
        edge = served.runtime.edge
        (instance,) = served.runtime.services["upstream"].instances.values()

        def is_quiet() -> bool:
            return not edge.connections and not edge.tunnels and not instance.connections

        await storm(served.url, 0, 300)  # what any traffic leaves behind
        await wait_until(is_quiet, 15.0)
        await upstream.wait_until_idle(10.0)
        upstream.connections.clear()
        gc.collect()
        tasks = len(asyncio.all_tasks())
        files = open_files()
        tracemalloc.start()
        before, _ = tracemalloc.get_traced_memory()
        began = edge.total_exchanges
        await storm(served.url, 10_000, STORM)
        await wait_until(is_quiet, 15.0)
        await wait_until(lambda: upstream.open_connections == 0, 10.0)
        upstream.connections.clear()
        # The tables of what was seen lately are bounded and full by now: they are not a leak.
        for table in (_fields.LINES, _fields._names, _head._hosts, _head._connections):
            table.clear()
        instance.heads.clear()
        (edge.snapshot.known_routes or {}).clear()
        gc.collect()
        after, _ = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        await wait_until(lambda: len(asyncio.all_tasks()) <= tasks, 5.0)
        show(
            storm=STORM,
            exchanges=edge.total_exchanges - began,
            refused=edge.refused,
            tasks=(tasks, len(asyncio.all_tasks())),
            files=(files, open_files()),
            kept_kib=(after - before) / 1024,
        )
        assert edge.total_exchanges - began > STORM / 4
        assert instance.active == 0
        assert instance.waiting == 0
        assert instance.idle_connections == 0
        assert not len(edge.wheel)
        assert open_files() <= files + 2
        # 0.1 MiB is kept; 1,500 leaks of a connection's smallest part would be more.
        assert after - before < 512 * 1024


async def test_gate1_clients_faults_are_never_5xx_and_others_are_served_meanwhile() -> None:
    async with (
        RecordingUpstream(canned(body=b"ok")) as upstream,
        in_front_of(upstream.url) as served,
        RawClient(served.url) as regular,
    ):
        edge = served.runtime.edge
        statuses: list[int] = []
        edge.exchange_log = lambda exchange: statuses.append(exchange.status)
        attack = asyncio.create_task(storm(served.url, 50_000, 500))
        served_meanwhile = 0
        while not attack.done():
            assert (await regular.request(GET)).status == 200
            served_meanwhile += 1
        await attack
        await wait_until(lambda: len(edge.connections) == 1, 15.0)
        faults = [s for s in statuses if s >= 500 and s not in (501, 505)]
        show(storm=500, exchanges=len(statuses), served_meanwhile=served_meanwhile, faults=faults)
        assert not faults
        assert served_meanwhile > 20


async def test_gate1_two_thousand_connect_request_reset_cycles_leave_nothing() -> None:
    """The HTTP/1.1 twin of rapid reset: what is under way for one who is gone is cancelled."""

    async def never(connection: ScriptedConnection) -> None:
        await connection.read_to_end()

    async with (
        ScriptedUpstream(never, max_recorded_bytes=0) as upstream,
        in_front_of(upstream.url) as served,
    ):
        edge = served.runtime.edge
        (instance,) = served.runtime.services["upstream"].instances.values()
        most = 0
        for _ in range(100):
            clients = [RawClient(served.url) for _ in range(20)]
            for client in clients:
                await client.connect()
                await client.send(GET)
            for client in clients:
                client.reset()
            most = max(most, instance.active)
            for client in clients:
                await client.close()
        await wait_until(lambda: not edge.connections, 10.0)
        # Connections that were made for clients already gone are good for others: they are idle.
        await wait_until(lambda: instance.connections == instance.idle_connections, 10.0)
        show(
            cycles=2000,
            exchanges=edge.total_exchanges,
            most_at_once=most,
            idle=instance.idle_connections,
        )
        assert instance.active == 0
        assert instance.idle_connections <= instance.limits.max_idle
        assert len(edge.wheel) <= instance.idle_connections
        assert most <= 200
