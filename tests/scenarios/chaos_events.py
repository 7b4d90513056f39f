"""A consumer of the chaos of events: ``chaos_events.py STORE LOG``."""

from __future__ import annotations

import asyncio
import random
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2]))

from tests.scenarios.chaos import Log

from nexgate.events import DurableOptions, Event, EventBus, EventStore, RedisStreams, SqliteOutbox
from nexgate.resilience import Backoff

OPTIONS = DurableOptions(
    lease=2.0, concurrency=8, start="beginning", backoff=Backoff(base=0.01, cap=0.05)
)


def store_at(place: str) -> EventStore:
    if "://" in place:
        return RedisStreams(place, partitions=8)
    return SqliteOutbox(place)


async def main() -> None:
    log = Log(Path(sys.argv[2]))

    async def handle(event: Event) -> None:
        name = f"{event.key}:{event.data['number']}"
        log.write("+", name)
        await asyncio.sleep(random.uniform(0, 0.01))
        if random.random() < 0.02:
            log.write("-", f"failed {name}")
            raise LookupError("now and then")
        log.write("-", name)

    async with EventBus(store=store_at(sys.argv[1]), errors="collect") as bus:
        bus.subscribe("chaos.*", handle, group="g", durable=OPTIONS)
        await asyncio.Event().wait()


if __name__ == "__main__":
    asyncio.run(main())
