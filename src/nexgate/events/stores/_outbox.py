"""The tables of an outbox, and what is done to them in one transaction.

The first row of each key in ``nexgate_deliveries`` is its *head*: only heads are looked for, by the
time at which they are free, so a claim costs the same however much waits behind them.
"""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Callable, Sequence
from typing import Final

from nexgate.sqlite import Schema

__all__ = [
    "DELIVER",
    "INSERT",
    "NOBODYS",
    "SCHEMA",
    "append",
    "clean",
    "end",
    "fan_out",
    "is_work",
    "pick",
]

_EVENTS: Final = """
    CREATE TABLE nexgate_events (
        seq INTEGER PRIMARY KEY, topic TEXT NOT NULL, key TEXT, body BLOB NOT NULL
    )
"""
# No ``seq`` is used twice, because the last row is never deleted. An index more would double what
# an append costs: only ids that publishers chose need to be unique, ours are anyway.
_IDS: Final = """
    CREATE TABLE nexgate_event_ids (id TEXT PRIMARY KEY, at REAL NOT NULL) WITHOUT ROWID
"""
_IDS_AT: Final = "CREATE INDEX nexgate_event_ids_at ON nexgate_event_ids (at)"
_GROUPS: Final = """
    CREATE TABLE nexgate_groups (name TEXT PRIMARY KEY, cursor INTEGER NOT NULL) WITHOUT ROWID
"""
_DELIVERIES: Final = """
    CREATE TABLE nexgate_deliveries (
        grp TEXT, seq INTEGER, key TEXT, is_head INTEGER NOT NULL, free_at REAL NOT NULL,
        failures INTEGER NOT NULL DEFAULT 0, claims INTEGER NOT NULL DEFAULT 0, token TEXT,
        PRIMARY KEY (grp, seq)
    ) WITHOUT ROWID
"""
_DELIVERIES_KEY: Final = """
    CREATE INDEX nexgate_deliveries_key ON nexgate_deliveries (grp, key, seq)
    WHERE key IS NOT NULL
"""
_DELIVERIES_HEAD: Final = """
    CREATE INDEX nexgate_deliveries_head ON nexgate_deliveries (grp, free_at, seq) WHERE is_head
"""
_DEAD: Final = """
    CREATE TABLE nexgate_dead_events (
        grp TEXT, id TEXT, key TEXT, body BLOB, failures INTEGER, error TEXT, died REAL,
        PRIMARY KEY (grp, id)
    ) WITHOUT ROWID
"""
_BOOT: Final = "CREATE TABLE nexgate_boot (id TEXT)"
SCHEMA: Final = Schema(
    "events",
    (
        (
            _EVENTS,
            _IDS,
            _IDS_AT,
            _GROUPS,
            _DELIVERIES,
            _DELIVERIES_KEY,
            _DELIVERIES_HEAD,
            _DEAD,
            _BOOT,
        ),
    ),
)

INSERT: Final = "INSERT INTO nexgate_events (topic, key, body) VALUES (?, ?, ?)"
DELIVER: Final = (
    "INSERT OR IGNORE INTO nexgate_deliveries (grp, seq, key, free_at, is_head) VALUES"
    " (?1, ?2, ?3, ?4, ?3 IS NULL OR NOT EXISTS"
    " (SELECT 1 FROM nexgate_deliveries WHERE grp = ?1 AND key = ?3))"
)
_NEXT_HEAD: Final = (
    "UPDATE nexgate_deliveries SET is_head = 1 WHERE grp = ?1 AND seq ="
    " (SELECT min(seq) FROM nexgate_deliveries WHERE grp = ?1 AND key = ?2)"
)
_INSERT_ID: Final = "INSERT OR IGNORE INTO nexgate_event_ids VALUES (?, ?)"
NOBODYS: Final = ""
"""Topic of an event that one group has anyway: no pattern is asked about it."""
_REMEMBERED: Final = 24 * 3600
"""Seconds for which chosen ids are."""
_FAN_OUT: Final = 1000
"""Events that one claim looks at: a transaction stays a few milliseconds."""
_SUSPECT: Final = 3
"""Claims without an outcome after which an event is claimed alone: if it kills its consumer, it
does not take others with it into the dead letters."""
_CLEAN: Final = 2048
"""Most events that are deleted at once."""


