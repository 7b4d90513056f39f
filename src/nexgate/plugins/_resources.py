"""What a running plugin has of the program, and gives back."""

from __future__ import annotations

import logging
from collections.abc import Callable
from contextlib import AsyncExitStack
from typing import TYPE_CHECKING, Any

from ._plugin import call_hook

if TYPE_CHECKING:
    from nexgate.di import Container
    from nexgate.events import EventBus
    from nexgate.tasks import Supervisor

__all__ = ["Resources", "StagedBus"]

_log = logging.getLogger("nexgate.plugins")


class StagedBus:
    """A bus on which subscriptions wait for ``activate``: a version that is being initialised must
    not handle events beside the one that it replaces. Everything else is the bus's own.
    """

    def __init__(self, bus: Any) -> None:
        self._bus = bus
        self._waiting: list[_Later] | None = []

    def subscribe(
        self, topic: Any, handler: Callable[..., Any] | None = None, **options: Any
    ) -> Any:
        """As ``BusOwner.subscribe``."""
        if self._waiting is None:
            return self._bus.subscribe(topic, handler, **options)
        if handler is None:
            return lambda function: self.subscribe(topic, function, **options) and function
        # What is wrong with it is found now: ``activate`` is part of a step that must not fail.
        self._bus.subscribe(topic, handler, **options).cancel()
        later = _Later(topic, handler, options)
        self._waiting.append(later)
        return later

    on = subscribe

    def activate(self) -> None:
        """Make the subscriptions that wait, in their order."""
        waiting, self._waiting = self._waiting or [], None
        for later in waiting:
            try:
                later.begin(self._bus)
            except Exception:  # two handlers of one name and inbox: alone, each was fine
                _log.exception("a plugin's handler is not subscribed")

    def deactivate(self) -> None:
        """End all of them, and begin none that waits."""
        self._waiting = None
        self._bus.cancel()

    def add_middleware(self, middleware: Callable[..., Any]) -> None:
        """A bus does not give middleware back, so it would outlive the plugin."""
        raise RuntimeError("middleware is the program's to add: a plugin's would outlive it")

    def __getattr__(self, name: str) -> Any:
        return getattr(self._bus, name)


class _Later:
    """The handle of a subscription that may not have begun."""

    def __init__(self, topic: Any, handler: Callable[..., Any], options: dict[str, Any]) -> None:
        self._said = topic, handler, options
        self._real: Any = None
        self._is_cancelled = False

    def begin(self, bus: Any) -> None:
        if not self._is_cancelled:
            topic, handler, options = self._said
            self._real = bus.subscribe(topic, handler, **options)

    def cancel(self) -> None:
        self._is_cancelled = True
        if self._real is not None:
            self._real.cancel()

    def __enter__(self) -> _Later:
        return self

    def __exit__(self, *exc: object) -> None:
        self.cancel()


class Resources:
    """Containers, events and tasks of one running plugin."""

    def __init__(
        self, name: str, container: Container, bus: EventBus, tasks: Callable[[str], Supervisor]
    ) -> None:
        self.container: Any = container.owner(f"plugin {name}")
        self._owned_bus: Any = bus.owner(f"plugin {name}")
        self.bus: Any = StagedBus(self._owned_bus)
        self.tasks = tasks(f"plugin {name}")
        self.stack = AsyncExitStack()
        self._name = name

    def activate(self) -> None:
        """From here on it handles events."""
        self.bus.activate()

    def deactivate(self) -> None:
        """No further event reaches it; what is being handled goes on."""
        self.bus.deactivate()

    async def aclose(self, cleanup: Callable[[], Any], timeout: float) -> None:
        """End everything, in the reverse order of need. Each step is done whatever happens to the
        others; an exception is logged, because nobody could do anything about it.
        """
        self.deactivate()
        steps: list[tuple[str, Callable[[], Any]]] = [
            ("events", self._owned_bus.aclose),
            ("tasks", self.tasks.aclose),
            ("cleanup", cleanup),
            ("exit stack", self.stack.aclose),
            ("dependencies", self.container.aclose),
        ]
        for what, step in steps:
            try:
                await call_hook(step, timeout=timeout)
            except TimeoutError:
                _log.error("plugin %s: %s took longer than %gs", self._name, what, timeout)
            except Exception:
                _log.exception("plugin %s: %s failed", self._name, what)
