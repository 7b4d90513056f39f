"""What a worker makes of whatever tasks do to it."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from tests.unit.tasks.queues import QUICK, Make, opened

from nexgate.resilience import Backoff
from nexgate.sqlite import StoreBusy
from nexgate.tasks import Claim, JobCancelled, JobFailed, NewJob, SqliteTasks, current_job, progress
from nexgate.testing import wait_until

LATER = Backoff(base=36000, cap=36000)
"""An attempt after it is later than a test."""


class _Odd(Exception):
    def __str__(self) -> str:
        raise LookupError("an error that cannot say what it is")


async def _inner_is_cancelled() -> None:
    inner = asyncio.create_task(asyncio.Event().wait())
    inner.cancel()
    await inner


async def _its_own_limit() -> None:
    async with asyncio.timeout(0.001):
        await asyncio.Event().wait()


def _raising(error: BaseException) -> Callable[[], Any]:
    def work() -> None:
        raise error

    return work


def _recursion() -> None:
    _recursion()


@pytest.mark.parametrize(
    ("work", "told"),
    [
        (_inner_is_cancelled, "CancelledError"),
        (_its_own_limit, "TimeoutError"),
        (_recursion, "RecursionError"),
        (lambda: next(iter(())), "StopIteration"),
        (_raising(SystemExit(3)), "SystemExit: 3"),
        (_raising(KeyboardInterrupt()), "KeyboardInterrupt"),
        (_raising(GeneratorExit()), "GeneratorExit"),
        (_raising(FileNotFoundError(b"caf\xe9.txt".decode(errors="surrogateescape"))), "udce9"),
        (_raising(_Odd()), "_Odd"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
async def test_whatever_a_task_raises_is_a_failed_attempt(
    make: Make, work: Callable[[], Any], told: str, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("CRITICAL")  # what no text can be made of kills pytest's workers, not ours
    async with opened(make()) as queue:
        task = queue.task(work, name="work", retries=1, backoff=QUICK)
        sound = queue.task(lambda: "sound", name="sound")
        async with queue.running() as worker:
            job = await task.delay()
            with pytest.raises(JobFailed, match=told):
                await job.result(10)
            assert (await job.record()).failures == 2
            assert await (await sound.delay()).result(10) == "sound"
            await wait_until(lambda: worker.running == 0)


async def test_a_result_that_nothing_can_be_made_of_is_a_failed_attempt(make: Make) -> None:
    class Odd:
        def __iter__(self) -> object:
            raise _Odd

    results: list[Any] = [object(), {"a": {1, object()}}, "caf\udce9", b"\xff", Odd(), _Odd()]
    async with opened(make()) as queue:
        task = queue.task(lambda which: results[which], name="work")
        async with queue.running():
            for which in range(len(results)):
                with pytest.raises(JobFailed, match="its result is not JSON"):
                    await (await task.delay(which)).result(10)


async def test_a_limit_of_its_own_is_not_told_to_be_that_of_the_attempt(make: Make) -> None:
    async with opened(make()) as queue:
        task = queue.task(_its_own_limit, name="work", timeout="1h")
        async with queue.running():
            with pytest.raises(JobFailed) as failed:
                await (await task.delay()).result(10)
    assert "longer than" not in str(failed.value)


async def test_an_error_made_of_the_workers_end_costs_no_attempt(make: Make) -> None:
    async with opened(make()) as queue:
        began: list[int] = []

        @queue.task
        async def work() -> str:
            began.append(1)
            if len(began) > 1:
                return "done"
            try:
                await asyncio.Event().wait()
            except asyncio.CancelledError:
                raise ConnectionError("cut off in the middle") from None
            return ""

        job = await work.delay()
        async with queue.running() as worker:
            await wait_until(lambda: began == [1])
            worker.stop(0.0)
        record = await job.record()
        assert (record.state, record.failures) == ("waiting", 0)
        async with queue.running():
            assert await job.result(10) == "done"


async def test_an_error_made_of_a_cancellation_is_a_cancellation(make: Make) -> None:
    async with opened(make()) as queue:
        began = asyncio.Event()

        @queue.task(retries=5, backoff=LATER)
        async def work() -> None:
            began.set()
            try:
                await asyncio.Event().wait()
            except asyncio.CancelledError:
                raise ConnectionError("cut off in the middle") from None

        job = await work.delay()
        async with queue.running():
            await asyncio.wait_for(began.wait(), 10)
            await job.cancel()
            with pytest.raises(JobCancelled):
                await job.result(10)


async def test_a_job_that_fails_after_somebody_wanted_its_end_is_not_tried_again(
    make: Make,
) -> None:
    async with opened(make()) as queue:

        @queue.task(retries=5, backoff=LATER)
        async def work() -> None:
            job = current_job()
            assert job is not None
            await queue.job(job.id).cancel()
            raise LookupError  # before the worker has seen that it is to end

        async with queue.running():
            with pytest.raises(JobCancelled):
                await (await work.delay()).result(10)


async def test_a_job_is_cancelled_once_and_has_its_time_to_clean_up(make: Make) -> None:
    async with opened(make(), lease=0.3) as queue:
        began = asyncio.Event()
        cancels: list[int] = []

        @queue.task
        async def work() -> str:
            began.set()
            for _ in range(5):
                try:
                    await asyncio.sleep(60 if not cancels else 0.8)
                    break
                except asyncio.CancelledError:
                    cancels.append(1)
            return "cleaned up"

        job = await work.delay()
        async with queue.running():
            await asyncio.wait_for(began.wait(), 10)
            await job.cancel()
            assert await job.result(10) == "cleaned up"
    assert cancels == [1]


class Slow(SqliteTasks):
    """Takes its time, and fails at first, to store how a job ended."""

    def __init__(self, path: Path) -> None:
        super().__init__(path)
        self.was_asked = asyncio.Event()

    async def complete(self, claim: Claim, result: bytes | None, keep: float) -> bool:
        if not self.was_asked.is_set():
            self.was_asked.set()
            raise StoreBusy("once")
        return await super().complete(claim, result, keep)


async def test_an_outcome_that_is_being_told_is_told_also_when_the_worker_ends(
    tmp_path: Path,
) -> None:
    store = Slow(tmp_path / "t.db")
    async with opened(store) as queue:
        ran: list[int] = []
        task = queue.task(lambda: ran.append(1), name="work")
        job = await task.delay()
        async with queue.running() as worker:
            await asyncio.wait_for(store.was_asked.wait(), 10)
            worker.stop(0.0)
        assert await job.status() == "done"
    assert ran == [1]


async def test_a_job_that_does_not_end_does_not_keep_the_worker(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    release = asyncio.Event()
    async with opened(SqliteTasks(tmp_path / "t.db"), lease=1.0) as queue:
        began = asyncio.Event()

        @queue.task(name="stubborn")
        async def stubborn() -> None:
            began.set()
            while not release.is_set():
                with contextlib.suppress(asyncio.CancelledError):
                    await release.wait()

        job = await stubborn.delay()
        async with asyncio.timeout(20):
            async with queue.running() as worker:
                await asyncio.wait_for(began.wait(), 10)
                worker.stop(0.0)
        # It is not another's while it goes on here: its lease has to end.
        assert await job.status() == "running"
        assert f"job {job.id} (stubborn) does not end" in caplog.text
        release.set()


async def test_a_plain_function_that_goes_on_is_not_given_to_another(tmp_path: Path) -> None:
    release, began = threading.Event(), threading.Event()
    async with opened(SqliteTasks(tmp_path / "t.db"), lease=1.0) as queue:

        @queue.task
        def hang() -> None:
            began.set()
            release.wait()

        job = await hang.delay()
        async with queue.running() as worker:
            await wait_until(began.is_set)
            worker.stop(0.0)
        assert await job.status() == "running"
        assert worker.threads == 1
        release.set()
        await wait_until(lambda: worker.threads == 0)


async def test_plain_functions_that_hang_leave_room_for_others(tmp_path: Path) -> None:
    release = threading.Event()
    async with opened(SqliteTasks(tmp_path / "t.db")) as queue:

        @queue.task(timeout=0.05)
        def hang() -> None:
            release.wait()

        @queue.task(timeout=5)
        def sound() -> str:
            return "sound"

        async with queue.running(2):
            for _ in range(4):
                with pytest.raises(JobFailed, match="took longer"):
                    await (await hang.delay()).result(10)
            try:
                assert await (await sound.delay()).result(10) == "sound"
            finally:
                release.set()


class Broken(SqliteTasks):
    """Fails in ways that no store of ours should."""

    broken = True

    async def claim(self, *args: Any) -> list[Claim]:
        if self.broken:
            raise UnicodeDecodeError("utf-8", b"\xff", 0, 1, "a row that somebody else wrote")
        return await super().claim(*args)

    async def progress(self, claim: Claim, said: dict[str, Any]) -> None:
        raise StoreBusy("for long")


async def test_what_a_store_raises_does_not_end_the_worker(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    store = Broken(tmp_path / "t.db")
    async with opened(store) as queue:
        job = await queue.task(lambda: 1, name="one").delay()
        async with queue.running():
            await wait_until(lambda: "UnicodeDecodeError" in caplog.text)
            store.broken = False
            assert await job.result(20) == 1


async def test_progress_that_cannot_be_stored_fails_no_job(tmp_path: Path) -> None:
    store = Broken(tmp_path / "t.db")
    store.broken = False
    async with opened(store) as queue:

        @queue.task
        async def work() -> str:
            await progress(1, of=2)
            return "done"

        async with queue.running():
            assert await (await work.delay()).result(10) == "done"


@pytest.mark.parametrize("body", [b"\xff", b"[]", b"{}", b'{"task_id": 1}'])
async def test_a_job_that_cannot_be_read_is_dead_and_others_run(make: Make, body: bytes) -> None:
    store = make()
    async with opened(store) as queue:
        task = queue.task(lambda: "sound", name="sound", retries=1, backoff=QUICK)
        await store.enqueue(NewJob("poison", "sound", body, 0.0))
        async with queue.running():
            assert await (await task.delay()).result(10) == "sound"
            assert (await queue.job("poison").wait(10)).state == "dead"


async def test_a_worker_without_the_task_costs_it_no_attempt(
    make: Make, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.WARNING)
    async with opened(make()) as old, opened(make()) as new:
        attempts: list[int] = []

        @new.task(name="new", retries=1, backoff=QUICK)
        async def work() -> str:
            job = current_job()
            assert job is not None
            attempts.append(job.attempt)
            if job.attempt == 1:
                raise LookupError
            return "done"

        job = await work.delay()
        async with old.running():

            async def is_left_to_others() -> bool:
                return "there is no task new" in (await job.record()).error

            await wait_until(is_left_to_others)
            async with new.running():
                assert await job.result(30) == "done"
    assert attempts == [1, 2]
