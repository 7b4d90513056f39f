"""How far a task is."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any, Final

from ._errors import TaskError

__all__ = ["CurrentJob", "current_job", "progress"]


@dataclass(frozen=True, slots=True)
class CurrentJob:
    """The job that the present code runs for."""

    id: str
    task: str
    attempt: int
    """Counts from 1."""
    _tell: Callable[[dict[str, Any]], Awaitable[None]]


_current: Final[ContextVar[CurrentJob | None]] = ContextVar("nexgate_job", default=None)


def current_job() -> CurrentJob | None:
    """The job that the present code runs for; ``None`` outside of one."""
    return _current.get()


async def progress(done: float, of: float | None = None, note: str = "") -> None:
    """Say how far the present job is, for ``Job.progress`` and ``nexgate tasks watch``. Raises
    ``TaskError`` outside of a job.
    """
    job = _current.get()
    if job is None:
        raise TaskError("there is no job here that could make progress")
    await job._tell({"done": done, "of": of, "note": note})
