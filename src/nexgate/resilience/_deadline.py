"""Until when an answer is of use, for everything that is done to get it."""

from __future__ import annotations

import asyncio
import math
import re
import time
from contextvars import ContextVar, Token
from dataclasses import dataclass
from types import TracebackType
from typing import Final, Literal

from nexgate.errors import NexgateError

from ._entered import Entered

__all__ = [
    "Deadline",
    "DeadlineExceeded",
    "current_deadline",
    "format_timeout_header",
    "parse_grpc_timeout",
    "parse_timeout_header",
]

_LONGEST: Final = 10 * 366 * 86400.0
"""Ten years. A clock that adds it must not overflow."""


class DeadlineExceeded(NexgateError, TimeoutError):
    """There is no time left. What was under way was cancelled.

    It is a ``TimeoutError`` too: code that handles those need not know deadlines.
    """

    def __str__(self) -> str:
        return "the deadline is over: what was under way is cancelled, give it more time or do less"


@dataclass(frozen=True, slots=True)
class Deadline:
    """A moment on the monotonic clock (``time.monotonic()``) after which an answer is of no use.

    A moment, not a duration: passed on as it is, it loses nothing between the parts of a call.
    ``async with deadline:`` cancels the block when the moment comes, and raises
    ``DeadlineExceeded``; within it, ``current_deadline()`` is the earliest of all around. One
    deadline may be entered by many tasks, and more than once.
    """

    at: float
    """Seconds on the monotonic clock."""

    @classmethod
    def after(cls, seconds: float, now: float | None = None) -> Deadline:
        """The moment ``seconds`` from ``now`` on."""
        return cls((time.monotonic() if now is None else now) + seconds)

    def remaining(self, now: float | None = None) -> float:
        """Seconds that are left; 0 when it is over."""
        left = self.at - (time.monotonic() if now is None else now)
        return left if left > 0.0 else 0.0

    def is_over(self, now: float | None = None) -> bool:
        """Whether the moment has come."""
        return (time.monotonic() if now is None else now) >= self.at

    def earlier(self, other: Deadline | None) -> Deadline:
        """The earlier of the two; ``None`` never comes."""
        return self if other is None or self.at <= other.at else other

    async def __aenter__(self) -> Deadline:
        earliest = self.earlier(_current.get())
        left = earliest.remaining()
        if not left:
            # Not left to the first await: what has no time left should not begin.
            raise DeadlineExceeded
        # asyncio.timeout() costs one timer, and gets right who was cancelled by whom.
        timeout = asyncio.timeout(min(left, _LONGEST))
        await timeout.__aenter__()
        _entered.push((timeout, _current.set(earliest)))
        return earliest

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> Literal[False]:
        entered = _entered.pop()
        if entered is not None:
            timeout, token = entered
            try:
                _current.reset(token)
            except ValueError:
                pass  # closed in another context: there is nothing to put back
            try:
                await timeout.__aexit__(kind, error, trace)
            except TimeoutError as over:
                raise DeadlineExceeded from over.__cause__
        return False


_current: ContextVar[Deadline | None] = ContextVar("nexgate_deadline", default=None)
# A deadline is shared, so it cannot itself keep what a block has entered.
_entered: Final[Entered[tuple[asyncio.Timeout, Token[Deadline | None]]]] = Entered()


def current_deadline() -> Deadline | None:
    """The earliest deadline of the blocks around, also those of the task that started this one."""
    return _current.get()


# --- fields ---------------------------------------------------------------------------------------

_TIMEOUT: Final = re.compile(rb"[ \t]*([0-9]{1,15}(?:\.[0-9]{1,15})?)(ms|s)?[ \t]*")
_GRPC_TIMEOUT: Final = re.compile(rb"([0-9]{1,8})([HMSmun])")
_GRPC_UNITS: Final = {b"H": 3600.0, b"M": 60.0, b"S": 1.0, b"m": 1e-3, b"u": 1e-6, b"n": 1e-9}


def parse_timeout_header(value: bytes) -> float | None:
    """Seconds from ``X-Request-Timeout``: ``1.5``, ``2s`` or ``1500ms``; ``None`` if malformed.

    0 is well-formed, and means that no time is left. More than ten years are ten years.
    """
    found = _TIMEOUT.fullmatch(value)
    if found is None:
        return None
    seconds = float(found[1])
    return min(seconds / 1000.0 if found[2] == b"ms" else seconds, _LONGEST)


def format_timeout_header(seconds: float) -> bytes:
    """``X-Request-Timeout`` for what is left, in seconds and whole milliseconds, rounded down: who
    reads it must not believe that there is more time than there is.
    """
    if not seconds > 0.0:
        return b"0"
    millis = math.floor(min(seconds, _LONGEST) * 1000.0)
    whole, part = divmod(millis, 1000)
    return (f"{whole}.{part:03}".rstrip("0") if part else str(whole)).encode("ascii")


def parse_grpc_timeout(value: bytes) -> float | None:
    """Seconds from ``grpc-timeout``: at most eight digits and a unit (H, M, S, m, u or n)."""
    found = _GRPC_TIMEOUT.fullmatch(value)
    return None if found is None else int(found[1]) * _GRPC_UNITS[found[2]]
