"""A probe asks one instance, again and again, on a connection of its own each time.

Every outcome counts one way or the other, so an instance can never be stuck (a lesson from gateways
whose lists of good and bad statuses left a gap): a listed status is good, everything else, silence
included, is bad. An instance starts out healthy. Intervals are jittered so that workers and
gateways do not ask in step.
"""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from nexgate.errors import Refused
from nexgate.http import parse_response_head

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
    """Runs until ``cancel``. Changes ``instance.is_healthy`` through ``set_healthy``."""

    def __init__(
        self,
        instance: InstanceState,
        settings: ProbeSettings,
        *,
        draw: Callable[[], float] = random.random,
    ) -> None:
        self.instance = instance
        self.settings = settings
        self.last: str = "not asked yet"
        """The latest outcome in words, for people."""
        self._draw = draw
        self._row = 0  # consecutive outcomes: positive good, negative bad
        self._task = instance.loop.create_task(self._run())

    def cancel(self) -> None:
        self._task.cancel()

    async def _run(self) -> None:
        settings = self.settings
        pause = settings.interval * self._draw() * settings.jitter
        while True:
            await asyncio.sleep(pause)
            good = await self.ask()
            self.record(good)
            pause = settings.interval * (1 + settings.jitter * (2 * self._draw() - 1))

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
        try:
            async with asyncio.timeout(self.settings.timeout):
                status = await self._request()
        except TimeoutError:
            self.last = "no answer in time"
            return False
        except (OSError, EOFError, ValueError, asyncio.LimitOverrunError) as error:
            self.last = f"{type(error).__name__}: {error}"
            return False
        except Refused as refused:
            self.last = refused.detail
            return False
        self.last = f"status {status}"
        return any(low <= status <= high for low, high in self.settings.statuses)

    async def _request(self) -> int:
        address = self.instance.address
        settings = self.settings
        if address.path is not None:
            reader, writer = await asyncio.open_unix_connection(address.path)
        elif address.tls:
            reader, writer = await asyncio.open_connection(
                address.host,
                settings.port or address.port,
                ssl=self.instance.ssl_context,
                server_hostname=self.instance.ssl_server_name or address.host,
            )
        else:
            reader, writer = await asyncio.open_connection(
                address.host, settings.port or address.port
            )
        try:
            host = settings.host or address.authority.decode()
            writer.write(
                f"{settings.method} {settings.path} HTTP/1.1\r\nHost: {host}\r\n"
                "User-Agent: nexgate-health\r\nAccept: */*\r\nConnection: close\r\n\r\n".encode()
            )
            head = await reader.readuntil(b"\r\n\r\n")
            return parse_response_head(head[:-4], 256, head_request=False).status
        finally:
            writer.transport.abort()
