"""What was published, for tests."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from ._event import Event
from ._topics import matcher

if TYPE_CHECKING:
    from ._bus import EventBus

__all__ = ["Recorder"]


class Recorder:
    """Keeps every event of ``topic`` until it is closed; ``with bus.record() as recorded``."""

    def __init__(self, bus: EventBus, topic: str) -> None:
        self.events: list[Event] = []
        self._subscription = bus.subscribe(topic, self.events.append, priority=1_000_000)

    @property
    def names(self) -> list[str]:
        """Topics in order."""
        return [event.name for event in self.events]

    def of(self, pattern: str) -> list[Event]:
        """Those that match."""
        matches = matcher(pattern)
        return [event for event in self.events if matches(event.name)]

    def one(self, pattern: str) -> Event:
        """The only one that matches. Raises ``AssertionError`` that says what there was."""
        found = self.of(pattern)
        if len(found) != 1:
            raise AssertionError(f"{len(found)} events match {pattern}; published: {self.names}")
        return found[0]

    def __len__(self) -> int:
        return len(self.events)

    def __iter__(self) -> Iterator[Event]:
        return iter(self.events)

    def close(self) -> None:
        """Record no more."""
        self._subscription.cancel()

    def __enter__(self) -> Recorder:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()
