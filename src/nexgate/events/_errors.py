"""What goes wrong with events."""

from __future__ import annotations

from dataclasses import dataclass

from nexgate.errors import NexgateError

from ._event import Event

__all__ = ["BacklogFull", "DeadLetter", "Delivery", "EventError", "HandlerFailed"]


class EventError(NexgateError):
    """Something about events failed."""


class BacklogFull(EventError):
    """More events wait to be handled than the store is to hold. Try again later."""


@dataclass(frozen=True, slots=True)
class HandlerFailed:
    """A handler, or a middleware, that raised."""

    event: Event
    handler: str
    """Its name."""
    error: Exception
    attempts: int = 1


DeadLetter = HandlerFailed
"""An event that a handler could not handle, after its last attempt."""


@dataclass(frozen=True, slots=True)
class Delivery:
    """What became of a published event."""

    handled: int = 0
    """How many handlers were called."""
    failures: tuple[HandlerFailed, ...] = ()
    is_stopped: bool = False
    """A middleware stopped it: no handler saw it."""

    @property
    def errors(self) -> tuple[Exception, ...]:
        """The exceptions alone."""
        return tuple(each.error for each in self.failures)
