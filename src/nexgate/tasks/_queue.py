"""The queue: functions in, jobs out."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import inspect
import logging
import sys
import time
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager
from pathlib import Path
from typing import Any, Final, ParamSpec, Self, TypeVar, cast
from uuid import uuid4

from nexgate.resilience import Backoff

from ._background import told_through_futures
from ._broker import Message, StoreBroker
from ._errors import TaskError
from ._job import Job
from ._schedule import Schedule
from ._store import JobRecord, NewJob, Priority, TaskStore
from ._task import _BACKOFF, Calling, Task, TaskOptions, seconds_of
from ._worker import Worker

__all__ = ["TaskQueue", "open_store"]

P = ParamSpec("P")
R = TypeVar("R")
F = TypeVar("F", bound=Callable[..., Any])

_log = logging.getLogger("nexgate.tasks")

_DAY: Final = 86400.0


def open_store(place: str | Path | TaskStore, **options: Any) -> TaskStore:
    """A store of jobs: a file, ``redis://…`` or ``valkey://…``, or one that is there."""
    if not isinstance(place, (str, Path)):
        return place
    store: TaskStore
    if "://" in str(place):
        from .stores import RedisTasks

        store = RedisTasks(str(place), **options)
        return store
    from .stores import SqliteTasks

    store = SqliteTasks(place, **options)
    return store


