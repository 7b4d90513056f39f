"""What a queue of jobs promises, whatever it is kept in."""

from __future__ import annotations

import asyncio
import threading
import time
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from tests.unit.state.servers import Valkey
from tests.unit.tasks.queues import QUICK, Clock, Make, opened

from nexgate.di import Container, Inject
from nexgate.errors import NexgateError
from nexgate.sqlite import StoreFull
from nexgate.tasks import (
    JobCancelled,
    JobFailed,
    NewJob,
    QueueFull,
    RedisTasks,
    Schedule,
    SqliteTasks,
    TaskError,
    TaskQueue,
    current_job,
    progress,
)
from nexgate.testing import wait_until


class Session:
    """Something of one run."""


async def test_a_job_is_run_and_its_result_is_there(make: Make) -> None:
    async with opened(make()) as queue:

        @queue.task
        async def add(a: int, b: int = 1) -> dict[str, int]:
            return {"sum": a + b}

        @queue.task
        def plain(name: str) -> tuple[str, bool]:
            return name, threading.current_thread() is threading.main_thread()

        @queue.task
        async def nothing() -> None: ...

        jobs = [await add.delay(1, b=2), await plain.delay("x"), await nothing.delay()]
        assert await jobs[0].status() == "waiting"
        async with queue.running():
            assert await jobs[0].result(10) == {"sum": 3}
            assert await jobs[1].result(10) == ["x", False]
            assert await jobs[2].result(10) is None
        assert await jobs[0].status() == "done"
        assert (await queue.job(jobs[0].id).result()) == {"sum": 3}
        assert await add(1, 2) == {"sum": 3}  # here and now


async def test_a_job_that_fails_is_tried_again_and_then_dead(make: Make) -> None:
    async with opened(make()) as queue:
        attempts: list[int] = []

        @queue.task(retries=2, backoff=QUICK)
        async def flaky(fails: int) -> str:
            job = current_job()
            assert job is not None
            attempts.append(job.attempt)
            if len(attempts) <= fails:
                raise LookupError("not yet")
            return "well"

        async with queue.running():
            assert await (await flaky.delay(2)).result(20) == "well"
            assert attempts == [1, 2, 3]
            attempts.clear()
            job = await flaky.delay(9)
            with pytest.raises(JobFailed, match="LookupError: not yet"):
                await job.result(20)
            assert attempts == [1, 2, 3]
            (letter,) = await queue.dead()
            assert (letter.id, letter.failures) == (job.id, 3)
            attempts[:] = [0] * 9
            assert await queue.store.revive([job.id]) == 1
            assert await job.result(20) == "well"
            assert await queue.store.drop([job.id]) == 1
            with pytest.raises(TaskError, match="there is no job"):
                await job.status()


async def test_delays_are_kept_and_a_clock_that_is_set_is_followed(
    make: Make, clock: Clock
) -> None:
    async with opened(make(), clock=clock) as queue:
        ran: list[float] = []

        @queue.task
        async def later() -> None:
            ran.append(clock())

        at = clock() + 0.2
        await later.options(delay=0.2).delay()
        job = await later.options(delay="1h").delay()
        await later.options(at=clock() + 7200).delay()
        async with queue.running():
            await wait_until(lambda: len(ran) == 1)
            assert ran[0] >= at
            assert await job.status() == "waiting"
            clock.offset = 3601
            await wait_until(lambda: len(ran) == 2, 10)
            await asyncio.sleep(0.05)
            assert len(ran) == 2


async def test_priorities_go_first_and_low_ones_are_not_starved(make: Make) -> None:
    async with opened(make()) as queue:
        order: list[str] = []

        @queue.task
        async def note(what: str) -> None:
            order.append(what)

        for number in range(6):
            await note.options(priority="low").delay(f"low{number}")
            await note.delay(f"normal{number}")
            await note.options(priority="high").delay(f"high{number}")
        async with queue.running(1):
            await wait_until(lambda: len(order) == 18, 20)
        assert order.index("high5") < order.index("normal5") < order.index("low5")
        assert order[0] == "high0"


