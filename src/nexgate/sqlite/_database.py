"""One file of SQLite, for an event loop: transactions that never block it on another process.

Write-ahead logging, so that readers and one writer never wait for each other. Two ways to commit,
by what must not be lost:

* ``"normal"`` survives ``kill -9`` of every process. A transaction is a few microseconds in memory
  that the kernel owns, so it is done at once, on the loop. A power cut may undo the last ones.
* ``"full"`` survives power cuts: the disk has it before the caller goes on. That takes as long as
  the disk takes, so a thread does it, and all that was asked for meanwhile shares the next commit.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import random
import sqlite3
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Final, Literal, TypeVar

from ._errors import StoreBusy, StoreError, StoreFull, translated
from ._schema import Schema

__all__ = ["Database", "Synchronous"]

T = TypeVar("T")
Work = Callable[[sqlite3.Connection], T]
Synchronous = Literal["normal", "full"]

_POLL: Final = 0.05
"""Seconds between two looks at whether another process has written."""
_FIRST_PAUSE: Final = 0.0005
_LONGEST_PAUSE: Final = 0.02
_AT_ONCE: Final = 256
"""Works that share a commit: enough to make the disk's time small, few enough to stay short."""


class Database:
    """A file of SQLite with the tables of ``schema``.

    ``open`` it in the process and event loop that use it (never before a fork), ``aclose`` it
    there. Several processes, and several ``Database`` of one process, may have the same file open.

    ``busy_timeout``: seconds to wait for other processes before ``StoreBusy``. ``max_bytes``: size
    at which the file is full, ``None`` for as large as the disk.
    """

    def __init__(
        self,
        path: str | Path,
        schema: Schema,
        *,
        synchronous: Synchronous = "normal",
        busy_timeout: float = 5.0,
        max_bytes: int | None = None,
    ) -> None:
        self.path = str(path)
        self.synchronous: Synchronous = synchronous
        self._schema = schema
        self._busy_timeout = busy_timeout
        self._max_bytes = max_bytes
        self._connection: sqlite3.Connection | None = None
        self._writer: _Writer | None = None
        self._commits = 0
        self._waiting: set[asyncio.Future[None]] = set()

    @property
    def is_open(self) -> bool:
        return self._connection is not None

    # ---------------------------------------------------------------- opening

    async def open(self) -> None:
        """Open the file, made if need be (readable by its owner only), with its tables. Raises
        ``StoreError``. Does nothing when it is open.
        """
        if self.is_open:
            return
        # Switching to WAL and migrating wait for other processes: not on the loop.
        self._adopt(await asyncio.to_thread(self._open, True))

    def _adopt(self, connection: sqlite3.Connection) -> None:
        if self.is_open:  # two opened at once
            connection.close()
            return
        connection.execute("PRAGMA busy_timeout = 0")
        self._connection = connection
        if self.synchronous == "full":
            self._writer = _Writer(self.path, lambda: self._open(False), self._committed)

    def _open(self, is_first: bool) -> sqlite3.Connection:
        try:
            if is_first:
                os.close(os.open(self.path, os.O_RDWR | os.O_CREAT, 0o600))
            connection = sqlite3.connect(
                self.path,
                timeout=self._busy_timeout,
                isolation_level=None,
                check_same_thread=False,
            )
        except (OSError, sqlite3.Error) as error:
            raise StoreError(f"{self.path}: {error}") from error
        try:
            self._write_ahead(connection)
            connection.execute(f"PRAGMA synchronous = {self.synchronous}")
            if self._max_bytes is not None:
                page = connection.execute("PRAGMA page_size").fetchone()[0]
                connection.execute(f"PRAGMA max_page_count = {max(self._max_bytes // page, 1)}")
            if is_first:
                self._schema.migrate(connection)
        except sqlite3.Error as error:
            connection.close()
            raise translated(error, self.path) from error
        except StoreError as error:
            connection.close()
            raise type(error)(f"{self.path}: {error}") from None
        return connection

    def _write_ahead(self, connection: sqlite3.Connection) -> None:
        """Switch a new file to write-ahead logging. SQLite does not wait by itself for another who
        does the same at this moment: each would keep what the other waits for, so one is refused.
        """
        end = time.monotonic() + self._busy_timeout
        while True:
            try:
                connection.execute("PRAGMA journal_mode = WAL")
                return
            except sqlite3.Error as error:
                is_busy = isinstance(translated(error, self.path), StoreBusy)
                if not is_busy or time.monotonic() >= end:
                    raise
            time.sleep(random.uniform(_FIRST_PAUSE, _LONGEST_PAUSE))  # noqa: S311  # spreads load

    async def aclose(self) -> None:
        """Close the file, after what is being written is written."""
        writer, self._writer = self._writer, None
        if writer is not None:
            await writer.aclose()
        connection, self._connection = self._connection, None
        if connection is not None:
            connection.close()
        self._notify()

    async def __aenter__(self) -> Database:
        await self.open()
        return self

    async def __aexit__(self, *exc: object) -> None:
        await self.aclose()

    # ---------------------------------------------------------------- transactions

    async def write(self, work: Work[T]) -> T:
        """Run ``work(connection)`` in one transaction and return what it returns.

        It is committed when this returns, and undone when it raises. ``work`` is a plain function
        of a few statements; it may be called again when the first try met another process. A
        cancelled call wrote nothing with ``"normal"``; with ``"full"`` it may have.
        """
        if self._writer is not None:
            return await self._writer.submit(work)
        return await self._patiently(lambda c: _transact(c, work, "BEGIN IMMEDIATE"), writes=True)

    async def execute(self, statement: str, parameters: Sequence[Any] = ()) -> int:
        """One statement that writes, as a transaction of its own: two statements less than
        ``write``, and that is 2 µs. How many rows it changed.
        """
        if self._writer is None:
            try:
                changed = self._usable().execute(statement, parameters).rowcount
            except sqlite3.Error:
                pass  # busy, nearly always: the long way waits, and says what it is
            else:
                self._committed()
                return changed

        def work(connection: sqlite3.Connection) -> int:
            return connection.execute(statement, parameters).rowcount

        if self._writer is not None:
            return await self._writer.submit(work)
        return await self._patiently(work, writes=True)

    async def read(self, work: Work[T]) -> T:
        """Run ``work(connection)`` on one consistent view of the file, without writing."""
        return await self._patiently(lambda c: _transact(c, work, "BEGIN"), writes=False)

    async def _patiently(self, step: Work[T], *, writes: bool) -> T:
        """Do ``step``, again and again while another process is in the way."""
        pause = _FIRST_PAUSE
        waited = 0.0
        while True:
            connection = self._usable()
            try:
                result = step(connection)
            except sqlite3.Error as error:
                told = translated(error, self.path)
                if not isinstance(told, StoreBusy) or waited >= self._busy_timeout:
                    raise told from error
            else:
                if writes:
                    self._committed()
                return result
            # Jittered: two processes that wait for a third do not come back together.
            delay = pause * random.uniform(0.5, 1.5)  # noqa: S311  # spreads load, keeps no secret
            await asyncio.sleep(delay)
            waited += delay
            pause = min(pause * 2, _LONGEST_PAUSE)

    def _usable(self) -> sqlite3.Connection:
        if self._connection is None:
            raise StoreError(f"{self.path}: it is not open")
        return self._connection

    # ---------------------------------------------------------------- noticing writes

    def version(self) -> object:
        """Equal to itself as long as nobody writes: take it before you look into the file."""
        seen = self._usable().execute("PRAGMA data_version").fetchone()[0]
        return self._commits, seen

    async def changed(self, version: object, timeout: float) -> bool:
        """Wait until something has been written since ``version``, by whatever process, or for
        ``timeout`` seconds. Tells which. What this ``Database`` writes is noticed at once, others'
        writes within 50 ms.
        """
        loop = asyncio.get_running_loop()
        end = loop.time() + timeout
        while self._connection is not None:
            if self.version() != version:
                return True
            left = end - loop.time()
            if left <= 0:
                return False
            noticed: asyncio.Future[None] = loop.create_future()
            self._waiting.add(noticed)
            timer = loop.call_later(min(_POLL, left), _resolve, noticed)
            try:
                await noticed
            finally:
                timer.cancel()
                self._waiting.discard(noticed)
        return False

    def _committed(self) -> None:
        self._commits += 1
        if self._waiting:
            self._notify()

    def _notify(self) -> None:
        for future in self._waiting:
            _resolve(future)
        self._waiting.clear()


