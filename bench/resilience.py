"""What resilience costs a call that goes well, beside the libraries people use.

``python -m bench.resilience`` prints nanoseconds per operation, above those of the same loop
without it, and the ratio to ours in the same run. The least of nine rounds counts; in each,
everything is measured once, so a noisy moment hits all alike. Libraries that are not installed are
named as such:
``pip install circuitbreaker purgatory fluxgate pyresilience stamina``.

The bar: ``acquire`` and ``record`` together cost at most a microsecond, with any window.
"""

from __future__ import annotations

import asyncio
import gc
import importlib
import sys
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any

from rich.console import Console
from rich.table import Table

from nexgate.resilience import (
    AdaptiveLimit,
    Backoff,
    Bulkhead,
    CircuitBreaker,
    CircuitConfig,
    Deadline,
    Quantile,
    Retrier,
    RetryBudget,
    RetryPolicy,
)

_ROUNDS = 9
_CALLS = 20_000
_BAR_NS = 1000

Loop = Callable[[int], Awaitable[None]]


@dataclass
class Entry:
    """One line of the table; ``make`` may fail to import what it needs."""

    group: str
    name: str
    make: Callable[[], Loop]
    is_bare: bool = False
    """A loop without any of it, whose time is subtracted from its group's."""


async def work() -> int:
    return 1


# --- what is measured -----------------------------------------------------------------------------


def circuit(**settings: Any) -> Loop:
    breaker = CircuitBreaker(CircuitConfig(**settings))

    async def loop(count: int) -> None:
        acquire, record, now = breaker.acquire, breaker.record, time.monotonic()
        for _ in range(count):
            record(acquire(now), True, 0.01, now)

    return loop


def budget_of_ours() -> Loop:
    budget = RetryBudget()

    async def loop(count: int) -> None:
        deposit, spend, now = budget.deposit, budget.try_spend, time.monotonic()
        for _ in range(count):
            deposit(1, now)
            spend(now)

    return loop


def budget_of_pyresilience() -> Loop:
    module = importlib.import_module("pyresilience")
    budget = module.RetryBudget(module.RetryBudgetConfig())

    async def loop(count: int) -> None:
        acquire = budget.acquire
        for _ in range(count):
            acquire()

    return loop


def bulkhead_core() -> Loop:
    bulkhead = Bulkhead(64)

    async def loop(count: int) -> None:
        enter, leave = bulkhead.try_enter, bulkhead.leave
        for _ in range(count):
            enter()
            leave()

    return loop


def adaptive_core() -> Loop:
    bulkhead = Bulkhead(AdaptiveLimit())

    async def loop(count: int) -> None:
        enter, leave, now = bulkhead.try_enter, bulkhead.leave, time.monotonic()
        for _ in range(count):
            enter()
            leave(0.01, now=now)

    return loop


def quantile() -> Loop:
    estimate = Quantile()

    async def loop(count: int) -> None:
        observe, now = estimate.observe, time.monotonic()
        for n in range(count):
            observe(0.01 + (n & 63) / 1000, now)

    return loop


def entering(manager: Any) -> Loop:
    async def loop(count: int) -> None:
        for _ in range(count):
            async with manager:
                pass

    return loop


def calling(func: Callable[[], Awaitable[Any]]) -> Loop:
    async def loop(count: int) -> None:
        for _ in range(count):
            await func()

    return loop


def asyncio_timeout() -> Loop:
    async def loop(count: int) -> None:
        for _ in range(count):
            async with asyncio.timeout(60):
                pass

    return loop


async def _nothing(count: int) -> None:
    for _ in range(count):
        pass


def call_of_ours() -> Loop:
    breaker = CircuitBreaker(CircuitConfig(failure_ratio=0.5))

    async def loop(count: int) -> None:
        call = breaker.call
        for _ in range(count):
            await call(work)

    return loop


def purgatory_breaker() -> Loop:
    factory = importlib.import_module("purgatory").AsyncCircuitBreakerFactory()
    return calling(factory("x")(work))


def fluxgate_breaker() -> Loop:
    module = importlib.import_module("fluxgate")
    windows, trippers = (
        importlib.import_module(f"fluxgate.{name}") for name in ("windows", "trippers")
    )
    breaker = module.AsyncCircuitBreaker(
        window=windows.TimeWindow(10),
        tripper=trippers.MinRequests(20) & trippers.FailureRate(0.5),
    )

    async def loop(count: int) -> None:
        call = breaker.call
        for _ in range(count):
            await call(work)

    return loop


def pyresilience_breaker() -> Loop:
    module = importlib.import_module("pyresilience")
    config = module.CircuitBreakerConfig(sliding_window_size=100, minimum_calls=20)
    return calling(module.resilient(circuit_breaker=config)(work))


def pyresilience_bulkhead() -> Loop:
    module = importlib.import_module("pyresilience")
    return calling(module.resilient(bulkhead=module.BulkheadConfig(max_concurrent=64))(work))


def pyresilience_retry() -> Loop:
    module = importlib.import_module("pyresilience")
    return calling(module.resilient(retry=module.RetryConfig(max_attempts=3))(work))


def stamina_retry() -> Loop:
    module = importlib.import_module("stamina")
    return calling(module.retry(on=ConnectionError, attempts=3)(work))


def circuitbreaker_decorator() -> Loop:
    return calling(importlib.import_module("circuitbreaker").CircuitBreaker()(work))


