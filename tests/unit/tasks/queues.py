"""Queues of tests, over whatever their jobs are kept in."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

from nexgate.resilience import Backoff
from nexgate.tasks import TaskQueue, TaskStore

QUICK = Backoff(base=0.01, cap=0.02)
Make = Callable[..., TaskStore]


class Clock:
    """A wall clock that can be set."""

    def __init__(self) -> None:
        self.offset = 0.0

    def __call__(self) -> float:
        return time.time() + self.offset


@asynccontextmanager
async def opened(store: TaskStore, **options: Any) -> AsyncIterator[TaskQueue]:
    queue = TaskQueue(store, **options)
    async with queue:
        yield queue
