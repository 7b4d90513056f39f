"""What workers do: ``nexgate worker jobs:tasks``."""

from __future__ import annotations

import asyncio
import os

from nexgate.tasks import TaskQueue, progress

tasks = TaskQueue(os.environ.get("TASKS_DB", "tasks.db"))


@tasks.task(retries=3, timeout="30s")
async def make_report(pages: int) -> dict[str, int]:
    """A report takes a while, and says how far it is."""
    words = 0
    for page in range(1, pages + 1):
        await asyncio.sleep(0.02)
        words += page * 100
        await progress(page, of=pages, note=f"page {page}")
    return {"pages": pages, "words": words}


@tasks.every("1s")
@tasks.task(keep="1m")
async def tidy_up() -> None:
    """Once a second, by one worker of however many there are."""
