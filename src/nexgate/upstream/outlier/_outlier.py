"""Ejection of instances that fail, judged by what they did with real requests.

Two signs, either is enough: so many failures in a row (at once), or a share of failures within an
interval (when it ends). A failure is a connection that could not be made or died, an answer that
did not come or made no sense, or a status that says the service could not work. A time-out is one,
a 500 is not: it may be what one client's request deserves, and would let that client eject every
instance.

An ejected instance comes back by itself, after a time that doubles with every ejection in a row
and shrinks again with every interval in which it behaves. At most ``max_ejected`` of a service are
out at once, and never the last one: being wrong about one is cheap, being wrong about all is an
outage. Who comes back, or is new, gets its share of requests step by step (``slow_start``).
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from random import random
from typing import Any, Final

__all__ = ["Outlier", "OutlierSettings"]

_log = logging.getLogger("nexgate.health")

_FIRST_SHARE: Final = 0.1
"""What a slow starter begins with."""


@dataclass(frozen=True, slots=True)
class OutlierSettings:
    """Times in seconds."""

    failures: int | None = 5
    failure_ratio: float | None = 0.5
    minimum_requests: int = 20
    interval: float = 10.0
    eject_for: float = 10.0
    max_eject_for: float = 300.0
    max_ejected: float = 0.5
    panic: float = 0.0
    slow_start: float = 0.0
    share: bool = False


class Outlier:
    """Judges the instances of one service. ``tick`` once a second, ``failed`` at each failure."""

    __slots__ = ("_next_interval", "on_ejected", "settings")

    def __init__(self, settings: OutlierSettings | None = None) -> None:
        self.settings: OutlierSettings | None = settings
        self.on_ejected: Callable[[Any, float], None] | None = None
        """Told of an ejection and its seconds, where the settings say ``share``."""
        self._next_interval = 0.0

    def failed(self, instance: Any, everyone: Iterable[Any], now: float) -> None:
        """``instance`` has failed ``failures_in_row`` times now."""
        settings = self.settings
        if settings is None or settings.failures is None:
            return
        if instance.failures_in_row >= settings.failures and not instance.ejected_until:
            self._eject(instance, everyone, now, f"{instance.failures_in_row} failures in a row")

    def tick(self, everyone: Iterable[Any], now: float) -> None:
        """Bring back whose time is over; at the end of an interval, judge it."""
        settings = self.settings
        for instance in everyone:
            if instance.ejected_until and (settings is None or now >= instance.ejected_until):
                self._readmit(instance, now)
        if settings is None or now < self._next_interval:
            return
        is_first = not self._next_interval
        self._next_interval = now + settings.interval
        for instance in everyone:
            requests = instance.total_requests - instance.requests_judged
            failures = instance.total_failures - instance.failures_judged
            instance.requests_judged = instance.total_requests
            instance.failures_judged = instance.total_failures
            if is_first or instance.ejected_until or instance.is_local:
                continue
            ratio = failures / requests if requests else 0.0
            if (
                settings.failure_ratio is not None
                and requests >= settings.minimum_requests
                and ratio >= settings.failure_ratio
            ):
                reason = f"{failures} of {requests} requests failed"
                self._eject(instance, everyone, now, reason)
            elif instance.ejections:
                instance.ejections -= 1

    def eject_as_told(
        self, instance: Any, everyone: Iterable[Any], now: float, seconds: float
    ) -> None:
        """Somebody else found that ``instance`` fails."""
        if instance.is_local or instance.ejected_until:
            return
        if self.settings is not None and self.settings.share:
            self._put_out(instance, everyone, now, seconds, "others found it failing")

    def _eject(self, instance: Any, everyone: Iterable[Any], now: float, reason: str) -> None:
        settings = self.settings
        assert settings is not None
        seconds = min(settings.eject_for * 2.0**instance.ejections, settings.max_eject_for)
        seconds *= 1.0 + 0.1 * random()  # noqa: S311  # so that two do not come back together
        if self._put_out(instance, everyone, now, seconds, reason):
            instance.ejections = min(instance.ejections + 1, 16)
            if self.on_ejected is not None:
                self.on_ejected(instance, seconds)

    def _put_out(
        self, instance: Any, everyone: Iterable[Any], now: float, seconds: float, reason: str
    ) -> bool:
        """Whether that was possible: not all may be out."""
        settings = self.settings
        assert settings is not None
        everyone = list(everyone)
        out = sum(1 for each in everyone if each.ejected_until)
        allowed = max(1, int(len(everyone) * settings.max_ejected))
        if out >= allowed or len(everyone) - out <= 1:
            return False
        instance.failures_in_row = 0
        instance.ejected_until = now + seconds
        _log.warning(
            "%s of %s is left alone for %.1fs: %s",
            instance.url,
            instance.service,
            seconds,
            reason,
        )
        instance.on_change()
        return True

    def _readmit(self, instance: Any, now: float) -> None:
        instance.ejected_until = 0.0
        instance.slow_since = now
        _log.info("%s of %s is asked again", instance.url, instance.service)
        instance.on_change()

    def share(self, instance: Any, now: float) -> float:
        """Of its weight, how much a (re)starting instance gets: 0.1 to 1."""
        settings = self.settings
        if settings is None or not settings.slow_start:
            instance.slow_since = 0.0
        if settings is None or not instance.slow_since:
            return 1.0
        age: float = (now - instance.slow_since) / settings.slow_start
        if age >= 1.0:
            instance.slow_since = 0.0
            return 1.0
        return max(_FIRST_SHARE, age)
