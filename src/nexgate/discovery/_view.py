"""What a registry knows about one service: current, and kept while the store is away."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import math
from bisect import bisect_right
from collections.abc import Callable
from dataclasses import replace
from itertools import accumulate
from typing import Final

from nexgate.discovery._instance import Instances, ServiceInstance
from nexgate.discovery._keys import (
    instance_key,
    instances_under,
    service_prefix,
    verdicts_under,
)
from nexgate.discovery._verdict import read_verdict
from nexgate.state import State, StateError, StateUnavailable

__all__ = ["View"]

_log = logging.getLogger("nexgate.discovery")

_PAUSE: Final = 0.2
_LONGEST_PAUSE: Final = 5.0


class View:
    """The instances of one service, from a watch of the state.

    A store that was away may come back empty, although everybody is still there: they register
    again within a third of their lease. So for ``hold`` seconds after it is back an instance that
    is missing is kept; and while it is away, every one is.
    """

    def __init__(self, state: State, name: str, hold: float, *, draw: Callable[[], float]) -> None:
        self.name = name
        self.instances: Instances | None = None
        """``None`` until the store has answered once."""
        self.version = 0
        self.watchers = 0
        self.problem: str | None = "the store has not answered yet"
        """Why ``instances`` may be old; ``None`` when it is current."""
        self._state = state
        self._prefix = service_prefix(name)
        self._hold = hold
        self._draw = draw
        self._hold_until = -math.inf
        self._outages = state.statistics().outages
        self._usable: Instances = ()
        self._shares: list[int] = []
        self._decoded: dict[str, tuple[bytes, ServiceInstance | None]] = {}
        self._look = asyncio.Event()
        self._changed = asyncio.Event()
        self._reading = asyncio.Lock()
        self._is_closed = False
        loop = asyncio.get_running_loop()
        self._loop = loop
        self._tasks = [loop.create_task(self._listen()), loop.create_task(self._run())]

    def pick(self) -> ServiceInstance | None:
        """One usable instance, at random by weight."""
        shares = self._shares
        if not shares:
            return None
        at = bisect_right(shares, self._draw() * shares[-1])
        return self._usable[min(at, len(shares) - 1)]

    async def wait_newer(self, version: int) -> bool:
        """Wait for a set newer than ``version``; false when there will be none."""
        while self.version <= version:
            if self._is_closed:
                return False
            await self._changed.wait()
        return True

    async def reload(self) -> None:
        """Look at the store now, for one who has just written to it."""
        with contextlib.suppress(StateError):
            await self._read()

    def forget(self, instance_id: str) -> None:
        """This one is gone on purpose: do not hold it."""
        if self.instances is not None:
            self._publish(tuple(i for i in self.instances if i.id != instance_id))

    async def aclose(self) -> None:
        """End it."""
        self._is_closed = True
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        self._wake()

    # -- following the store -------------------------------------------------------------------

    async def _listen(self) -> None:
        """Watch the store; when the watch fails, say so and begin again."""
        pause = _PAUSE
        while True:
            try:
                async with contextlib.aclosing(self._state.watch(self._prefix)) as changes:
                    async for _ in changes:
                        pause = _PAUSE
                        self._look.set()
                return  # the state was closed
            except StateError as error:
                self._is_away(error)
            except Exception as error:
                _log.exception("watching the instances of %s failed", self.name)
                self._is_away(error)
            await asyncio.sleep(pause * (0.5 + self._draw()))
            pause = min(2 * pause, _LONGEST_PAUSE)

    async def _run(self) -> None:
        while True:
            wait = self._hold_until - self._loop.time()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(wait if 0 < wait < math.inf else None):
                    await self._look.wait()
            self._look.clear()
            try:
                await self._read()
            except StateError as error:
                self._is_away(error)
            except Exception as error:
                _log.exception("reading the instances of %s failed", self.name)
                self._is_away(error)

    def _is_away(self, error: Exception) -> None:
        if self.problem is None:
            _log.warning("the instances of %s are kept as they were: %s", self.name, error)
        self.problem = str(error)
        self._hold_until = math.inf

    async def _read(self) -> None:
        # Two readers must not publish in the wrong order.
        async with self._reading:
            records = await self._state.scan(self._prefix)
            self._settle(self._decode(records))

    def _settle(self, found: dict[str, ServiceInstance]) -> None:
        now = self._loop.time()
        statistics = self._state.statistics()
        if statistics.is_degraded:
            self._is_away(StateUnavailable("shared state is away"))
        elif self._hold_until == math.inf or statistics.outages != self._outages:
            if self.instances is not None:
                _log.info("the instances of %s are current again", self.name)
            self._hold_until = now + self._hold
        if not statistics.is_degraded:
            self.problem = None
        self._outages = statistics.outages
        if now < self._hold_until:
            held = {instance.id: instance for instance in self.instances or ()}
            if not held and statistics.is_degraded and not found:
                return  # nothing was ever known, and this store cannot know
            found = held | found
        self._publish(tuple(found[key] for key in sorted(found)))

    def _publish(self, instances: Instances) -> None:
        is_new = instances != self.instances
        self.instances = instances  # also when equal: last_check may be newer
        if not is_new:
            return
        self._usable = tuple(i for i in instances if i.is_usable)
        self._shares = list(accumulate(i.weight for i in self._usable))
        self.version += 1
        self._wake()

    def _wake(self) -> None:
        before, self._changed = self._changed, asyncio.Event()
        before.set()

    # -- records -------------------------------------------------------------------------------

    def _decode(self, records: dict[str, bytes]) -> dict[str, ServiceInstance]:
        instances: dict[str, ServiceInstance] = {}
        for key, data in instances_under(self._prefix, records):
            instance = self._instance(key, data)
            if instance is not None:
                instances[instance.id] = instance
        for instance_id, data in verdicts_under(self._prefix, records):
            instance = instances.get(instance_id)
            verdict = read_verdict(data)
            # A verdict is about a place: one about another URL is about another process.
            if instance is not None and verdict is not None and verdict[0] == instance.url:
                instances[instance_id] = replace(instance, health=verdict[1], last_check=verdict[2])
        for key in self._decoded.keys() - records.keys():
            del self._decoded[key]
        return instances

    def _instance(self, key: str, data: bytes) -> ServiceInstance | None:
        known = self._decoded.get(key)
        if known is not None and known[0] == data:
            return known[1]
        instance: ServiceInstance | None
        try:
            instance = ServiceInstance.from_json(data)
            if instance.name != self.name:
                raise ValueError("it says that it belongs to another service")
            if key != instance_key(self.name, instance.id):
                raise ValueError("it says that it has another id")
        except ValueError as error:
            _log.warning("the record %s is skipped: %s", key, error)
            instance = None
        self._decoded[key] = data, instance
        return instance