async def test_the_same_key_is_the_same_job_as_long_as_it_is_kept(make: Make) -> None:
    async with opened(make(), keep=60) as queue:
        ran: list[int] = []

        @queue.task
        async def once(number: int) -> int:
            ran.append(number)
            return number

        first = await once.options(key="k").delay(1)
        again = await asyncio.gather(*(once.options(key="k").delay(2) for _ in range(5)))
        assert {job.id for job in again} == {first.id}
        async with queue.running():
            assert await first.result(10) == 1
            assert (await once.options(key="k").delay(3)).id == first.id
            assert (await once.options(key="other").delay(4)).id != first.id
        assert await queue.store.drop([first.id]) == 1
        assert (await once.options(key="k").delay(5)).id != first.id


async def test_a_waiting_job_that_is_cancelled_never_runs(make: Make) -> None:
    async with opened(make()) as queue:
        ran: list[int] = []

        @queue.task
        async def work(number: int) -> None:
            ran.append(number)

        job = await work.delay(1)
        assert await job.cancel() == "cancelled"
        async with queue.running():
            await (await work.delay(2)).result(10)
        assert ran == [2]
        with pytest.raises(JobCancelled):
            await job.result(1)
        assert await queue.job("nobody").cancel() is None


async def test_a_running_job_that_is_cancelled_ends_within_a_second(make: Make) -> None:
    async with opened(make()) as queue:
        began, ended = asyncio.Event(), []

        @queue.task(retries=5)
        async def work() -> None:
            began.set()
            try:
                await asyncio.Event().wait()
            finally:
                ended.append(1)

        job = await work.delay()
        async with queue.running() as worker:
            await asyncio.wait_for(began.wait(), 10)
            assert await job.cancel() == "running"
            asked = time.monotonic()
            with pytest.raises(JobCancelled):
                await job.result(10)
            assert time.monotonic() - asked < 1.5
            await wait_until(lambda: worker.statistics.cancelled == 1)
        assert ended == [1]


async def test_an_attempt_that_takes_too_long_is_over(make: Make) -> None:
    async with opened(make()) as queue:

        @queue.task(timeout="50ms")
        async def hang() -> None:
            await asyncio.Event().wait()

        @queue.task(timeout=0.05)
        def hang_in_a_thread() -> None:
            time.sleep(0.5)

        async with queue.running():
            for task in (hang, hang_in_a_thread):
                with pytest.raises(JobFailed, match=r"took longer than 0\.05s"):
                    await (await task.delay()).result(10)


async def test_progress_is_seen_from_outside(make: Make) -> None:
    async with opened(make()) as queue:
        go = asyncio.Event()

        @queue.task
        async def work() -> None:
            await progress(40, of=100, note="halfway")
            await go.wait()

        job = await work.delay()
        async with queue.running():
            async with asyncio.timeout(10):
                while await job.progress() is None:
                    await asyncio.sleep(0.01)
            assert await job.progress() == {"done": 40, "of": 100, "note": "halfway"}
            go.set()
            await job.result(10)
    with pytest.raises(TaskError, match="no job here"):
        await progress(1)


async def test_a_queue_that_is_not_open_says_so(make: Make) -> None:
    queue = TaskQueue(make())
    task = queue.task(lambda: 1, name="one")
    with pytest.raises(NexgateError, match="not open"):
        await task.delay()
    async with queue:
        job = await task.delay()
    for call in (task.delay, job.status, job.cancel, queue.store.counts, queue.dead):
        with pytest.raises(NexgateError, match="not open"):
            await call()
    await queue.aclose()
    async with queue:
        assert await job.status() == "waiting"


async def test_arguments_arrive_as_they_were(make: Make) -> None:
    async with opened(make()) as queue:
        seen: list[Any] = []
        task = queue.task(lambda said: seen.append(said), name="work")
        sent: list[Any] = [0, -0.5, "", None, [], {}, False, "日本\0\udce9", 10**400]
        sent += [float("inf"), -float("inf"), [{"a": [None, 1.5]}]]
        async with queue.running(1):
            for each in (*sent, float("nan")):
                await (await task.delay(each)).result(10)
        assert seen[:-1] == sent
        assert seen[-1] != seen[-1]


async def test_arguments_and_results_that_are_not_json_are_said_to_be(make: Make) -> None:
    async with opened(make()) as queue:

        @queue.task
        async def work(thing: Any) -> Any:
            return object()

        with pytest.raises(TaskError, match="arguments are not JSON"):
            await work.delay(object())
        async with queue.running():
            with pytest.raises(JobFailed, match="result is not JSON"):
                await (await work.delay(1)).result(10)


