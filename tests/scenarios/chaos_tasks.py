"""A worker of the chaos of tasks: ``chaos_tasks.py QUEUE LOG``."""

from __future__ import annotations

import asyncio
import random
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2]))

from tests.scenarios.chaos import Log

from nexgate.resilience import Backoff
from nexgate.tasks import TaskQueue, current_job

QUICK = Backoff(base=0.01, cap=0.05)


def queue_at(place: str, log: Log | None) -> TaskQueue:
    queue = TaskQueue(place, lease=2.0)

    @queue.task(name="work")
    async def work(name: str) -> str:
        assert log is not None
        log.write("+", name)
        await asyncio.sleep(random.uniform(0, 0.02))
        log.write("-", name)
        return name

    @queue.task(name="flaky", retries=50, backoff=QUICK)
    async def flaky(name: str) -> None:
        job = current_job()
        assert job is not None
        assert log is not None
        if job.attempt < 3:
            raise LookupError("not yet")
        log.write("+", name)
        log.write("-", name)

    return queue


async def main() -> None:
    async with queue_at(sys.argv[1], Log(Path(sys.argv[2]))) as queue, queue.running(8):
        await asyncio.Event().wait()


if __name__ == "__main__":
    asyncio.run(main())
