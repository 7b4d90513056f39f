"""Gate 7: five times the load that a service can take."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest
from tests.scenarios.support import Load, Origin, Running, get, show, toml

CONNECTIONS = 8
SECONDS = 0.02
CAPACITY = CONNECTIONS / SECONDS  # 400 a second
POOL = f'pool = {{ max_connections = {CONNECTIONS}, max_waiting = 40, wait = "200ms" }}'


BULKHEAD = f'bulkhead = {{ limit = {CONNECTIONS}, queue = 40, wait = "200ms" }}'


@pytest.mark.parametrize("limit", [POOL, BULKHEAD], ids=["pool", "bulkhead"])
async def test_gate7_five_times_the_capacity_keeps_the_goodput(tmp_path: Path, limit: str) -> None:
    async with (
        Origin(delay=SECONDS) as origin,
        Running(tmp_path / "gateway.toml", toml(origin.url, service=limit)) as gateway,
    ):
        # The peak: just as many clients as connections, so that nothing is refused.
        async with Load(gateway.port, connections=CONNECTIONS, requests=800) as load:
            report = await load.report()
            peak = report["asked"] / report["seconds"]
        async with Load(
            gateway.port, "open", rate=5 * CAPACITY, duration=4.0, connections=1500
        ) as load:
            await asyncio.sleep(2.0)
            refused = None
            for _ in range(50):
                answer = await get(gateway.port)
                if answer.status == 503:
                    refused = answer
                    break
            report = await load.report()
        goodput = report["statuses"]["200"] / report["seconds"]
        refusals = report["by_status"]["503"]
        served = report["by_status"]["200"]
        async with Load(gateway.port, "open", rate=CAPACITY / 2, duration=2.0) as load:
            after = await load.report()
        show(
            peak=peak,
            goodput=goodput,
            ratio=goodput / peak,
            refused=report["statuses"]["503"],
            refused_p99=refusals["p99"],
            served_p99=served["p99"],
            after_p99=after["latency"]["p99"],
        )
        assert report["kinds"] == {}
        assert set(report["statuses"]) == {"200", "503"}
        assert goodput >= 0.9 * peak
        # The queue is full and says so at once; who waited in vain did it for 200 ms at most.
        assert refusals["p50"] < 0.05
        assert refusals["p99"] < 0.4
        assert refused is not None
        assert refused.value("retry-after") == "1"
        assert b"overloaded" in refused.body
        # Recovered at once: half the load meets an empty queue.
        assert set(after["statuses"]) == {"200"}
        assert after["latency"]["p99"] < 0.2
