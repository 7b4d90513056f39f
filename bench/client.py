"""What it costs to call a service. ``python -m bench.client``.

CPU per small GET (179 bytes of JSON, 32 at once, connections kept) of ``ServiceClient`` as it
comes, of one with retries, a breaker and a time limit, and of aiohttp's client, in processes of
their own and in turns, against the same server. The bar: at most half of aiohttp.
"""

from __future__ import annotations

import asyncio
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable
from pathlib import Path

import uvloop

from bench import machine
from bench.origin import running_origin

REQUESTS = 30_000
AT_ONCE = 32
ROUNDS = 3
KINDS = ("nexgate", "nexgate, retry, breaker, deadline", "aiohttp")

Get = Callable[[], Awaitable[int]]


async def measure(kind: str, port: int) -> float:
    """CPU microseconds per request."""
    if kind == "aiohttp":
        import aiohttp

        async with aiohttp.ClientSession(f"http://127.0.0.1:{port}") as session:

            async def ask() -> int:
                async with session.get("/json") as response:
                    return len(await response.read())

            return await drive(ask)
    from nexgate.client import ServiceClient

    options = {} if kind == "nexgate" else {"retry": 3, "breaker": {}, "timeout": "5s"}
    async with ServiceClient([f"http://127.0.0.1:{port}"], "bench", **options) as client:

        async def call() -> int:
            return len((await client.get("/json")).body)

        return await drive(call)


async def drive(get: Get) -> float:
    async def some(count: int) -> None:
        for _ in range(count):
            assert await get()

    async def all_of(count: int) -> None:
        await asyncio.gather(*(some(count // AT_ONCE) for _ in range(AT_ONCE)))

    await all_of(REQUESTS // 10)
    before = time.process_time()
    await all_of(REQUESTS)
    return (time.process_time() - before) / (REQUESTS // AT_ONCE * AT_ONCE) * 1e6


def run() -> dict[str, float]:
    """CPU microseconds per request by client: medians of interleaved rounds."""
    found: dict[str, list[float]] = {kind: [] for kind in KINDS}
    with (
        tempfile.TemporaryDirectory(prefix="bench-") as name,
        running_origin(_readable(Path(name)) / "origin") as origin,
    ):
        for _ in range(ROUNDS):
            for kind in KINDS:
                command = [sys.executable, "-m", "bench.client", "--measure", kind, str(origin)]
                if len(machine.CORES) > 1:
                    command = ["taskset", "-c", str(machine.PROXY_CORE), *command]
                done = subprocess.run(command, capture_output=True, text=True, check=True)
                found[kind].append(json.loads(done.stdout))
    return {kind: statistics.median(values) for kind, values in found.items()}


def _readable(folder: Path) -> Path:
    folder.chmod(0o755)
    return folder


def main() -> None:
    if sys.argv[1:2] == ["--measure"]:
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            print(json.dumps(runner.run(measure(sys.argv[2], int(sys.argv[3])))))
        return
    os.sched_setaffinity(0, {machine.LOAD_CORE})
    found = run()
    print(f"{'client':36}{'CPU µs':>9}{'to aiohttp':>12}")
    for kind, value in found.items():
        print(f"{kind:36}{value:9.1f}{value / found['aiohttp']:12.2f}")


if __name__ == "__main__":
    main()
