"""State of one machine: an LMDB file that its processes map.

Reading takes no lock and no system call. A write takes a lock that the kernel gives back when its
holder is killed; the half-written change is then never seen. Transactions are a few microseconds
long and never wait for anything, so they run on the event loop.

A record is its expiry (a double, seconds since boot) and its value. ``expiries`` lists records by
the second in which they end, which is how every write removes a few of them without searching.
"""

from __future__ import annotations

import asyncio
import contextlib
import math
from collections.abc import Callable
from pathlib import Path
from struct import Struct
from typing import Any, Final, TypeVar

import lmdb

from nexgate.state import _environment
from nexgate.state._directory import default_path
from nexgate.state._environment import BROKEN
from nexgate.state._local import AnswersAtOnce
from nexgate.state._state import (
    Changes,
    Clock,
    Scope,
    StateError,
    StateFull,
    StateStatistics,
    StateUnavailable,
    check_key,
    check_value,
    expiry,
    machine_clock,
)
from nexgate.state._watching import Reading, Watchers, until_first

__all__ = ["LmdbState"]

T = TypeVar("T")

_EXPIRES: Final = Struct("<d")
_SECOND: Final = Struct(">Q")
_SWEPT_PER_WRITE: Final = 4
_SWEPT_WHEN_FULL: Final = 100_000
_CHECK_FILE_EVERY: Final = 1.0
_REAP_EVERY: Final = 10.0
_FULL: Final = 0.8
"""Beyond this part of the map nothing is added: freeing pages needs a few free pages, too."""
_RECORD_OVERHEAD_BYTES: Final = 64


