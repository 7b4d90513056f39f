"""Gate 3: thousands of slow clients, and the others do not notice them.

The slow ones have a service of their own with room for all of them: connections to a service are
what a slow body and a slow reader use up, and the limit of that (``pool.max_connections``) is kept
for each service. What is measured is the gateway.
"""

from __future__ import annotations

import asyncio
import json
import resource
from pathlib import Path

import pytest
from tests.scenarios.support import (
    HERE,
    Load,
    Origin,
    Process,
    Running,
    cpu_seconds,
    machine_to_itself,
    show,
    toml,
)

from nexgate.testing import wait_until

HEAD_TIMEOUT = 3.0


FLOOR = 0.02
"""Seconds of p99 that a noisy machine makes on its own."""


async def slow_crowd(tmp_path: Path, heads: int, bodies: int, readers: int) -> None:
    limits = f'timeouts = {{ head = "{HEAD_TIMEOUT}s" }}'
    async with (
        Origin() as origin,
        Origin() as other,
        Running(
            tmp_path / "gateway.toml",
            toml(origin.url, gateway=limits)
            + f'[services.slow]\ninstances = ["{other.url}"]\npool = {{ max_connections = 5000 }}\n'
            + '[[routes]]\npath = "/slow/*"\nservice = "slow"\nrewrite = "/bytes/1000000000"\n',
        ) as gateway,
    ):
        (worker,) = gateway.workers()
        async with Load(gateway.port, connections=32, requests=8000) as load:
            report = await load.report()
        # Half of what this machine can do at this moment: other tests run beside this one.
        rate = min(3000.0, 0.5 * report["asked"] / report["seconds"])
        good = {"mode": "open", "rate": rate, "duration": 5.0, "connections": 4000}
        async with Load(gateway.port, **good) as load:
            before = await load.report()
        arguments = map(str, (gateway.port, heads, bodies, readers))
        async with Process(str(HERE / "crowd.py"), *arguments) as crowd:
            assert await crowd.line() == "there\n"
            # What the kernel holds for a slow reader arrives at full speed; then it is slow.
            await wait_until(lambda: is_calm(worker), 20.0)
            async with Load(gateway.port, **good) as load:
                beside = await load.report()
            assert crowd.process.stdin is not None
            crowd.process.stdin.write(b"\n")
            await wait_until(lambda: crowd.lines, 10.0)
            fate = json.loads(await crowd.line())
        async with Load(gateway.port, **good) as load:
            after = await load.report()
        p99_alone = max(before["latency"]["p99"], after["latency"]["p99"])
        show(
            crowd=(heads, bodies, readers),
            rate=rate,
            p99_alone_ms=p99_alone * 1000,
            p99_beside_ms=beside["latency"]["p99"] * 1000,
            max_beside_ms=beside["latency"]["max"] * 1000,
            answered=beside["statuses"],
            failures=beside["kinds"],
        )
        show(**fate)
        assert beside["kinds"] == {}
        assert set(beside["statuses"]) == {"200"}
        # The floor is for machines that do other things as well.
        assert beside["latency"]["p99"] < max(2 * p99_alone, FLOOR)
        # Every slow head was told so, on time; nobody else was cut off.
        assert fate["outcomes"] == {"heads 408": heads}
        assert fate["longest"] < HEAD_TIMEOUT + 1.5
        assert fate["open"] == {"bodies": bodies, "readers": readers}
        # Gone, they leave nothing behind.
        files = Path(f"/proc/{worker}/fd")
        await wait_until(lambda: len(list(files.iterdir())) < 200, 10.0)


async def is_calm(worker: int) -> bool:
    before = cpu_seconds(worker)
    await asyncio.sleep(0.25)
    return cpu_seconds(worker) - before < 0.05


@pytest.mark.slow  # it measures milliseconds: it needs the machine to itself
async def test_gate3_a_few_hundred_slow_clients_disturb_nobody(tmp_path: Path) -> None:
    await slow_crowd(tmp_path, 200, 200, 100)


@pytest.mark.slow
async def test_gate3_five_thousand_slow_clients_disturb_nobody(tmp_path: Path) -> None:
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    # The worker needs two descriptors for each who is let through to the service.
    part = min(1.0, (hard - 1000) / 12_000)
    if part < 1.0:
        show(scaled_to=part, because=f"only {hard} files may be open")
    heads, bodies, readers = int(2000 * part), int(2000 * part), int(1000 * part)
    with machine_to_itself():
        await slow_crowd(tmp_path, heads, bodies, readers)
