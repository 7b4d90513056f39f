"""What may be tried again, how often, and after which wait."""

from __future__ import annotations

import contextlib
import math
import re
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Final

from ._backoff import Backoff

__all__ = ["RetryPolicy", "parse_retry_after"]

_IDEMPOTENT: Final = frozenset((b"GET", b"HEAD", b"OPTIONS", b"PUT", b"DELETE", b"TRACE"))
"""RFC 9110 §9.2.2: a proxy must not repeat others by itself."""

_LONGEST: Final = 2.0**31
"""68 years. Longer waits say the same, and sums with them stay finite."""

_YEAR: Final = 365.2425 * 86400.0
_DAYS: Final = ("Mon", "Tue", "Wed", "Thu", "Fri", "Sat", "Sun")
_LONG_DAYS: Final = ("Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday")
_MONTHS: Final = (
    "Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec",
)  # fmt: skip
_DAY: Final = f"(?:{'|'.join(_DAYS)})"
_LONG_DAY: Final = f"(?:{'|'.join(_LONG_DAYS)})"
_MONTH: Final = f"(?P<month>{'|'.join(_MONTHS)})"
_TIME: Final = "(?P<hour>[0-9]{2}):(?P<minute>[0-9]{2}):(?P<second>[0-9]{2})"
_FORMS: Final = [
    re.compile(f"{_DAY}, (?P<day>[0-9]{{2}}) {_MONTH} (?P<year>[0-9]{{4}}) {_TIME} GMT"),
    re.compile(f"{_LONG_DAY}, (?P<day>[0-9]{{2}})-{_MONTH}-(?P<year>[0-9]{{2}}) {_TIME} GMT"),
    re.compile(f"{_DAY} {_MONTH} (?P<day>[0-9 ][0-9]) {_TIME} (?P<year>[0-9]{{4}})"),
]
"""The three forms of an HTTP-date, RFC 9110 §5.6.7: the one in use, and two that are obsolete."""


@dataclass(frozen=True, slots=True)
class RetryPolicy:
    """What may be tried again, how often, and after which wait.

    Whether the service can bear it is another question: ask a ``RetryBudget``, once the policy has
    said yes.
    """

    attempts: int = 3
    """Tries in all, the first included; 1 never retries."""

    methods: frozenset[bytes] = _IDEMPOTENT
    """Methods whose requests may be sent twice. Adding ``POST`` is a promise of the service."""

    statuses: frozenset[int] = frozenset((502, 503, 504))
    """Answers that are worth another try. 500 is not among them: it is an answer."""

    per_try_timeout: float | None = None
    """Seconds that one try may take; ``None`` leaves only what the whole call may."""

    max_replay_bytes: int = 0
    """Largest request body that is kept in memory to be sent again. 0 keeps none: a body that has
    been sent is not sent twice."""

    backoff: Backoff = Backoff()
    """The wait between two tries."""

    max_retry_after: float = 5.0
    """Longest ``Retry-After``, in seconds, that is waited for. Longer means: give up."""

    respect_retry_after: bool = True
    """Whether a ``Retry-After`` is heard at all."""

    def __post_init__(self) -> None:
        if not isinstance(self.attempts, int) or self.attempts < 1:
            raise ValueError(
                f"attempts must be a whole number of at least 1, not {self.attempts!r}"
            )
        if self.per_try_timeout is not None and not 0.0 < self.per_try_timeout < math.inf:
            raise ValueError(
                f"per_try_timeout must be seconds above 0 or None, not {self.per_try_timeout!r}"
            )
        if self.max_replay_bytes < 0:
            raise ValueError(f"max_replay_bytes must be at least 0, not {self.max_replay_bytes!r}")
        if not 0.0 <= self.max_retry_after <= _LONGEST:
            raise ValueError(f"max_retry_after must be seconds, not {self.max_retry_after!r}")

    def delay(
        self, attempt: int, *, retry_after: float | None = None, random: Callable[[], float]
    ) -> float | None:
        """Seconds to wait after ``attempt`` attempts (the first is 1); ``None``: give up.

        A ``retry_after`` that is respected is waited for in full, and the jittered backoff comes on
        top: those who were told the same moment should not all come at it.
        """
        if attempt >= self.attempts:
            return None
        delay = self.backoff.delay(attempt, random)
        if retry_after is None or not self.respect_retry_after:
            return delay
        if not retry_after <= self.max_retry_after:
            return None
        return max(retry_after, 0.0) + delay


def parse_retry_after(value: bytes | str, wall_now: float) -> float | None:
    """Seconds until the moment that a ``Retry-After`` field names; ``None`` when it is malformed.

    RFC 9110 §10.2.3: a number of seconds, or an HTTP-date in one of the three forms of §5.6.7.
    ``wall_now`` is the time of day as ``time.time()`` gives it. A moment in the past is 0.
    """
    text = value.decode("latin-1") if isinstance(value, bytes) else value
    text = text.strip(" \t")
    if text.isascii() and text.isdigit():
        return min(float(text), _LONGEST)
    for form in _FORMS:
        if found := form.fullmatch(text):
            break
    else:
        return None
    moment = _moment(found, wall_now)
    return None if moment is None else min(max(moment - wall_now, 0.0), _LONGEST)


def _moment(found: re.Match[str], wall_now: float) -> float | None:
    year = int(found["year"])
    years, latest = [year], math.inf
    if len(found["year"]) == 2:
        # What seems more than 50 years ahead is the most recent such year of the past.
        this = datetime.fromtimestamp(wall_now, UTC).year
        years = [this - this % 100 + year + century for century in (100, 0, -100)]
        latest = wall_now + 50 * _YEAR
    second = int(found["second"])
    for candidate in years:
        with contextlib.suppress(ValueError):  # no such day, or not in that year
            moment = datetime(
                candidate,
                _MONTHS.index(found["month"]) + 1,
                int(found["day"]),
                int(found["hour"]),
                int(found["minute"]),
                59 if second == 60 else second,  # a leap second is as good as the one before
                tzinfo=UTC,
            ).timestamp()
            if moment <= latest:
                return moment
    return None
