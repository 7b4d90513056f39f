"""A probe asks one instance, again and again, on a connection of its own each time.

Every outcome counts one way or the other, so an instance can never be stuck (a lesson from gateways
whose lists of good and bad statuses left a gap): a listed status is good, everything else, silence
included, is bad. An instance starts out healthy. Intervals are jittered so that workers and
gateways do not ask in step.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import random
import uuid
from collections.abc import Callable
from dataclasses import dataclass
from hashlib import blake2b
from typing import TYPE_CHECKING

from nexgate.fetch import FetchError, status_of
from nexgate.state import Lease, State, StateError

if TYPE_CHECKING:
    from nexgate.upstream._instance import InstanceState

__all__ = ["Probe", "ProbeSettings"]

_log = logging.getLogger("nexgate.health")


@dataclass(frozen=True, slots=True)
class ProbeSettings:
    """Seconds and counts. ``statuses`` are inclusive ranges."""

    path: str = "/"
    method: str = "GET"
    statuses: tuple[tuple[int, int], ...] = ((200, 399),)
    interval: float = 5.0
    jitter: float = 0.1
    timeout: float = 2.0
    healthy_after: int = 2
    unhealthy_after: int = 3
    port: int | None = None
    host: str | None = None


class Probe:
    """Runs until ``cancel``. Changes ``instance.is_healthy`` through ``set_healthy``.

    With a ``state`` that others share, one of all who probe this instance in the same way asks,
    under a lease, and the others count its outcomes as theirs. When it is gone another takes over
    within two intervals; while the state is away everybody asks.
    """

    def __init__(
        self,
        instance: InstanceState,
        settings: ProbeSettings,
        state: State | None = None,
        *,
        draw: Callable[[], float] = random.random,
    ) -> None:
        self.instance = instance
        self.settings = settings
        self.state = state
        self.last: str = "not asked yet"
        """The latest outcome in words, for people."""
        self._draw = draw
        self._row = 0  # consecutive outcomes: positive good, negative bad
        self._count = 0
        self._heard = b""
        self._key = f"probes/{blake2b(repr((instance.url, settings)).encode()).hexdigest()[:40]}"
        shared = state is not None and state.is_shared
        self._lease = (
            Lease(state, self._key, uuid.uuid4().hex, 2 * settings.interval)
            if shared and state is not None
            else None
        )
        self._task = instance.loop.create_task(self._run())

    def cancel(self) -> None:
        self._task.cancel()

    async def _run(self) -> None:
        settings = self.settings
        pause = settings.interval * self._draw() * settings.jitter
        try:
            while True:
                await asyncio.sleep(pause)
                await self._turn()
                pause = settings.interval * (1 + settings.jitter * (2 * self._draw() - 1))
        finally:
            if self._lease is not None:
                # Cancelled: there is one moment left, and it is for whoever goes on.
                with contextlib.suppress(asyncio.CancelledError):
                    await self._lease.release()

    async def _turn(self) -> None:
        lease = self._lease
        state = self.state
        if lease is None or state is None:
            self.record(await self.ask())
            return
        key = f"{self._key}/outcome"
        try:
            if not await lease.try_acquire():
                heard = await state.get(key)
                if heard is not None and heard != self._heard:
                    self._heard = heard
                    self.last = heard[1:].partition(b" ")[2].decode("utf-8", "replace")
                    self.record(heard[:1] == b"+")
                return
        except StateError:
            pass  # nobody can say who asks: then everybody does
        good = await self.ask()
        self.record(good)
        self._count += 1
        outcome = f"{'+' if good else '-'}{self._count} {self.last}"
        try:
            await state.set(key, outcome.encode()[:400], ttl=3 * self.settings.interval)
        except StateError as error:
            _log.debug("what the probe of %s found is not shared: %s", self.instance.url, error)

    def record(self, good: bool) -> None:
        """Count one outcome; thresholds decide."""
        instance = self.instance
        if good:
            self._row = max(1, self._row + 1)
            instance.reached()
            if not instance.is_healthy and self._row >= self.settings.healthy_after:
                _log.warning("%s of %s is healthy again", instance.url, instance.service)
                instance.set_healthy(True)
        else:
            self._row = min(-1, self._row - 1)
            if instance.is_healthy and -self._row >= self.settings.unhealthy_after:
                _log.warning("%s of %s is unhealthy: %s", instance.url, instance.service, self.last)
                instance.set_healthy(False)

    async def ask(self) -> bool:
        """One probe. Never raises but ``CancelledError``."""
        settings = self.settings
        address = self.instance.address
        url = address.url
        host = settings.host or address.authority.decode()
        if settings.port is not None and address.path is None:
            name = f"[{address.host}]" if ":" in address.host else address.host
            url = f"{'https' if address.tls else 'http'}://{name}:{settings.port}"
        try:
            status = await status_of(
                url,
                settings.path,
                timeout=settings.timeout,
                method=settings.method,
                fields={"Host": host, "User-Agent": "nexgate-health"},
                ssl=self.instance.ssl_context,
                server_name=self.instance.ssl_server_name or address.host,
            )
        except (FetchError, ValueError) as error:
            self.last = str(error)
            return False
        self.last = f"status {status}"
        return any(low <= status <= high for low, high in settings.statuses)
