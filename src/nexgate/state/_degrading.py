"""State that goes on without its server, knowing less, and says so."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import random
from collections.abc import Awaitable, Callable
from dataclasses import replace
from typing import Final, TypeVar

from nexgate.state._memory import MemoryState
from nexgate.state._state import (
    Changes,
    Clock,
    LocalState,
    Scope,
    State,
    StateStatistics,
    StateUnavailable,
    machine_clock,
)

__all__ = ["Degrading"]

T = TypeVar("T")

_log = logging.getLogger("nexgate.state")

_ASKED: Final = "nexgate/is-it-back"


class Degrading:
    """A ``State`` that answers from ``local`` while ``remote`` is away.

    Going and coming back are logged once each. While it is degraded, this process sees what it
    writes itself meanwhile and nothing else: counters start at zero, leases are everybody's, a
    registry keeps what it knew (``statistics().is_degraded`` tells it to). What was written to
    ``local`` is dropped when the remote is back.

    It asks whether the remote is back after ``pause`` seconds, then less and less often, down to
    every ``longest_pause``; jittered, so that many gateways do not ask in step.
    """

    def __init__(
        self,
        remote: State,
        *,
        local: LocalState | None = None,
        pause: float = 0.25,
        longest_pause: float = 5.0,
        clock: Clock = machine_clock,
        draw: Callable[[], float] = random.random,
    ) -> None:
        self._remote = remote
        self._local = MemoryState() if local is None else local
        self._pause = pause
        self._longest_pause = longest_pause
        self._clock = clock
        self._draw = draw
        self._since: float | None = None
        self._outages = 0
        self._failures = 0
        self._is_closed = False
        self._return: asyncio.Task[None] | None = None
        self._switched = asyncio.Event()
        """Set, and replaced by a new one, whenever the other store begins to answer."""

    @property
    def scope(self) -> Scope:
        """Of the remote, also while it is away: it is what the values are meant for."""
        return self._remote.scope

    @property
    def is_shared(self) -> bool:
        """Of the remote."""
        return self._remote.is_shared

    @property
    def is_degraded(self) -> bool:
        """Whether the local store answers."""
        return self._since is not None

    async def get(self, key: str) -> bytes | None:
        """The value, or ``None``."""
        return await self._do(lambda state: state.get(key))

    async def set(self, key: str, value: bytes, *, ttl: float | None = None) -> None:
        """Store the value."""
        await self._do(lambda state: state.set(key, value, ttl=ttl))

    async def add(self, key: str, value: bytes, *, ttl: float | None = None) -> bool:
        """Store the value if the key is absent."""
        return await self._do(lambda state: state.add(key, value, ttl=ttl))

    async def replace(
        self, key: str, expected: bytes, value: bytes, *, ttl: float | None = None
    ) -> bool:
        """Store the value if the present one is ``expected``."""
        return await self._do(lambda state: state.replace(key, expected, value, ttl=ttl))

    async def delete(self, key: str, *, expected: bytes | None = None) -> bool:
        """Remove the key."""
        return await self._do(lambda state: state.delete(key, expected=expected))

    async def scan(self, prefix: str) -> dict[str, bytes]:
        """Every live key under the prefix, in order."""
        return await self._do(lambda state: state.scan(prefix))

    async def watch(self, prefix: str) -> Changes:
        """Yield the keys that changed. Survives every change of store, and reports each with an
        item that holds every key there is then.
        """
        while not self._is_closed:
            switched = self._switched
            source = self._local if self.is_degraded else self._remote
            async with contextlib.aclosing(_until(switched, source.watch(prefix))) as changes:
                try:
                    async for changed in changes:
                        yield changed
                except StateUnavailable as error:
                    self._degrade(error)
            if not switched.is_set():
                return  # the source was closed

    def statistics(self) -> StateStatistics:
        """Counters of the remote, with what happened here."""
        found = self._remote.statistics()
        return replace(
            found,
            failures=max(found.failures, self._failures),
            outages=max(found.outages, self._outages),
            is_degraded=self.is_degraded,
            watchers=found.watchers + self._local.statistics().watchers,
        )

    async def aclose(self) -> None:
        """Close both stores."""
        self._is_closed = True
        self._switch()
        task, self._return = self._return, None
        if task is not None:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
        await self._remote.aclose()
        await self._local.aclose()

    # -- inside --------------------------------------------------------------------------------

    async def _do(self, operation: Callable[[State], Awaitable[T]]) -> T:
        if self._since is None:
            try:
                return await operation(self._remote)
            except StateUnavailable as error:
                self._degrade(error)
        return await operation(self._local)

    def _degrade(self, error: StateUnavailable) -> None:
        self._failures += 1
        if self._since is not None or self._is_closed:
            return
        self._since = self._clock()
        self._outages += 1
        _log.warning("shared state is away; this process goes on with its own: %s", error)
        self._switch()
        self._return = asyncio.get_running_loop().create_task(self._wait_for_return())

    async def _wait_for_return(self) -> None:
        pause = self._pause
        while True:
            await asyncio.sleep(pause * (0.5 + self._draw()))
            try:
                await self._remote.get(_ASKED)
            except StateUnavailable:
                pause = min(2 * pause, self._longest_pause)
                continue
            except Exception as error:  # it speaks, and nothing here may end the waiting
                _log.error("shared state is reached but refuses: %s", error)
                pause = self._longest_pause
                continue
            break
        since = self._clock() if self._since is None else self._since
        self._since = None
        _log.warning("shared state is back after %.1f s", self._clock() - since)
        for key in self._local.scan_now(""):
            self._local.delete_now(key)
        self._switch()

    def _switch(self) -> None:
        before, self._switched = self._switched, asyncio.Event()
        before.set()


async def _until(switched: asyncio.Event, changes: Changes) -> Changes:
    """What ``changes`` yields, until ``switched`` is set."""
    loop = asyncio.get_running_loop()
    end = loop.create_task(switched.wait())
    following: asyncio.Task[frozenset[str]] | None = None
    try:
        while True:
            following = loop.create_task(_next(changes))
            await asyncio.wait({end, following}, return_when=asyncio.FIRST_COMPLETED)
            if not following.done():
                return
            try:
                changed = following.result()
            except StopAsyncIteration:
                return
            following = None
            yield changed
    finally:
        tasks = [task for task in (end, following) if task is not None]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await changes.aclose()


async def _next(changes: Changes) -> frozenset[str]:
    return await anext(changes)
