"""A worker: claims jobs, runs them, settles them.

1. *Claim* as many as there is room for.
2. *Run* each in a task, through taskiq's receiver: middlewares, dependencies, parameters.
3. *Settle*: done with its result; again later; dead; cancelled; or nothing, when its lease was
   lost.

Meanwhile leases are extended, and jobs that somebody wants to end are cancelled: once, and only
while they run, not while it is settled how they ended.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import random
import time
from collections import Counter
from collections.abc import Awaitable, Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TYPE_CHECKING, Any, Final, ParamSpec, TypeVar

from pydantic_core import to_json

from nexgate.cancellation import is_cancelled
from nexgate.errors import NexgateError
from nexgate.resilience import Backoff

from ._broker import Receiver
from ._progress import CurrentJob, _current
from ._store import Claim, NewJob

if TYPE_CHECKING:
    from ._queue import TaskQueue
    from ._task import TaskOptions

__all__ = ["Worker", "WorkerStatistics"]

P = ParamSpec("P")
R = TypeVar("R")

_log = logging.getLogger("nexgate.tasks")

_IDLE: Final = 1.0
_LOOK: Final = 0.5
"""Seconds between two looks for jobs that are to end."""
_TROUBLE: Final = Backoff(base=0.2, cap=5.0)
_LAST: Final = 5.0
"""Seconds that jobs have to end once they are cancelled because the worker ends."""
_EARLY: Final = 0.05
_SPARE_THREADS: Final = 256
"""For plain functions beside those that hang for ever: nothing can stop a thread."""


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


class _Threads(ThreadPoolExecutor):
    """Threads of plain functions; knows for which jobs one goes on."""

    def __init__(self, concurrency: int) -> None:
        super().__init__(concurrency + _SPARE_THREADS, thread_name_prefix="nexgate-task")
        self.busy: dict[Future[Any], str] = {}

    def submit(self, fn: Callable[P, R], /, *args: P.args, **kwargs: P.kwargs) -> Future[R]:
        future = super().submit(fn, *args, **kwargs)
        job = _current.get()
        self.busy[future] = "" if job is None else job.id
        future.add_done_callback(lambda done: self.busy.pop(done, None))
        return future


class Worker:
    """Runs up to ``concurrency`` jobs of a queue at once. ``run`` until ``stop``."""

    def __init__(self, queue: TaskQueue, concurrency: int = 8) -> None:
        self.statistics = WorkerStatistics()
        self._queue = queue
        self._store = queue.store
        self._concurrency = concurrency
        self._threads = _Threads(concurrency)
        self._receiver = Receiver(
            queue.broker, self._threads, max_async_tasks=concurrency, run_startup=False
        )
        self._running: dict[Claim, asyncio.Task[None]] = {}
        self._stoppable: set[Claim] = set()
        self._by_task: Counter[str] = Counter()
        self._unknown: set[str] = set()
        self._room = asyncio.Event()
        self.is_stopping = False
        self._drain = 10.0

    @property
    def running(self) -> int:
        """How many jobs are running here."""
        return len(self._running)

    @property
    def threads(self) -> int:
        """How many plain functions are running here, those whose attempt is over, too."""
        return len(self._threads.busy)

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
                skip = self._full_tasks() | self._foreign_tasks()
                claims = await self._store.claim(room, self._queue.lease, skip)
                if trouble:
                    _log.info("the queue is back")
                    trouble = 0
                for claim in claims:
                    self._begin(claim)
                if not claims and not self.is_stopping:
                    await self._wait()
            except Exception as error:
                trouble += 1
                if trouble == 1:
                    # One that is not ours is a defect, and no reason for a worker to be gone.
                    defect = None if isinstance(error, NexgateError) else error
                    _log.error("the queue cannot be used: %s; trying again", error, exc_info=defect)
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
        """Tasks of which no more may run here."""
        return {
            name
            for name, count in self._by_task.items()
            if (task := self._queue.tasks.get(name)) is not None
            and task.options_of_all.max_running is not None
            and count >= task.options_of_all.max_running
        }

    def _foreign_tasks(self) -> set[str]:
        """Tasks that there are jobs of, and that this program does not have."""
        return self._unknown - self._queue.tasks.keys()

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
        task = self._queue.tasks.get(claim.task)
        if task is None:
            # Of another program, or of a version that is to come: theirs to try.
            error = f"there is no task {claim.task} in this worker"
            if claim.task not in self._unknown:
                self._unknown.add(claim.task)
                _log.warning("job %s is left to others: %s", claim.id, error)
            await self._store.give_back([claim], error)
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
        self._stoppable.add(claim)
        try:
            result = await self._call(claim, options)
            raised = result.error
        except BaseException as error:  # a body that cannot be read, a middleware, a scope
            raised = error
        finally:
            _current.reset(token)
        seconds = time.monotonic() - began
        is_interrupted = claim not in self._stoppable
        self._stoppable.discard(claim)
        if raised is None:
            await self._done(claim, options, result.return_value, seconds)
        elif not await self._was_wanted(claim, raised, is_interrupted=is_interrupted):
            _log.warning(
                "job %s (%s) failed, attempt %d",
                claim.id,
                claim.task,
                claim.failures + 1,
                exc_info=raised,
            )
            await self._failed(claim, options, _told(raised, options, seconds))

    async def _was_wanted(
        self, claim: Claim, raised: BaseException, *, is_interrupted: bool
    ) -> bool:
        """Whether it ended as somebody wanted, and did not fail. A job that we cancel may raise
        anything because of it; one that nobody cancelled may raise ``CancelledError``.
        """
        if not is_interrupted:
            if isinstance(raised, asyncio.CancelledError) and is_cancelled():
                raise raised  # the program ends, and not by ``stop``
            await self._ask_ends([claim])
        if claim.is_lost:
            self.statistics.lost += 1
            _log.warning("job %s (%s): its lease was lost", claim.id, claim.task)
        elif claim.is_cancelled:
            await self._cancelled(claim)
        return claim.is_lost or claim.is_cancelled or is_interrupted

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
        async with (
            self._queue.scope() if self._queue.scope is not None else contextlib.nullcontext()
        ):
            result = await self._receiver.run_task(target.original_func, message)
        for middleware in reversed(broker.middlewares):
            after: Any = middleware.post_execute(message, result)
            if asyncio.iscoroutine(after):
                await after
        return result

    async def _tell(self, claim: Claim, said: dict[str, Any]) -> None:
        try:
            await self._store.progress(claim, said)
        except NexgateError as error:  # no reason for the job to fail
            _log.warning("job %s (%s): its progress is not stored: %s", claim.id, claim.task, error)

    # ---------------------------------------------------------------- 3. settle

    async def _done(self, claim: Claim, options: TaskOptions, value: Any, seconds: float) -> None:
        try:
            result = None if value is None else to_json(value)
        except Exception as error:
            await self._failed(claim, options, f"its result is not JSON: {_words(error)}")
            return
        keep = self._kept(claim, self._queue.keep if options.keep is None else options.keep)
        if await self._settle(claim, lambda: self._store.complete(claim, result, keep)):
            self.statistics.done += 1
            _log.debug("job %s (%s) done in %.3fs", claim.id, claim.task, seconds)

    async def _failed(self, claim: Claim, options: TaskOptions, error: str) -> None:
        if claim.failures >= options.retries:
            if await self._settle(claim, lambda: self._store.bury(claim, error)):
                self.statistics.dead += 1
                _log.error("job %s (%s) is dead: %s", claim.id, claim.task, error)
            return
        delay = options.backoff.delay(claim.failures + 1, random.random)
        if await self._settle(claim, lambda: self._store.retry(claim, delay, error)):
            self.statistics.failed += 1

    async def _cancelled(self, claim: Claim) -> None:
        keep = self._kept(claim, self._queue.keep)
        if await self._settle(claim, lambda: self._store.cancelled(claim, keep)):
            self.statistics.cancelled += 1
            _log.info("job %s (%s) was cancelled", claim.id, claim.task)

    def _kept(self, claim: Claim, keep: float) -> float:
        if not self._queue.schedules:
            return keep
        now = self._queue.clock()
        mine = (each for each in self._queue.schedules if each.task == claim.task)
        return max([keep, *(each.kept_at_least(now) for each in mine)])

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
        while True:
            await asyncio.sleep(_LOOK)
            claims = [each for each in self._running if not each.is_cancelled]
            if claims:
                await self._ask_ends(claims)
                self._cancel_unwanted(claims)

    async def _ask_ends(self, claims: list[Claim]) -> None:
        look = getattr(self._store, "wanted_ends", None)
        if look is not None:
            with contextlib.suppress(NexgateError):  # it is asked again, and leases are extended
                await look(claims)

    def _cancel_unwanted(self, claims: list[Claim]) -> None:
        for claim in claims:
            if claim.is_lost or claim.is_cancelled:
                self._cancel(claim)

    def _cancel(self, claim: Claim) -> None:
        if claim in self._stoppable:
            self._stoppable.discard(claim)
            self._running[claim].cancel()

    async def _schedule(self) -> None:
        """Store the jobs of schedules when their time comes: so does every other worker."""
        clock = self._queue.clock
        for each in self._queue.schedules:
            if each.catch_up and (last := each.before(clock())) is not None:
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
        from ._broker import Message
        from ._queue import new_job_id

        number = new_job_id()
        message = Message(
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
        interrupted = [claim for claim in rest if claim in self._stoppable]
        for claim in interrupted:
            self._cancel(claim)
        # Those that tell how they ended are not cut off; those that do not end are left.
        late = (await asyncio.wait(rest.values(), timeout=_LAST))[1] if rest else set()
        for claim in rest:
            if rest[claim] in late:
                claim.is_lost = True  # as soon as its lease ends, which nobody extends now
                _log.error("job %s (%s) does not end", claim.id, claim.task)
        for each in beside:
            each.cancel()
        await asyncio.gather(*beside, return_exceptions=True)
        on = set(self._threads.busy.values())
        given = [
            claim
            for claim in interrupted
            if not (claim.is_lost or claim.is_cancelled or claim.id in on)
        ]
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


def _told(error: BaseException, options: TaskOptions, seconds: float) -> str:
    limit = options.timeout
    said = _words(error)
    if isinstance(error, TimeoutError) and not said and limit is not None:
        # One of its own comes sooner; that of the attempt within what a timer is early.
        said = "" if seconds < limit - _EARLY else f"it took longer than {limit:g}s"
    return f"{type(error).__name__}: {said}" if said else type(error).__name__


def _words(error: BaseException) -> str:
    """What it says of itself, such that every store takes it."""
    try:
        return str(error).encode(errors="backslashreplace").decode()
    except Exception:
        return "its message cannot be told"
