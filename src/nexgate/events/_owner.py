"""Subscriptions that come and go as one: a plugin's."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, TypeVar

from ._errors import EventError

if TYPE_CHECKING:
    from ._bus import EventBus
    from ._subscription import Subscription

__all__ = ["BusOwner"]

F = TypeVar("F", bound=Callable[..., Any])


class BusOwner:
    """Has what ``EventBus`` has; what is subscribed here ends with ``cancel``."""

    def __init__(self, bus: EventBus, name: str) -> None:
        self._bus = bus
        self.name = name
        self._mine: list[Subscription] = []
        self._is_over = False

    def subscribe(
        self, topic: Any, handler: Callable[..., Any] | None = None, **options: Any
    ) -> Any:
        """As ``EventBus.subscribe``. Raises ``EventError`` after the end: nobody would end it."""
        if self._is_over:
            raise EventError(f"{self.name} has ended, and hears of nothing any more")
        if handler is None:

            def decorate(function: F) -> F:
                self.subscribe(topic, function, **options)
                return function

            return decorate
        made = self._bus.subscribe(topic, handler, owner=self, **options)
        self._mine = [each for each in self._mine if each.is_active]
        self._mine.append(made)
        return made

    on = subscribe

    def __getattr__(self, name: str) -> Any:
        return getattr(self._bus, name)

    def cancel(self) -> None:
        """End all of them; what is being handled goes on."""
        self._is_over = True
        for each in self._mine:
            each.cancel()

    async def aclose(self, timeout: float = 10.0) -> None:
        """End all of them, and wait for what is being handled."""
        self.cancel()
        mine, self._mine = self._mine, []
        await self._bus._wait_idle(mine, timeout)
