"""What one worker or machine found out about instances and services, told to the others.

A vote is a key in the shared state that lives as long as what it says: an ejected instance, an open
circuit. Whoever sees it does the same, within its own caps, and tries again by itself when the
vote has ended; nobody is bound to another's view for longer than that. Only those settings that say
``share = true`` vote and listen.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import uuid
from collections.abc import Callable, Mapping
from functools import partial
from hashlib import blake2b
from typing import Final

from nexgate.resilience import CircuitState, StateChanged
from nexgate.state import State, StateError
from nexgate.upstream._guard import Guard
from nexgate.upstream._instance import InstanceState
from nexgate.upstream._service import ServiceState

__all__ = ["Votes"]

_log = logging.getLogger("nexgate.upstream")

_PREFIX: Final = "votes/"
_PAUSE: Final = 1.0


class Votes:
    """Casts and hears votes on the services of one runtime, until closed."""

    def __init__(
        self,
        state: State,
        loop: asyncio.AbstractEventLoop,
        services: Callable[[], Mapping[str, ServiceState]],
    ) -> None:
        self.state = state
        self._loop = loop
        self._services = services
        self._owner = uuid.uuid4().hex
        self._casting: set[asyncio.Task[None]] = set()
        self._hearing = loop.create_task(self._hear())

    def listen_to(self, service: ServiceState) -> None:
        """Vote for what this service finds, where its settings say so."""
        service.outlier.on_ejected = partial(self.ejected, service)
        for guard in (service.guard, *service.guards.values()):
            guard.on_circuit = self.circuit_changed

    # ---------------------------------------------------------------- casting

    def ejected(self, service: ServiceState, instance: InstanceState, seconds: float) -> None:
        """Tell the others, where the service's settings say so."""
        settings = service.outlier.settings
        if settings is None or not settings.share:
            return
        self._cast({"service": instance.service, "url": instance.url}, seconds)

    def circuit_changed(self, guard: Guard, event: StateChanged) -> None:
        """Tell the others of a circuit that opened here."""
        is_news = event.after is CircuitState.OPEN and guard.shares_circuit
        if is_news and event.reason != "vote" and guard.breaker:
            seconds = guard.breaker.retry_after(event.at)
            self._cast({"service": guard.service, "guard": guard.name}, seconds)

    def _cast(self, said: dict[str, str], seconds: float) -> None:
        task = self._loop.create_task(self._store(said, seconds))
        self._casting.add(task)
        task.add_done_callback(self._casting.discard)

    async def _store(self, said: dict[str, str], seconds: float) -> None:
        digest = blake2b(json.dumps(said).encode(), digest_size=16).hexdigest()
        record = json.dumps({**said, "seconds": seconds, "by": self._owner}).encode()
        try:
            await self.state.set(f"{_PREFIX}{digest}", record, ttl=max(0.1, seconds))
        except (StateError, ValueError) as error:
            _log.debug("a vote was not cast: %s", error)

    # ---------------------------------------------------------------- hearing

    async def _hear(self) -> None:
        while True:
            try:
                async with contextlib.aclosing(self.state.watch(_PREFIX)) as changes:
                    async for keys in changes:
                        for key in keys:
                            record = await self.state.get(key)
                            if record is not None:
                                self._obey(record)
            except StateError as error:
                _log.debug("votes are not heard: %s", error)
            await asyncio.sleep(_PAUSE)

    def _obey(self, record: bytes) -> None:
        try:
            said = json.loads(record)
            seconds = min(float(said["seconds"]), 3600.0)
            service = self._services().get(said["service"])
            if said["by"] == self._owner or service is None or not seconds > 0:
                return
            url, guard = said.get("url"), said.get("guard")
            instance = service.instances.get(url)
        except (
            ValueError,
            TypeError,
            LookupError,
            AttributeError,
            ArithmeticError,
            RecursionError,
        ):
            return  # not a vote
        now = self._loop.time()
        if instance is not None:
            service.outlier.eject_as_told(instance, service.instances.values(), now, seconds)
        for each in (service.guard, *service.guards.values()):
            if each.name == guard and each.shares_circuit and each.breaker is not None:
                each.breaker.trip(seconds, reason="vote")

    async def aclose(self) -> None:
        tasks = [self._hearing, *self._casting]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