class TaskQueue:
    """Tasks of a program and where their jobs are kept: ``TaskQueue("tasks.db")``, a file that is
    there when it is opened, or ``TaskQueue("redis://…")`` for many machines.

    ``keep``: seconds for which results are kept. ``lease``: seconds after which the job of a worker
    that died is another's; renewed while it runs. ``invoker`` turns a function into what is called,
    for dependencies: ``container.inject``. ``scope()`` makes an async context manager around each
    run. ``options`` are the store's: ``synchronous``, ``max_pending``.

    Open it before ``delay`` (``async with``, or ``start``, which also works jobs off in this
    process when ``concurrency`` is not 0). It belongs to one event loop.
    """

    def __init__(
        self,
        place: str | Path | TaskStore = "tasks.db",
        *,
        keep: float | str = _DAY,
        lease: float | str = 30.0,
        concurrency: int = 0,
        invoker: Callable[[Callable[..., Any]], Callable[..., Any]] | None = None,
        scope: Callable[[], AbstractAsyncContextManager[Any]] | None = None,
        clock: Callable[[], float] = time.time,
        **options: Any,
    ) -> None:
        self.store = open_store(place, **options)
        self.keep = seconds_of("keep", keep)
        self.lease = seconds_of("lease", lease)
        if self.lease == 0:
            raise TaskError("a lease is longer than nothing")
        self.clock = clock
        self.scope = scope
        self.broker = StoreBroker(self)
        """For taskiq: middlewares, dependencies, formatter."""
        self.tasks: dict[str, Task[..., Any]] = {}
        self.schedules: list[Schedule] = []
        self._invoker = invoker
        self._concurrency = concurrency
        self._worker: Worker | None = None
        self._working: asyncio.Task[None] | None = None

    # ---------------------------------------------------------------- saying what there is

    def task(
        self,
        function: Callable[P, Any] | None = None,
        *,
        name: str = "",
        retries: int = 0,
        backoff: Backoff = _BACKOFF,
        timeout: float | str | None = None,
        priority: Priority = "normal",
        keep: float | str | None = None,
        max_running: int | None = None,
    ) -> Any:
        """Decorator: a function, ``async`` or not, that workers can run. See ``TaskOptions``; times
        are seconds or ``"30s"``. Its name in the store is its module and name: another name is
        another task.
        """

        def decorate(function: Callable[P, Any]) -> Task[P, Any]:
            said = name or f"{_module_of(function)}:{function.__qualname__}"
            if said in self.tasks:
                raise TaskError(f"there is a task {said} already")
            options = TaskOptions(
                said,
                retries,
                backoff,
                None if timeout is None else seconds_of(f"{said}: timeout", timeout),
                priority,
                None if keep is None else seconds_of(f"{said}: keep", keep),
                max_running,
            )
            called = self._invoker(function) if self._invoker is not None else function
            made: Task[P, Any] = Task(self, function, options)
            self.tasks[said] = made
            self.broker.register_task(_own(called), said)
            return made

        return decorate if function is None else decorate(function)

    def cron(self, line: str, *, zone: str = "UTC", catch_up: bool = False) -> Callable[[F], F]:
        """Decorator for a task without parameters: run it at the times of a cron line, once in the
        whole fleet. ``catch_up``: also for the last time at which no worker was there.
        """
        return self._scheduled(lambda name: Schedule(name, line, 0.0, zone, catch_up))

    def every(self, interval: float | str, *, catch_up: bool = False) -> Callable[[F], F]:
        """Decorator for a task without parameters: run it every ``interval`` (``"30s"``)."""
        seconds = seconds_of("every", interval)
        return self._scheduled(lambda name: Schedule(name, "", seconds, "UTC", catch_up))

    def _scheduled(self, make: Callable[[str], Schedule]) -> Callable[[F], F]:
        def decorate(function: F) -> F:
            task = function if isinstance(function, Task) else self.task(function)
            self.schedules.append(make(task.name))
            return cast("F", task)

        return decorate

    # ---------------------------------------------------------------- jobs

    async def _enqueue(self, calling: Calling[..., R], args: Any, kwargs: Any) -> Job[R]:
        task = calling.task
        number = new_job_id()
        message = Message(
            task_id=number,
            task_name=task.name,
            labels=dict(calling.labels),
            labels_types=None,
            args=list(args),
            kwargs=dict(kwargs),
        )
        for middleware in self.broker.middlewares:
            changed: Any = middleware.pre_send(message)
            message = await changed if asyncio.iscoroutine(changed) else changed
        try:
            body = self.broker.formatter.dumps(message).message
        except Exception as error:
            raise TaskError(f"{task.name}: its arguments are not JSON: {error}") from None
        due = calling.at if calling.at is not None else self.clock() + calling.delay_by
        priority = calling.priority or task.options_of_all.priority
        # Of this task: what others call "7" is another job.
        key = None if calling.key is None else f"{task.name}:{calling.key}"
        stored = await self.store.enqueue(NewJob(number, task.name, body, due, priority, key))
        return Job(self, stored)

    def job(self, id: str) -> Job[Any]:
        """The handle of a job by its id."""
        return Job(self, id)

    async def dead(self, limit: int = 100) -> list[JobRecord]:
        """Jobs that failed for the last time; ``store.revive`` and ``store.drop`` take ids."""
        return await self.store.jobs("dead", limit)

    # ---------------------------------------------------------------- its life

    async def open(self) -> None:
        """Be ready for ``delay``."""
        await self.store.open()

    async def start(self) -> None:
        """Be ready, and work jobs off here if ``concurrency`` says so."""
        await self.open()
        if self._concurrency and self._working is None:
            self._worker = Worker(self, self._concurrency)
            self._working = asyncio.create_task(self._worker.run(), name="nexgate-tasks-worker")

    async def aclose(self, timeout: float = 10.0) -> None:
        """End the worker of this process, which lets jobs finish for ``timeout`` seconds and gives
        the others back, and close the store.
        """
        working, self._working = self._working, None
        if working is not None and self._worker is not None:
            self._worker.stop(timeout)
            await asyncio.gather(working, return_exceptions=True)
        await self.store.aclose()

    @contextlib.asynccontextmanager
    async def running(self, concurrency: int = 8) -> AsyncIterator[Worker]:
        """Work jobs off in this process, within the block."""
        worker = Worker(self, concurrency)
        working = asyncio.create_task(worker.run(), name="nexgate-tasks-worker")
        try:
            yield worker
        finally:
            if not worker.is_stopping:
                worker.stop()
            await asyncio.gather(working, return_exceptions=True)

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(self, *exc: object) -> None:
        await self.aclose()


def _own(function: Callable[..., Any]) -> Callable[..., Any]:
    """A function that taskiq may rename: it renames what it is given."""
    if inspect.iscoroutinefunction(inspect.unwrap(function)):

        @functools.wraps(function)
        async def run(*args: Any, **kwargs: Any) -> Any:
            return await function(*args, **kwargs)

        return run

    return told_through_futures(function)


def _module_of(function: Callable[..., Any]) -> str:
    """Its module as a worker imports it: to itself, a script is ``__main__``."""
    if function.__module__ != "__main__":
        return function.__module__
    main = sys.modules["__main__"]
    if main.__spec__ is not None:  # python -m
        return main.__spec__.name
    file = getattr(main, "__file__", None)
    return Path(file).stem if file else "__main__"


def new_job_id() -> str:
    """Sorts by the time of its making, which keeps the file's pages together."""
    return f"{time.time_ns() // 1_000_000:012x}{uuid4().hex[:16]}"