async def test_a_full_queue_says_so(make: Make) -> None:
    async with opened(make(max_pending=100)) as queue:

        @queue.task
        async def work() -> None: ...

        with pytest.raises(QueueFull):
            for _ in range(300):
                await work.delay()
        async with queue.running(32) as worker:
            await wait_until(lambda: worker.statistics.done >= 100, 20)
        await work.delay()


async def test_no_more_of_a_task_run_at_once_than_it_says(make: Make) -> None:
    async with opened(make()) as queue:
        running, most, others = [0], [0], []

        @queue.task(max_running=2)
        async def narrow() -> None:
            running[0] += 1
            most[0] = max(most[0], running[0])
            await asyncio.sleep(0.01)
            running[0] -= 1

        @queue.task
        async def other() -> None:
            others.append(1)

        for _ in range(10):
            await narrow.delay()
        for _ in range(5):
            await other.delay()
        async with queue.running(8) as worker:
            await wait_until(lambda: worker.statistics.done == 15, 30)
        assert most == [2]
        assert len(others) == 5


async def test_a_worker_that_stops_lets_jobs_finish_and_gives_back_the_rest(make: Make) -> None:
    async with opened(make()) as queue:
        go, began, done = asyncio.Event(), [], []

        @queue.task
        async def quick() -> None:
            began.append("quick")
            await go.wait()
            done.append("quick")

        @queue.task
        async def slow() -> None:
            began.append("slow")
            if began.count("slow") == 1:
                await asyncio.Event().wait()
            done.append("slow")

        await quick.delay()
        job = await slow.delay()
        async with queue.running() as worker:
            await wait_until(lambda: len(began) == 2)
            worker.stop(0.2)
            go.set()
        assert done == ["quick"]
        assert await job.status() == "waiting"
        async with queue.running():
            await job.result(10)
        assert (await job.record()).failures == 0


async def test_a_job_whose_worker_died_runs_again_after_its_lease(make: Make) -> None:
    dead, alive = make(), make()
    await dead.open()
    async with opened(alive, lease=0.5) as queue:
        ran: list[int] = []

        @queue.task(name="work")
        async def work() -> str:
            ran.append(1)
            return "done by another"

        job = await work.delay()
        (claim,) = await dead.claim(10, 0.5, ())  # and then it dies
        assert claim.id == job.id
        async with queue.running():
            assert await job.result(20) == "done by another"
        # It was not dead, only slow: what it says counts no more.
        assert await dead.complete(claim, b'"late"', 60) is False
        assert await dead.bury(claim, "late") is False
        await dead.extend([claim], 1.0)
        assert claim.is_lost
        assert await job.result(1) == "done by another"
    await dead.aclose()


async def test_a_lease_is_extended_while_the_job_runs(make: Make) -> None:
    one, two = make(), make()
    await two.open()
    async with opened(one, lease=0.4) as queue:
        runs: list[int] = []

        @queue.task(name="long")
        async def long() -> None:
            runs.append(1)
            await asyncio.sleep(1.2)

        job = await long.delay()
        async with queue.running():
            await wait_until(lambda: runs == [1])
            until = time.monotonic() + 1.0
            while time.monotonic() < until:
                assert await two.claim(10, 0.4, ()) == []
                await asyncio.sleep(0.05)
            await job.result(10)
        assert runs == [1]
    await two.aclose()


async def test_a_job_that_kills_its_workers_is_dead_in_the_end(make: Make) -> None:
    store = make()
    await store.open()
    await store.enqueue(NewJob("j", "t", b"{}", 0.0))
    claims = 0
    while claims < 30:
        found = await store.claim(10, 0.01, ())
        if (record := await store.get("j")) is not None and record.state == "dead":
            break
        claims += len(found)
        await asyncio.sleep(0.012)
    assert claims == 10
    record = await store.get("j")
    assert record is not None
    assert "workers died" in record.error
    await store.aclose()


