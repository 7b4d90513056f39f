"""Groups at work: events are claimed, handled in their lanes, and settled.

1. *Claim* as many as there is room for.
2. Put each into its *lane* (its key); a lane is one task.
3. *Handle*: every handler of the group that matches.
4. *Settle*: done; or again later, and the rest of the lane is given back, because it must come
   after; or a dead letter.

Meanwhile the leases of all that is here are extended. What is lost is not begun any more.
"""

from __future__ import annotations

import asyncio
import logging
import random
from collections import deque
from collections.abc import Awaitable, Callable, Iterator
from typing import TYPE_CHECKING, Any, Final

from nexgate.errors import NexgateError
from nexgate.resilience import Backoff

from ._errors import EventError, HandlerFailed
from ._store import Claim, DurableOptions, EventStore
from ._subscription import Subscription

if TYPE_CHECKING:
    from ._bus import EventBus

__all__ = ["Consumers"]

_log = logging.getLogger("nexgate.events")

_IDLE: Final = 5.0
"""Longest wait before looking again: for what no store can announce."""
_TROUBLE: Final = Backoff(base=0.2, cap=5.0)
_AHEAD: Final = 4
"""How many events for each lane are claimed at once."""


class Consumers:
    """The groups of one bus."""

    def __init__(self, bus: EventBus, store: EventStore) -> None:
        self._bus = bus
        self._store = store
        self._groups: dict[str, _Group] = {}
        self._is_running = False

    def add(self, subscription: Subscription, options: DurableOptions) -> None:
        """A subscription of a group. Raises ``EventError`` for other options than the group's."""
        assert subscription.group is not None
        group = self._groups.get(subscription.group)
        if group is None:
            group = _Group(subscription.group, self._bus, self._store, options)
            self._groups[subscription.group] = group
        elif group.options != options:
            raise EventError(f"group {subscription.group!r} has other options already")
        group.subscriptions.append(subscription)
        group.look_again()
        if self._is_running:
            group.begin()

    def remove(self, subscription: Subscription) -> None:
        """It handles nothing any more. The group's events wait for one that does."""
        group = self._groups.get(subscription.group or "")
        if group is not None and subscription in group.subscriptions:
            group.subscriptions.remove(subscription)

    async def start(self) -> None:
        await self._store.open()
        self._is_running = True
        for group in self._groups.values():
            group.begin()

    async def stop(self, timeout: float) -> None:
        """Claim no more, and let what is under way finish for at most ``timeout`` seconds."""
        self._is_running = False
        await asyncio.gather(*(group.stop(timeout) for group in self._groups.values()))

    def __iter__(self) -> Iterator[Subscription]:
        for group in self._groups.values():
            yield from group.subscriptions


