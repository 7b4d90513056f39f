"""Jobs in a file of SQLite.

Times at which jobs are due are the wall clock's: that is what "at nine" means. Leases are the
machine's clock's, which nobody sets; after a reboot, which restarts it, all of them are void.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import sqlite3
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from pathlib import Path
from typing import Any, Final, TypeVar

from nexgate.sqlite import Database, NothingToDo, Schema, StoreFull, Synchronous, boot_id
from nexgate.state import machine_clock

from .._errors import QueueFull
from .._store import MOST_CLAIMS, PRIORITIES, Claim, JobRecord, JobState, NewJob

__all__ = ["SqliteTasks"]

T = TypeVar("T")

_WAITING, _RUNNING, _DONE, _DEAD, _CANCELLED = range(5)
_STATES: Final[tuple[JobState, ...]] = ("waiting", "running", "done", "dead", "cancelled")

_JOBS: Final = """
    CREATE TABLE nexgate_jobs (
        id TEXT PRIMARY KEY, task TEXT NOT NULL, state INTEGER NOT NULL DEFAULT 0,
        rank REAL NOT NULL, due REAL NOT NULL, priority TEXT NOT NULL,
        failures INTEGER NOT NULL DEFAULT 0, claims INTEGER NOT NULL DEFAULT 0,
        key TEXT, token TEXT, until REAL NOT NULL DEFAULT 0, wants_end INTEGER NOT NULL DEFAULT 0,
        created REAL NOT NULL, begun REAL, ended REAL, expires REAL,
        error TEXT NOT NULL DEFAULT '', progress TEXT, result BLOB, body BLOB NOT NULL
    ) WITHOUT ROWID