async def test_a_task_that_this_worker_does_not_have_waits_for_one_that_does(make: Make) -> None:
    store = make()
    async with opened(store) as queue:
        await store.enqueue(NewJob("j", "of another program", b"{}", 0.0))
        job = queue.job("j")

        async def is_left_to_others() -> bool:
            record = await job.record()
            return bool(record.error) and record.state == "waiting"

        async with queue.running():
            await wait_until(is_left_to_others)
        record = await job.record()
        assert (record.state, record.failures, record.error) == (
            "waiting",
            0,
            "there is no task of another program in this worker",
        )


async def test_jobs_are_counted_and_listed(make: Make) -> None:
    async with opened(make()) as queue:

        @queue.task
        async def work(fails: bool) -> None:
            if fails:
                raise LookupError

        jobs = [await work.delay(bool(number % 2)) for number in range(4)]
        await work.options(delay=60).delay(False)
        async with queue.running():
            for job in jobs:
                await job.wait(10)
        counts = await queue.store.counts()
        assert (counts["done"], counts["dead"], counts["waiting"]) == (2, 2, 1)
        assert len(await queue.store.jobs()) == 5
        assert {each.state for each in await queue.store.jobs("dead")} == {"dead"}


async def test_two_workers_share_and_run_nothing_twice(make: Make) -> None:
    runs: Counter[int] = Counter()
    async with opened(make()) as one, opened(make()) as two:
        for queue in (one, two):

            @queue.task(name="work")
            async def work(number: int) -> None:
                runs[number] += 1
                await asyncio.sleep(0)

        jobs = [await one.tasks["work"].delay(number) for number in range(200)]
        async with one.running(4) as first, two.running(4) as second:
            await wait_until(
                lambda: first.statistics.done + second.statistics.done == len(jobs), 30
            )
        assert set(runs.values()) == {1}
        assert len(runs) == 200


async def test_dependencies_come_through_the_invoker_and_each_run_has_a_scope(make: Make) -> None:
    container = Container()
    container.register_factory(Session, Session, lifetime="scoped")
    async with opened(make(), invoker=container.inject, scope=container.scope) as queue:
        seen: list[Session] = []

        @queue.task
        async def work(number: int, session: Inject[Session]) -> int:
            seen.append(session)
            return number

        async with queue.running():
            assert await (await work.delay(1)).result(10) == 1  # type: ignore[call-arg]
            assert await (await work.delay(2)).result(10) == 2  # type: ignore[call-arg]
        assert seen[0] is not seen[1]


# --- schedules ------------------------------------------------------------------------------------


async def test_a_schedule_fires_once_in_the_whole_fleet(make: Make, clock: Clock) -> None:
    ran: list[float] = []
    async with opened(make(), clock=clock) as one, opened(make(), clock=clock) as two:
        for queue in (one, two):

            @queue.every("1h")
            @queue.task(name="hourly")
            async def hourly() -> None:
                ran.append(clock())

        clock.offset = 3600 - time.time() % 3600 - 0.3  # just before an hour
        async with one.running(), two.running():
            await wait_until(lambda: len(ran) == 1, 10)
            clock.offset += 3600
            await wait_until(lambda: len(ran) == 2, 10)
            clock.offset -= 3600  # set back: those hours have had theirs
            await asyncio.sleep(1.2)
            assert len(ran) == 2


async def test_a_time_that_nobody_was_there_for_is_made_up_for_once(
    make: Make, clock: Clock
) -> None:
    ran: list[str] = []
    for _ in range(2):
        async with opened(make(), clock=clock) as queue:

            @queue.cron("0 * * * *", catch_up=True)
            @queue.task(name="caught")
            async def caught() -> None:
                ran.append("caught")

            @queue.cron("0 * * * *")
            @queue.task(name="missed")
            async def missed() -> None:
                ran.append("missed")

            clock.offset = 1800 - time.time() % 3600
            async with queue.running():
                await wait_until(lambda: ran == ["caught"], 10)
                await asyncio.sleep(0.1)
    assert ran == ["caught"]


