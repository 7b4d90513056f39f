"""What a store of jobs promises to workers, and what only one of them could break."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from pathlib import Path

import pytest
from tests.unit.sqlite.steps import steps_of
from tests.unit.state.servers import Valkey
from tests.unit.tasks.queues import Clock, Make, opened

from nexgate.tasks import NewJob, Priority, QueueFull, RedisTasks, SqliteTasks, TaskStore
from nexgate.tasks._store import PRIORITIES
from nexgate.testing import wait_until


def new(id: str, *, due: float = 0.0, priority: Priority = "normal", key: str = "") -> NewJob:
    return NewJob(id, "t", b"{}", due, priority, key or None)


async def claimed(store: TaskStore, limit: int = 10, lease: float = 30.0) -> list[str]:
    return [claim.id for claim in await store.claim(limit, lease, ())]


class Counting(SqliteTasks):
    """Counts the looks for work."""

    looks = 0

    async def claim(self, *args: object) -> list[object]:  # type: ignore[override]  # passed on
        self.looks += 1
        return await super().claim(*args)  # type: ignore[arg-type, return-value]  # passed on


@pytest.mark.parametrize("synchronous", ["full", "normal"])
async def test_a_worker_with_nothing_to_do_does_nothing(tmp_path: Path, synchronous: str) -> None:
    store = Counting(tmp_path / "t.db", synchronous=synchronous)
    async with opened(store) as queue:
        running = asyncio.Event()
        narrow = queue.task(running.wait, name="narrow", max_running=1)
        later = queue.task(running.wait, name="later")
        await later.options(delay=60).delay()
        for _ in range(3):
            await narrow.delay()
        async with queue.running() as worker:
            await wait_until(lambda: worker.running == 1)
            await asyncio.sleep(0.1)
            before, until = store.looks, time.monotonic() + 0.6
            await wait_until(lambda: time.monotonic() > until)
            assert store.looks - before <= 3
            running.set()
            await wait_until(lambda: worker.statistics.done == 3)


async def test_a_job_that_comes_while_old_ones_are_forgotten_runs_at_once(tmp_path: Path) -> None:
    async with opened(SqliteTasks(tmp_path / "t.db")) as queue:
        task = queue.task(lambda: 1, name="one")
        async with queue.running():
            began = time.monotonic()
            await (await task.delay()).result(10)  # during the worker's first look
            assert time.monotonic() - began < 0.5


async def test_jobs_of_later_hide_none_of_now(make: Make, clock: Clock) -> None:
    store = make()
    await store.open()
    now = clock()
    for number in range(1100):  # ranked before those that are due now, and not due themselves
        await store.enqueue(new(f"h{number:04}", due=now + 50, priority="high"))
    await store.enqueue(new("n", due=now))
    await store.enqueue(new("l", due=now, priority="low"))
    assert await claimed(store) == ["n", "l"]
    assert await claimed(store) == []
    clock.offset += 51
    assert len(await claimed(store)) == 10


async def test_in_streams_none_is_starved_by_what_comes_before_it(valkey: Valkey) -> None:
    store = RedisTasks(valkey.url, prefix="starved:")
    await store.open()
    for number in range(20):
        for priority in PRIORITIES:
            await store.enqueue(new(f"{priority}{number}", priority=priority))
    order = [name for _ in range(16) for name in await claimed(store, 1)]
    kinds = Counter(name.rstrip("0123456789") for name in order)
    assert kinds["high"] > kinds["normal"] > 0
    assert kinds["low"] > 0
    await store.aclose()


async def test_a_job_is_begun_at_once_and_when_it_is_due(make: Make) -> None:
    async with opened(make()) as queue:
        began: list[float] = []
        task = queue.task(lambda: began.append(time.time()), name="work")
        async with queue.running():
            await asyncio.sleep(0.2)  # it waits
            for delay in (0.0, 0.0, 0.3):
                ordered = time.time()
                await (await task.options(delay=delay).delay()).result(10)
                assert delay <= began[-1] - ordered < delay + 0.09
                await asyncio.sleep(0.05)


async def test_a_task_with_much_to_do_leaves_others_their_turn(valkey: Valkey) -> None:
    store = RedisTasks(valkey.url, prefix="turns:")
    await store.open()
    for number in range(50):
        await store.enqueue(NewJob(f"busy{number}", "busy", b"{}", 0.0))
    await store.enqueue(NewJob("x", "other", b"{}", 0.0))
    found = [each for _ in range(4) for each in await claimed(store, 2)]
    assert "x" in found
    await store.aclose()


async def test_many_of_a_task_that_is_full_do_not_hide_another(make: Make) -> None:
    async with opened(make()) as queue:
        go = asyncio.Event()
        ran: list[int] = []

        @queue.task(max_running=1)
        async def narrow(number: int) -> None:
            await go.wait()
            ran.append(number)

        other = queue.task(lambda: "other", name="other")
        for number in range(200):
            await narrow.delay(number)
        async with queue.running(3) as worker:
            await wait_until(lambda: worker.running == 1)
            began = time.monotonic()
            assert await (await other.delay()).result(10) == "other"
            assert time.monotonic() - began < 2
            go.set()
            await wait_until(lambda: len(ran) == 200, 60)
        assert sorted(ran) == list(range(200))


async def test_jobs_of_other_programs_hide_none_and_wait_for_theirs(make: Make) -> None:
    store = make()
    await store.open()
    for number in range(100):
        await store.enqueue(NewJob(f"f{number}", "foreign", b"{}", 0.0))
    await store.enqueue(new("mine"))
    assert [claim.id for claim in await store.claim(8, 30.0, ("foreign",))] == ["mine"]
    assert await store.claim(8, 30.0, ("foreign",)) == []
    assert len(await claimed(store, 8)) == 8  # those of whoever has the task


async def test_a_cancelled_job_that_is_revived_keeps_its_key_and_its_rank(
    make: Make, clock: Clock
) -> None:
    store = make()
    await store.open()
    await store.enqueue(new("a", due=clock(), priority="high", key="k"))
    assert await store.cancel("a", 1.0) == "cancelled"
    assert await store.revive(["a"]) == 1
    await asyncio.sleep(1.2)  # as long as the server's own clock would keep it
    clock.offset += 2
    assert await store.enqueue(new("b", due=clock(), key="k")) == "a"
    await store.enqueue(new("c", due=clock() - 30))
    assert await claimed(store) == ["a", "c"]


async def test_what_is_kept_no_longer_is_forgotten_also_by_busy_workers(
    make: Make, clock: Clock
) -> None:
    store = make()
    await store.open()
    for number in range(20):
        await store.enqueue(new(f"j{number}", due=clock()))
    for claim in await store.claim(20, 30.0, ()):
        await store.complete(claim, b"1", 60.0)
    clock.offset += 61
    for number in range(2):
        await store.enqueue(new(f"k{number}", due=clock()))
        assert await claimed(store, 1) == [f"k{number}"]
    assert (await store.counts())["done"] == 0


async def test_progress_of_one_that_lost_its_job_is_not_stored(make: Make) -> None:
    one, two = make(), make()
    await one.open()
    await two.open()
    await one.enqueue(new("j"))
    (lost,) = await one.claim(1, 0.05, ())
    await asyncio.sleep(0.06)
    (claim,) = await two.claim(1, 0.05, ())
    await two.progress(claim, {"done": 2})
    await one.progress(lost, {"done": 1})
    record = await one.get("j")
    assert record is not None
    assert record.progress == {"done": 2}
    assert await two.complete(claim, None, 0.0)
    await one.progress(lost, {"done": 1})
    if isinstance(one, RedisTasks):
        assert await one.link.ask(lambda client: client.exists(f"{one._prefix}job:j")) == 0


async def test_a_job_whose_worker_died_is_found_behind_many_that_run(make: Make) -> None:
    busy, dead, alive = make(), make(), make()
    for store in (busy, dead, alive):
        await store.open()
    for number in range(40):
        await busy.enqueue(new(f"j{number:02}"))
    long = await busy.claim(39, 0.3, ())
    (lost,) = await dead.claim(1, 0.3, ())
    until = time.monotonic() + 5
    found: list[str] = []
    while not found and time.monotonic() < until:
        await busy.extend(long, 0.3)
        found = await claimed(alive, 1, 0.3)
        await asyncio.sleep(0.01)
    assert found == [lost.id]


async def test_a_server_that_forgot_everything_is_worked_with_again() -> None:
    with Valkey() as server:
        async with opened(RedisTasks(server.url)) as queue:
            task = queue.task(lambda: 1, name="one")
            async with queue.running():
                assert await (await task.delay()).result(10) == 1
                await queue.store.link.ask(lambda client: client.flushall())  # type: ignore[attr-defined]  # Redis's
                assert await (await task.delay()).result(10) == 1


async def test_ordering_and_passing_over_cost_the_same_with_many_that_wait(
    tmp_path: Path,
) -> None:
    store = SqliteTasks(tmp_path / "jobs.db", synchronous="normal", max_pending=20_000)
    await store.open()
    for number in range(10_000):
        await store.enqueue(new(f"j{number}"))
    with steps_of(store.database) as ordering:
        for number in range(1000):
            await store.enqueue(new(f"k{number}"))
    with steps_of(store.database) as passing:
        assert await store.claim(8, 30.0, ("t",)) == []
    assert ordering.hundreds < 3000  # one count, not one for each 64
    assert passing.hundreds < 1000  # some five for each that is passed over, and none reads its row
    with pytest.raises(QueueFull, match="20000 jobs wait, 20000 may"):
        for number in range(11_000):
            await store.enqueue(new(f"l{number}"))
    assert (await store.counts())["waiting"] == 20_000
    await store.aclose()
