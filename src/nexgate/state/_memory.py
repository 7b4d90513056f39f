"""State of one process: a dictionary with expiry."""

from __future__ import annotations

import heapq
import math
from typing import Final

from nexgate.state._local import AnswersAtOnce
from nexgate.state._state import (
    Changes,
    Clock,
    Scope,
    StateFull,
    StateStatistics,
    check_key,
    check_value,
    expiry,
    machine_clock,
)
from nexgate.state._watching import Reading, Watchers, until_first

__all__ = ["MemoryState"]

_SWEPT_PER_WRITE: Final = 8
"""More than one, so that expired entries go faster than new ones come."""
_OVERHEAD_BYTES: Final = 300
"""What an entry costs beside its key and its value."""


class MemoryState(AnswersAtOnce):
    """A ``LocalState`` that only this process sees, and that ends with it.

    ``max_entries`` and ``max_bytes`` bound it; beyond, ``StateFull`` is raised: it does not drop
    what somebody still counts on. Use it from one thread.
    """

    __slots__ = (
        "_bytes",
        "_clock",
        "_entries",
        "_expiries",
        "_failures",
        "_folders",
        "_max_bytes",
        "_max_entries",
        "_reads",
        "_watchers",
        "_writes",
    )

    scope: Scope = "process"
    is_shared = False

    def __init__(
        self,
        *,
        max_entries: int = 100_000,
        max_bytes: int = 128 * 1024 * 1024,
        clock: Clock = machine_clock,
    ) -> None:
        self._clock = clock
        self._max_entries = max_entries
        self._max_bytes = max_bytes
        self._bytes = 0
        self._entries: dict[str, tuple[bytes, float]] = {}
        # A scan looks at the folders that fit, not at every key there is: the counters of a limiter
        # must not make the registry slow.
        self._folders: dict[str, dict[str, None]] = {}
        self._expiries: list[tuple[float, str]] = []
        self._reads = self._writes = self._failures = 0
        self._watchers = Watchers()

    # -- without waiting -----------------------------------------------------------------------

    def get_now(self, key: str) -> bytes | None:
        """The value, or ``None``."""
        self._reads += 1
        entry = self._entries.get(key)
        if entry is None:
            check_key(key)
            return None
        if entry[1] <= self._clock():
            self._drop(key)
            return None
        return entry[0]

    def set_now(self, key: str, value: bytes, *, ttl: float | None = None) -> None:
        """Store the value."""
        now = self._clock()
        self._live(key, now)
        self._store(key, value, expiry(now, ttl), now)

    def add_now(self, key: str, value: bytes, *, ttl: float | None = None) -> bool:
        """Store the value if the key is absent."""
        now = self._clock()
        if self._live(key, now) is not None:
            return False
        self._store(key, value, expiry(now, ttl), now)
        return True

    def replace_now(
        self, key: str, expected: bytes, value: bytes, *, ttl: float | None = None
    ) -> bool:
        """Store the value if the present one is ``expected``."""
        now = self._clock()
        if self._live(key, now) != expected:
            return False
        self._store(key, value, expiry(now, ttl), now)
        return True

    def delete_now(self, key: str, *, expected: bytes | None = None) -> bool:
        """Remove the key."""
        present = self._live(key, self._clock())
        if present is None or (expected is not None and present != expected):
            return False
        self._writes += 1
        self._drop(key)
        return True

    def scan_now(self, prefix: str) -> dict[str, bytes]:
        """Every live key under the prefix, in order."""
        return self._read(prefix)[0]

    # -- the protocol --------------------------------------------------------------------------

    def watch(self, prefix: str) -> Changes:
        """Yield the keys that changed."""
        return self._watchers.follow(prefix, self._reading)

    def statistics(self) -> StateStatistics:
        """Counters."""
        return StateStatistics(
            reads=self._reads,
            writes=self._writes,
            failures=self._failures,
            watchers=len(self._watchers),
            entries=len(self._entries),
        )

    async def aclose(self) -> None:
        """End the watchers."""
        self._watchers.close()

    # -- inside --------------------------------------------------------------------------------

    async def _reading(self, prefix: str) -> Reading:
        return self._read(prefix)

    def _read(self, prefix: str) -> Reading:
        self._reads += 1
        now = self._clock()
        found: dict[str, bytes] = {}
        expiries: list[float] = []
        for folder, keys in self._folders.items():
            if not (folder.startswith(prefix) or prefix.startswith(folder)):
                continue
            for key in keys:
                if key.startswith(prefix):
                    value, expires = self._entries[key]
                    if expires > now:
                        found[key] = value
                        expiries.append(expires)
        return dict(sorted(found.items())), until_first(expiries, now)

    def _live(self, key: str, now: float) -> bytes | None:
        entry = self._entries.get(key)
        if entry is None:
            check_key(key)
            return None
        if entry[1] <= now:
            self._drop(key)
            return None
        return entry[0]

    def _store(self, key: str, value: bytes, expires: float, now: float) -> None:
        """Store over a live entry, or where there is none."""
        old = self._entries.get(key)
        if old is None:
            size = _OVERHEAD_BYTES + len(key) + len(value)
        else:
            size = len(value) - len(old[0])
        check_value(value)
        self._sweep(now, _SWEPT_PER_WRITE)
        if not self._has_room(size, old is None):
            self._sweep(now, len(self._expiries))
            if not self._has_room(size, old is None):
                self._failures += 1
                raise StateFull(
                    f"the memory of this process has {len(self._entries)} entries and "
                    f"{self._bytes} bytes, which is its limit"
                )
        self._writes += 1
        self._bytes += size
        self._entries[key] = value, expires
        if old is None:
            folder = key[: key.rfind("/") + 1]
            self._folders.setdefault(folder, {})[key] = None
        if expires < math.inf:
            heapq.heappush(self._expiries, (expires, key))
            self._forget_stale_expiries()
        if old is None or old[0] != value or old[1] > expires:
            self._watchers.wake(key)

    def _has_room(self, size: int, is_new: bool) -> bool:
        return (
            self._bytes + size <= self._max_bytes
            and len(self._entries) + is_new <= self._max_entries
        )

    def _drop(self, key: str) -> None:
        value, _ = self._entries.pop(key)
        self._bytes -= _OVERHEAD_BYTES + len(key) + len(value)
        folder = key[: key.rfind("/") + 1]
        members = self._folders[folder]
        del members[key]
        if not members:
            del self._folders[folder]
        self._watchers.wake(key)

    def _sweep(self, now: float, most: int) -> None:
        expiries = self._expiries
        while expiries and most and expiries[0][0] <= now:
            _, key = heapq.heappop(expiries)
            entry = self._entries.get(key)
            if entry is not None and entry[1] <= now:
                self._drop(key)
            most -= 1

    def _forget_stale_expiries(self) -> None:
        """Every renewal leaves an expiry behind that no longer counts."""
        if len(self._expiries) > 2 * len(self._entries) + 64:
            self._expiries = [
                (expires, key) for key, (_, expires) in self._entries.items() if expires < math.inf
            ]
            heapq.heapify(self._expiries)
