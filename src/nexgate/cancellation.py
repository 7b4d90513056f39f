"""Whose wish a ``CancelledError`` is."""

from __future__ import annotations

import asyncio

__all__ = ["is_cancelled"]


def is_cancelled() -> bool:
    """Whether somebody wants the end of the present task. When nobody does, a ``CancelledError`` is
    of something that it awaited, and a failure like any other.
    """
    task = asyncio.current_task()
    return task is not None and task.cancelling() > 0
