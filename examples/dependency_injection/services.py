"""What the program is made of. Nothing here knows of a container or of the web."""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass, field


@dataclass
class Config:
    database_url: str
    redis_url: str


class Database:
    def __init__(self, config: Config) -> None:
        self.url = config.database_url
        self.connection = sqlite3.connect(":memory:", check_same_thread=False)
        self.connection.execute("CREATE TABLE users (id INTEGER PRIMARY KEY, name TEXT NOT NULL)")


async def database(config: Config) -> AsyncIterator[Database]:
    """Connected before the first who needs it, closed when the program ends."""
    made = Database(config)
    await asyncio.sleep(0)  # as a real one would, connecting
    yield made
    made.connection.close()


class Transaction:
    """The changes of one request: all of them, or none."""

    def __init__(self, database: Database) -> None:
        self.execute = database.connection.execute


def transaction(database: Database) -> Iterator[Transaction]:
    try:
        yield Transaction(database)
    except BaseException:
        database.connection.rollback()
        raise
    database.connection.commit()


@dataclass
class Cache:
    config: Config
    names: dict[int, str] = field(default_factory=dict)
    hits: int = 0


class UserService:
    def __init__(self, changes: Transaction, cache: Cache) -> None:
        self.changes = changes
        self.cache = cache

    def add(self, name: str) -> int:
        added = self.changes.execute("INSERT INTO users (name) VALUES (?)", (name,))
        assert added.lastrowid is not None
        return added.lastrowid

    def name_of(self, user_id: int) -> str | None:
        known = self.cache.names.get(user_id)
        if known is not None:
            self.cache.hits += 1
            return known
        found = self.changes.execute("SELECT name FROM users WHERE id = ?", (user_id,)).fetchone()
        if found is None:
            return None
        self.cache.names[user_id] = found[0]
        return str(found[0])
