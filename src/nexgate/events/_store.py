"""What a store of events is: it keeps them, and hands them to groups, each event of a key after the
one before.
"""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal, Protocol

from nexgate.resilience import Backoff

from ._cloudevents import InvalidCloudEvent, decode
from ._event import Event

__all__ = [
    "Claim",
    "Dead",
    "DurableOptions",
    "EventStore",
    "GroupStatus",
    "event_in",
    "partition_of",
]


@dataclass(frozen=True, slots=True)
class DurableOptions:
    """How a group handles its events. One group has one set of them."""

    concurrency: int = 16
    """Most keys that are worked on at once in one process."""
    attempts: int = 10
    """Failures after which an event is a dead letter, and the events of its key go on."""
    backoff: Backoff = Backoff(base=0.1, cap=60.0)
    """How long an event (and those of its key) waits after a failure."""
    lease: float = 30.0
    """Seconds after which the events of a consumer that died are another's. Renewed while a handler
    works, so it need not be longer than handlers are."""
    start: Literal["now", "beginning"] = "now"
    """Where a group begins that the store does not know."""


@dataclass(slots=True, eq=False)
class Claim:
    """An event that this consumer has for the length of a lease."""

    event: Event
    lane: str
    """Events of one lane are handled one after the other."""
    failures: int
    """How often handling it has failed."""
    token: Any
    """The store's own."""
    is_lost: bool = False
    """Another has it now."""


@dataclass(frozen=True, slots=True)
class Dead:
    """A dead letter of a group."""

    group: str
    id: str
    """Of the event."""
    body: bytes
    """The event as it is stored."""
    event: Event | None
    """``None`` when it cannot be read."""
    failures: int
    error: str
    died: float
    """Unix time."""

    @classmethod
    def of(cls, group: str, id: str, body: bytes, failures: int, error: str, died: float) -> Dead:
        """One whose event is in ``body``, if it is one."""
        return cls(group, id, body, event_in(body), failures, error, died)


def event_in(body: bytes) -> Event | None:
    """The event that is stored as ``body``, if it can be read."""
    try:
        return decode(body)
    except InvalidCloudEvent:
        return None


@dataclass(frozen=True, slots=True)
class GroupStatus:
    """How far a group is."""

    name: str
    waiting: int
    """Events that it has not settled; those of topics that it does not handle may be among them
    until it has looked at them."""
    dead: int
    """Its dead letters."""


def partition_of(event: Event, partitions: int) -> int:
    """Where an event goes in a store that spreads keys; those without one go anywhere."""
    said = event.key if event.key is not None else event.id
    return zlib.crc32(said.encode()) % partitions


class EventStore(Protocol):
    """Keeps events until every group has handled them.

    ``append`` returns when they are stored, and ignores an event whose id is there. Between
    ``claim`` and ``done`` an event is one consumer's, as long as the lease is extended.
    """

    async def open(self) -> None:
        """Be ready, or raise why not."""

    async def aclose(self) -> None:
        """Let go of everything."""

    async def append(self, events: Sequence[Event], *, within: Any = None) -> None:
        """Store. Raises ``BacklogFull``, and what the medium raises."""

    async def join(self, group: str, patterns: Sequence[str], options: DurableOptions) -> None:
        """Make the group known, with the topics that it handles."""

    async def leave(self, group: str) -> None:
        """Forget a group that is no more, with what it has not handled: events wait for every group
        there is.
        """

    async def groups(self) -> list[GroupStatus]:
        """Every group that there is, by name."""

    async def claim(self, group: str, limit: int, lease: float) -> list[Claim]:
        """Up to ``limit`` events in order, none of a lane that waits for an earlier one. What
        cannot be read is a dead letter at once: others can write to the medium, too.
        """

    async def extend(self, group: str, claims: Sequence[Claim], lease: float) -> None:
        """Keep them; sets ``is_lost`` on those that are another's."""

    async def done(self, group: str, claim: Claim) -> None:
        """It was handled."""

    async def retry(self, group: str, claim: Claim, delay: float) -> None:
        """Handling it failed; again in ``delay`` seconds."""

    async def give_back(self, group: str, claims: Sequence[Claim]) -> None:
        """They were not begun: others may have them now."""

    async def bury(self, group: str, claim: Claim, error: str) -> None:
        """It is a dead letter."""

    async def wait(self, group: str, timeout: float) -> None:
        """Until there may be more to claim, or ``timeout`` seconds."""

    async def dead(self, group: str, limit: int = 100) -> list[Dead]:
        """Dead letters, the oldest first."""

    async def revive(self, group: str, ids: Sequence[str]) -> int:
        """Let dead letters be handled again, by this group only and after what waits. Those that
        cannot be read stay. Returns how many.
        """

    async def drop(self, group: str, ids: Sequence[str]) -> int:
        """Forget dead letters. Returns how many."""
