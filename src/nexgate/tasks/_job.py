"""One run of a task, from outside."""

from __future__ import annotations

import asyncio
import json
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from ._errors import JobCancelled, JobFailed, TaskError
from ._store import JobRecord, JobState

if TYPE_CHECKING:
    from ._queue import TaskQueue

__all__ = ["Job"]

R = TypeVar("R")


class Job(Generic[R]):
    """The handle of a job: its id is all there is to it, so it can be sent anywhere and made again
    by ``TaskQueue.job``.
    """

    __slots__ = ("_queue", "id")

    def __init__(self, queue: TaskQueue, id: str) -> None:
        self.id = id
        self._queue = queue

    async def record(self) -> JobRecord:
        """Everything that is known. Raises ``TaskError`` for a job that is not there (any more)."""
        found = await self._queue.store.get(self.id)
        if found is None:
            raise TaskError(f"there is no job {self.id}; results are kept for a time only")
        return found

    async def status(self) -> JobState:
        """``waiting``, ``running``, ``done``, ``dead`` or ``cancelled``."""
        return (await self.record()).state

    async def progress(self) -> dict[str, Any] | None:
        """What the task last said of how far it is: ``done``, ``of``, ``note``."""
        return (await self.record()).progress

    async def result(self, timeout: float | None = None) -> R:
        """What the task returned, waiting for it. Raises ``JobFailed``, ``JobCancelled``, and
        ``TimeoutError`` after ``timeout`` seconds; the job goes on then.
        """
        record = await self.wait(timeout)
        if record.state == "done":
            value: R = json.loads(record.result) if record.result else None  # type: ignore[assignment]  # what it says
            return value
        if record.state == "cancelled":
            raise JobCancelled(f"job {self.id} ({record.task}) was cancelled")
        raise JobFailed(f"job {self.id} ({record.task}) failed: {record.error}")

    async def wait(self, timeout: float | None = None) -> JobRecord:
        """Until it has ended. Raises ``TimeoutError``."""
        loop = asyncio.get_running_loop()
        end = None if timeout is None else loop.time() + timeout
        while True:
            left = 3600.0 if end is None else max(end - loop.time(), 0.0)
            record = await self._queue.store.wait_job(self.id, left)
            if record is None:
                raise TaskError(f"there is no job {self.id}; results are kept for a time only")
            if record.state in ("done", "dead", "cancelled"):
                return record
            if end is not None and loop.time() >= end:
                raise TimeoutError(f"job {self.id} is {record.state} after {timeout:g}s")

    async def cancel(self) -> JobState | None:
        """End it: one that waits never runs, one that runs is cancelled within a second. Its state
        now; ``None`` when there is no such job.
        """
        return await self._queue.store.cancel(self.id, self._queue.keep)

    def __repr__(self) -> str:
        return f"<Job {self.id}>"
