"""What happens in a gateway, as events on its bus: plugins and programs hear of it there.

======================  ==============================================================
``gateway.started``     it serves; ``services`` and ``routes``
``gateway.reloaded``    another configuration is in force; the same
``gateway.stopping``    it ends
``circuit.changed``     ``service``, ``guard``, ``before``, ``after``, ``reason``
``instance.ejected``    ``service``, ``url``, ``seconds``
======================  ==============================================================
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Iterable
from functools import partial
from typing import TYPE_CHECKING, Any, Final

from nexgate.plugins import Program
from nexgate.resilience import StateChanged
from nexgate.upstream import Guard, InstanceState, ServiceState, Votes

if TYPE_CHECKING:
    from nexgate.events import EventBus

__all__ = ["News"]

_log = logging.getLogger("nexgate")

_MOST: Final = 1000
"""News that may be on their way at once."""
_PATIENCE: Final = 10.0
"""Seconds that those who hear of the gateway may take when it ends."""


class News:
    """Publishes for one worker. Nothing is made or loaded as long as nobody has asked for the
    bus.
    """

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        program: Callable[[], Program],
        votes: Callable[[], Votes | None],
    ) -> None:
        self._loop = loop
        self._program = program
        self._votes = votes
        self._publishing: set[asyncio.Task[Any]] = set()
        self._is_dropping = False

    def follow(self, services: Iterable[ServiceState]) -> None:
        """Hear of what services find out, and pass it on to those that vote."""
        for service in services:
            service.outlier.on_ejected = partial(self._ejected, service)
            for guard in (service.guard, *service.guards.values()):
                guard.on_circuit = self._circuit_changed

    def tell(self, topic: str, data: dict[str, Any]) -> None:
        """Publish, if there is a bus."""
        program = self._program()
        if not program.has_bus:
            return
        if len(self._publishing) >= _MOST:
            if not self._is_dropping:
                _log.error("handlers are slow: news of the gateway are dropped")
            self._is_dropping = True
            return
        self._is_dropping = False
        task = self._loop.create_task(self._publish(program.bus, topic, data))
        self._publishing.add(task)
        task.add_done_callback(self._publishing.discard)

    async def _publish(self, bus: EventBus, topic: str, data: dict[str, Any]) -> None:
        from nexgate.events import Event

        try:
            await bus.publish(Event(topic, data, source="nexgate"))
        except Exception:  # a handler's, where its policy is to raise; or somebody closed the bus
            _log.exception("%s was not told to everybody", topic)

    async def aclose(self) -> None:
        """Wait until everything is told; whoever takes too long to hear of it is cancelled."""
        if not self._publishing:
            return
        _, late = await asyncio.wait(set(self._publishing), timeout=_PATIENCE)
        for task in late:
            task.cancel()
        if late:
            _log.error("events were not handled within %gs of the end", _PATIENCE)
            await asyncio.wait(late, timeout=1.0)

    def _ejected(self, service: ServiceState, instance: InstanceState, seconds: float) -> None:
        votes = self._votes()
        if votes is not None:
            votes.ejected(service, instance, seconds)
        self.tell(
            "instance.ejected",
            {"service": service.name, "url": instance.url, "seconds": seconds},
        )

    def _circuit_changed(self, guard: Guard, event: StateChanged) -> None:
        votes = self._votes()
        if votes is not None:
            votes.circuit_changed(guard, event)
        self.tell(
            "circuit.changed",
            {
                "service": guard.service,
                "guard": guard.name,
                "before": event.before.value,
                "after": event.after.value,
                "reason": event.reason,
            },
        )