ENTRIES = [
    Entry("acquire + record", "(loop)", lambda: _nothing, is_bare=True),
    Entry("acquire + record", "nexgate, failures in a row", circuit),
    Entry(
        "acquire + record",
        "nexgate, last 100 calls",
        lambda: circuit(failure_ratio=0.5, window_calls=100),
    ),
    Entry(
        "acquire + record",
        "nexgate, last 10 seconds",
        lambda: circuit(failure_ratio=0.5, slow_call_ratio=0.5),
    ),
    Entry("breaker around an async call", "(loop)", lambda: calling(work), is_bare=True),
    Entry("breaker around an async call", "nexgate, call", call_of_ours),
    Entry(
        "breaker around an async call",
        "nexgate, decorator",
        lambda: calling(CircuitBreaker(CircuitConfig(failure_ratio=0.5))(work)),
    ),
    Entry(
        "breaker around an async call",
        "nexgate, decorator, failures in a row",
        lambda: calling(CircuitBreaker()(work)),
    ),
    Entry("breaker around an async call", "circuitbreaker", circuitbreaker_decorator),
    Entry("breaker around an async call", "purgatory", purgatory_breaker),
    Entry("breaker around an async call", "pyresilience", pyresilience_breaker),
    Entry("breaker around an async call", "fluxgate", fluxgate_breaker),
    Entry("async with", "(loop)", lambda: _nothing, is_bare=True),
    Entry("async with", "nexgate, bulkhead", lambda: entering(Bulkhead(64))),
    Entry("async with", "nexgate, breaker", lambda: entering(CircuitBreaker())),
    Entry("async with", "asyncio.Semaphore", lambda: entering(asyncio.Semaphore(64))),
    Entry("bulkhead around an async call", "(loop)", lambda: calling(work), is_bare=True),
    Entry("bulkhead around an async call", "nexgate, async with", lambda: _with_bulkhead()),
    Entry("bulkhead around an async call", "pyresilience", pyresilience_bulkhead),
    Entry("deadline", "(loop)", lambda: _nothing, is_bare=True),
    Entry("deadline", "nexgate, async with", lambda: entering(Deadline.after(3600))),
    Entry("deadline", "asyncio.timeout", asyncio_timeout),
    Entry("retry around an async call", "(loop)", lambda: calling(work), is_bare=True),
    Entry(
        "retry around an async call",
        "nexgate, decorator and budget",
        lambda: calling(Retrier(RetryPolicy(backoff=Backoff()), budget=RetryBudget())(work)),
    ),
    Entry("retry around an async call", "pyresilience", pyresilience_retry),
    Entry("retry around an async call", "stamina", stamina_retry),
    Entry("decisions", "(loop)", lambda: _nothing, is_bare=True),
    Entry("decisions", "nexgate, budget: deposit + try_spend", budget_of_ours),
    Entry("decisions", "pyresilience, budget: acquire", budget_of_pyresilience),
    Entry("decisions", "nexgate, bulkhead: try_enter + leave", bulkhead_core),
    Entry("decisions", "nexgate, adaptive: try_enter + leave", adaptive_core),
    Entry("decisions", "nexgate, quantile: observe", quantile),
]


def _with_bulkhead() -> Loop:
    bulkhead = Bulkhead(64)

    async def loop(count: int) -> None:
        for _ in range(count):
            async with bulkhead:
                await work()

    return loop


# --- measuring ------------------------------------------------------------------------------------


async def measure() -> list[float | None]:
    """Nanoseconds per operation of each entry, loop included; ``None`` where it is missing."""
    loops: list[Loop | None] = []
    for entry in ENTRIES:
        try:
            loops.append(entry.make())
        except ImportError:
            loops.append(None)
    best: list[float | None] = [None] * len(loops)
    gc.disable()
    for _ in range(_ROUNDS):
        for index, loop in enumerate(loops):
            if loop is None:
                continue
            started = time.perf_counter_ns()
            await loop(_CALLS)
            nanos = (time.perf_counter_ns() - started) / _CALLS
            known = best[index]
            best[index] = nanos if known is None else min(known, nanos)
        gc.collect()
    gc.enable()
    return best


def run(group: str) -> dict[str, float]:
    """Nanoseconds above the bare loop, by name, of the entries of one group that are installed."""
    results = dict(zip(((e.group, e.name) for e in ENTRIES), asyncio.run(measure()), strict=True))
    bare = results[group, "(loop)"] or 0.0
    return {
        name: nanos - bare
        for (of, name), nanos in results.items()
        if of == group and name != "(loop)" and nanos is not None
    }


def main() -> int:
    results = asyncio.run(measure())
    table = Table(
        "what", "who", "ns", "ratio", title="per call that goes well, above the bare loop"
    )
    for column in table.columns[2:]:
        column.justify = "right"
    bare = ours = 0.0
    missed = False
    group = ""
    for entry, nanos in zip(ENTRIES, results, strict=True):
        if entry.is_bare:
            table.add_section()
            bare, ours = nanos or 0.0, 0.0
            continue
        shown = "" if entry.group == group else entry.group
        group = entry.group
        if nanos is None:
            table.add_row(shown, entry.name, "not installed", "")
            continue
        extra = nanos - bare
        ours = ours or extra
        table.add_row(shown, entry.name, f"{extra:,.0f}", f"{extra / ours:.2f}")
        if entry.group == "acquire + record":
            missed |= extra > _BAR_NS
    Console().print(table)
    print(f"acquire + record within {_BAR_NS} ns: {'no' if missed else 'yes'}")
    return 1 if missed else 0


if __name__ == "__main__":
    sys.exit(main())
