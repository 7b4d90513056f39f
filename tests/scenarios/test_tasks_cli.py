"""``nexgate worker`` and ``nexgate tasks``, as people use them."""

from __future__ import annotations

import asyncio
import json
import signal
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from tests.scenarios.shell import nexgate

from nexgate.tasks import Job, NewJob, TaskQueue

JOBS = """
import asyncio
import time
from nexgate.tasks import TaskQueue, progress

tasks = TaskQueue("tasks.db", lease=2.0)

@tasks.task(name="add")
async def add(a: int, b: int) -> int:
    return a + b

@tasks.task(name="fail")
async def fail() -> None:
    raise LookupError("no luck")

@tasks.task(name="slow")
async def slow(seconds: float) -> str:
    await progress(1, of=2, note="on it")
    await asyncio.sleep(seconds)
    return "slept"

@tasks.task(name="hang")
def hang() -> None:
    time.sleep(600)

@tasks.every("1h")
@tasks.task(name="hourly")
async def hourly() -> None: ...

not_a_queue = 7
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "jobs.py").write_text(JOBS)
    return tmp_path


@asynccontextmanager
async def worker(folder: Path, *options: str) -> AsyncIterator[asyncio.subprocess.Process]:
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "nexgate", "worker", "jobs:tasks", *options),
        cwd=folder,
        stderr=asyncio.subprocess.PIPE,
    )
    try:
        yield process
    finally:
        if process.returncode is None:
            process.kill()
        await process.wait()


async def test_a_worker_runs_jobs_says_so_and_stops_in_order(folder: Path) -> None:
    async with TaskQueue(folder / "tasks.db") as queue:
        add: Any = queue.task(name="add")(lambda a, b: None)
        slow: Any = queue.task(name="slow")(lambda seconds: None)
        async with worker(folder, "--concurrency", "4", "--stop-timeout", "20") as process:
            assert await (await add.delay(1, 2)).result(30) == 3
            job = await slow.delay(0.5)
            async with asyncio.timeout(10):
                while await job.status() != "running":
                    await asyncio.sleep(0.02)
            process.send_signal(signal.SIGTERM)
            assert await job.result(10) == "slept"
            assert await asyncio.wait_for(process.wait(), 10) == 0
            assert process.stderr is not None
            said = (await process.stderr.read()).decode()
    assert "task add" in said
    assert "schedule of hourly: every 3600s" in said
    assert "working, 4 at once" in said
    assert "stopped: done=2" in said


async def running(job: Job[Any]) -> None:
    async with asyncio.timeout(30):
        while await job.status() != "running":
            await asyncio.sleep(0.02)


async def test_a_thread_that_hangs_does_not_keep_a_worker_that_is_told_to_stop(
    folder: Path,
) -> None:
    async with TaskQueue(folder / "tasks.db") as queue:
        job = await queue.task(name="hang")(lambda: None).delay()
        async with worker(folder, "--stop-timeout", "0.1") as process:
            await running(job)
            process.send_signal(signal.SIGTERM)
            assert await asyncio.wait_for(process.wait(), 10) == 0
        assert await job.status() == "running"  # until its lease ends


ORDER = """

if __name__ == "__main__":
    async def main():
        async with tasks:
            print((await double.delay(21)).id)
    asyncio.run(main())
