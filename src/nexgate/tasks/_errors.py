"""What goes wrong with jobs."""

from __future__ import annotations

from nexgate.errors import NexgateError

__all__ = ["JobCancelled", "JobFailed", "QueueFull", "TaskError"]


class TaskError(NexgateError):
    """Something about tasks failed."""


class QueueFull(TaskError):
    """More jobs wait than may. Try again later."""


class JobFailed(TaskError):
    """A job failed after its last attempt; its error is the message."""


class JobCancelled(TaskError):
    """A job was cancelled."""
