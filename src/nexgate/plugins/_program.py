"""What the plugins of a program share."""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from nexgate.di import Container
    from nexgate.events import EventBus
    from nexgate.tasks import Supervisor

__all__ = ["Program"]


class Program:
    """Dependencies and events of a program, made at their first use unless they are given."""

    def __init__(self, container: Container | None = None, bus: EventBus | None = None) -> None:
        self.is_given = container is not None or bus is not None
        """Whether it is somebody else's, too."""
        self._container = container
        self._bus = bus

    @property
    def has_bus(self) -> bool:
        """Whether somebody has asked for the bus."""
        return self._bus is not None

    @property
    def container(self) -> Container:
        """The program's dependencies."""
        if self._container is None:
            from nexgate.di import Container

            self._container = Container()
        return self._container

    @property
    def bus(self) -> EventBus:
        """The program's events."""
        if self._bus is None:
            from nexgate.events import EventBus

            self._bus = EventBus(invoker=self.inject)
        return self._bus

    def inject(self, function: Callable[..., Any]) -> Callable[..., Any]:
        """``function`` with its ``Inject[…]`` parameters filled."""
        if "nexgate.di" not in sys.modules:
            return function  # nobody can have marked one
        return self.container.inject(function)

    def tasks(self, name: str) -> Supervisor:
        """A supervisor for one plugin."""
        from nexgate.tasks import Supervisor

        return Supervisor(name)
