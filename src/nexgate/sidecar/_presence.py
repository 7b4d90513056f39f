"""The local program in the registry: there while it is well, and not a moment longer."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from typing import Final

from nexgate.discovery import ServiceInstance, ServiceRegistry
from nexgate.fetch import FetchError, status_of
from nexgate.sidecar.config import AppHealthConfig

__all__ = ["Presence"]

_log = logging.getLogger("nexgate.sidecar")

_PATIENCE: Final = 2.0
"""Seconds that leaving waits for the registry; after that, the lease ends by itself."""


class Presence:
    """Asks the program whether it is well, and registers it while it is. ``run``, then ``leave``.

    A program that has not answered yet is not registered: it may still be starting.
    """

    def __init__(
        self,
        registry: ServiceRegistry,
        instance: ServiceInstance,
        app: str,
        health: AppHealthConfig,
    ) -> None:
        self.instance = instance
        self.is_registered = False
        self.last = "it has not answered yet"
        """The latest outcome in words, for people."""
        self._registry = registry
        self._app = app
        self._health = health
        self._row = 0  # consecutive outcomes: positive good, negative bad
        self._has_complained = False

    async def run(self) -> None:
        """Until cancelled."""
        while True:
            try:
                await self._turn()
            except Exception:
                _log.exception("%s could not be looked after", self.instance.name)
            await asyncio.sleep(self._health.interval)

    async def leave(self) -> None:
        """Unregister now, after ``run`` has ended."""
        if not self.is_registered:
            return
        self.is_registered = False
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(_PATIENCE):
                await self._registry.unregister(self.instance.name, self.instance.id)

    async def _turn(self) -> None:
        is_good = await self._ask()
        row = self._row
        self._row = row = max(1, row + 1) if is_good else min(-1, row - 1)
        name, url = self.instance.name, self.instance.url
        if is_good and not self.is_registered and row >= self._health.healthy_after:
            self.is_registered = True
            self._has_complained = False
            is_told = await self._registry.register(name, self.instance)
            # While a shared store is away, the memory of this process takes its place.
            if is_told and not self._registry.state.statistics().is_degraded:
                _log.info("%s is healthy and advertised as %s", name, url)
            else:
                _log.info("%s is healthy, and advertised as soon as the registry is there", name)
        elif self.is_registered and -row >= self._health.unhealthy_after:
            self.is_registered = False
            self._has_complained = True
            _log.warning("%s is unhealthy and no longer advertised: %s", name, self.last)
            await self._registry.unregister(name, self.instance.id)
        elif not is_good and not self.is_registered and not self._has_complained:
            self._has_complained = True
            _log.warning("%s is not advertised until it is healthy: %s", name, self.last)

    async def _ask(self) -> bool:
        health = self._health
        fields = {"User-Agent": "nexgate-sidecar"}
        if health.host is not None:
            fields["Host"] = health.host
        try:
            status = await status_of(
                self._app,
                health.path,
                timeout=health.timeout,
                method=health.method,
                fields=fields,
            )
        except (FetchError, ValueError) as error:
            self.last = str(error)
            return False
        self.last = f"{health.path} says {status}"
        return any(low <= status <= high for low, high in health.status)