class _Group:
    def __init__(
        self, name: str, bus: EventBus, store: EventStore, options: DurableOptions
    ) -> None:
        self.name = name
        self.options = options
        self.subscriptions: list[Subscription] = []
        self._bus = bus
        self._store = store
        self._lanes: dict[str, deque[Claim]] = {}
        self._tasks: dict[str, asyncio.Task[None]] = {}
        self._claims: set[Claim] = set()
        self._running: asyncio.Task[None] | None = None
        self._extending: asyncio.Task[None] | None = None
        self._is_stopping = False
        self._stop = asyncio.Event()
        self._settled = asyncio.Event()
        self._at_once = asyncio.Semaphore(options.concurrency)

    def begin(self) -> None:
        if self._running is None or self._running.done():
            self._is_stopping = False
            self._stop, self._settled = asyncio.Event(), asyncio.Event()
            self._at_once = asyncio.Semaphore(self.options.concurrency)
            self._running = asyncio.create_task(self._run(), name=f"nexgate-events-{self.name}")
            self._extending = asyncio.create_task(
                self._extend(), name=f"nexgate-events-{self.name}-leases"
            )

    def look_again(self) -> None:
        """There is another handler, and perhaps something for it."""
        self._settled.set()

    @property
    def _room(self) -> int:
        return max(self.options.concurrency * _AHEAD - len(self._claims), 0)

    # ---------------------------------------------------------------- 1. claim

    async def _run(self) -> None:
        trouble = 0
        joined: tuple[str, ...] = ()
        while not self._is_stopping:
            try:
                patterns = tuple(dict.fromkeys(each.topic for each in self.subscriptions))
                if patterns != joined:
                    await self._store.join(self.name, patterns, self.options)
                    joined = patterns
                if not patterns or not self._room:
                    self._settled.clear()
                    await self._wait_settled()
                    continue
                claims = await self._store.claim(self.name, self._room, self.options.lease)
                if trouble:
                    _log.info("group %s: the store is back", self.name)
                    trouble = 0
                for claim in claims:
                    self._take(claim)
                if not claims and not self._is_stopping:
                    await self._wait_for_more()
            except NexgateError as error:
                trouble += 1
                if trouble == 1:
                    _log.error("group %s: %s; trying again", self.name, error)
                await asyncio.sleep(_TROUBLE.delay(trouble, random.random))
            except Exception:
                trouble += 1
                _log.exception("group %s: claiming failed", self.name)
                await asyncio.sleep(_TROUBLE.delay(trouble, random.random))

    async def _wait_for_more(self) -> None:
        """Until the store may have something, or the end."""
        waiting = [
            asyncio.ensure_future(self._store.wait(self.name, _IDLE)),
            asyncio.ensure_future(self._stop.wait()),
        ]
        try:
            await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
            if waiting[0].done():
                waiting[0].result()
        finally:
            for each in waiting:
                each.cancel()
            await asyncio.gather(*waiting, return_exceptions=True)

    async def _wait_settled(self) -> None:
        try:
            async with asyncio.timeout(_IDLE):
                await self._settled.wait()
        except TimeoutError:
            pass

    # ---------------------------------------------------------------- 2. lanes

    def _take(self, claim: Claim) -> None:
        self._claims.add(claim)
        lane = self._lanes.get(claim.lane)
        if lane is not None:
            lane.append(claim)
            return
        self._lanes[claim.lane] = deque([claim])
        self._tasks[claim.lane] = asyncio.create_task(
            self._work(claim.lane), name=f"nexgate-events-{self.name}-lane"
        )

    async def _work(self, name: str) -> None:
        lane = self._lanes[name]
        try:
            while lane and not self._is_stopping:
                claim = lane[0]
                if not any(each.matches(claim.event.name) for each in self.subscriptions):
                    break  # its handler was taken away: it waits for one that comes
                if not claim.is_lost:
                    async with self._at_once:
                        if self._stop.is_set():
                            break
                        failure = await self._handle(claim)
                    if failure is not None:
                        lane.popleft()
                        await self._failed(claim, failure)
                        self._claims.discard(claim)
                        break
                    await self._settle(lambda c=claim: self._store.done(self.name, c), claim)  # type: ignore[misc]  # a default binds it
                lane.popleft()
                self._claims.discard(claim)
                self._settled.set()
        finally:
            self._lanes.pop(name, None)
            self._tasks.pop(name, None)
            rest = [each for each in lane if not each.is_lost]
            self._claims.difference_update(lane)
            self._settled.set()
            if rest:
                await self._settle(lambda: self._store.give_back(self.name, rest), None)

    # ---------------------------------------------------------------- 3. handle

    async def _handle(self, claim: Claim) -> HandlerFailed | None:
        failed: HandlerFailed | None = None
        matching = [each for each in self.subscriptions if each.matches(claim.event.name)]
        for each in sorted(matching, key=lambda each: -each.options.priority):
            failure = await self._bus._handle(claim.event, each)
            failed = failed or failure
        return failed

    # ---------------------------------------------------------------- 4. settle

    async def _failed(self, claim: Claim, failure: HandlerFailed) -> None:
        claim.failures += 1
        if claim.failures >= self.options.attempts:
            self._bus._report(failure, self._bus.errors if self._bus.errors != "raise" else "log")
            text = f"{failure.handler}: {type(failure.error).__name__}: {failure.error}"
            await self._settle(lambda: self._store.bury(self.name, claim, text[:2000]), claim)
            return
        delay = self.options.backoff.delay(claim.failures, random.random)
        _log.warning(
            "%s failed on %s (%s), attempt %d of %d; again in %.1fs: %s",
            failure.handler,
            claim.event.name,
            claim.event.id,
            claim.failures,
            self.options.attempts,
            delay,
            failure.error,
        )
        await self._settle(lambda: self._store.retry(self.name, claim, delay), claim)

    async def _settle(self, step: Callable[[], Awaitable[Any]], claim: Claim | None) -> None:
        """Tell the store, also when it is away for a while: as long as the lease is ours."""
        attempt = 0
        while claim is None or not claim.is_lost:
            try:
                await step()
                return
            except NexgateError as error:
                attempt += 1
                if self._is_stopping or (claim is None and attempt > 3):
                    return  # its lease ends by itself
                if attempt == 1:
                    _log.error("group %s: cannot settle: %s; trying again", self.name, error)
                await asyncio.sleep(_TROUBLE.delay(attempt, random.random))

    async def _extend(self) -> None:
        while True:
            await asyncio.sleep(self.options.lease / 3)
            claims = [each for each in self._claims if not each.is_lost]
            if not claims:
                continue
            try:
                await self._store.extend(self.name, claims, self.options.lease)
            except NexgateError as error:
                _log.warning("group %s: leases were not extended: %s", self.name, error)
                continue
            except Exception:  # a defect; whoever extends leases must not die of it
                _log.exception("group %s: leases were not extended", self.name)
                continue
            for claim in claims:
                if claim.is_lost:
                    _log.warning("group %s: the lease of %s was lost", self.name, claim.event.id)
                    task = self._tasks.get(claim.lane)
                    if task is not None:
                        task.cancel()

    # ---------------------------------------------------------------- end

    async def stop(self, timeout: float) -> None:
        self._is_stopping = True
        self._stop.set()
        self._settled.set()
        if self._running is not None:
            # Not cut while it claims: what nobody knows to be claimed waits for a whole lease.
            await asyncio.wait({self._running}, timeout=max(timeout, 1.0))
            self._running.cancel()
            await asyncio.gather(self._running, return_exceptions=True)
        lanes = list(self._tasks.values())
        if lanes:
            _, late = await asyncio.wait(lanes, timeout=timeout)
            for task in late:
                task.cancel()
            await asyncio.gather(*late, return_exceptions=True)
        if self._extending is not None:
            self._extending.cancel()
            await asyncio.gather(self._extending, return_exceptions=True)