class LmdbState(AnswersAtOnce):
    """A ``LocalState`` that all processes of one user on this machine share.

    ``path`` is a directory, made for this user only. ``map_bytes`` is reserved at once, on disk or
    in memory where the directory is a file system in memory; all processes should give the same.
    ``poll`` is how often a watcher asks whether anything was written, which costs a microsecond.

    The file is opened at first use, and again in a child after a fork. It does not outlive the
    boot. Use the object from one thread.
    """

    scope: Scope = "machine"
    is_shared = True

    def __init__(
        self,
        path: str | Path | None = None,
        *,
        map_bytes: int = 32 * 1024 * 1024,
        poll: float = 0.025,
        clock: Clock = machine_clock,
    ) -> None:
        self.path = default_path() if path is None else Path(path)
        self._file: _environment.Environment | None = _environment.shared(self.path, map_bytes)
        self._map_bytes = map_bytes
        self._poll = poll
        self._clock = clock
        self._check_at = 0.0
        self._reap_at = 0.0
        self._unmeasured = map_bytes  # so that the first write measures
        self._reads = self._writes = self._failures = 0
        self._watchers = Watchers()
        self._poller: asyncio.Task[None] | None = None

    # -- without waiting -----------------------------------------------------------------------

    def get_now(self, key: str) -> bytes | None:
        """The value, or ``None``."""
        self._reads += 1
        name = key.encode()
        file = self._file
        if file is not None and file.env is not None and len(name) <= 480 and name:
            try:
                with file.env.begin(db=file.records, buffers=True) as txn:
                    record = txn.get(name)
                    if record is None:
                        return None
                    if _EXPIRES.unpack_from(record)[0] <= self._clock():
                        return None
                    return bytes(record[8:])
            except lmdb.Error:
                pass  # mended below, where it costs nobody else
        return self._mending(lambda file: self._get(file, check_key(key)))

    def set_now(self, key: str, value: bytes, *, ttl: float | None = None) -> None:
        """Store the value."""
        self._write(key, value, ttl, lambda _: True)

    def add_now(self, key: str, value: bytes, *, ttl: float | None = None) -> bool:
        """Store the value if the key is absent."""
        return self._write(key, value, ttl, lambda present: present is None)

    def replace_now(
        self, key: str, expected: bytes, value: bytes, *, ttl: float | None = None
    ) -> bool:
        """Store the value if the present one is ``expected``."""
        return self._write(key, value, ttl, lambda present: present == expected)

    def delete_now(self, key: str, *, expected: bytes | None = None) -> bool:
        """Remove the key."""
        name = check_key(key)

        def change(file: _environment.Environment) -> bool:
            with file.env.begin(write=True) as txn:
                record = txn.get(name, db=file.records)
                if record is None:
                    return False
                is_live = _EXPIRES.unpack_from(record)[0] > self._clock()
                if is_live and expected is not None and record[8:] != expected:
                    return False
                txn.delete(name, db=file.records)
                self._unlist(txn, file, name, record)
                return bool(is_live)

        removed = self._changing(change)
        self._writes += removed
        return removed

    def scan_now(self, prefix: str) -> dict[str, bytes]:
        """Every live key under the prefix, in order."""
        return self._read(prefix)[0]

    # -- the protocol --------------------------------------------------------------------------

    async def watch(self, prefix: str) -> Changes:
        """Yield the keys that changed, in this process or another, ``poll`` seconds late at most.

        A file that is lost is replaced by an empty one, so its loss is reported as a change.
        """
        if self._poller is None or self._poller.done():
            self._poller = asyncio.get_running_loop().create_task(self._notice())
        async with contextlib.aclosing(self._watchers.follow(prefix, self._reading)) as changes:
            async for changed in changes:
                yield changed

    def statistics(self) -> StateStatistics:
        """Counters."""
        return StateStatistics(
            reads=self._reads,
            writes=self._writes,
            failures=self._failures,
            outages=0 if self._file is None else self._file.losses,
            watchers=len(self._watchers),
        )

    async def aclose(self) -> None:
        """End the watchers and, if no other state uses it, close the file. Values stay."""
        self._watchers.close()
        poller, self._poller = self._poller, None
        if poller is not None:
            poller.cancel()
            await asyncio.gather(poller, return_exceptions=True)
        file, self._file = self._file, None
        if file is not None:
            _environment.release(file)

    # -- reading -------------------------------------------------------------------------------

    def _get(self, file: _environment.Environment, name: bytes) -> bytes | None:
        with file.env.begin(db=file.records) as txn:
            record = txn.get(name)
        if record is None or _EXPIRES.unpack_from(record)[0] <= self._clock():
            return None
        return bytes(record[8:])

    async def _reading(self, prefix: str) -> Reading:
        return self._read(prefix)

    def _read(self, prefix: str) -> Reading:
        self._reads += 1
        start = prefix.encode()

        def look(file: _environment.Environment) -> Reading:
            now = self._clock()
            found: dict[str, bytes] = {}
            expiries: list[float] = []
            with file.env.begin(db=file.records) as txn, txn.cursor() as cursor:
                if cursor.set_range(start) if start else cursor.first():
                    for name, record in cursor.iternext():
                        if not name.startswith(start):
                            break
                        expires = _EXPIRES.unpack_from(record)[0]
                        if expires > now:
                            found[name.decode("utf-8", "replace")] = record[8:]
                            expiries.append(expires)
            return found, until_first(expiries, now)

        return self._mending(look)

    # -- writing -------------------------------------------------------------------------------

    def _write(
        self, key: str, value: bytes, ttl: float | None, may: Callable[[bytes | None], bool]
    ) -> bool:
        name = check_key(key)
        check_value(value)
        now = self._clock()
        expires = expiry(now, ttl)
        record = _EXPIRES.pack(expires) + value
        if now >= self._check_at:
            self._look_after(now)
        self._unmeasured += len(record) + len(name) + _RECORD_OVERHEAD_BYTES

        def change(file: _environment.Environment) -> bool:
            with file.env.begin(write=True) as txn:
                old = txn.get(name, db=file.records)
                is_live = old is not None and _EXPIRES.unpack_from(old)[0] > now
                if not may(old[8:] if is_live else None):
                    return False
                if old is None or len(record) > len(old):
                    self._make_room(txn, file, now)
                txn.put(name, record, db=file.records)
                self._list(txn, file, name, old, expires)
                self._sweep(txn, file, now, _SWEPT_PER_WRITE)
                return True

        stored = self._changing(change)
        self._writes += stored
        return stored

    def _list(
        self,
        txn: Any,
        file: _environment.Environment,
        name: bytes,
        old: bytes | None,
        expires: float,
    ) -> None:
        """Keep the index right; a renewal within the same second changes nothing."""
        before = None if old is None else _second_of(_EXPIRES.unpack_from(old)[0])
        after = _second_of(expires)
        if before != after:
            if before is not None:
                txn.delete(before + name, db=file.expiries)
            if after is not None:
                txn.put(after + name, b"", db=file.expiries)

    def _unlist(self, txn: Any, file: _environment.Environment, name: bytes, old: bytes) -> None:
        second = _second_of(_EXPIRES.unpack_from(old)[0])
        if second is not None:
            txn.delete(second + name, db=file.expiries)

    def _sweep(self, txn: Any, file: _environment.Environment, now: float, most: int) -> None:
        """Remove up to ``most`` records that ended in a second that is over."""
        limit = _SECOND.pack(int(now))
        with txn.cursor(db=file.expiries) as cursor:
            while most and cursor.first():
                entry = cursor.key()
                if entry[:8] > limit:
                    return
                cursor.delete()
                # The index is an index: the record decides, should it ever disagree.
                record = txn.get(entry[8:], db=file.records)
                if record is not None and _EXPIRES.unpack_from(record)[0] <= now:
                    txn.delete(entry[8:], db=file.records)
                most -= 1

    def _make_room(self, txn: Any, file: _environment.Environment, now: float) -> None:
        """Raise ``StateFull`` when too little would be left, after removing what has expired.

        Measured only after so much was written that the answer may have changed.
        """
        if self._unmeasured < self._map_bytes // 256:
            return
        if self._used_bytes(txn, file) > _FULL * self._map_bytes:
            self._sweep(txn, file, now, _SWEPT_WHEN_FULL)
            if self._used_bytes(txn, file) > _FULL * self._map_bytes:
                raise StateFull(
                    f"{file.file} has no room left of its {self._map_bytes} bytes; "
                    "share less, or open it with more"
                )
        self._unmeasured = 0

    def _used_bytes(self, txn: Any, file: _environment.Environment) -> int:
        used = 0
        for db in (file.records, file.expiries):
            stat = txn.stat(db)
            pages = stat["branch_pages"] + stat["leaf_pages"] + stat["overflow_pages"]
            used += pages * stat["psize"]
        return used

    # -- when something is wrong ---------------------------------------------------------------

    def _opened(self) -> _environment.Environment:
        file = self._file
        if file is None:
            raise StateError("this state is closed")
        if file.env is None:
            file.open()
        return file

    def _changing(self, change: Callable[[_environment.Environment], bool]) -> bool:
        try:
            return self._mending(change)
        except lmdb.MapFullError as full:
            file = self._opened()
            try:
                with file.env.begin(write=True) as txn:
                    self._sweep(txn, file, self._clock(), _SWEPT_WHEN_FULL)
                return self._mending(change)
            except lmdb.MapFullError:
                self._failures += 1
                raise StateFull(f"{file.file} has no room left") from full
        except StateFull:
            self._failures += 1
            raise

    def _mending(self, work: Callable[[_environment.Environment], T]) -> T:
        """Do the work, once more after mending what can be mended."""
        file = self._opened()
        try:
            return work(file)
        except lmdb.MapFullError:
            raise
        except BROKEN as error:
            self._failures += 1
            file.replace_broken(error)
        except lmdb.ReadersFullError:
            file.reap()
        except lmdb.MapResizedError:
            file.env.set_mapsize(0)  # another process gave more
        except lmdb.Error as error:
            if file.env is not None:
                self._failures += 1
                raise StateUnavailable(f"{file.file}: {error}") from error
            file.open()  # another thread forked meanwhile
        try:
            return work(file)
        except lmdb.MapFullError:
            raise
        except lmdb.Error as error:
            self._failures += 1
            raise StateUnavailable(f"{file.file}: {error}") from error

    def _look_after(self, now: float) -> None:
        """Now and then: is the file still the file, and did a reader die?"""
        self._check_at = now + _CHECK_FILE_EVERY
        file = self._opened()
        file.check_file()
        if now >= self._reap_at:
            self._reap_at = now + _REAP_EVERY
            file.reap()

    # -- watching ------------------------------------------------------------------------------

    async def _notice(self) -> None:
        """Wake the watchers when anyone has written.

        LMDB numbers its write transactions, which is the sequence to look at: nobody has to keep
        one. The watchers look at what is theirs.
        """
        seen: object = None
        while True:
            try:
                now = self._clock()
                if now >= self._check_at:
                    self._look_after(now)
                file = self._opened()
                last = (file.losses, file.env.info()["last_txnid"])
            except (StateError, lmdb.Error):
                last = (-1, -1)  # the watchers will meet it, and say it to who asked
            if last != seen:
                seen = last
                self._watchers.wake_all()
            await asyncio.sleep(self._poll)


def _second_of(expires: float) -> bytes | None:
    """The second by whose end it is over; ``None`` for never."""
    return None if expires == math.inf else _SECOND.pack(math.ceil(expires))
