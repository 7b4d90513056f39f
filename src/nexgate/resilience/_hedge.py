"""A second call when the first takes unusually long."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from typing import TypeVar

from ._budget import RetryBudget
from ._quantile import Quantile

__all__ = ["hedged"]

R = TypeVar("R")


async def hedged(
    func: Callable[[], Awaitable[R]],
    *,
    delay: float | Quantile,
    budget: RetryBudget | None = None,
    clock: Callable[[], float] = time.monotonic,
) -> R:
    """Call ``func``, and once more when it has not finished after ``delay``: first success wins.

    ``func`` must be safe to run twice. ``delay`` is seconds, or a ``Quantile``, which this function
    then tells how long the first calls take; while it knows too little, nothing is hedged.
    ``budget`` gets a deposit for each call here and pays only when a hedge is really sent.

    The loser is cancelled *and awaited*, so nothing of it runs on afterwards. An error ends it only
    when all calls failed; the last one is raised, with a note of the other. A first call that fails
    before its hedge is due just fails: trying again is for ``retry``. Cancelling this cancels both.
    """
    started = clock()
    if budget is not None:
        budget.deposit(1, started)
    wait = delay.value if isinstance(delay, Quantile) else delay
    first = asyncio.ensure_future(func())
    calls: list[asyncio.Future[R]] = [first]
    try:
        if wait is not None:
            await asyncio.wait(calls, timeout=wait)
            if not first.done() and (budget is None or budget.try_spend(clock())):
                calls.append(asyncio.ensure_future(func()))
        return await _first_success(calls)
    finally:
        # A first call that lost took at least until now. Leaving it out would teach the estimate
        # that slow calls do not exist, and each lesson would make it hedge earlier.
        if isinstance(delay, Quantile) and (not first.done() or _succeeded(first)):
            now = clock()
            delay.observe(now - started, now)
        await _end(calls)


async def _first_success(calls: list[asyncio.Future[R]]) -> R:
    waiting = set(calls)
    errors: list[BaseException] = []
    while waiting:
        done, waiting = await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
        for call in sorted(done, key=calls.index):
            if _succeeded(call):
                return call.result()
            error = asyncio.CancelledError() if call.cancelled() else call.exception()
            assert error is not None
            errors.append(error)
    last = errors.pop()
    for error in errors:
        if error is not last:
            last.add_note(f"the other call of the hedge: {type(error).__name__}: {error}")
    raise last


def _succeeded(call: asyncio.Future[R]) -> bool:
    return call.done() and not call.cancelled() and call.exception() is None


async def _end(calls: list[asyncio.Future[R]]) -> None:
    """Cancel what still runs and see it through."""
    running = [call for call in calls if not call.done()]
    for call in running:
        call.cancel()
    if running:
        await asyncio.wait(running)
    for call in calls:
        if not call.cancelled():
            call.exception()  # a loser's error was looked at; asyncio need not report it
