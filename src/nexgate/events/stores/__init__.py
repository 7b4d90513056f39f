"""Where events are kept until they are handled: a file of SQLite, Redis or Valkey, NATS."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from nexgate.events._store import EventStore
from nexgate.events.stores._memory import MemoryEvents
from nexgate.events.stores._sqlite import SqliteOutbox

if TYPE_CHECKING:
    from nexgate.events.stores._jetstream import JetStream
    from nexgate.events.stores._redis import RedisStreams

__all__ = ["JetStream", "MemoryEvents", "RedisStreams", "SqliteOutbox", "event_store"]


def event_store(place: str | Path, **options: Any) -> EventStore:
    """The store at a place: a file, ``redis://…`` (or ``rediss``, ``valkey``, ``unix``) or
    ``nats://…``. ``options`` are its own.
    """
    scheme, is_url, _ = str(place).partition("://")
    if not is_url:
        return SqliteOutbox(place, **options)
    if scheme in ("nats", "tls", "ws", "wss"):
        from nexgate.events.stores._jetstream import JetStream

        return JetStream(str(place), **options)
    from nexgate.events.stores._redis import RedisStreams

    return RedisStreams(str(place), **options)


def __getattr__(name: str) -> Any:
    # Their libraries are loaded by those who use them.
    if name == "RedisStreams":
        from nexgate.events.stores._redis import RedisStreams

        return RedisStreams
    if name == "JetStream":
        from nexgate.events.stores._jetstream import JetStream

        return JetStream
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
