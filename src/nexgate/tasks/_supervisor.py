"""Tasks of asyncio that are never lost and never silently dead."""

from __future__ import annotations

import asyncio
import inspect
import itertools
import logging
import random
import time
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Final, Literal, Self

from nexgate.cancellation import is_cancelled
from nexgate.errors import NexgateError
from nexgate.resilience import Backoff

from ._errors import TaskError

__all__ = ["Restart", "SupervisedTask", "Supervisor", "SupervisorClosed", "TaskStatistics"]

Restart = Literal["never", "on_failure", "always"]
State = Literal["running", "waiting", "ended", "failed", "cancelled"]

_log = logging.getLogger("nexgate.tasks")
_BACKOFF: Final = Backoff(base=0.1, cap=30.0)
_WELL: Final = 60.0
"""Seconds after which a task that runs is well, and its next failure is its first."""


class SupervisorClosed(NexgateError):
    """The supervisor takes no more tasks."""


@dataclass(frozen=True, slots=True)
class TaskStatistics:
    """One task, for people and dashboards."""

    name: str
    state: State
    starts: int
    failures: int
    since: float
    """Unix time of its last start."""
    error: str = ""
    """The last one."""


class SupervisedTask:
    """Made by ``Supervisor.start``."""

    def __init__(
        self,
        supervisor: Supervisor,
        function: Callable[..., Any],
        args: tuple[Any, ...],
        name: str,
        restart: Restart,
        backoff: Backoff,
        max_restarts: int | None,
    ) -> None:
        self.name = name
        self.state: State = "running"
        self.starts = 0
        self.failures = 0
        self.error: BaseException | None = None
        self.since = time.time()
        self._supervisor = supervisor
        self._function = function
        self._args = args
        self._restart: Restart = restart
        self._backoff = backoff
        self._max_restarts = max_restarts
        self._recent: deque[float] = deque(maxlen=max_restarts or 1)
        self._task = asyncio.create_task(self._run(), name=name)

    async def _run(self) -> Any:
        in_a_row = 0
        while True:
            self.starts += 1
            self.since = time.time()
            self.state = "running"
            began = time.monotonic()
            failure: Exception | None = None
            try:
                result = self._function(*self._args)
                if inspect.isawaitable(result):
                    result = await result
            except asyncio.CancelledError as error:
                if is_cancelled():
                    self.state = "cancelled"
                    raise
                # Nobody wanted its end: something that it waited for was cancelled.
                failure = TaskError("it was cancelled from within")
                failure.__cause__ = error
            except Exception as error:
                failure = error
            if failure is not None:
                in_a_row = 1 if time.monotonic() - began > _WELL else in_a_row + 1
                if not self._failed(failure):
                    return None
            else:
                in_a_row = 0
                if self._restart != "always" or is_cancelled():
                    self.state = "ended"
                    return result
            self.state = "waiting"
            # Also one that ends at once, and is to be started always, must not spin.
            await asyncio.sleep(self._backoff.delay(max(in_a_row, 1), random.random))

    def _failed(self, error: Exception) -> bool:
        """Take note; tells whether it is started again."""
        self.failures += 1
        self.error = error
        now = time.monotonic()
        self._recent.append(now)
        many = len(self._recent) == self._max_restarts and now - self._recent[0] < _WELL
        again = self._restart != "never" and not many and not is_cancelled()
        self._supervisor._failed(self, error, again=again)
        if not again:
            self.state = "failed"
        return again

    @property
    def is_done(self) -> bool:
        """Whether it has ended for good."""
        return self._task.done()

    def cancel(self) -> None:
        """End it. ``wait`` to know when it has."""
        self._task.cancel()

    async def wait(self) -> None:
        """Until it has ended, in whatever way. Being cancelled here does not cancel it."""
        await asyncio.wait({self._task})

    def statistics(self) -> TaskStatistics:
        """As it is."""
        error = f"{type(self.error).__name__}: {self.error}" if self.error is not None else ""
        return TaskStatistics(self.name, self.state, self.starts, self.failures, self.since, error)


class Supervisor:
    """Owns tasks: each has a name, a restart policy and statistics; what it raises is logged.

    ``on_failure(task, error)`` is called for each exception. ``aclose`` (or the end of ``async
    with``) cancels what runs and waits for at most ``stop_timeout`` seconds.
    """

    def __init__(
        self,
        name: str = "tasks",
        *,
        stop_timeout: float = 10.0,
        on_failure: Callable[[SupervisedTask, Exception], Any] | None = None,
    ) -> None:
        self.name = name
        self.stop_timeout = stop_timeout
        self._on_failure = on_failure
        self._tasks: dict[str, SupervisedTask] = {}
        self._ended: deque[TaskStatistics] = deque(maxlen=100)
        self._numbers = itertools.count(1)
        self._is_closed = False

    def start(
        self,
        function: Callable[..., Any],
        *args: Any,
        name: str = "",
        restart: Restart = "never",
        backoff: Backoff = _BACKOFF,
        max_restarts: int | None = None,
    ) -> SupervisedTask:
        """Run ``function(*args)``, ``async`` usually, in a task. ``restart``: what happens when it
        fails, or ends. ``max_restarts`` failures within a minute are too many: it stays failed.
        Raises ``SupervisorClosed``, and ``ValueError`` for a name that is running and for less than
        one of ``max_restarts``.
        """
        if self._is_closed:
            raise SupervisorClosed(f"supervisor {self.name} is closed")
        if not name:
            name = f"{getattr(function, '__qualname__', 'task')}-{next(self._numbers)}"
        if max_restarts is not None and max_restarts < 1:
            raise ValueError(f"max_restarts is at least 1, not {max_restarts}")
        if name in self._tasks:
            raise ValueError(f"a task named {name!r} is running")
        made = SupervisedTask(self, function, args, name, restart, backoff, max_restarts)
        self._tasks[name] = made
        made._task.add_done_callback(lambda _: self._gone(made))
        return made

    def _gone(self, task: SupervisedTask) -> None:
        if task._task.cancelled():
            task.state = "cancelled"
        elif (error := task._task.exception()) is not None:  # of a backoff that is not ours
            task.error, task.state = error, "failed"
            _log.error("task %s cannot be started again", task.name, exc_info=error)
        if self._tasks.get(task.name) is task:
            del self._tasks[task.name]
        self._ended.append(task.statistics())

    def _failed(self, task: SupervisedTask, error: Exception, *, again: bool) -> None:
        what = "; it is started again" if again else "; it is not started again"
        _log.error("task %s failed%s", task.name, what, exc_info=error)
        if self._on_failure is not None:
            try:
                self._on_failure(task, error)
            except Exception:
                _log.exception("on_failure of %s failed", self.name)

    def __iter__(self) -> Iterator[SupervisedTask]:
        return iter(list(self._tasks.values()))

    def __len__(self) -> int:
        return len(self._tasks)

    def statistics(self) -> list[TaskStatistics]:
        """Those that run, then the last hundred that ended."""
        return [*(task.statistics() for task in self), *self._ended]

    async def aclose(self, timeout: float | None = None) -> list[str]:
        """Cancel everything and wait. Returns the names of those that did not end in time, which is
        logged: they are still there.
        """
        self._is_closed = True
        running = {task._task: task.name for task in self}
        for task in running:
            task.cancel()
        if not running:
            return []
        limit = self.stop_timeout if timeout is None else timeout
        _, late = await asyncio.wait(running, timeout=limit)
        names = [running[task] for task in late]
        if names:
            _log.error("supervisor %s: %s did not end in %gs", self.name, ", ".join(names), limit)
        return names

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *exc: object) -> None:
        await self.aclose()