def append(
    connection: sqlite3.Connection, rows: Sequence[tuple[str | None, str, str | None, bytes]]
) -> None:
    """Store events, each once if its publisher chose its id."""
    for chosen, *row in rows:
        if chosen is not None:
            known = connection.execute(_INSERT_ID, (chosen, time.time()))
            if not known.rowcount:
                continue
        connection.execute(INSERT, row)


def is_work(connection: sqlite3.Connection, group: str, now: float) -> bool:
    """Whether a claim may find something."""
    row = connection.execute(
        "SELECT EXISTS (SELECT 1 FROM nexgate_events, nexgate_groups"
        " WHERE name = ? AND seq > cursor)"
        " OR EXISTS (SELECT 1 FROM nexgate_deliveries WHERE grp = ? AND is_head AND free_at <= ?)",
        (group, group, now),
    ).fetchone()
    return bool(row[0])


def fan_out(
    connection: sqlite3.Connection,
    group: str,
    matches: Sequence[Callable[[str], bool]],
    now: float,
) -> bool:
    """Give the group what came since. Tells whether anything did."""
    row = connection.execute(
        "SELECT cursor FROM nexgate_groups WHERE name = ?", (group,)
    ).fetchone()
    cursor = row[0] if row is not None else 0
    found = connection.execute(
        "SELECT seq, topic, key FROM nexgate_events WHERE seq > ? ORDER BY seq LIMIT ?",
        (cursor, _FAN_OUT),
    ).fetchall()
    if not found:
        return False
    connection.executemany(
        DELIVER,
        [
            (group, seq, key, now)
            for seq, topic, key in found
            if topic != NOBODYS and any(matches_topic(topic) for matches_topic in matches)
        ],
    )
    connection.execute("UPDATE nexgate_groups SET cursor = ? WHERE name = ?", (found[-1][0], group))
    return True


def pick(connection: sqlite3.Connection, group: str, now: float, limit: int) -> list[int]:
    """The heads that are free, those first that are so for longest, and what follows them: lanes
    get an equal share of the room that is left.
    """
    heads = connection.execute(
        "SELECT seq, key, claims FROM nexgate_deliveries"
        " WHERE grp = ? AND is_head AND free_at <= ? ORDER BY free_at, seq LIMIT ?",
        (group, now, limit),
    ).fetchall()
    picked: list[int] = []
    lanes: list[tuple[str, int]] = []
    for seq, key, claims in heads:
        if claims >= _SUSPECT:
            if not picked:
                return [seq]
            break
        picked.append(seq)
        if key is not None:
            lanes.append((key, seq))
    room = limit - len(picked)
    for number, (key, head) in enumerate(lanes):
        share = room // (len(lanes) - number)
        if not share:
            continue
        followers = connection.execute(
            "SELECT seq, claims FROM nexgate_deliveries WHERE grp = ? AND key = ? AND seq > ?"
            " ORDER BY seq LIMIT ?",
            (group, key, head, share),
        )
        for seq, claims in followers:
            if claims >= _SUSPECT:
                break
            picked.append(seq)
            room -= 1
    return picked


def end(
    connection: sqlite3.Connection, group: str, token: tuple[int, str], key: str | None
) -> bool:
    """Delete a delivery, and let the next of its key be the head. ``False`` if it was lost."""
    gone = connection.execute(
        "DELETE FROM nexgate_deliveries WHERE grp = ? AND seq = ? AND token = ?", (group, *token)
    )
    if not gone.rowcount:
        return False
    if key is not None:
        connection.execute(_NEXT_HEAD, (group, key))
    return True


def clean(connection: sqlite3.Connection) -> None:
    """Delete what every group has handled, and the ids that need not be remembered any more."""
    connection.execute(
        "DELETE FROM nexgate_events WHERE seq <= (SELECT min(cursor) FROM nexgate_groups)"
        " AND seq < coalesce("
        " (SELECT min((SELECT min(seq) FROM nexgate_deliveries WHERE grp = name))"
        " FROM nexgate_groups),"
        " (SELECT max(seq) FROM nexgate_events))"
        " AND seq < (SELECT min(seq) FROM nexgate_events) + ?",
        (_CLEAN,),
    )
    connection.execute("DELETE FROM nexgate_event_ids WHERE at < ?", (time.time() - _REMEMBERED,))
