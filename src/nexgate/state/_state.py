"""What every store can do, in seven operations, and how it says that it cannot."""

from __future__ import annotations

import math
import sys
import time
from collections.abc import AsyncGenerator, Callable
from dataclasses import dataclass
from typing import Final, Literal, Protocol, runtime_checkable

from nexgate.errors import NexgateError

__all__ = [
    "MAX_KEY_BYTES",
    "MAX_VALUE_BYTES",
    "LocalState",
    "Scope",
    "State",
    "StateError",
    "StateFull",
    "StateStatistics",
    "StateUnavailable",
    "machine_clock",
]

MAX_KEY_BYTES: Final = 480
"""Of a key in UTF-8. LMDB's own limit, less what its index of expiries needs."""
MAX_VALUE_BYTES: Final = 1024 * 1024
"""Of a value. State is for facts, not for files."""

Scope = Literal["process", "machine", "machines"]
"""Who sees the same values: this process, the processes of this machine, or many machines."""


class StateError(NexgateError):
    """An operation on shared state failed. The value may or may not have been changed."""


class StateUnavailable(StateError):
    """The store cannot be reached, or did not answer in time. Trying again later makes sense."""


class StateFull(StateError):
    """The store has no room, even after it dropped everything that had expired."""


if sys.platform == "linux":

    def machine_clock() -> float:
        """Seconds since boot: the same in every process of this machine, suspension included.

        Nothing that anyone does to the date moves it. A lease has to end while the machine sleeps,
        because the rest of the world does not wait; ``CLOCK_MONOTONIC`` would stand still.
        """
        return time.clock_gettime(time.CLOCK_BOOTTIME)

else:

    def machine_clock() -> float:
        """Seconds of the machine's monotonic clock, the same in every process of this machine."""
        return time.monotonic()


Clock = Callable[[], float]
Changes = AsyncGenerator[frozenset[str], None]
"""Keys that changed. A generator, so that whoever stops early can close it."""


@dataclass(frozen=True, slots=True)
class StateStatistics:
    """Counters since the object was made."""

    reads: int = 0
    writes: int = 0
    failures: int = 0
    """Operations that the store did not carry out."""
    outages: int = 0
    """How often the store was lost: every time, what it had held may have been forgotten."""
    is_degraded: bool = False
    """Another store answers at the moment, which knows less."""
    watchers: int = 0
    entries: int | None = None
    """How many keys there are, expired ones that nobody has looked at included. ``None`` where
    counting would cost something."""


class State(Protocol):
    """A small key-value store. Values are bytes; each may have a time to live in seconds.

    Every method but ``watch`` and ``statistics`` raises ``StateUnavailable`` when the store cannot
    be reached, and ``ValueError`` for a key or value beyond the limits. Cancelling a write leaves
    it done or not done, never in between.
    """

    @property
    def scope(self) -> Scope:
        """Who sees the same values."""

    @property
    def is_shared(self) -> bool:
        """Whether other processes see the same values."""

    async def get(self, key: str) -> bytes | None:
        """The value, or ``None`` when there is none or it has expired."""

    async def set(self, key: str, value: bytes, *, ttl: float | None = None) -> None:
        """Store the value. Without ``ttl`` it stays until it is deleted."""

    async def add(self, key: str, value: bytes, *, ttl: float | None = None) -> bool:
        """Store the value only if the key is absent. Of many who try at once, one succeeds."""

    async def replace(
        self, key: str, expected: bytes, value: bytes, *, ttl: float | None = None
    ) -> bool:
        """Store the value only if the present one is ``expected``. The time to live starts anew."""

    async def delete(self, key: str, *, expected: bytes | None = None) -> bool:
        """Remove the key, with ``expected`` only if it holds that value. Whether it was removed."""

    async def scan(self, prefix: str) -> dict[str, bytes]:
        """Every live key under the prefix, in the order of the keys."""

    def watch(self, prefix: str) -> Changes:
        """Yield the keys under ``prefix`` whose values came, changed, went or expired.

        The first item comes at once and holds every key there is, possibly none. Changes in quick
        succession may arrive as one item; a time to live that starts anew is no change. Raises
        ``StateUnavailable`` when the store is lost: what happened meanwhile is unknown, so watch
        again. Ends when the state is closed. Close the iterator (``contextlib.aclosing``).
        """

    def statistics(self) -> StateStatistics:
        """Counters."""

    async def aclose(self) -> None:
        """Release everything. Values stay where other processes see them."""


@runtime_checkable
class LocalState(State, Protocol):
    """A state that answers within microseconds, for callers that must not wait."""

    def get_now(self, key: str) -> bytes | None:
        """See ``get``."""

    def set_now(self, key: str, value: bytes, *, ttl: float | None = None) -> None:
        """See ``set``."""

    def add_now(self, key: str, value: bytes, *, ttl: float | None = None) -> bool:
        """See ``add``."""

    def replace_now(
        self, key: str, expected: bytes, value: bytes, *, ttl: float | None = None
    ) -> bool:
        """See ``replace``."""

    def delete_now(self, key: str, *, expected: bytes | None = None) -> bool:
        """See ``delete``."""

    def scan_now(self, prefix: str) -> dict[str, bytes]:
        """See ``scan``."""


def check_key(key: str) -> bytes:
    """The key in UTF-8. ``ValueError`` when it is empty, too long, or not text."""
    encoded = key.encode("utf-8")  # raises UnicodeEncodeError, a ValueError, for lone surrogates
    if not 0 < len(encoded) <= MAX_KEY_BYTES or b"\0" in encoded:
        raise ValueError(f"a key has 1 to {MAX_KEY_BYTES} bytes and no NUL, not {key[:80]!r}")
    return encoded


def check_value(value: bytes) -> None:
    """``ValueError`` when the value is too large."""
    if len(value) > MAX_VALUE_BYTES:
        raise ValueError(f"a value has at most {MAX_VALUE_BYTES} bytes, not {len(value)}")


def expiry(now: float, ttl: float | None) -> float:
    """The moment at which a value stored now expires."""
    if ttl is None:
        return math.inf
    if not 0 < ttl < math.inf:
        raise ValueError(f"a time to live is more than zero and finite, not {ttl}")
    return now + ttl
