"""One LMDB file, opened once per process however many states use it.

What must not happen, and what keeps it from happening:

* **Two openings in one process.** LMDB forbids it (closing one releases the locks of the other).
  ``shared`` hands out one ``Environment`` per file and counts its users.
* **An environment that crosses a fork.** A child that closes it would clear the *parent's* reader
  slots; a child that keeps it cannot open its own. So it is closed just before a fork and opened
  again, by either side, when it is next used.
* **State of an earlier life of the machine.** Expiries are moments since boot, and ``sync=False``
  trusts the kernel to outlive us. The file's name has the id of the boot in it: after a reboot it
  is another file.
* **A full disk.** Writing to a mapped page that has no block kills the process (SIGBUS), so all
  blocks are reserved when the file is made.
* **A file that is not ours, or is broken.** It is set aside under another name, and said so.
"""

from __future__ import annotations

import contextlib
import fcntl
import logging
import os
import re
import time
import weakref
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import lmdb

from nexgate.state._directory import private_directory
from nexgate.state._state import StateUnavailable

__all__ = ["BROKEN", "Environment", "shared"]

_log = logging.getLogger("nexgate.state")

BROKEN: Final = (
    lmdb.BadDbiError,
    lmdb.CorruptedError,
    lmdb.IncompatibleError,
    lmdb.InvalidError,
    lmdb.PageNotFoundError,
    lmdb.PanicError,
    lmdb.VersionMismatchError,
)
"""What LMDB raises when the file is not one that we can use."""

_MAX_READERS: Final = 1024
_FORMAT: Final = b"nexgate 1"


def _boot_id() -> str:
    try:
        text = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    except OSError:
        return "boot"
    return re.sub(r"[^0-9a-f]", "", text)[:16] or "boot"


class Environment:
    """The open file. ``open`` before use; anything may close it in between."""

    def __init__(self, directory: Path, map_bytes: int) -> None:
        self.directory = directory
        self.file = directory / f"state-{_boot_id()}.mdb"
        self.users = 0
        self.losses = 0
        """How often the file was set aside, or vanished."""
        self.env: Any = None  # lmdb has no type information
        self.records: Any = None
        self.expiries: Any = None
        self._map_bytes = map_bytes
        self._inode = 0

    def open(self) -> None:
        """Open the file, and make it when it is not there. Does nothing when it is open."""
        if self.env is not None:
            return
        private_directory(self.directory)
        with self._alone():
            try:
                self._open()
            except BROKEN as error:
                self._set_aside(error)
                try:
                    self._open()
                except lmdb.Error as again:
                    raise StateUnavailable(f"{self.file} cannot be opened: {again}") from again
            except lmdb.Error as error:
                raise StateUnavailable(f"{self.file} cannot be opened: {error}") from error
            except OSError as error:
                self.close()
                raise StateUnavailable(
                    f"{self.file} cannot be given {self._map_bytes} bytes: {error.strerror}"
                ) from error
        _environments.add(self)

    def close(self) -> None:
        """Close the file. The next ``open`` opens it again."""
        env, self.env = self.env, None
        self.records = self.expiries = None
        if env is not None:
            env.close()

    def replace_broken(self, error: Exception) -> None:
        """Put a broken file out of the way and open a new one, unless somebody did already."""
        self.losses += 1
        inode = self._inode
        self.close()
        private_directory(self.directory)
        with self._alone(), contextlib.suppress(FileNotFoundError):
            if self.file.stat().st_ino == inode:
                self._set_aside(error)
        self.open()

    def check_file(self) -> None:
        """Open the file that is there now, if the open one was removed or set aside."""
        try:
            is_same = self.file.stat().st_ino == self._inode
        except OSError:
            is_same = False
        if not is_same:
            _log.warning("%s was removed or replaced; what it held is lost", self.file)
            self.losses += 1
            self.close()
            self.open()

    def reap(self) -> None:
        """Free the reader slots of processes that were killed: they keep old pages from reuse."""
        self.env.reader_check()

    # -- inside --------------------------------------------------------------------------------

    def _open(self) -> None:
        is_new = not self.file.exists()
        env = lmdb.open(
            str(self.file),
            subdir=False,
            map_size=self._map_bytes,
            max_dbs=3,
            max_readers=_MAX_READERS,
            mode=0o600,
            sync=False,
            metasync=False,
            writemap=True,
        )
        try:
            records = env.open_db(b"records")
            expiries = env.open_db(b"expiries")
            facts = env.open_db(b"facts")
            with env.begin(write=True) as txn:
                found = txn.get(b"format", db=facts)
                if found is None and (is_new or not txn.stat(records)["entries"]):
                    txn.put(b"format", _FORMAT, db=facts)
                elif found != _FORMAT:
                    raise lmdb.InvalidError("it was written by another program or version")
            self._reserve(is_new)
            env.reader_check()
        except BaseException:
            env.close()
            raise
        self.env, self.records, self.expiries = env, records, expiries
        self._inode = self.file.stat().st_ino

    def _reserve(self, is_new: bool) -> None:
        if hasattr(os, "posix_fallocate") and self.file.stat().st_blocks * 512 < self._map_bytes:
            descriptor = os.open(self.file, os.O_RDWR | os.O_CLOEXEC)
            try:
                os.posix_fallocate(descriptor, 0, self._map_bytes)
            except OSError:
                if is_new:
                    self.file.unlink(missing_ok=True)
                raise
            finally:
                os.close(descriptor)

    def _set_aside(self, error: Exception) -> None:
        aside = self.file.with_name(f"{self.file.name}.broken-{time.time_ns()}")
        _log.error("%s is unusable (%s); it is now %s, a new one begins", self.file, error, aside)
        self.file.rename(aside)
        # The lock file belongs to those who have the old one open; with a new file goes a new lock.
        with contextlib.suppress(FileNotFoundError):
            lock = self.file.with_name(f"{self.file.name}-lock")
            lock.rename(aside.with_name(f"{aside.name}-lock"))

    @contextlib.contextmanager
    def _alone(self) -> Iterator[None]:
        """One process at a time makes, judges and replaces the file."""
        with (self.directory / "opening").open("a") as guard:
            fcntl.flock(guard, fcntl.LOCK_EX)
            yield


_environments: weakref.WeakSet[Environment] = weakref.WeakSet()
_by_directory: dict[Path, Environment] = {}


def shared(directory: Path, map_bytes: int) -> Environment:
    """The environment of this directory. ``release`` it when it is no longer used."""
    key = directory.resolve()
    found = _by_directory.get(key)
    if found is None:
        found = _by_directory[key] = Environment(directory, map_bytes)
    found.users += 1
    return found


def release(environment: Environment) -> None:
    """One user less; the last one closes the file."""
    environment.users -= 1
    if not environment.users:
        environment.close()
        for key, other in list(_by_directory.items()):
            if other is environment:
                del _by_directory[key]


def _close_before_fork() -> None:
    for environment in list(_environments):
        environment.close()


os.register_at_fork(before=_close_before_fork)
