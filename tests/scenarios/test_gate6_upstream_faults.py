"""Gate 6: one service fails in every way there is. The others do not notice, the clients are told
what it was, the instance is left alone, and retries do not make it worse.
"""

from __future__ import annotations

import asyncio
import json
import signal
from collections import Counter
from pathlib import Path

import pytest
from tests.scenarios.support import GET, Load, Origin, Running, get, machine_to_itself, show, toml

from nexgate.testing import (
    Fault,
    FaultProxy,
    RawClient,
    RecordingUpstream,
    ScriptedConnection,
    ScriptedUpstream,
    canned,
    wait_until,
)
from nexgate.testing._messages import read_request

FLOOR = 0.02
"""Seconds of p99 that a noisy machine makes on its own."""

BAD = (
    '[services.bad]\ninstances = ["{url}"]\n'
    'timeout = {{ connect = "400ms", first_byte = "400ms", body = "400ms" }}\n'
    'retry = {{ attempts = 3, backoff_base = "5ms" }}\n'
    '[[routes]]\npath = "/bad/*"\nservice = "bad"\nstrip_prefix = true\n'
)


async def stop(wire: FaultProxy, origin: Origin) -> None:
    await wire.refuse()
    wire.reset_all()


async def reset(wire: FaultProxy, origin: Origin) -> None:
    wire.fault = Fault(reset_after_bytes=0)


async def cut(wire: FaultProxy, origin: Origin) -> None:
    wire.to_client = Fault(cut_after_bytes=30)


async def half_close(wire: FaultProxy, origin: Origin) -> None:
    wire.to_client = Fault(half_close_after_bytes=0)


async def black_hole(wire: FaultProxy, origin: Origin) -> None:
    wire.black_hole()


async def hang(wire: FaultProxy, origin: Origin) -> None:
    origin.signal(signal.SIGSTOP)


async def slow(wire: FaultProxy, origin: Origin) -> None:
    wire.to_client = Fault(latency=0.15)


FAULTS = {
    "stopped": (stop, "502", {"upstream-unreachable", "upstream-closed"}),
    # A connection that is reset before it was used was never there.
    "reset": (reset, "502", {"upstream-closed", "upstream-unreachable"}),
    "cut in its head": (cut, "502", {"upstream-malformed"}),
    "half-closed": (half_close, "502", {"upstream-closed", "upstream-unreachable"}),
    "a black hole": (black_hole, "504", {"upstream-timeout"}),
    "hung": (hang, "504", {"upstream-timeout"}),
    "slow": (slow, "200", set()),
}


@pytest.mark.slow  # it measures milliseconds
async def test_gate6_a_failing_service_is_told_apart_and_nobody_else_notices(
    tmp_path: Path,
) -> None:
    for name, (break_it, status, causes) in FAULTS.items():
        with machine_to_itself():
            async with (
                Origin() as good,
                Origin() as origin,
                FaultProxy(origin.url) as wire,
                Running(
                    tmp_path / "gateway.toml", toml(good.url) + BAD.format(url=wire.url)
                ) as gateway,
            ):
                plan = {"mode": "open", "rate": 1500.0, "duration": 2.0, "connections": 500}
                assert (await get(gateway.port, "/bad/")).status == 200
                async with Load(gateway.port, **plan) as load:
                    before = await load.report()
                await break_it(wire, origin)
                answers = asyncio.create_task(ask_the_bad_one(gateway.port, 2.0))
                async with Load(gateway.port, **plan) as load:
                    beside = await load.report()
                found, slugs = await answers
                origin.signal(signal.SIGCONT)
                show(
                    fault=name,
                    answered=dict(found),
                    causes=sorted(slugs),
                    p99_before_ms=before["latency"]["p99"] * 1000,
                    p99_beside_ms=beside["latency"]["p99"] * 1000,
                    failures=beside["kinds"],
                )
                assert set(found) == {status}, name
                assert slugs <= causes
                assert beside["kinds"] == {}
                assert set(beside["statuses"]) == {"200"}
                assert beside["latency"]["p99"] < max(2 * before["latency"]["p99"], FLOOR)


