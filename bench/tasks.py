"""What a durable job costs: ``python -m bench.tasks``.

The same task by each in one run: storing a job, and running it until it is done. huey is
synchronous; its storage is SQLite, too. taskiq's own broker keeps jobs in memory, so nothing of it
is durable.
"""

from __future__ import annotations

import asyncio
import logging
import tempfile
import time
from pathlib import Path
from typing import Any

from bench.state import valkey
from nexgate.tasks import TaskQueue

COUNT = 3000


async def nexgate(queue: TaskQueue, at_once: int = 1) -> tuple[float, float]:
    """Microseconds for storing a job and for running one."""

    @queue.task(name="add")
    async def add(a: int, b: int) -> int:
        return a + b

    async with queue:
        began = time.perf_counter()
        for first in range(0, COUNT, at_once):
            if at_once == 1:
                await add.delay(first, 1)
            else:
                await asyncio.gather(*(add.delay(first + n, 1) for n in range(at_once)))
        stored = (time.perf_counter() - began) / COUNT * 1e6
        began = time.perf_counter()
        async with queue.running(64) as worker:
            while worker.statistics.done < COUNT:
                await asyncio.sleep(0.002)
        ran = (time.perf_counter() - began) / COUNT * 1e6
    return stored, ran


async def until_begun(queue: TaskQueue) -> float:
    """Milliseconds from the order to the beginning of a job, with a worker that waits: the
    median.
    """
    begun = asyncio.Event()

    @queue.task(name="begin")
    async def begin() -> None:
        begun.set()

    took: list[float] = []
    async with queue, queue.running():
        for _ in range(51):
            await asyncio.sleep(0.02)
            begun.clear()
            began = time.perf_counter()
            await begin.delay()
            await begun.wait()
            took.append(time.perf_counter() - began)
    return sorted(took)[25] * 1e3


async def taskiq_in_memory() -> tuple[float, float]:
    from taskiq import InMemoryBroker
    from taskiq.receiver import Receiver

    broker = InMemoryBroker()

    @broker.task
    async def add(a: int, b: int) -> int:
        return a + b

    messages: list[bytes] = []

    async def kick(message: Any) -> None:
        messages.append(message.message)

    broker.kick = kick  # type: ignore[method-assign]
    began = time.perf_counter()
    for number in range(COUNT):
        await add.kiq(number, 1)
    stored = (time.perf_counter() - began) / COUNT * 1e6
    receiver = Receiver(broker, max_async_tasks=64)
    began = time.perf_counter()
    for message in messages:
        await receiver.callback(message)
    return stored, (time.perf_counter() - began) / COUNT * 1e6


def huey(folder: str, *, is_durable: bool) -> tuple[float, float]:
    from huey import SqliteHuey

    queue = SqliteHuey(
        filename=str(Path(folder) / f"huey{is_durable}.db"), results=True, fsync=is_durable
    )

    @queue.task()
    def add(a: int, b: int) -> int:
        return a + b

    began = time.perf_counter()
    for number in range(COUNT):
        add(number, 1)
    stored = (time.perf_counter() - began) / COUNT * 1e6
    began = time.perf_counter()
    while (task := queue.dequeue()) is not None:
        queue.execute(task)
    return stored, (time.perf_counter() - began) / COUNT * 1e6


async def main() -> None:
    logging.disable(logging.CRITICAL)
    with tempfile.TemporaryDirectory() as folder, valkey() as url:

        def queue(name: str, synchronous: Any) -> TaskQueue:
            return TaskQueue(Path(folder) / f"{name}.db", synchronous=synchronous)

        rows = [
            ("Nexgate, survives kill -9", await nexgate(queue("a", "normal"))),
            ("Nexgate, survives power cuts", await nexgate(queue("b", "full"))),
            ("  a hundred at once", await nexgate(queue("c", "full"), 100)),
            ("huey on SQLite, survives kill -9", huey(folder, is_durable=False)),
            ("huey on SQLite, survives power cuts", huey(folder, is_durable=True)),
            ("taskiq in memory, survives nothing", await taskiq_in_memory()),
        ]
        begun = {"SQLite": await until_begun(queue("d", "normal"))}
        if url is not None:
            rows.insert(3, ("Nexgate in Valkey", await nexgate(TaskQueue(url))))
            begun["Valkey"] = await until_begun(TaskQueue(url))
    base = rows[0][1]
    print(f"{'':<38}{'store µs':>10}{'ratio':>7}{'run µs':>10}{'ratio':>7}")
    for name, (stored, ran) in rows:
        print(f"{name:<38}{stored:>10.1f}{stored / base[0]:>7.2f}{ran:>10.1f}{ran / base[1]:>7.2f}")
    print()
    for name, milliseconds in begun.items():
        print(f"begun after, in {name:<23}{milliseconds:>10.1f} ms")


if __name__ == "__main__":
    asyncio.run(main())
