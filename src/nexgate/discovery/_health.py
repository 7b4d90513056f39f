"""Who probes, and what is made of the answers.

A probe is asked under a lease, one per instance, so that of all the processes that could only one
does. The lease is held from probe to probe; a verdict is written by its holder only. Nothing is
held while an instance is waited for, except that instance's lease.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import random
import ssl as tls
import time
import uuid
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from nexgate.discovery._instance import Health, ServiceInstance
from nexgate.discovery._keys import (
    ALL_SERVICES,
    instance_key,
    name_in,
    probe_key,
    verdict_key,
)
from nexgate.discovery._verdict import read_verdict, write_verdict
from nexgate.fetch import FetchError, status_of
from nexgate.state import Lease, State, StateError

__all__ = ["HealthChecks", "Probing"]

_log = logging.getLogger("nexgate.discovery")

_MOST_LOOKS_PAUSE: Final = 2.0
_LEASE_INTERVALS: Final = 1.5
"""A dead prober's lease ends this long after its last probe; others look every half interval: so
they take over within two."""
_VERDICT_INTERVALS: Final = 6


@dataclass(frozen=True, slots=True)
class Probing:
    """Seconds and counts of ``ServiceRegistry.health_check``."""

    interval: float = 10.0
    """From one probe of an instance to its next."""
    timeout: float = 2.0
    """How long an instance may take, connecting included; less than the interval."""
    jitter: float = 0.1
    """By which part of itself an interval varies."""
    healthy_after: int = 2
    """How many probes in a row must pass before an unhealthy instance is used again."""
    unhealthy_after: int = 3
    """How many in a row must fail before an instance is not used. One whose health is not known
    yet counts as healthy meanwhile."""
    at_once: int = 16
    """Most probes under way."""

    def __post_init__(self) -> None:
        if not 0 < self.timeout < self.interval:
            raise ValueError("timeout must be more than zero and less than interval")
        if not 0 <= self.jitter <= 0.5:
            raise ValueError("jitter must be from 0 to 0.5")
        if min(self.healthy_after, self.unhealthy_after, self.at_once) < 1:
            raise ValueError("counts must be at least 1")


class HealthChecks:
    """Probes every instance that the state knows."""

    def __init__(
        self,
        state: State,
        probing: Probing,
        *,
        ssl: tls.SSLContext | None = None,
        draw: Callable[[], float] = random.random,
    ) -> None:
        self._state = state
        self._probing = probing
        self._ssl = ssl
        self._draw = draw
        self._owner = uuid.uuid4().hex
        self._slots = asyncio.Semaphore(probing.at_once)
        self._probers: dict[str, tuple[ServiceInstance, asyncio.Task[None]]] = {}

    async def run(self) -> None:
        """Until cancelled. Releases its leases then, so that others go on at once."""
        pause = min(_MOST_LOOKS_PAUSE, self._probing.interval / 4)
        try:
            while True:
                try:
                    self._keep_probing(await self._state.scan(ALL_SERVICES))
                except StateError as error:
                    _log.debug("the instances to probe are those known before: %s", error)
                await asyncio.sleep(pause)
        finally:
            tasks = [task for _, task in self._probers.values()]
            self._probers.clear()
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    def _keep_probing(self, records: dict[str, bytes]) -> None:
        """One task per instance there is; a changed URL is another instance."""
        wanted: dict[str, ServiceInstance] = {}
        for key, data in records.items():
            if name_in(key) is not None:
                known = self._probers.get(key)
                instance = _probed(key, data)
                if instance is not None:
                    wanted[key] = (
                        known[0] if known is not None and _is_same(known[0], instance) else instance
                    )
        for key, (instance, task) in list(self._probers.items()):
            if wanted.get(key) is not instance or task.done():
                del self._probers[key]
                task.cancel()
        loop = asyncio.get_running_loop()
        for key, instance in wanted.items():
            if key not in self._probers:
                self._probers[key] = instance, loop.create_task(self._probe(instance))

    async def _probe(self, instance: ServiceInstance) -> None:
        """Probe one instance for as long as it is there."""
        probing = self._probing
        key = probe_key(instance.name, instance.id)
        lease = Lease(self._state, key, self._owner, _LEASE_INTERVALS * probing.interval)
        verdict = _Verdict(instance, probing)
        try:
            await asyncio.sleep(self._draw() * min(1.0, probing.interval / 4))
            while True:
                pause = probing.interval
                try:
                    was_held = lease.is_held
                    if not await (lease.renew() if was_held else lease.try_acquire()):
                        pause /= 2
                    else:
                        if not was_held:
                            verdict.begin(await self._known(instance))
                        good = await self._ask(instance)
                        # A probe that waited for longer than the lease is somebody else's by now.
                        if lease.is_held:
                            await self._record(instance, verdict.after(good))
                except StateError as error:
                    _log.debug("%s is not probed: %s", instance.url, error)
                await asyncio.sleep(pause * (1 + probing.jitter * (2 * self._draw() - 1)))
        finally:
            # Cancelled: there is one moment left, and it is for whoever goes on.
            with contextlib.suppress(asyncio.CancelledError):
                await lease.release()

    async def _ask(self, instance: ServiceInstance) -> bool:
        async with self._slots:
            try:
                status = await status_of(
                    instance.url,
                    instance.health_path,
                    timeout=self._probing.timeout,
                    fields={"User-Agent": "nexgate-health"},
                    ssl=self._ssl,
                )
            except (FetchError, ValueError) as error:
                _log.debug("%s of %s: %s", instance.url, instance.name, error)
                return False
        return 200 <= status < 400

    async def _known(self, instance: ServiceInstance) -> Health:
        """What a prober before us found."""
        data = await self._state.get(verdict_key(instance.name, instance.id))
        found = None if data is None else read_verdict(data)
        return found[1] if found is not None and found[0] == instance.url else instance.health

    async def _record(self, instance: ServiceInstance, health: Health) -> None:
        if await self._state.get(instance_key(instance.name, instance.id)) is None:
            return  # it left while it was asked
        await self._state.set(
            verdict_key(instance.name, instance.id),
            write_verdict(instance.url, health, time.time()),
            ttl=_VERDICT_INTERVALS * self._probing.interval,
        )


class _Verdict:
    """Every outcome counts one way or the other, so an instance can never be stuck."""

    def __init__(self, instance: ServiceInstance, probing: Probing) -> None:
        self._instance = instance
        self._probing = probing
        self._health: Health = instance.health
        self._row = 0

    def begin(self, health: Health) -> None:
        """Go on from what somebody else found."""
        self._health = health
        self._row = 0

    def after(self, good: bool) -> Health:
        """Count one outcome."""
        self._row = max(1, self._row + 1) if good else min(-1, self._row - 1)
        before = self._health
        if good and (before != "unhealthy" or self._row >= self._probing.healthy_after):
            self._health = "healthy"
        elif not good and -self._row >= self._probing.unhealthy_after:
            self._health = "unhealthy"
        if self._health != before and "unhealthy" in (self._health, before):
            _log.warning("%s of %s is %s", self._instance.url, self._instance.name, self._health)
        return self._health


def _probed(key: str, data: bytes) -> ServiceInstance | None:
    try:
        instance = ServiceInstance.from_json(data)
    except ValueError:
        return None  # the view of its service says so
    if key != instance_key(instance.name, instance.id) or instance.url.startswith("asgi:"):
        return None  # an application in somebody's process cannot be asked from here
    return instance


def _is_same(one: ServiceInstance, other: ServiceInstance) -> bool:
    return (one.url, one.health_path) == (other.url, other.health_path)