class _Writer:
    """The thread that commits to the disk. What is asked for during one commit shares the next."""

    def __init__(
        self, path: str, connect: Callable[[], sqlite3.Connection], noticed: Callable[[], None]
    ) -> None:
        self._path = path
        self._connect = connect
        self._noticed = noticed
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="nexgate-sqlite")
        self._connection: sqlite3.Connection | None = None
        self._asked: list[tuple[Work[Any], asyncio.Future[Any]]] = []
        self._running: asyncio.Task[None] | None = None

    async def submit(self, work: Work[T]) -> T:
        done: asyncio.Future[T] = asyncio.get_running_loop().create_future()
        self._asked.append((work, done))
        if self._running is None:
            self._running = asyncio.create_task(self._run(), name="nexgate-sqlite")
        return await done

    async def _run(self) -> None:
        loop = asyncio.get_running_loop()
        try:
            while self._asked:
                batch, self._asked = self._asked[:_AT_ONCE], self._asked[_AT_ONCE:]
                batch = [each for each in batch if not each[1].done()]  # those given up
                works = [work for work, _ in batch]
                try:
                    outcomes = await loop.run_in_executor(self._thread, self._commit, works)
                except Exception as error:  # the file could not be opened
                    outcomes = [error] * len(batch)
                for (_, done), outcome in zip(batch, outcomes, strict=True):
                    if done.done():
                        continue
                    if isinstance(outcome, BaseException):
                        done.set_exception(outcome)
                    else:
                        done.set_result(outcome[0])
                if any(isinstance(each, tuple) for each in outcomes):
                    self._noticed()
        finally:
            self._running = None

    def _commit(self, works: list[Work[Any]]) -> list[Any]:
        """In the thread: one outcome for each work, a tuple of its result or an exception."""
        if self._connection is None:
            self._connection = self._connect()
        connection = self._connection
        try:
            return _transact(
                connection, lambda c: [(work(c),) for work in works], "BEGIN IMMEDIATE"
            )
        except Exception as error:
            if len(works) == 1:
                return [self._told(error)]
        # One of them failed and took the others with it: each on its own, then.
        outcomes: list[Any] = []
        for work in works:
            try:
                outcomes.append((_transact(connection, work, "BEGIN IMMEDIATE"),))
            except Exception as error:
                told = self._told(error)
                outcomes.append(told)
                if isinstance(told, (StoreFull, StoreBusy)):
                    outcomes += [told] * (len(works) - len(outcomes))
                    break
        return outcomes

    def _told(self, error: Exception) -> Exception:
        if not isinstance(error, sqlite3.Error):
            return error
        told = translated(error, self._path)
        told.__cause__ = error
        return told

    async def aclose(self) -> None:
        while (running := self._running) is not None:
            with contextlib.suppress(Exception):
                await asyncio.shield(running)
        self._thread.shutdown(wait=True)
        if self._connection is not None:
            self._connection.close()


def _transact(connection: sqlite3.Connection, work: Work[T], begin: str) -> T:
    connection.execute(begin)
    try:
        result = work(connection)
        connection.execute("COMMIT")
    except BaseException:
        if connection.in_transaction:  # SQLite ends it by itself when the disk is full
            connection.execute("ROLLBACK")
        raise
    return result


def _resolve(future: asyncio.Future[None]) -> None:
    if not future.done():
        future.set_result(None)
