"""What telling handlers costs, and what storing an event costs: ``python -m bench.events``.

The same work by each library in one run: an event for three handlers that do nothing. Ratios are to
Nexgate's time; a library with less than 1 is faster.
"""

from __future__ import annotations

import asyncio
import tempfile
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

from nexgate.events import DurableOptions, Event, EventBus, SqliteOutbox

ROUNDS = 5


def handler(*_: Any, **__: Any) -> None:
    """Does nothing."""


async def async_handler(*_: Any, **__: Any) -> None:
    """Does nothing, asynchronously."""


async def best(work: Callable[[int], Awaitable[None]], count: int) -> float:
    """The best of some rounds, in microseconds each."""
    found = float("inf")
    for _ in range(ROUNDS):
        began = time.perf_counter()
        await work(count)
        found = min(found, (time.perf_counter() - began) / count * 1e6)
    return found


async def nexgate_sync(count: int) -> None:
    bus = EventBus()
    for _ in range(3):
        bus.subscribe("user.created", handler)
    event = Event("user.created", {"id": 1})
    publish = bus.publish
    for _ in range(count):
        await publish(event)


async def nexgate_async(count: int) -> None:
    bus = EventBus()
    bus.subscribe("user.created", async_handler)
    event = Event("user.created", {"id": 1})
    for _ in range(count):
        await bus.publish(event)


async def blinker_sync(count: int) -> None:
    from blinker import Signal

    signal = Signal("user.created")
    receivers = [lambda sender, **kw: handler() for _ in range(3)]
    for each in receivers:
        signal.connect(each, weak=False)
    for _ in range(count):
        signal.send(None, event=1)


async def blinker_async(count: int) -> None:
    from blinker import Signal

    signal = Signal("user.created")
    signal.connect(async_handler, weak=False)
    for _ in range(count):
        await signal.send_async(None, event=1)


async def pyee_sync(count: int) -> None:
    from pyee.base import EventEmitter

    emitter = EventEmitter()
    for _ in range(3):
        emitter.add_listener("user.created", lambda event: handler())
    for _ in range(count):
        emitter.emit("user.created", 1)


async def plain(count: int) -> None:
    handlers = [handler] * 3
    for _ in range(count):
        for each in handlers:
            each(None)


async def outbox(folder: str) -> tuple[float, float]:
    """Microseconds for storing an event, and for handling one."""
    store = SqliteOutbox(Path(folder) / "events.db")
    await store.open()
    count = 5000
    events = [Event("user.created", {"id": n}, key=str(n % 50)) for n in range(count)]
    began = time.perf_counter()
    for event in events:
        await store.append([event])
    appended = (time.perf_counter() - began) / count * 1e6
    await store.aclose()
    handled: list[int] = []
    bus = EventBus(store=SqliteOutbox(Path(folder) / "events.db"))
    bus.subscribe(
        "user.*",
        lambda event: handled.append(1),
        group="g",
        durable=DurableOptions(start="beginning"),
    )
    began = time.perf_counter()
    async with bus:
        while len(handled) < count:
            await asyncio.sleep(0.002)
        took = (time.perf_counter() - began) / count * 1e6
    return appended, took


async def behind(folder: str, count: int = 200_000) -> float:
    """Microseconds for a look that finds nothing, with ``count`` events behind two keys that are to
    be tried again later.
    """
    store = SqliteOutbox(Path(folder) / "behind.db")
    await store.open()
    await store.join("g", ["**"], DurableOptions(start="beginning"))
    for first in range(0, count, 1000):
        await store.append([Event("a", n, key=str(n % 2)) for n in range(first, first + 1000)])
    held = 0
    for _ in range(count // 1000 + 2):  # each looks at a thousand new ones
        for claim in await store.claim("g", 1, 30.0):
            await store.retry("g", claim, 3600.0)
            held += 1
    assert held == 2
    took = []
    for _ in range(101):
        began = time.perf_counter()
        assert await store.claim("g", 64, 30.0) == []
        took.append(time.perf_counter() - began)
    await store.aclose()
    return sorted(took)[50] * 1e6


async def main() -> None:
    rows = [
        ("three plain handlers", "Nexgate", await best(nexgate_sync, 100_000)),
        ("", "blinker", await best(blinker_sync, 50_000)),
        ("", "pyee", await best(pyee_sync, 50_000)),
        ("", "a plain loop", await best(plain, 100_000)),
        ("one async handler", "Nexgate", await best(nexgate_async, 50_000)),
        ("", "blinker", await best(blinker_async, 50_000)),
    ]
    print(f"{'':<24}{'':<14}{'µs':>8}{'ratio':>8}")
    base = 1.0
    for what, who, took in rows:
        base = took if who == "Nexgate" else base
        print(f"{what:<24}{who:<14}{took:>8.2f}{took / base:>8.2f}")
    with tempfile.TemporaryDirectory() as folder:
        appended, handled = await outbox(folder)
        looked = await behind(folder)
    print(f"{'outbox in SQLite':<24}{'append':<14}{appended:>8.1f}")
    print(f"{'':<24}{'handle':<14}{handled:>8.1f}")
    print(f"{'':<24}{'look':<14}{looked:>8.1f}  behind two keys that wait: 200,000 events")


if __name__ == "__main__":
    asyncio.run(main())