async def ask_the_bad_one(port: int, seconds: float) -> tuple[Counter[str], set[str]]:
    """Twenty clients ask the failing service until the time is over."""
    found: Counter[str] = Counter()
    slugs: set[str] = set()
    until = asyncio.get_running_loop().time() + seconds

    async def one() -> None:
        async with RawClient(("127.0.0.1", port)) as client:
            while asyncio.get_running_loop().time() < until:
                response = await client.request(GET.replace(b"/ ", b"/bad/ "))
                found[str(response.status)] += 1
                if response.status >= 500:
                    slugs.add(json.loads(response.body)["type"].rpartition("/")[2])
                    await asyncio.sleep(0.02)

    await asyncio.gather(*(one() for _ in range(20)))
    return found, slugs


async def test_gate6_an_instance_is_ejected_after_at_most_five_failures(tmp_path: Path) -> None:
    """Whatever the way in which it fails; and no client sees any of it."""

    async def reset_it(connection: ScriptedConnection) -> None:
        await read_request(connection)
        connection.reset()

    async def nonsense(connection: ScriptedConnection) -> None:
        await read_request(connection)
        await connection.send(b"220 smtp ready\r\n")

    async def silence(connection: ScriptedConnection) -> None:
        await read_request(connection)
        await connection.read_to_end()

    async def busy(connection: ScriptedConnection) -> None:
        while True:
            await read_request(connection)
            await connection.send(canned(503))

    service = (
        'balancer = "round-robin"\nretry = { attempts = 3, backoff_base = "1ms" }\n'
        'timeout = { first_byte = "150ms" }\n'
    )
    for kind in (reset_it, nonsense, silence, busy):
        async with (
            ScriptedUpstream(kind) as bad,
            RecordingUpstream(canned(body=b"ok")) as good,
            Running(tmp_path / "gateway.toml", toml(bad.url, good.url, service=service)) as gateway,
        ):
            statuses = Counter([(await get(gateway.port)).status for _ in range(40)])
            asked = sum(c.received.count(b"\r\n\r\n") for c in bad.connections)
            show(fault=kind.__name__, answered=dict(statuses), asked_the_bad_one=asked)
            assert statuses == {200: 40}
            assert asked <= 5
            await gateway.says("is left alone for")


@pytest.mark.slow
async def test_gate6_a_brown_out_does_not_become_a_storm(tmp_path: Path) -> None:
    """Every second answer fails: offered load x 1 must stay below x 1.2 at the service."""
    asked = 0

    def every_other(_: object) -> bytes:
        nonlocal asked
        asked += 1
        return canned(503 if asked % 2 else 200, b"x")

    service = 'retry = { attempts = 3, backoff_base = "5ms" }\n'
    with machine_to_itself():
        async with (
            RecordingUpstream(every_other) as upstream,
            Running(tmp_path / "gateway.toml", toml(upstream.url, service=service)) as gateway,
            Load(gateway.port, "open", rate=300.0, duration=15.0, connections=200) as load,
        ):
            report = await load.report()
        offered = sum(report["statuses"].values())
        failed = report["statuses"].get("503", 0)
        show(
            offered=offered,
            at_the_service=len(upstream.requests),
            ratio=len(upstream.requests) / offered,
            failed_share=failed / offered,
        )
        assert report["kinds"] == {}
        assert len(upstream.requests) <= 1.2 * offered
        assert failed < 0.45 * offered  # of 50 % that fail, the budget saves what it can


async def test_gate6_a_body_that_was_sent_is_not_sent_twice(tmp_path: Path) -> None:
    bodies: list[bytes] = []

    async def dies(connection: ScriptedConnection) -> None:
        message = await read_request(connection)
        bodies.append(bytes(message.body))
        connection.reset()

    service = "retry = { attempts = 3 }\n"
    async with (
        ScriptedUpstream(dies) as one,
        ScriptedUpstream(dies) as other,
        Running(tmp_path / "gateway.toml", toml(one.url, other.url, service=service)) as gateway,
    ):
        for method in (b"POST", b"PUT"):
            async with RawClient(gateway.url) as client:
                response = await client.request(
                    method + b" / HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\nhello"
                )
                assert response.status == 502
        await wait_until(lambda: one.open_connections + other.open_connections == 0)
        assert bodies == [b"hello", b"hello"]
