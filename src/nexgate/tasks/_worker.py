"""A worker: claims jobs, runs them, settles them.

1. *Claim* as many as there is room for.
2. *Run* each in a task, through taskiq's receiver: middlewares, dependencies, parameters.
3. *Settle*: done with its result; again later; dead; cancelled; or nothing, when its lease was
   lost.

Meanwhile leases are extended, and jobs that somebody wants to end are cancelled.
"""

from __future__ import annotations

import asyncio
import logging
import random
import time
from collections import Counter
from collections.abc import Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext
from typing import TYPE_CHECKING, Any, Final

from pydantic_core import to_json

from nexgate.errors import NexgateError
from nexgate.resilience import Backoff

from ._broker import Receiver
from ._progress import CurrentJob, _current
from ._store import Claim, NewJob

if TYPE_CHECKING:
    from ._queue import TaskQueue
    from ._task import TaskOptions

__all__ = ["Worker", "WorkerStatistics"]

_log = logging.getLogger("nexgate.tasks")

_IDLE: Final = 1.0
_LOOK: Final = 0.5
"""Seconds between two looks for jobs that are to end."""
_TROUBLE: Final = Backoff(base=0.2, cap=5.0)
_SCHEDULE_KEEP: Final = 3600.0
"""How long the job of a schedule is kept at least: its key is what makes it the only one."""


class WorkerStatistics:
    """Counts since the worker began."""

    __slots__ = ("cancelled", "dead", "done", "failed", "lost")

    def __init__(self) -> None:
        self.done = self.failed = self.dead = self.cancelled = self.lost = 0

    def __repr__(self) -> str:
        return (
            f"done={self.done} failed={self.failed} dead={self.dead}"
            f" cancelled={self.cancelled} lost={self.lost}"
        )