@pytest.mark.parametrize("ends", ["done", "cancelled"])
async def test_a_time_that_somebody_was_there_for_is_not_made_up_for(
    make: Make, clock: Clock, ends: str
) -> None:
    ran: list[float] = []
    clock.offset = 1800 - time.time() % 86400  # half past midnight
    for _ in range(3):
        async with opened(make(), clock=clock, keep=60) as queue:

            @queue.cron("0 0 * * *", catch_up=True)
            @queue.task(name="nightly", keep=0)
            async def nightly() -> None:
                ran.append(clock())
                if ends == "cancelled":
                    job = current_job()
                    assert job is not None
                    await queue.job(job.id).cancel()
                    await asyncio.Event().wait()

            marked = queue.task(lambda: 1, name="marked")
            async with queue.running() as worker:
                await wait_until(lambda: len(ran) == 1, 10)
                await wait_until(lambda: worker.running == 0, 10)
                await (await marked.delay()).result(10)
        clock.offset += 7 * 3600
    assert len(ran) == 1


def test_times_of_a_schedule() -> None:
    from datetime import UTC, datetime
    from zoneinfo import ZoneInfo

    berlin = ZoneInfo("Europe/Berlin")
    nightly = Schedule("t", "30 2 * * *", zone="Europe/Berlin")

    def after(*at: int) -> str:
        moment = datetime(*at, tzinfo=berlin).timestamp()  # type: ignore[arg-type]
        return datetime.fromtimestamp(nightly.after(moment), berlin).isoformat()

    assert after(2026, 3, 28, 12) == "2026-03-29T03:00:00+02:00"  # 2:30 does not exist that day
    assert after(2026, 10, 25, 0) == "2026-10-25T02:30:00+02:00"  # twice that day, run once
    assert after(2026, 10, 25, 4) == "2026-10-26T02:30:00+01:00"
    for minute in range(60, 180, 10):  # the hour from 2 to 3 comes twice
        now = datetime(2026, 10, 24, 23, tzinfo=UTC).timestamp() + minute * 60
        assert now < nightly.after(now)
    every = Schedule("t", every=30.0)
    assert (every.after(59.0), every.after(60.0), every.before(60.0)) == (60.0, 90.0, 60.0)
    assert every.key(60.0) == "schedule:t:every 30s:60"


@pytest.mark.parametrize(
    ("options", "why"),
    [
        ({"cron": "nonsense"}, "is no cron line"),
        ({"cron": "61 * * * *"}, "is no cron line"),
        ({"cron": "0 0 30 2 *"}, "cron line|never comes"),
        ({"cron": "* * * * *", "zone": "Mars/Base"}, "is no time zone"),
        ({"every": 0.5}, "at least a second"),
        ({}, "a cron line or an interval"),
    ],
)
def test_what_is_no_schedule(options: dict[str, Any], why: str) -> None:
    with pytest.raises(TaskError, match=why):
        Schedule("t", **options)


# --- what is none -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "why"),
    [
        ({"priority": "urgent"}, "no priority 'urgent'"),
        ({"priority": 0}, "no priority 0"),
        ({"timeout": 0}, "no attempt is over in 0s"),
        ({"timeout": "soon"}, "timeout: 'soon' is not a duration"),
        ({"timeout": -1}, "must not be negative"),
        ({"keep": -1}, "must not be negative"),
        ({"keep": float("inf")}, "too long"),
        ({"max_running": 0}, "at least one may run"),
        ({"retries": -1}, "say 0"),
    ],
)
def test_options_of_a_task_that_are_none(tmp_path: Path, options: dict[str, Any], why: str) -> None:
    queue = TaskQueue(tmp_path / "t.db")
    with pytest.raises(TaskError, match=why):
        queue.task(name="t", **options)(lambda: None)


@pytest.mark.parametrize(
    ("options", "why"),
    [
        ({"priority": "urgent"}, "no priority 'urgent'"),
        ({"priority": ""}, "no priority ''"),
        ({"delay": -1}, "delay: -1 must not be negative"),
        ({"delay": float("nan")}, "is not a number"),
        ({"at": float("nan")}, "no Unix time"),
        ({"at": 1.8e12}, "no Unix time; it is in seconds"),
        ({"key": ""}, "not empty"),
        ({"key": 7}, "a key is text"),
        ({"key": "caf\udce9"}, "a key is text"),
    ],
)
def test_options_of_a_call_that_are_none(tmp_path: Path, options: dict[str, Any], why: str) -> None:
    task = TaskQueue(tmp_path / "t.db").task(name="t")(lambda: None)
    with pytest.raises(TaskError, match=why):
        task.options(**options)


