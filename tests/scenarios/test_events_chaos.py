"""A minute of kill -9: every event is handled, in order for each key, and again only where a
consumer died.
"""

from __future__ import annotations

import asyncio
from collections import defaultdict
from pathlib import Path

import pytest
from tests.scenarios.chaos import Herd, check, lines
from tests.scenarios.chaos_events import store_at
from tests.scenarios.support import show
from tests.unit.state.servers import Valkey

from nexgate.events import Event, EventBus

KEYS = 20


async def chaos(place: str, tmp_path: Path, seconds: float) -> None:
    log = tmp_path / "log"
    log.touch()
    published: dict[str, int] = defaultdict(int)
    async with EventBus(store=store_at(place)) as bus:
        program = str(Path(__file__).with_name("chaos_events.py"))
        async with Herd(3, 7, program, place, str(log)) as herd:
            hunt = asyncio.create_task(herd.hunt(seconds, (0.2, 1.2)))
            number = 0
            while not hunt.done():
                key = f"k{number % KEYS}"
                event = Event("chaos.happened", {"number": published[key]}, key=key)
                await bus.publish(event)
                published[key] += 1
                number += 1
                await asyncio.sleep(0.004)
            await hunt
            wanted = {f"{key}:{n}" for key, count in published.items() for n in range(count)}
            async with asyncio.timeout(90):
                while wanted - {line.name for line in lines(log) if line.sign == "-"}:
                    await asyncio.sleep(0.5)
    # A failure is an outcome, and a repetition after one is as promised.
    kept = tmp_path / "kept"
    failed: set[str] = set()
    with kept.open("w") as file:
        for line in lines(log):
            if line.name.startswith("failed "):
                failed.add(line.name.removeprefix("failed "))
        for line in lines(log):
            if not line.name.startswith("failed ") and line.name not in failed:
                file.write(f"{line.sign} {line.pid} {line.name}\n")
    figures = check(kept, wanted - failed, herd.killed)
    first: dict[str, list[int]] = defaultdict(list)
    for line in lines(log):
        key, _, text = line.name.partition(":")
        if line.sign == "-" and not line.name.startswith("failed ") and int(text) not in first[key]:
            first[key].append(int(text))
    for key, count in published.items():
        assert first[key] == list(range(count)), key
    show(**figures, failures=len(failed), keys=KEYS)
    assert figures["killed"] > seconds / 2


@pytest.mark.slow
async def test_a_minute_of_killed_consumers_of_one_file(tmp_path: Path) -> None:
    await chaos(str(tmp_path / "events.db"), tmp_path, 60.0)


@pytest.mark.slow
async def test_twenty_seconds_of_killed_consumers_of_a_valkey(tmp_path: Path) -> None:
    with Valkey() as server:
        await chaos(server.url, tmp_path, 20.0)
