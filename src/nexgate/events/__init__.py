"""Events: who wants to know what happened, in this process, and durably.

``EventBus.subscribe`` and ``EventBus.publish`` are all there is to it; with a store the same two
calls survive ``kill -9`` and reach many processes. See ``docs/reference/events.md``.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ._bus import BusStatistics, EventBus, current_event
from ._cloudevents import InvalidCloudEvent, from_cloudevent, from_http, to_cloudevent, to_http
from ._errors import (
    BacklogFull,
    DeadLetter,
    Delivery,
    EventError,
    HandlerCancelled,
    HandlerFailed,
)
from ._event import Event, topic_of
from ._inbox import Inbox, MemoryInbox, first_time
from ._listener import Listener
from ._owner import BusOwner
from ._recorder import Recorder
from ._store import Claim, Dead, DurableOptions, EventStore, GroupStatus
from ._subscription import Retry, Subscription

if TYPE_CHECKING:
    from nexgate.events.stores import (
        JetStream,
        MemoryEvents,
        RedisStreams,
        SqliteOutbox,
        event_store,
    )

__all__ = [
    "BacklogFull",
    "BusOwner",
    "BusStatistics",
    "Claim",
    "Dead",
    "DeadLetter",
    "Delivery",
    "DurableOptions",
    "Event",
    "EventBus",
    "EventError",
    "EventStore",
    "GroupStatus",
    "HandlerCancelled",
    "HandlerFailed",
    "Inbox",
    "InvalidCloudEvent",
    "JetStream",
    "Listener",
    "MemoryEvents",
    "MemoryInbox",
    "Recorder",
    "RedisStreams",
    "Retry",
    "SqliteOutbox",
    "Subscription",
    "current_event",
    "event_store",
    "first_time",
    "from_cloudevent",
    "from_http",
    "to_cloudevent",
    "to_http",
    "topic_of",
]

_STORES = ("JetStream", "MemoryEvents", "RedisStreams", "SqliteOutbox", "event_store")


def __getattr__(name: str) -> Any:
    # A bus without a store needs none of their libraries.
    if name in _STORES:
        from nexgate.events import stores

        return getattr(stores, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