class Worker:
    """Runs up to ``concurrency`` jobs of a queue at once. ``run`` until ``stop``."""

    def __init__(self, queue: TaskQueue, concurrency: int = 8) -> None:
        self.statistics = WorkerStatistics()
        self._queue = queue
        self._store = queue.store
        self._concurrency = concurrency
        self._threads = ThreadPoolExecutor(concurrency, thread_name_prefix="nexgate-task")
        self._receiver = Receiver(
            queue.broker, self._threads, max_async_tasks=concurrency, run_startup=False
        )
        self._running: dict[Claim, asyncio.Task[None]] = {}
        self._by_task: Counter[str] = Counter()
        self._room = asyncio.Event()
        self.is_stopping = False
        self._drain = 10.0

    @property
    def running(self) -> int:
        """How many jobs are running here."""
        return len(self._running)

    def stop(self, timeout: float = 10.0) -> None:
        """Take no more; let those that run finish for ``timeout`` seconds, and give back the
        rest.
        """
        self._drain = timeout
        self.is_stopping = True
        self._room.set()

    # ---------------------------------------------------------------- 1. claim

    async def run(self) -> None:
        """Until ``stop``, or cancelled: then jobs that run are given back."""
        beside = [
            asyncio.create_task(_kept(self._extend), name="nexgate-tasks-leases"),
            asyncio.create_task(_kept(self._look), name="nexgate-tasks-ends"),
        ]
        if self._queue.schedules:
            beside.append(asyncio.create_task(_kept(self._schedule), name="nexgate-tasks-schedule"))
        try:
            await self._claim_until_stopped()
            if self._running:
                await asyncio.wait(self._running.values(), timeout=self._drain)
        finally:
            await self._end(beside)

    async def _claim_until_stopped(self) -> None:
        trouble = 0
        while not self.is_stopping:
            try:
                self._room.clear()  # before we look: room that comes from here on is noticed
                room = self._concurrency - len(self._running)
                if room <= 0:
                    await self._room.wait()
                    continue
                claims = await self._store.claim(room, self._queue.lease, self._full_tasks())
                if trouble:
                    _log.info("the queue is back")
                    trouble = 0
                for claim in claims:
                    self._begin(claim)
                if not claims and not self.is_stopping:
                    await self._wait()
            except NexgateError as error:
                trouble += 1
                if trouble == 1:
                    _log.error("the queue cannot be used: %s; trying again", error)
                await asyncio.sleep(_TROUBLE.delay(trouble, random.random))

    async def _wait(self) -> None:
        """Until there may be a job, or room for one of a task that was full, or the end."""
        waiting = {
            asyncio.ensure_future(self._store.wait(_IDLE)),
            asyncio.ensure_future(self._room.wait()),
        }
        try:
            done, _ = await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for each in waiting:
                each.cancel()
            await asyncio.gather(*waiting, return_exceptions=True)
        for each in done:
            if (error := each.exception()) is not None:
                raise error

    def _full_tasks(self) -> set[str]:
        """Tasks of which no more may run here, and those that this program does not have."""
        return {
            name
            for name, count in self._by_task.items()
            if (task := self._queue.tasks.get(name)) is not None
            and task.options_of_all.max_running is not None
            and count >= task.options_of_all.max_running
        }

    def _begin(self, claim: Claim) -> None:
        task = self._queue.tasks.get(claim.task)
        limit = task.options_of_all.max_running if task is not None else None
        if limit is not None and self._by_task[claim.task] >= limit:
            # One claim brought more of it than may run.
            self._running[claim] = asyncio.create_task(self._give_back(claim))
        else:
            self._running[claim] = asyncio.create_task(
                self._work(claim), name=f"nexgate-task-{claim.id}"
            )
        self._by_task[claim.task] += 1
        self._running[claim].add_done_callback(lambda done: self._ended(claim, done))

    def _ended(self, claim: Claim, done: asyncio.Task[None]) -> None:
        self._running.pop(claim, None)
        self._by_task[claim.task] -= 1
        self._room.set()
        if not done.cancelled() and (error := done.exception()) is not None:
            _log.error("job %s: the worker failed", claim.id, exc_info=error)

    async def _give_back(self, claim: Claim) -> None:
        await self._store.give_back([claim])

    # ---------------------------------------------------------------- 2. run

    async def _work(self, claim: Claim) -> None:
        queue = self._queue
        task = queue.tasks.get(claim.task)
        if task is None:
            # Another program's, or one that is to come: it waits, and is dead after a time.
            await self._failed(claim, None, f"there is no task {claim.task} in this worker")
            return
        if claim.is_cancelled:
            await self._cancelled(claim)
            return
        options = task.options_of_all
        token = _current.set(
            CurrentJob(
                claim.id, claim.task, claim.failures + 1, lambda said: self._tell(claim, said)
            )
        )
        began = time.monotonic()
        try:
            result = await self._call(claim, options)
        except Exception as error:  # a body that cannot be read, a middleware
            _log.exception("job %s (%s) cannot be run", claim.id, claim.task)
            await self._failed(claim, options, f"{type(error).__name__}: {error}")
            return
        finally:
            _current.reset(token)
        raised: BaseException | None = result.error
        if isinstance(raised, asyncio.CancelledError):
            await self._interrupted(claim, raised)
            return
        if raised is not None:
            _log.warning(
                "job %s (%s) failed, attempt %d",
                claim.id,
                claim.task,
                claim.failures + 1,
                exc_info=raised,
            )
            await self._failed(claim, options, _told(raised, options))
            return
        await self._done(claim, options, result.return_value, time.monotonic() - began)

    async def _interrupted(self, claim: Claim, error: asyncio.CancelledError) -> None:
        """Somebody wants its end, or its lease is lost; else the worker ends, and it is to be given
        back.
        """
        if claim.is_lost:
            self.statistics.lost += 1
            _log.warning("job %s (%s): its lease was lost", claim.id, claim.task)
        elif claim.is_cancelled:
            await self._cancelled(claim)
        else:
            raise error

    async def _call(self, claim: Claim, options: TaskOptions) -> Any:
        broker = self._queue.broker
        message = broker.formatter.loads(claim.body)
        message.parse_labels()
        if options.timeout is not None:
            message.labels.setdefault("timeout", options.timeout)
        target = broker.find_task(claim.task)
        assert target is not None
        for middleware in broker.middlewares:
            changed: Any = middleware.pre_execute(message)
            message = await changed if asyncio.iscoroutine(changed) else changed
        async with self._queue.scope() if self._queue.scope is not None else nullcontext():
            result = await self._receiver.run_task(target.original_func, message)
        for middleware in reversed(broker.middlewares):
            after: Any = middleware.post_execute(message, result)
            if asyncio.iscoroutine(after):
                await after
        return result

    async def _tell(self, claim: Claim, said: dict[str, Any]) -> None:
        await self._store.progress(claim, said)

    # ---------------------------------------------------------------- 3. settle

    async def _done(self, claim: Claim, options: TaskOptions, value: Any, seconds: float) -> None:
        try:
            result = None if value is None else to_json(value)
        except Exception as error:
            await self._failed(claim, options, f"its result is not JSON: {error}")
            return
        keep = self._queue.keep if options.keep is None else options.keep
        if claim.task in {each.task for each in self._queue.schedules}:
            keep = max(keep, _SCHEDULE_KEEP)
        if await self._settle(claim, lambda: self._store.complete(claim, result, keep)):
            self.statistics.done += 1
            _log.debug("job %s (%s) done in %.3fs", claim.id, claim.task, seconds)

    async def _failed(self, claim: Claim, options: TaskOptions | None, error: str) -> None:
        retries = options.retries if options is not None else 10
        if claim.failures >= retries:
            if await self._settle(claim, lambda: self._store.bury(claim, error)):
                self.statistics.dead += 1
                _log.error("job %s (%s) is dead: %s", claim.id, claim.task, error)
            return
        backoff = options.backoff if options is not None else _TROUBLE
        delay = backoff.delay(claim.failures + 1, random.random)
        if await self._settle(claim, lambda: self._store.retry(claim, delay, error)):
            self.statistics.failed += 1

    async def _cancelled(self, claim: Claim) -> None:
        if await self._settle(claim, lambda: self._store.cancelled(claim, self._queue.keep)):
            self.statistics.cancelled += 1
            _log.info("job %s (%s) was cancelled", claim.id, claim.task)

    async def _settle(self, claim: Claim, step: Callable[[], Awaitable[bool]]) -> bool:
        """Tell the store, also when it is away for a while: as long as the lease is ours."""
        attempt = 0
        while not claim.is_lost:
            try:
                if await step():
                    return True
                claim.is_lost = True
            except NexgateError as error:
                attempt += 1
                if attempt == 1:
                    _log.error("job %s cannot be settled: %s; trying again", claim.id, error)
                await asyncio.sleep(_TROUBLE.delay(attempt, random.random))
        self.statistics.lost += 1
        _log.warning("job %s (%s): its outcome came too late", claim.id, claim.task)
        return False

    # ---------------------------------------------------------------- beside

    async def _extend(self) -> None:
        while True:
            await asyncio.sleep(self._queue.lease / 3)
            claims = [each for each in self._running if not each.is_lost]
            if not claims:
                continue
            try:
                await self._store.extend(claims, self._queue.lease)
            except NexgateError as error:
                _log.warning("leases were not extended: %s", error)
                continue
            self._cancel_unwanted(claims)

    async def _look(self) -> None:
        """Ends that somebody wants, sooner than leases are extended."""
        look = getattr(self._store, "wanted_ends", None)
        while look is not None:
            await asyncio.sleep(_LOOK)
            claims = [each for each in self._running if not each.is_cancelled]
            if claims:
                try:
                    await look(claims)
                except NexgateError:
                    continue
                self._cancel_unwanted(claims)

    def _cancel_unwanted(self, claims: list[Claim]) -> None:
        for claim in claims:
            if claim.is_lost or claim.is_cancelled:
                task = self._running.get(claim)
                if task is not None:
                    task.cancel()

    async def _schedule(self) -> None:
        """Store the jobs of schedules when their time comes: so does every other worker."""
        clock = self._queue.clock
        for each in self._queue.schedules:
            last = each.before(clock())
            if each.catch_up and last is not None:
                await self._store_scheduled(each, last)
        due = {each: each.after(clock()) for each in self._queue.schedules}
        while True:
            # Short sleeps: the wall clock may be set.
            await asyncio.sleep(min(max(min(due.values()) - clock(), 0.01), 1.0))
            now = clock()
            for each, at in due.items():
                if at <= now:
                    await self._store_scheduled(each, at)
                    due[each] = each.after(now)
                elif each.after(now) < at:
                    due[each] = each.after(now)  # the clock was set back

    async def _store_scheduled(self, schedule: Any, at: float) -> None:
        broker, task = self._queue.broker, self._queue.tasks[schedule.task]
        from ._broker import TaskiqMessage
        from ._queue import new_job_id

        number = new_job_id()
        message = TaskiqMessage(
            task_id=number,
            task_name=schedule.task,
            labels={},
            labels_types=None,
            args=[],
            kwargs={},
        )
        body = broker.formatter.dumps(message).message
        job = NewJob(
            number, schedule.task, body, at, task.options_of_all.priority, schedule.key(at)
        )
        for attempt in range(1, 20):
            try:
                await self._store.enqueue(job)
                return
            except NexgateError as error:
                _log.error("schedule of %s: %s; trying again", schedule.task, error)
                await asyncio.sleep(_TROUBLE.delay(attempt, random.random))

    async def _end(self, beside: list[asyncio.Task[None]]) -> None:
        rest = dict(self._running)
        for task in (*beside, *rest.values()):
            task.cancel()
        await asyncio.gather(*beside, *rest.values(), return_exceptions=True)
        given = [claim for claim in rest if not (claim.is_lost or claim.is_cancelled)]
        if given:
            try:
                await self._store.give_back(given)
                _log.info("%d jobs were not finished and are given back", len(given))
            except NexgateError as error:
                _log.warning("jobs are free when their leases end: %s", error)
        self._threads.shutdown(wait=False, cancel_futures=True)


async def _kept(work: Callable[[], Awaitable[None]]) -> None:
    """Do ``work`` again when it fails: a worker without it would look well and be of no use."""
    while True:
        try:
            await work()
            return
        except Exception:
            _log.exception("%s failed; it is started again", work.__qualname__)
            await asyncio.sleep(1.0)


def _told(error: BaseException, options: TaskOptions) -> str:
    if isinstance(error, TimeoutError) and not str(error):
        return f"TimeoutError: it took longer than {options.timeout:g}s"
    return f"{type(error).__name__}: {error}"