"""


@pytest.mark.parametrize("how", [["jobs.py"], ["-m", "jobs"]])
async def test_what_a_script_orders_of_itself_is_run_by_who_imports_it(
    folder: Path, how: list[str]
) -> None:
    double = "\n@tasks.task\nasync def double(number: int) -> int:\n    return number * 2\n"
    (folder / "jobs.py").write_text(JOBS + double + ORDER)
    ordered = subprocess.run(
        [sys.executable, *how], cwd=folder, capture_output=True, text=True, check=True, timeout=60
    )
    async with TaskQueue(folder / "tasks.db") as queue, worker(folder):
        assert await queue.job(ordered.stdout.strip()).result(30) == 42


async def test_a_second_signal_does_not_wait_for_jobs(folder: Path) -> None:
    async with TaskQueue(folder / "tasks.db") as queue:
        job = await queue.task(name="slow")(lambda seconds: None).delay(600)
        async with worker(folder, "--stop-timeout", "600") as process:
            await running(job)
            process.send_signal(signal.SIGINT)
            await asyncio.sleep(0.1)
            assert process.returncode is None
            process.send_signal(signal.SIGINT)
            assert await asyncio.wait_for(process.wait(), 10) == 0
        assert await job.status() == "waiting"


async def test_what_is_odd_in_a_queue_can_be_looked_at(folder: Path) -> None:
    async with TaskQueue(folder / "tasks.db") as queue:
        await queue.store.enqueue(NewJob("unreadable", "add", b"\xff", 0.0))
        await queue.store.enqueue(NewJob("nothing", "add", b"[]", 1e14))
    listed = nexgate(folder, "tasks", "list", "tasks.db")
    assert listed.returncode == 0
    assert "1e+14" in listed.stdout
    for job, body in (("unreadable", "\\xff"), ("nothing", "[]")):
        shown = json.loads(nexgate(folder, "tasks", "show", "tasks.db", job).stdout)
        assert (shown["args"], shown["body"]) == ([], body)


async def test_dead_jobs_are_seen_shown_retried_and_dropped(folder: Path) -> None:
    async with TaskQueue(folder / "tasks.db") as queue:
        fail: Any = queue.task(name="fail")(lambda: None)
        async with worker(folder, "--log-level", "error"):
            jobs = [await fail.delay() for _ in range(3)]
            for job in jobs:
                await job.wait(30)
        ids = {job.id for job in jobs}
        rows = json.loads(nexgate(folder, "tasks", "dead", "tasks.db", "--format", "json").stdout)
        assert {row["id"] for row in rows} == ids
        table = nexgate(folder, "tasks", "list", "jobs:tasks", "--state", "dead").stdout
        assert table.count("LookupError: no luck") == 3
        shown = json.loads(nexgate(folder, "tasks", "show", "tasks.db", jobs[0].id).stdout)
        assert (shown["task"], shown["state"], shown["args"]) == ("fail", "dead", [])
        done = nexgate(folder, "tasks", "retry", "tasks.db", jobs[0].id)
        assert done.stdout == "1 of 1 jobs wait again\n"
        assert nexgate(folder, "tasks", "retry", "tasks.db", jobs[0].id).returncode == 1
        done = nexgate(folder, "tasks", "cancel", "tasks.db", jobs[0].id)
        assert done.stdout == "1 of 1 jobs are cancelled\n"
        done = nexgate(folder, "tasks", "drop", "tasks.db", "--all")
        assert done.stdout == "2 of 2 jobs are gone\n"
        counts = json.loads(
            nexgate(folder, "tasks", "stats", "tasks.db", "--format", "json").stdout
        )
        assert counts == {"waiting": 0, "running": 0, "done": 0, "dead": 0, "cancelled": 1}


async def test_watching_shows_counts_and_progress_until_there_is_nothing_to_do(
    folder: Path,
) -> None:
    async with TaskQueue(folder / "tasks.db") as queue:
        slow: Any = queue.task(name="slow")(lambda seconds: None)
        await slow.delay(1.0)
        async with worker(folder, "--log-level", "error"):
            done = await asyncio.to_thread(
                nexgate, folder, "tasks", "watch", "tasks.db", "--until-empty", "--interval", "0.1"
            )
    assert done.returncode == 0
    assert "running 1" in done.stdout  # into a pipe: a line for each change
    assert done.stdout.splitlines()[-1].startswith("waiting 0  running 0  done 1")


@pytest.mark.parametrize(
    ("argv", "code", "said"),
    [
        (("worker", "jobs:nothing"), 1, "has no nothing"),
        (("worker", "jobs:not_a_queue"), 1, "is int, not a TaskQueue"),
        (("worker", "nowhere:tasks"), 1, "cannot import nowhere"),
        (("worker", "jobs"), 2, "is not the path of a Python object"),
        (("tasks", "list", "no.db"), 2, "there is no file no.db"),
        (("tasks", "retry", "jobs:tasks"), 2, "name jobs by their ids"),
        (("tasks", "show", "jobs:tasks", "nobody"), 1, "there is no job nobody"),
        (("tasks", "list", "redis://127.0.0.1:1"), 3, "127.0.0.1:1"),
    ],
)
def test_what_cannot_be_done_is_said_in_a_line(
    folder: Path, argv: tuple[str, ...], code: int, said: str
) -> None:
    done = nexgate(folder, *argv)
    assert said in done.stderr
    assert "Traceback" not in done.stderr
    assert done.returncode == code
