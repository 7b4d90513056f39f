"""Background tasks: supervised ones of this process, after a response, and durable ones.

``Supervisor`` and ``BackgroundTasks`` need nothing. ``TaskQueue`` needs ``nexgate[tasks]``: jobs in
a file of SQLite, or in Redis or Valkey, that survive ``kill -9``. See ``docs/reference/tasks.md``.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ._background import BackgroundTasks, current_background
from ._errors import JobCancelled, JobFailed, QueueFull, TaskError
from ._job import Job
from ._progress import CurrentJob, current_job, progress
from ._schedule import Schedule
from ._store import Claim, JobRecord, JobState, NewJob, Priority, TaskStore
from ._supervisor import Restart, SupervisedTask, Supervisor, SupervisorClosed, TaskStatistics
from ._task import Task, TaskOptions

if TYPE_CHECKING:
    from ._queue import TaskQueue, open_store
    from ._worker import Worker
    from .stores import RedisTasks, SqliteTasks

__all__ = [
    "BackgroundTasks",
    "Claim",
    "CurrentJob",
    "Job",
    "JobCancelled",
    "JobFailed",
    "JobRecord",
    "JobState",
    "NewJob",
    "Priority",
    "QueueFull",
    "RedisTasks",
    "Restart",
    "Schedule",
    "SqliteTasks",
    "SupervisedTask",
    "Supervisor",
    "SupervisorClosed",
    "Task",
    "TaskError",
    "TaskOptions",
    "TaskQueue",
    "TaskStatistics",
    "TaskStore",
    "Worker",
    "current_background",
    "current_job",
    "open_store",
    "progress",
]

_HOMES = {
    "RedisTasks": "nexgate.tasks.stores",
    "SqliteTasks": "nexgate.tasks.stores",
    "TaskQueue": "nexgate.tasks._queue",
    "Worker": "nexgate.tasks._worker",
    "open_store": "nexgate.tasks._queue",
}


def __getattr__(name: str) -> Any:
    # taskiq is loaded by those who use durable tasks: it takes half a second.
    home = _HOMES.get(name)
    if home is None:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(home), name)
