"""A minute of kill -9: every job runs, and again only where a worker died of it."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest
from tests.scenarios.chaos import Herd, check
from tests.scenarios.chaos_tasks import queue_at
from tests.scenarios.support import show
from tests.unit.state.servers import Valkey


async def chaos(place: str, tmp_path: Path, seconds: float) -> None:
    log = tmp_path / "log"
    log.touch()
    wanted: set[str] = set()
    async with queue_at(place, None) as queue:
        work, flaky = queue.tasks["work"], queue.tasks["flaky"]
        program = str(Path(__file__).with_name("chaos_tasks.py"))
        async with Herd(3, 11, program, place, str(log)) as herd:
            hunt = asyncio.create_task(herd.hunt(seconds, (0.2, 1.2)))
            number = 0
            while not hunt.done():
                name = f"n{number}"
                match number % 5:
                    case 0:
                        await work.options(delay=1.5).delay(name)
                    case 1:
                        await flaky.delay(name)
                    case 2:
                        for _ in range(2):  # one job
                            await work.options(key=name).delay(name)
                    case 3:
                        await work.options(priority="high").delay(name)
                    case _:
                        await work.delay(name)
                wanted.add(name)
                number += 1
                await asyncio.sleep(0.004)
            await hunt
            async with asyncio.timeout(90):
                while True:
                    counts = await queue.store.counts()
                    if not counts["waiting"] and not counts["running"]:
                        break
                    await asyncio.sleep(0.2)
        assert counts["dead"] == 0
        assert counts["done"] == len(wanted)
    show(**check(log, wanted, herd.killed))
    assert len(herd.killed) > seconds / 2


@pytest.mark.slow
async def test_a_minute_of_killed_workers_of_one_file(tmp_path: Path) -> None:
    await chaos(str(tmp_path / "tasks.db"), tmp_path, 60.0)


@pytest.mark.slow
async def test_twenty_seconds_of_killed_workers_of_a_valkey(tmp_path: Path) -> None:
    with Valkey() as server:
        await chaos(server.url, tmp_path, 20.0)
