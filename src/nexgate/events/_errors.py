"""What goes wrong with events."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from nexgate.cancellation import is_cancelled
from nexgate.errors import NexgateError

from ._event import Event

if TYPE_CHECKING:
    from ._subscription import Subscription

__all__ = [
    "BacklogFull",
    "DeadLetter",
    "Delivery",
    "EventError",
    "HandlerCancelled",
    "HandlerFailed",
    "failure_of",
]


class EventError(NexgateError):
    """Something about events failed."""


class BacklogFull(EventError):
    """More events wait to be handled than the store is to hold. Try again later."""


class HandlerCancelled(EventError):
    """What a handler awaited was cancelled, but not by us: that is a failure like any other."""


def failure_of(error: BaseException) -> Exception:
    """What a handler raised, as a failure. Raises ``error`` itself when it is the end of the task
    or of the program.
    """
    if isinstance(error, Exception):
        return error
    if isinstance(error, asyncio.CancelledError) and not is_cancelled():
        made = HandlerCancelled("something that it awaited was cancelled")
        made.__cause__ = error
        return made
    raise error


@dataclass(frozen=True, slots=True)
class HandlerFailed:
    """A handler, or a middleware, that raised."""

    event: Event
    handler: str
    """Its name."""
    error: Exception
    attempts: int = 1
    subscription: Subscription | None = field(default=None, repr=False, compare=False)
    """Whose handler it is; ``None`` for a middleware."""


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