"""
# With the task in it, and the state that it has anyway, jobs of tasks that are full are passed over
# without reading them: SQLite looks into the table for any column that an index has not.
_READY: Final = (
    "CREATE INDEX nexgate_jobs_ready ON nexgate_jobs (state, priority, rank, task) WHERE state = 0"
)
_LEASED: Final = "CREATE INDEX nexgate_jobs_leased ON nexgate_jobs (until) WHERE state = 1"
_KEYS: Final = "CREATE UNIQUE INDEX nexgate_jobs_key ON nexgate_jobs (key) WHERE key IS NOT NULL"
_ENDED: Final = (
    "CREATE INDEX nexgate_jobs_ended ON nexgate_jobs (expires) WHERE expires IS NOT NULL"
)
_DEADS: Final = "CREATE INDEX nexgate_jobs_dead ON nexgate_jobs (ended) WHERE state = 3"
_BOOT: Final = "CREATE TABLE nexgate_jobs_boot (id TEXT)"
# Ending a job takes a little room. On a disk that is full there is none, and it would stay full; so
# there is some that only workers may use.
_BALLAST: Final = "CREATE TABLE nexgate_jobs_ballast (room BLOB)"
_LOAD: Final = "INSERT INTO nexgate_jobs_ballast VALUES (zeroblob(65536))"
_SCHEMA: Final = Schema(
    "tasks", ((_JOBS, _READY, _LEASED, _KEYS, _ENDED, _DEADS, _BOOT, _BALLAST, _LOAD),)
)

_INSERT: Final = (
    "INSERT INTO nexgate_jobs (id, task, rank, due, priority, key, created, body)"
    " SELECT ?, ?, ?, ?, ?, ?, ?, ? WHERE EXISTS (SELECT 1 FROM nexgate_jobs_ballast)"
)
_COLUMNS: Final = (
    "id, task, state, priority, due, failures, created, begun, ended, key, error, progress"
)
# Within a priority, the order of rank is that of the times at which jobs are due: what is due and
# what comes next is found without reading those that wait for a later time. ``{others}``: tasks.
_NEXT: Final = ", ".join(
    f"(SELECT rank + {head} FROM nexgate_jobs WHERE state = 0 AND priority = '{priority}'"  # noqa: S608  # ours
    " {others} ORDER BY rank LIMIT 1)"
    for priority, head in PRIORITIES.items()
)
_LOOK: Final = (
    "SELECT"  # noqa: S608  # ours
    " (SELECT until FROM nexgate_jobs WHERE state = 1 {others} ORDER BY until LIMIT 1), " + _NEXT
)
_READY_OF_EACH: Final = " UNION ALL ".join(
    "SELECT * FROM (SELECT id, rank FROM nexgate_jobs WHERE state = 0"  # noqa: S608  # ours
    f" AND priority = '{priority}' AND rank <= :now - {head} {{others}} ORDER BY rank LIMIT :limit)"
    for priority, head in PRIORITIES.items()
)
_DUE: Final = f"SELECT id FROM ({_READY_OF_EACH}) ORDER BY rank LIMIT :limit"  # noqa: S608  # ours
_ORPHANS: Final = (
    "SELECT id FROM nexgate_jobs WHERE state = 1 AND until <= :now {others} LIMIT :limit"
)
_CLEAN: Final = (
    "DELETE FROM nexgate_jobs WHERE id IN (SELECT id FROM nexgate_jobs WHERE expires <= ? LIMIT ?)"
)
_LONGEST_ERROR: Final = 4000
_CLEAN_EVERY: Final = 30.0
_CLEAN_AT_ONCE: Final = 1000
_MOST_UNCHECKED: Final = 10_000
"""Jobs that one process may add before it counts again those that wait."""


class SqliteTasks:
    """Jobs in ``path``. ``synchronous``: ``"full"`` survives power cuts, ``"normal"`` ``kill -9``.
    ``max_pending``: jobs that may wait. Many processes may have it open.
    """

    def __init__(
        self,
        path: str | Path,
        *,
        synchronous: Synchronous = "full",
        max_pending: int | None = 1_000_000,
        clock: Callable[[], float] = time.time,
        lease_clock: Callable[[], float] = machine_clock,
        **options: Any,
    ) -> None:
        self.database = Database(path, _SCHEMA, synchronous=synchronous, **options)
        self._max_pending = max_pending
        self._clock = clock
        self._lease_clock = lease_clock
        self._seen: object = None
        self._next_due: float | None = None
        self._cleaned = 0.0
        self._unchecked = 0
        self._has_ballast = True

    async def open(self) -> None:
        await self.database.open()
        boot = boot_id()

        def begin(connection: sqlite3.Connection) -> None:
            row = connection.execute("SELECT id FROM nexgate_jobs_boot").fetchone()
            if row is None or row[0] != boot:
                connection.execute("UPDATE nexgate_jobs SET until = 0 WHERE state = 1")
                connection.execute("DELETE FROM nexgate_jobs_boot")
                connection.execute("INSERT INTO nexgate_jobs_boot VALUES (?)", (boot,))

        await self.database.write(begin)

    async def aclose(self) -> None:
        await self.database.aclose()

    # ---------------------------------------------------------------- producing

    async def enqueue(self, job: NewJob) -> str:
        rank = job.due - PRIORITIES[job.priority]
        row = (
            *(job.id, job.task, rank, job.due, job.priority, job.key),
            *(self._clock(), job.body),
        )
        if self._max_pending is not None:
            await self._check_backlog(self._max_pending)
        if job.key is None:
            self._check_room(await self.database.execute(_INSERT, row))
            return job.id

        def once(connection: sqlite3.Connection) -> str:
            known = connection.execute(
                "SELECT id, expires FROM nexgate_jobs WHERE key = ?", (job.key,)
            ).fetchone()
            if known is not None:
                if known[1] is None or known[1] > self._clock():
                    return str(known[0])
                connection.execute("DELETE FROM nexgate_jobs WHERE id = ?", (known[0],))
            self._check_room(connection.execute(_INSERT, row).rowcount)
            return job.id

        return await self.database.write(once)

    async def _check_backlog(self, most: int) -> None:
        """Counting costs the more the more wait, so it is done the more seldom the more room there
        is: several processes may go beyond by an eighth of it each.
        """
        self._unchecked -= 1
        if self._unchecked > 0:
            return
        waiting: int = await self.database.read(
            lambda connection: connection.execute(
                "SELECT count(*) FROM (SELECT 1 FROM nexgate_jobs WHERE state = 0 LIMIT ?)", (most,)
            ).fetchone()[0]
        )
        if waiting >= most:
            raise QueueFull(f"{self.database.path}: {waiting} jobs wait, {most} may")
        self._unchecked = min((most - waiting) // 8, _MOST_UNCHECKED)

    def _check_room(self, rows: int) -> None:
        if rows != 1:
            raise StoreFull(f"{self.database.path}: its last room is for workers")

    async def cancel(self, id: str, keep: float) -> JobState | None:
        def work(connection: sqlite3.Connection) -> JobState | None:
            now = self._clock()
            connection.execute(
                "UPDATE nexgate_jobs SET state = ?, ended = ?, expires = ?"
                " WHERE id = ? AND state = ?",
                (_CANCELLED, now, now + keep, id, _WAITING),
            )
            connection.execute(
                "UPDATE nexgate_jobs SET wants_end = 1 WHERE id = ? AND state = ?", (id, _RUNNING)
            )
            row = connection.execute(
                "SELECT state FROM nexgate_jobs WHERE id = ?", (id,)
            ).fetchone()
            return None if row is None else _STATES[row[0]]

        return await self.database.write(work)

    # ---------------------------------------------------------------- working

    async def claim(self, limit: int, lease: float, skip: Collection[str]) -> list[Claim]:
        # These write, so they come before we look: what comes from then on is noticed.
        if not 0 <= self._clock() - self._cleaned < _CLEAN_EVERY:
            await self._clean()
        if not self._has_ballast:
            await self._take_ballast()
        self._seen = self.database.version()
        skipped = {f"task{number}": task for number, task in enumerate(skip)}
        # One by one: SQLite compares texts several times faster than it looks into a list.
        others = "".join(f" AND task <> :{name}" for name in skipped)
        if not await self.database.read(
            lambda connection: self._is_work(connection, others, skipped)
        ):
            return []
        token = f"{id(self):x}.{time.monotonic_ns():x}"

        def work(connection: sqlite3.Connection) -> list[tuple[Any, ...]]:
            now, lease_now = self._clock(), self._lease_clock()

            def ids(query: str, at: float, most: int) -> list[tuple[str]]:
                values = {"now": at, "limit": most, **skipped}
                return connection.execute(query.format(others=others), values).fetchall()

            # Those whose worker died come first: they have waited for a whole lease.
            dead = ids(_ORPHANS, lease_now, limit)
            ready = ids(_DUE, now, limit - len(dead))
            found = json.dumps([row[0] for row in (*dead, *ready)])
            if found == "[]":
                raise NothingToDo  # nothing is written, and nobody woken
            return connection.execute(
                "UPDATE nexgate_jobs SET state = 1, token = ?, until = ?, begun = ?,"
                " claims = claims + 1 WHERE id IN (SELECT value FROM json_each(?))"
                " RETURNING id, task, body, failures, claims, rank, wants_end",
                (token, lease_now + lease, now, found),
            ).fetchall()

        try:
            rows = await self._write_somehow(work)
        except NothingToDo:
            self._next_due = None  # all that is due is of tasks that are full here
            return []
        claims: list[Claim] = []
        for job, task, body, failures, count, _, wants_end in sorted(rows, key=lambda row: row[5]):
            claim = Claim(job, task, body, failures, token, is_cancelled=bool(wants_end))
            if count > MOST_CLAIMS:
                await self.bury(claim, f"{MOST_CLAIMS} workers died while they ran it")
            else:
                claims.append(claim)
        return claims

    async def _write_somehow(self, work: Callable[[sqlite3.Connection], T]) -> T:
        """Write what makes room in the end, also when there is none: the ballast goes, and comes
        back when there is room again.
        """
        try:
            return await self.database.write(work)
        except StoreFull:
            await self.database.write(
                lambda connection: connection.execute("DELETE FROM nexgate_jobs_ballast") and None
            )
            self._has_ballast = False
            return await self.database.write(work)

    async def _clean(self) -> None:
        """Forget those whose time is over. Done by claiming, so that a worker that is never idle
        does it, too; a few at a time, so that it is short.
        """
        now = self._clock()
        gone = 0
        with contextlib.suppress(StoreFull):  # jobs that end make room, too
            gone = await self._write_somehow(
                lambda connection: connection.execute(_CLEAN, (now, _CLEAN_AT_ONCE)).rowcount
            )
        if gone < _CLEAN_AT_ONCE:  # else there are more
            self._cleaned = now
        self._has_ballast = False  # or another worker has used it

    async def _take_ballast(self) -> None:
        def load(connection: sqlite3.Connection) -> None:
            if not connection.execute("SELECT count(*) FROM nexgate_jobs_ballast").fetchone()[0]:
                connection.execute(_LOAD)

        with contextlib.suppress(StoreFull):
            await self.database.write(load)
            self._has_ballast = True

    def _is_work(
        self, connection: sqlite3.Connection, others: str, skipped: Mapping[str, str]
    ) -> bool:
        """Whether something may be claimed; when not, ``_next_due`` is when."""
        now, lease_now = self._clock(), self._lease_clock()
        until, *dues = connection.execute(_LOOK.format(others=others), skipped).fetchone()
        waits = [due - now for due in dues if due is not None]
        waits += [until - lease_now] if until is not None else []
        self._next_due = min(waits, default=None)
        return self._next_due is not None and self._next_due <= 0

    async def extend(self, claims: Sequence[Claim], lease: float) -> None:
        def work(connection: sqlite3.Connection) -> list[int | None]:
            until = self._lease_clock() + lease
            found: list[int | None] = []
            for claim in claims:
                row = connection.execute(
                    "UPDATE nexgate_jobs SET until = ? WHERE id = ? AND token = ? AND state = 1"
                    " RETURNING wants_end",
                    (until, claim.id, claim.token),
                ).fetchone()
                found.append(None if row is None else row[0])
            return found

        for claim, wants_end in zip(claims, await self.database.write(work), strict=True):
            claim.is_lost = claim.is_lost or wants_end is None
            claim.is_cancelled = claim.is_cancelled or bool(wants_end)

    async def wanted_ends(self, claims: Sequence[Claim]) -> None:
        """Set ``is_cancelled``, without extending anything: a look that costs no write."""
        ids = json.dumps([claim.id for claim in claims])
        rows = await self.database.read(
            lambda connection: connection.execute(
                "SELECT id FROM nexgate_jobs WHERE wants_end = 1 AND state = 1"
                " AND id IN (SELECT value FROM json_each(?))",
                (ids,),
            ).fetchall()
        )
        wanted = {row[0] for row in rows}
        for claim in claims:
            claim.is_cancelled = claim.is_cancelled or claim.id in wanted

    async def _settle(self, claim: Claim, change: str, values: tuple[Any, ...]) -> bool:
        statement = f"UPDATE nexgate_jobs SET {change} WHERE id = ? AND token = ? AND state = 1"  # noqa: S608  # ours
        return await self._write_somehow(
            lambda connection: (
                connection.execute(statement, (*values, claim.id, claim.token)).rowcount == 1
            )
        )

    async def complete(self, claim: Claim, result: bytes | None, keep: float) -> bool:
        if keep <= 0:
            return await self._write_somehow(
                lambda connection: (
                    connection.execute(
                        "DELETE FROM nexgate_jobs WHERE id = ? AND token = ? AND state = 1",
                        (claim.id, claim.token),
                    ).rowcount
                    == 1
                )
            )
        now = self._clock()
        change = "state = 2, result = ?, ended = ?, expires = ?, body = x'', token = NULL"
        return await self._settle(claim, change, (result, now, now + keep))

    async def retry(self, claim: Claim, delay: float, error: str) -> bool:
        due = self._clock() + delay
        return await self._settle(
            claim,
            "state = 0, token = NULL, until = 0, claims = 0, failures = failures + 1,"
            " rank = rank - due + ?, due = ?, error = ?",
            (due, due, error[:_LONGEST_ERROR]),
        )

    async def bury(self, claim: Claim, error: str) -> bool:
        change = "state = 3, token = NULL, failures = failures + 1, ended = ?, error = ?"
        return await self._settle(claim, change, (self._clock(), error[:_LONGEST_ERROR]))

    async def cancelled(self, claim: Claim, keep: float) -> bool:
        now = self._clock()
        return await self._settle(
            claim, "state = 4, token = NULL, ended = ?, expires = ?", (now, now + keep)
        )

    async def give_back(self, claims: Sequence[Claim], error: str = "") -> None:
        said = error[:_LONGEST_ERROR] or None
        rows = [(said, claim.id, claim.token) for claim in claims]
        await self.database.write(
            lambda connection: (
                connection.executemany(
                    "UPDATE nexgate_jobs SET state = 0, token = NULL, until = 0,"
                    " claims = claims - 1, error = ifnull(?, error)"
                    " WHERE id = ? AND token = ? AND state = 1",
                    rows,
                )
                and None
            )
        )

    async def progress(self, claim: Claim, said: dict[str, Any]) -> None:
        await self._settle(claim, "progress = ?", (json.dumps(said),))

    async def wait(self, timeout: float) -> None:
        if self._next_due is not None:
            timeout = min(timeout, max(self._next_due, 0.0))
        if timeout <= 0:
            await asyncio.sleep(0)
            return
        await self.database.changed(self._seen or self.database.version(), timeout)

    # ---------------------------------------------------------------- asking

    async def get(self, id: str) -> JobRecord | None:
        row = await self.database.read(
            lambda connection: connection.execute(
                f"SELECT {_COLUMNS}, result, body FROM nexgate_jobs WHERE id = ?",  # noqa: S608  # ours
                (id,),
            ).fetchone()
        )
        return None if row is None else _record(row)

    async def jobs(self, state: JobState | None = None, limit: int = 100) -> list[JobRecord]:
        number = None if state is None else _STATES.index(state)
        rows = await self.database.read(
            lambda connection: connection.execute(
                f"SELECT {_COLUMNS}, NULL, x'' FROM nexgate_jobs"  # noqa: S608  # ours
                " WHERE ?1 IS NULL OR state = ?1 ORDER BY id DESC LIMIT ?2",
                (number, limit),
            ).fetchall()
        )
        return [_record(row) for row in rows]

    async def revive(self, ids: Sequence[str]) -> int:
        now = self._clock()

        def work(connection: sqlite3.Connection) -> int:
            return connection.execute(
                "UPDATE nexgate_jobs SET state = 0, rank = rank - due + ?1, due = ?1, failures = 0,"
                " claims = 0, ended = NULL, expires = NULL, wants_end = 0, until = 0"
                " WHERE state IN (3, 4) AND id IN (SELECT value FROM json_each(?2))",
                (now, json.dumps(list(ids))),
            ).rowcount

        return await self.database.write(work)

    async def drop(self, ids: Sequence[str]) -> int:
        return await self.database.write(
            lambda connection: (
                connection.execute(
                    "DELETE FROM nexgate_jobs WHERE state != 1"
                    " AND id IN (SELECT value FROM json_each(?))",
                    (json.dumps(list(ids)),),
                ).rowcount
            )
        )

    async def counts(self) -> dict[str, int]:
        rows = await self.database.read(
            lambda connection: connection.execute(
                "SELECT state, count(*) FROM nexgate_jobs GROUP BY state"
            ).fetchall()
        )
        found: dict[str, int] = dict.fromkeys(_STATES, 0)
        found.update({_STATES[state]: count for state, count in rows})
        return found

    async def wait_job(self, id: str, timeout: float) -> JobRecord | None:
        loop = asyncio.get_running_loop()
        end = loop.time() + timeout
        while True:
            seen = self.database.version()
            job = await self.get(id)
            if job is None or job.state in ("done", "dead", "cancelled") or loop.time() >= end:
                return job
            await self.database.changed(seen, end - loop.time())


def _record(row: tuple[Any, ...]) -> JobRecord:
    job, task, state, priority, due, failures, created, begun, ended, key, error, said, *more = row
    return JobRecord(
        job,
        task,
        _STATES[state],
        priority,
        due,
        failures,
        created,
        begun,
        ended,
        key,
        error,
        json.loads(said) if said else None,
        more[0],
        more[1],
    )
