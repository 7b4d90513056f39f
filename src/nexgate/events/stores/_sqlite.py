"""Events in a file of SQLite: an outbox that needs nothing else.

An append is one INSERT. Groups fan out when they claim: in the transaction of the claim, what came
since the group's cursor gets a row in ``nexgate_deliveries``, which is what is leased, retried and
deleted (``_outbox``).

Leases and delays are kept in the machine's clock, which steps of the wall clock do not touch; after
a reboot, which restarts it, all leases are void.
"""

from __future__ import annotations

import asyncio
import json
import sqlite3
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Final

from nexgate.sqlite import Database, NothingToDo, Synchronous, boot_id, translated
from nexgate.state import machine_clock

from .._cloudevents import InvalidCloudEvent, decode, encode
from .._errors import BacklogFull
from .._event import Event, new_id
from .._store import Claim, Dead, DurableOptions, GroupStatus, event_in
from .._topics import matcher
from ._outbox import DELIVER, INSERT, NOBODYS, SCHEMA, append, clean, end, fan_out, is_work, pick

__all__ = ["SqliteOutbox"]

_MOST_CLAIMS: Final = 20
_CHECK_EVERY: Final = 64
_CLEAN_EVERY: Final = 512


class SqliteOutbox:
    """Events in ``path``, the application's own file if you like: then ``publish(…,
    within=connection)`` stores an event in the application's own transaction.

    ``synchronous``: ``"normal"`` survives ``kill -9``, ``"full"`` power cuts, too. ``max_pending``:
    events that may wait; beyond it ``publish`` raises ``BacklogFull`` (``None``: as many as the
    disk holds). Many processes may have it open.
    """

    def __init__(
        self,
        path: str | Path,
        *,
        synchronous: Synchronous = "normal",
        max_pending: int | None = 1_000_000,
        clock: Callable[[], float] = machine_clock,
        **options: Any,
    ) -> None:
        self.database = Database(path, SCHEMA, synchronous=synchronous, **options)
        self._max_pending = max_pending
        self._clock = clock
        self._matches: dict[str, tuple[Callable[[str], bool], ...]] = {}
        self._seen: dict[str, object] = {}
        self._looked: dict[str, float] = {}
        self._appended = 0
        self._settled = 0

    async def open(self) -> None:
        await self.database.open()
        boot = boot_id()

        def begin(connection: sqlite3.Connection) -> None:
            row = connection.execute("SELECT id FROM nexgate_boot").fetchone()
            if row is None or row[0] != boot:
                connection.execute("UPDATE nexgate_deliveries SET free_at = 0, token = NULL")
                connection.execute("DELETE FROM nexgate_boot")
                connection.execute("INSERT INTO nexgate_boot VALUES (?)", (boot,))

        await self.database.write(begin)

    async def aclose(self) -> None:
        await self.database.aclose()

    # ---------------------------------------------------------------- publishing

    async def append(self, events: Sequence[Event], *, within: Any = None) -> None:
        rows = [(each.chosen_id, each.name, each.key, encode(each)) for each in events]
        if within is not None:
            try:
                append(within, rows)
            except sqlite3.Error as error:
                raise translated(error, f"within a connection to {self.database.path}") from error
            return
        self._appended += len(rows)
        if self._max_pending is not None and self._appended >= _CHECK_EVERY:
            self._appended = 0
            await self._check_backlog(self._max_pending)
        if len(rows) == 1 and rows[0][0] is None:
            await self.database.execute(INSERT, rows[0][1:])
        else:
            await self.database.write(lambda connection: append(connection, rows))

    async def _check_backlog(self, most: int) -> None:
        def waiting(connection: sqlite3.Connection) -> int:
            first, last = connection.execute(
                # Both in one would read the whole table.
                "SELECT coalesce((SELECT min(seq) FROM nexgate_events), 0),"
                " coalesce((SELECT max(seq) FROM nexgate_events), 0)"
            ).fetchone()
            return int(last) - int(first)

        if await self.database.read(waiting) < most:
            return
        await self.database.write(clean)
        count = await self.database.read(waiting)
        if count >= most:
            self._appended = _CHECK_EVERY  # look again at the next one
            raise BacklogFull(f"{self.database.path}: {count} events wait, {most} may")

    # ---------------------------------------------------------------- claiming

    async def join(self, group: str, patterns: Sequence[str], options: DurableOptions) -> None:
        self._matches[group] = tuple(matcher(each) for each in patterns)
        # A transaction that is under way has no number yet, so "now" is what is committed now.
        is_late = options.start == "now"

        def begin(connection: sqlite3.Connection) -> None:
            connection.execute(
                "INSERT OR IGNORE INTO nexgate_groups SELECT ?, CASE WHEN ?"
                " THEN (SELECT coalesce(max(seq), 0) FROM nexgate_events) ELSE 0 END",
                (group, is_late),
            )

        await self.database.write(begin)

    async def leave(self, group: str) -> None:
        def work(connection: sqlite3.Connection) -> None:
            for table, column in (
                ("nexgate_groups", "name"),
                ("nexgate_deliveries", "grp"),
                ("nexgate_dead_events", "grp"),
            ):
                connection.execute(f"DELETE FROM {table} WHERE {column} = ?", (group,))  # noqa: S608  # ours

        await self.database.write(work)

    async def groups(self) -> list[GroupStatus]:
        rows = await self.database.read(
            lambda connection: connection.execute(
                "SELECT name, (SELECT count(*) FROM nexgate_deliveries WHERE grp = name)"
                " + (SELECT count(*) FROM nexgate_events WHERE seq > cursor AND topic <> ?),"
                " (SELECT count(*) FROM nexgate_dead_events WHERE grp = name)"
                " FROM nexgate_groups ORDER BY name",
                (NOBODYS,),
            ).fetchall()
        )
        return [GroupStatus(*row) for row in rows]

    async def claim(self, group: str, limit: int, lease: float) -> list[Claim]:
        matches = self._matches[group]
        token = new_id()
        # Taken before we look: what is written after is noticed by ``wait``.
        self._seen[group] = self.database.version()
        self._looked[group] = self._clock()

        def work(connection: sqlite3.Connection) -> list[tuple[Any, ...]]:
            now = self._clock()
            came = fan_out(connection, group, matches, now)
            picked = json.dumps(pick(connection, group, now, limit))
            if picked == "[]":
                if came:
                    return []
                raise NothingToDo  # so that nothing is written, and nobody woken
            connection.execute(
                "UPDATE nexgate_deliveries SET free_at = ?, token = ?, claims = claims + 1"
                " WHERE grp = ? AND seq IN (SELECT value FROM json_each(?))",
                (now + lease, token, group, picked),
            )
            return connection.execute(
                "SELECT d.seq, d.failures, d.claims, e.body FROM nexgate_deliveries d"
                " JOIN nexgate_events e USING (seq)"
                " WHERE d.grp = ? AND d.seq IN (SELECT value FROM json_each(?)) ORDER BY d.seq",
                (group, picked),
            ).fetchall()

        # A look without writing first: most looks find nothing, and a write wakes the others.
        if not await self.database.read(lambda c: is_work(c, group, self._clock())):
            return []
        claims: list[Claim] = []
        try:
            rows = await self.database.write(work)
        except NothingToDo:
            return []
        for seq, failures, count, body in rows:
            try:
                event = decode(body)
            except InvalidCloudEvent as error:
                await self._bury(group, (seq, token), f"unreadable-{seq}", failures, str(error))
                continue
            lane = f"k{event.key}" if event.key is not None else f"s{seq}"
            claim = Claim(event, lane, failures, (seq, token))
            if count > _MOST_CLAIMS:
                await self.bury(group, claim, f"claimed {count} times without an outcome")
            else:
                claims.append(claim)
        return claims

    async def extend(self, group: str, claims: Sequence[Claim], lease: float) -> None:
        def work(connection: sqlite3.Connection) -> list[bool]:
            until = self._clock() + lease
            return [
                connection.execute(
                    "UPDATE nexgate_deliveries SET free_at = ? WHERE grp = ? AND seq = ?"
                    " AND token = ?",
                    (until, group, *claim.token),
                ).rowcount
                == 0
                for claim in claims
            ]

        for claim, is_lost in zip(claims, await self.database.write(work), strict=True):
            claim.is_lost = claim.is_lost or is_lost

    # ---------------------------------------------------------------- settling

    async def done(self, group: str, claim: Claim) -> None:
        def work(connection: sqlite3.Connection) -> None:
            end(connection, group, claim.token, claim.event.key)

        await self.database.write(work)
        self._settled += 1
        if self._settled >= _CLEAN_EVERY:
            self._settled = 0
            await self.database.write(clean)

    async def retry(self, group: str, claim: Claim, delay: float) -> None:
        await self.database.execute(
            "UPDATE nexgate_deliveries SET free_at = ?, token = NULL, claims = 0,"
            " failures = failures + 1 WHERE grp = ? AND seq = ? AND token = ?",
            (self._clock() + delay, group, *claim.token),
        )

    async def give_back(self, group: str, claims: Sequence[Claim]) -> None:
        now = self._clock()
        rows = [(now, group, *claim.token) for claim in claims]
        await self.database.write(
            lambda connection: (
                connection.executemany(
                    "UPDATE nexgate_deliveries SET free_at = ?, token = NULL, claims = claims - 1"
                    " WHERE grp = ? AND seq = ? AND token = ?",
                    rows,
                )
                and None
            )
        )

    async def bury(self, group: str, claim: Claim, error: str) -> None:
        await self._bury(group, claim.token, claim.event.id, claim.failures, error)

    async def _bury(
        self, group: str, token: tuple[int, str], id: str, failures: int, error: str
    ) -> None:
        def work(connection: sqlite3.Connection) -> None:
            row = connection.execute(
                "SELECT key, body FROM nexgate_events WHERE seq = ?", (token[0],)
            ).fetchone()
            if row is not None and end(connection, group, token, row[0]):
                connection.execute(
                    "INSERT OR REPLACE INTO nexgate_dead_events VALUES (?, ?, ?, ?, ?, ?, ?)",
                    (group, id, *row, failures, error, time.time()),
                )

        await self.database.write(work)

    async def wait(self, group: str, timeout: float) -> None:
        def next_due(connection: sqlite3.Connection) -> float | None:
            row = connection.execute(
                "SELECT min(free_at) FROM nexgate_deliveries"
                " WHERE grp = ? AND is_head AND free_at > ?",
                (group, self._looked.get(group, 0.0)),  # what became free since is worth a look
            ).fetchone()
            return None if row is None else row[0]

        due = await self.database.read(next_due)
        if due is not None:
            timeout = min(timeout, max(due - self._clock(), 0.0))
        seen = self._seen.get(group, self.database.version())
        if timeout <= 0:
            await asyncio.sleep(0)
            return
        await self.database.changed(seen, timeout)

    # ---------------------------------------------------------------- dead letters

    async def dead(self, group: str, limit: int = 100) -> list[Dead]:
        rows = await self.database.read(
            lambda connection: connection.execute(
                "SELECT id, body, failures, error, died FROM nexgate_dead_events WHERE grp = ?"
                " ORDER BY died LIMIT ?",
                (group, limit),
            ).fetchall()
        )
        return [Dead.of(group, *row) for row in rows]

    async def revive(self, group: str, ids: Sequence[str]) -> int:
        def work(connection: sqlite3.Connection) -> int:
            count = 0
            for each in ids:
                row = connection.execute(
                    "SELECT key, body FROM nexgate_dead_events WHERE grp = ? AND id = ?",
                    (group, each),
                ).fetchone()
                if row is None or event_in(row[1]) is None:
                    continue
                made = connection.execute(INSERT, (NOBODYS, *row))
                connection.execute(DELIVER, (group, made.lastrowid, row[0], self._clock()))
                connection.execute(
                    "DELETE FROM nexgate_dead_events WHERE grp = ? AND id = ?", (group, each)
                )
                count += 1
            return count

        return await self.database.write(work)

    async def drop(self, group: str, ids: Sequence[str]) -> int:
        def work(connection: sqlite3.Connection) -> int:
            return sum(
                connection.execute(
                    "DELETE FROM nexgate_dead_events WHERE grp = ? AND id = ?", (group, each)
                ).rowcount
                for each in ids
            )

        return await self.database.write(work)
