"""Tasks of asyncio that are never lost and never silently dead."""

from __future__ import annotations

import asyncio
import contextvars
import gc
import logging
import threading

import pytest

from nexgate.resilience import Backoff
from nexgate.tasks import BackgroundTasks, SupervisedTask, Supervisor, SupervisorClosed
from nexgate.testing import wait_until

QUICK = Backoff(base=0.0, cap=0.0)


async def test_a_task_is_kept_alive_and_its_end_is_known() -> None:
    go, told = asyncio.Event(), []

    async def work(name: str) -> None:
        await go.wait()
        told.append(name)

    async with Supervisor() as supervisor:
        supervisor.start(work, "a", name="mine")
        gc.collect()
        await asyncio.sleep(0)
        assert [each.state for each in supervisor.statistics()] == ["running"]
        go.set()
        await wait_until(lambda: not len(supervisor))
        assert told == ["a"]
        (ended,) = supervisor.statistics()
        assert (ended.name, ended.state, ended.failures) == ("mine", "ended", 0)


async def test_a_failure_is_logged_counted_and_told(caplog: pytest.LogCaptureFixture) -> None:
    told: list[tuple[str, str]] = []

    async def fail() -> None:
        raise LookupError("no luck")

    def failed(task: SupervisedTask, error: Exception) -> None:
        told.append((task.name, str(error)))
        raise ValueError("of the callback")

    async with Supervisor(on_failure=failed) as supervisor:
        task = supervisor.start(fail, name="f")
        await task.wait()
        assert task.state == "failed"
    assert told == [("f", "no luck")]
    assert caplog.text.count("LookupError: no luck") == 1
    assert "of the callback" in caplog.text
    assert supervisor.statistics()[0].error == "LookupError: no luck"


async def test_a_task_is_started_again_as_its_policy_says() -> None:
    left = [3]

    async def flaky() -> None:
        left[0] -= 1
        if left[0] > 0:
            raise LookupError

    async with Supervisor() as supervisor:
        task = supervisor.start(flaky, restart="on_failure", backoff=QUICK)
        await task.wait()
        assert (task.state, task.starts, task.failures) == ("ended", 3, 2)
        runs = [0]

        def count() -> None:
            runs[0] += 1

        again = supervisor.start(count, restart="always", backoff=QUICK)
        await wait_until(lambda: runs[0] > 5)
        again.cancel()
        await again.wait()
        assert again.state == "cancelled"


async def test_too_many_failures_are_too_many(caplog: pytest.LogCaptureFixture) -> None:
    async def fail() -> None:
        raise LookupError

    async with Supervisor() as supervisor:
        task = supervisor.start(fail, restart="on_failure", backoff=QUICK, max_restarts=4)
        await task.wait()
        assert (task.state, task.failures) == ("failed", 4)
    assert "it is not started again" in caplog.text


async def test_closing_cancels_waits_and_names_those_that_do_not_end(
    caplog: pytest.LogCaptureFixture,
) -> None:
    ended: list[str] = []
    release = asyncio.Event()

    async def good() -> None:
        try:
            await asyncio.Event().wait()
        finally:
            await asyncio.sleep(0)
            ended.append("good")

    async def stubborn() -> None:
        while not release.is_set():
            try:
                await release.wait()
            except asyncio.CancelledError:
                continue

    supervisor = Supervisor(stop_timeout=0.05)
    supervisor.start(good)
    supervisor.start(stubborn, name="stubborn")
    await asyncio.sleep(0)
    assert await supervisor.aclose() == ["stubborn"]
    assert ended == ["good"]
    assert "stubborn did not end" in caplog.text
    with pytest.raises(SupervisorClosed):
        supervisor.start(good)
    release.set()
    await wait_until(lambda: not len(supervisor))


@pytest.mark.parametrize("answer", ["returns", "raises"])
async def test_one_that_swallows_its_cancellation_is_not_started_again(answer: str) -> None:
    async def work() -> None:
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            if answer == "raises":
                raise LookupError("cut off") from None

    supervisor = Supervisor(stop_timeout=5.0)
    task = supervisor.start(work, restart="always", backoff=QUICK)
    await wait_until(lambda: task.starts == 1)
    await asyncio.sleep(0)
    assert await supervisor.aclose() == []
    assert task.starts == 1


async def test_one_that_is_cancelled_from_within_has_failed() -> None:
    failed: list[str] = []

    async def work() -> str:
        if failed:
            return "well"
        inner = asyncio.create_task(asyncio.Event().wait())
        inner.cancel()
        await inner
        return ""

    async with Supervisor(on_failure=lambda task, error: failed.append(str(error))) as supervisor:
        task = supervisor.start(work, restart="on_failure", backoff=QUICK)
        await task.wait()
        assert (task.state, task.starts) == ("ended", 2)
    assert failed == ["it was cancelled from within"]


async def test_one_whose_policy_fails_is_said_to_have_failed(
    caplog: pytest.LogCaptureFixture,
) -> None:
    class Odd(Backoff):
        def delay(self, attempt: int, random: object) -> float:
            raise ArithmeticError("no number")

    def work() -> None:
        raise LookupError

    async with Supervisor() as supervisor:
        task = supervisor.start(work, restart="always", backoff=Odd())
        await task.wait()
        await wait_until(lambda: task.state == "failed")
    assert "no number" in caplog.text
    with pytest.raises(ValueError, match="at least 1"):
        Supervisor().start(work, max_restarts=0)


async def test_a_name_runs_once() -> None:
    async with Supervisor() as supervisor:
        supervisor.start(asyncio.sleep, 60, name="a")
        with pytest.raises(ValueError, match="is running"):
            supervisor.start(asyncio.sleep, 60, name="a")


# --- after a response -----------------------------------------------------------------------------


async def test_background_tasks_run_in_order_in_their_context_and_survive_each_other(
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.ERROR)
    variable: contextvars.ContextVar[str] = contextvars.ContextVar("v", default="none")
    told: list[object] = []
    tasks = BackgroundTasks()

    async def first(what: str) -> None:
        await asyncio.sleep(0.01)
        told.append((what, variable.get()))
        tasks.add(told.append, "added by the first")

    def second() -> None:
        told.append((variable.get(), threading.current_thread() is threading.main_thread()))

    def broken() -> None:
        raise LookupError("broken")

    variable.set("request")
    tasks.add(first, "a")
    tasks.add(broken)
    tasks.add(second)
    variable.set("later")
    assert len(tasks) == 3
    await tasks.run()
    assert told == [("a", "request"), ("request", False), "added by the first"]
    assert "broken failed" in caplog.text


async def test_background_tasks_go_on_after_one_that_ends_oddly(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async def cancelled() -> None:
        inner = asyncio.create_task(asyncio.Event().wait())
        inner.cancel()
        await inner

    told: list[str] = []
    tasks = BackgroundTasks()
    tasks.add(cancelled)
    tasks.add(next, iter(()))
    tasks.add(told.append, "told")
    async with asyncio.timeout(10):
        await tasks.run()
    assert told == ["told"]
    assert "raised StopIteration" in caplog.text

    async def hang() -> None:
        told.append("hangs")
        await asyncio.Event().wait()

    tasks.add(hang)
    tasks.add(told.append, "not any more")
    running = asyncio.create_task(tasks.run())
    await wait_until(lambda: told[-1] == "hangs")
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running
    assert told == ["told", "hangs"]
