"""What is done after a response: ``tasks.add(send_mail, user)``."""

from __future__ import annotations

import asyncio
import contextvars
import functools
import inspect
import logging
from collections.abc import Callable
from contextvars import ContextVar
from typing import Any, Final, ParamSpec, TypeVar

from nexgate.cancellation import is_cancelled

__all__ = ["BackgroundTasks", "current_background"]

P = ParamSpec("P")
R = TypeVar("R")

_log = logging.getLogger("nexgate.tasks")

current_background: Final[ContextVar[BackgroundTasks | None]] = ContextVar(
    "nexgate_background", default=None
)
"""Those of the present request."""


def told_through_futures(function: Callable[P, R]) -> Callable[P, R]:
    """``function`` for a thread: ``StopIteration`` cannot be told through a future, and who waits
    for it would wait for ever.
    """

    @functools.wraps(function)
    def call(*args: P.args, **kwargs: P.kwargs) -> R:
        try:
            return function(*args, **kwargs)
        except StopIteration as error:
            raise RuntimeError("the function raised StopIteration") from error

    return call


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
            result = await asyncio.to_thread(
                context.run, told_through_futures(function), *args, **kwargs
            )
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
            except asyncio.CancelledError:
                if is_cancelled():
                    raise
                # Nobody wants our end: something that it waited for was cancelled.
                _log.exception("background task %s failed", function.__qualname__)
            except Exception:
                _log.exception("background task %s failed", function.__qualname__)
