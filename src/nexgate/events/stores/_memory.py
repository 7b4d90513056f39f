"""Events in memory: for tests, and for one process that may forget."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from .._cloudevents import decode, encode
from .._errors import BacklogFull
from .._event import Event
from .._store import Claim, Dead, DurableOptions, GroupStatus
from .._topics import matcher

__all__ = ["MemoryEvents"]


@dataclass(slots=True)
class _Row:
    event: Event
    body: bytes
    failures: int = 0
    due: float = 0.0
    until: float = 0.0
    """End of the lease; 0 when nobody has it."""
    token: object = None


@dataclass(slots=True)
class _Group:
    matches: tuple[Callable[[str], bool], ...]
    rows: dict[str, _Row] = field(default_factory=dict)
    dead: dict[str, Dead] = field(default_factory=dict)
    looked: float = 0.0
    """When the last claim looked: what has become due since is worth another look."""
    changed: asyncio.Event = field(default_factory=asyncio.Event)
    """Since its last claim."""


class MemoryEvents:
    """Semantics of the others, without their durability: an event comes back as it would there, and
    what they cannot store is refused. ``max_pending``: events of one group that may wait.
    """

    def __init__(
        self, *, max_pending: int = 100_000, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._max_pending = max_pending
        self._clock = clock
        self._groups: dict[str, _Group] = {}
        self._all: dict[str, tuple[Event, bytes]] = {}

    async def open(self) -> None:
        """Nothing to open."""

    async def aclose(self) -> None:
        """Nothing to close: another bus may go on."""

    async def append(self, events: Sequence[Event], *, within: Any = None) -> None:
        if within is not None:
            raise TypeError("memory has no transactions")
        if any(len(group.rows) >= self._max_pending for group in self._groups.values()):
            raise BacklogFull(f"{self._max_pending} events wait already")
        bodies = [encode(event) for event in events]
        for event, body in zip(events, bodies, strict=True):
            if event.id in self._all:
                continue
            self._all[event.id] = event, body
            for group in self._groups.values():
                if any(matches(event.name) for matches in group.matches):
                    group.rows[event.id] = _Row(event, body)
                    group.changed.set()

    async def join(self, group: str, patterns: Sequence[str], options: DurableOptions) -> None:
        matches = tuple(matcher(each) for each in patterns)
        known = self._groups.get(group)
        if known is not None:
            known.matches = matches
            return
        made = self._groups[group] = _Group(matches)
        if options.start == "beginning":
            for event, body in self._all.values():
                if any(each(event.name) for each in matches):
                    made.rows[event.id] = _Row(event, body)

    async def leave(self, group: str) -> None:
        self._groups.pop(group, None)

    async def groups(self) -> list[GroupStatus]:
        return [
            GroupStatus(name, len(group.rows), len(group.dead))
            for name, group in sorted(self._groups.items())
        ]

    async def claim(self, group: str, limit: int, lease: float) -> list[Claim]:
        self._groups[group].changed.clear()
        now = self._groups[group].looked = self._clock()
        held: set[str] = set()
        found: list[Claim] = []
        for row in self._groups[group].rows.values():
            key = row.event.key
            if key is not None and key in held:
                continue
            if row.until > now or row.due > now:
                if key is not None:
                    held.add(key)
                continue
            row.until, row.token = now + lease, object()
            lane = f"k{key}" if key is not None else f"e{row.event.id}"
            found.append(Claim(decode(row.body), lane, row.failures, row.token))
            if len(found) >= limit:
                break
        return found

    def _row(self, group: str, claim: Claim) -> _Row | None:
        row = self._groups[group].rows.get(claim.event.id)
        return row if row is not None and row.token is claim.token else None

    async def extend(self, group: str, claims: Sequence[Claim], lease: float) -> None:
        for claim in claims:
            row = self._row(group, claim)
            if row is None:
                claim.is_lost = True
            else:
                row.until = self._clock() + lease

    async def done(self, group: str, claim: Claim) -> None:
        if self._row(group, claim) is not None:
            del self._groups[group].rows[claim.event.id]
        self._groups[group].changed.set()

    async def retry(self, group: str, claim: Claim, delay: float) -> None:
        row = self._row(group, claim)
        if row is not None:
            row.failures += 1
            row.until, row.due, row.token = 0.0, self._clock() + delay, None
        self._groups[group].changed.set()  # there is something new to wait for

    async def give_back(self, group: str, claims: Sequence[Claim]) -> None:
        for claim in claims:
            row = self._row(group, claim)
            if row is not None:
                row.until, row.token = 0.0, None
        self._groups[group].changed.set()

    async def bury(self, group: str, claim: Claim, error: str) -> None:
        row = self._row(group, claim)
        if row is not None:
            del self._groups[group].rows[claim.event.id]
            self._groups[group].dead[claim.event.id] = Dead.of(
                group, claim.event.id, row.body, claim.failures, error, time.time()
            )
        self._groups[group].changed.set()

    async def wait(self, group: str, timeout: float) -> None:
        now, looked = self._clock(), self._groups[group].looked
        dues = [
            max(at - now, 0.0)
            for row in self._groups[group].rows.values()
            for at in (row.due, row.until)
            if at > looked
        ]
        until = min([timeout, *dues])
        try:
            async with asyncio.timeout(until):
                await self._groups[group].changed.wait()
        except TimeoutError:
            pass

    def _letters(self, group: str) -> dict[str, Dead]:
        known = self._groups.get(group)
        return known.dead if known is not None else {}

    async def dead(self, group: str, limit: int = 100) -> list[Dead]:
        return list(self._letters(group).values())[:limit]

    async def revive(self, group: str, ids: Sequence[str]) -> int:
        letters = self._letters(group)
        found = [letters.pop(each) for each in ids if each in letters]
        for dead in found:
            assert dead.event is not None  # nobody else writes here
            self._groups[group].rows[dead.id] = _Row(dead.event, dead.body)
            self._groups[group].changed.set()
        return len(found)

    async def drop(self, group: str, ids: Sequence[str]) -> int:
        letters = self._letters(group)
        return sum(letters.pop(each, None) is not None for each in ids)
