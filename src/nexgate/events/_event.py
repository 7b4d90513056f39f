"""What happened."""

from __future__ import annotations

import os
import re
import time as clock
from dataclasses import is_dataclass
from datetime import UTC, datetime
from functools import lru_cache
from typing import Any, Final, TypeVar

from pydantic import BaseModel, TypeAdapter

__all__ = ["Event", "new_id", "topic_of"]

T = TypeVar("T")

_DRAWN: Final = 1024
"""Random bytes that are drawn at once: a draw costs as much as the rest of an event."""

_FIELDS: Final = (
    "name",
    "data",
    "key",
    "source",
    "subject",
    "correlation",
    "causation",
    "traceparent",
)


class Event:
    """Something that happened, named in the past tense: ``Event("user.created", {"id": 1})``.

    Treat it as immutable: handlers share it. ``replace`` makes another.
    """

    __slots__ = (
        "_id",
        "_time",
        "causation",
        "correlation",
        "data",
        "key",
        "name",
        "source",
        "subject",
        "traceparent",
    )

    def __init__(
        self,
        name: str,
        data: Any = None,
        *,
        key: str | None = None,
        id: str | None = None,
        time: datetime | float | None = None,
        source: str = "",
        subject: str | None = None,
        correlation: str | None = None,
        causation: str | None = None,
        traceparent: str | None = None,
    ) -> None:
        self.name = name
        """Its topic: words joined by dots."""
        self.data: Any = {} if data is None else data
        """A mapping, or a dataclass or model. What is stored or sent must be JSON."""
        self.key = key
        """Events with the same key are handled in order."""
        self.source = source
        """Who says so: a URI or a name."""
        self.subject = subject
        """What it is about."""
        self.correlation = correlation
        """Id of the event that began all this; unset where this one is it."""
        self.causation = causation
        """Id of the event whose handler published this one."""
        self.traceparent = traceparent
        """W3C trace context."""
        self._id = id
        self._time = clock.time() if time is None else _seconds(time)

    @property
    def chosen_id(self) -> str | None:
        """The id, if it has one already: a store keeps one event of each."""
        return self._id

    @property
    def id(self) -> str:
        """Unique. Give one (an idempotency key) where the same event may be published again: stores
        keep it once. Made when it is first read.
        """
        if self._id is None:
            self._id = new_id()
        return self._id

    @property
    def timestamp(self) -> datetime:
        """When it happened, in UTC."""
        return datetime.fromtimestamp(self._time, UTC)

    @property
    def time_text(self) -> str:
        """``timestamp`` in RFC 3339."""
        seconds, rest = divmod(round(self._time * 1e6), 1_000_000)
        return f"{_second(seconds)}.{rest:06d}Z"

    def as_type(self, type: type[T]) -> T:
        """``data`` as a dataclass or model. Raises ``pydantic.ValidationError``."""
        data = self.data
        if isinstance(data, type):
            return data
        made: T = _adapter(type).validate_python(data)
        return made

    def replace(self, **changes: Any) -> Event:
        """The same event but for ``changes``; a new name or new data do not make a new id."""
        said = {each: getattr(self, each) for each in _FIELDS}
        return Event(**{**said, "id": self.id, "time": self._time, **changes})

    def __repr__(self) -> str:
        return f"<Event {self.name}{f' key={self.key}' if self.key is not None else ''}>"


def _seconds(said: datetime | float) -> float:
    if not isinstance(said, datetime):
        return said
    if said.tzinfo is None:
        raise ValueError("its time has no offset: datetime.now(UTC), not datetime.now()")
    return said.timestamp()


class _Ids:
    """Ids that sort by time of their making, in a millisecond by count: UUIDs of version 7."""

    def __init__(self) -> None:
        self._last = self._count = 0
        self._drawn: list[str] = []
        # A child must not go on with what its parent has drawn.
        os.register_at_fork(after_in_child=self._drawn.clear)

    def __call__(self) -> str:
        now = clock.time_ns() // 1_000_000
        if now <= self._last:
            now, self._count = self._last, self._count + 1
            if self._count > 0xFFF:
                now, self._count = now + 1, 0
        else:
            self._count = 0
        self._last = now
        try:
            tail = self._drawn.pop()
        except IndexError:
            tail = self._draw()
        head = f"{now:012x}"
        return f"{head[:8]}-{head[8:]}-7{self._count:03x}-{tail}"

    def _draw(self) -> str:
        """The last two groups of an id, whose two highest bits are the variant."""
        drawn = os.urandom(_DRAWN).hex()
        self._drawn += [
            f"{'89ab'[int(drawn[at], 16) & 3]}{drawn[at + 1 : at + 4]}-{drawn[at + 4 : at + 16]}"
            for at in range(0, len(drawn), 16)
        ]
        return self._drawn.pop()


new_id = _Ids()
"""A new id: a UUID of version 7 (RFC 9562 §5.7)."""


@lru_cache(4)
def _second(seconds: int) -> str:
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%dT%H:%M:%S")


_adapters: dict[Any, TypeAdapter[Any]] = {}
_topics: dict[Any, str] = {}


def _adapter(type_: type[Any]) -> TypeAdapter[Any]:
    found = _adapters.get(type_)
    if found is None:
        found = _adapters[type_] = TypeAdapter(type_)
    return found


_WORDS: Final = re.compile(r"[A-Z]+(?=[A-Z][a-z])|[A-Z]?[a-z0-9]+|[A-Z]+")


def topic_of(type_: type[Any]) -> str:
    """The topic of a typed event: its ``topic``, or its name in words: ``UserCreated`` is
    ``user.created``. Raises ``TypeError`` for what is no dataclass and no model.
    """
    found = _topics.get(type_)
    if found is None:
        found = _topics[type_] = _topic(type_)
    return found


def _topic(type_: type[Any]) -> str:
    if not (is_dataclass(type_) or issubclass(type_, BaseModel)):
        raise TypeError(f"{type_.__name__} is no event: use a dataclass or a pydantic model")
    said = getattr(type_, "topic", None)
    if isinstance(said, str):
        return said
    return ".".join(word.lower() for word in _WORDS.findall(type_.__name__))


def as_event(value: Any) -> Event:
    """An event, or what a typed event is published as."""
    if isinstance(value, Event):
        return value
    key = getattr(value, "event_key", None)
    return Event(topic_of(type(value)), value, key=key if isinstance(key, str) else None)
