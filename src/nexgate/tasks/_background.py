"""What is done after a response: ``tasks.add(send_mail, user)``."""

from __future__ import annotations

import asyncio
import contextvars
import inspect
import logging
from collections.abc import Callable
from contextvars import ContextVar
from typing import Any, Final

__all__ = ["BackgroundTasks", "current_background"]

_log = logging.getLogger("nexgate.tasks")

current_background: Final[ContextVar[BackgroundTasks | None]] = ContextVar(
    "nexgate_background", default=None
)
"""Those of the present request."""


class BackgroundTasks:
    """Functions to be called when the response has been sent, in order. A plain function runs in a
    thread. One that fails is logged, and the others run.
    """

    def __init__(self) -> None:
        self._functions: list[Callable[[], Any]] = []

    def add(self, function: Callable[..., Any], *args: Any, **kwargs: Any) -> None:
        """Call ``function(*args, **kwargs)`` later, with the context variables of now."""
        context = contextvars.copy_context()

        async def call() -> None:
            if inspect.iscoroutinefunction(inspect.unwrap(function)):
                # A task in that context: a coroutine runs in that of its task.
                await asyncio.create_task(function(*args, **kwargs), context=context)
                return
            result = await asyncio.to_thread(context.run, function, *args, **kwargs)
            if inspect.isawaitable(result):
                await result

        call.__qualname__ = getattr(function, "__qualname__", repr(function))
        self._functions.append(call)

    def __len__(self) -> int:
        return len(self._functions)

    async def run(self) -> None:
        """Call them; those that they add, too."""
        while self._functions:
            function = self._functions.pop(0)
            try:
                await function()
            except Exception:
                _log.exception("background task %s failed", function.__qualname__)
