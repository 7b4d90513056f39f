"""What ``with`` statements on a shared object have entered, told apart by task or thread.

``async with breaker:`` keeps its permit somewhere until it is left, and the breaker is shared: one
slot on it would be overwritten by the next call. Within one task, ``with`` statements are left in
the opposite order in which they were entered, so each task gets its own stack.
"""

from __future__ import annotations

import asyncio
import threading
from typing import Generic, TypeVar

__all__ = ["Entered"]

T = TypeVar("T")


class Entered(Generic[T]):
    """A stack for each task, or for each thread outside of tasks."""

    __slots__ = ("_stacks",)

    def __init__(self) -> None:
        self._stacks: dict[object, list[T]] = {}

    def __len__(self) -> int:
        return sum(map(len, self._stacks.values()))

    def push(self, item: T) -> None:
        """Remember ``item`` until this task pops it."""
        owner = _owner()
        stack = self._stacks.get(owner)
        if stack is None:
            self._stacks[owner] = [item]
        else:
            stack.append(item)

    def pop(self) -> T | None:
        """What this task entered last; ``None`` when it entered nothing.

        An async generator may be closed by another task than the one that ran it. Then what the
        ended task left behind is meant.
        """
        owner = _owner()
        if owner not in self._stacks:
            for other in self._stacks:
                if isinstance(other, asyncio.Task) and other.done():
                    owner = other
                    break
            else:
                return None
        stack = self._stacks[owner]
        item = stack.pop()
        if not stack:
            del self._stacks[owner]
        return item


def _owner() -> object:
    try:
        task = asyncio.current_task()
    except RuntimeError:  # no loop runs in this thread
        task = None
    return task if task is not None else threading.get_ident()