@pytest.mark.parametrize("options", [{"lease": 0}, {"lease": "soon"}, {"keep": "long"}])
def test_options_of_a_queue_that_are_none(tmp_path: Path, options: dict[str, Any]) -> None:
    with pytest.raises(TaskError, match=r"lease|keep"):
        TaskQueue(tmp_path / "t.db", **options)


async def test_a_key_is_of_one_task_and_now_and_nothing_are_times(make: Make) -> None:
    async with opened(make(), lease="10s") as queue:
        mail = queue.task(lambda: "mail", name="mail")
        bill = queue.task(lambda: "bill", name="bill")
        first = await mail.options(key="7", delay=0, at=0.0).delay()
        second = await bill.options(key="7").delay()
        async with queue.running():
            assert await first.result(10) == "mail"
            assert await second.result(10) == "bill"


# --- what only some have --------------------------------------------------------------------------


async def test_a_disk_that_is_full_reaches_the_producer_and_passes(tmp_path: Path) -> None:
    store = SqliteTasks(tmp_path / "t.db", max_bytes=300_000)
    async with opened(store, keep=0) as queue:

        @queue.task
        async def work(text: str) -> None: ...

        with pytest.raises(StoreFull):
            while True:
                await work.delay("x" * 2000)
        async with queue.running(16) as worker:
            await wait_until(lambda: worker.statistics.done > 20, 20)
            for _ in range(1000):
                try:
                    await work.delay("x")
                    break
                except StoreFull:  # until the workers have their room again
                    await asyncio.sleep(0.01)
            else:
                pytest.fail("it stays full")


async def test_redis_gone_and_back_loses_nothing() -> None:
    ran: Counter[int] = Counter()
    with Valkey("--appendonly", "yes", "--appendfsync", "always") as server:
        async with opened(RedisTasks(server.url, timeout=0.5), lease=2.0) as queue:

            @queue.task(name="work")
            async def work(number: int) -> None:
                ran[number] += 1

            async with queue.running():
                await (await work.delay(0)).result(10)
                server.kill()
                with pytest.raises(NexgateError):
                    await work.delay(1)
                server.start()
                jobs = []
                async with asyncio.timeout(30):
                    while len(jobs) < 4:
                        try:
                            number = 2 + len(jobs)
                            jobs.append(await work.options(key=str(number)).delay(number))
                        except NexgateError:  # it listens, and is still reading its file
                            await asyncio.sleep(0.05)
                for job in jobs:
                    await job.result(30)
    assert {2, 3, 4, 5} <= set(ran)


async def test_taskiqs_own_worker_and_middlewares_work_on_our_stores(tmp_path: Path) -> None:
    from taskiq import TaskiqMessage, TaskiqMiddleware, TaskiqResult

    told: list[str] = []

    class Telling(TaskiqMiddleware):
        def pre_send(self, message: TaskiqMessage) -> TaskiqMessage:
            told.append("pre_send")
            return message

        async def pre_execute(self, message: TaskiqMessage) -> TaskiqMessage:
            told.append("pre_execute")
            return message

        def post_execute(self, message: TaskiqMessage, result: TaskiqResult[Any]) -> None:
            told.append("post_execute")

    async with opened(SqliteTasks(tmp_path / "t.db")) as queue:
        queue.broker.add_middlewares(Telling())
        seen: list[int] = []

        @queue.task(priority="high")
        async def work(number: int) -> None:
            seen.append(number)

        async with queue.running():
            await (await work.delay(1)).result(10)
            kicked = await queue.broker.find_task(work.name).kiq(2)  # type: ignore[union-attr]
            assert (await queue.job(kicked.task_id).record()).priority == "high"
            await queue.job(kicked.task_id).result(10)
        assert seen == [1, 2]
        assert told == ["pre_send", "pre_execute", "post_execute"] * 2


async def test_a_place_can_be_a_path_or_a_url(tmp_path: Path) -> None:
    assert isinstance(TaskQueue(tmp_path / "t.db").store, SqliteTasks)
    assert isinstance(TaskQueue("valkey://127.0.0.1:1").store, RedisTasks)
    queue = TaskQueue(tmp_path / "t.db")

    async def work() -> None: ...

    queue.task(name="a")(work)
    with pytest.raises(TaskError, match="there is a task"):
        queue.task(name="a")(work)
    assert work.__name__ == "work"
