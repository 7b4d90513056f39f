"""When a task runs by itself. Every worker of a fleet computes the same times, and the key of a job
is its schedule and its time: the first to store it wins, and there is no leader to lose.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Final
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from ._errors import TaskError

__all__ = ["Schedule"]

_BACK: Final = (timedelta(hours=1), timedelta(days=1), timedelta(days=8))
_APART: Final = 3600.0
"""Seconds that the clocks of a fleet may be apart."""


@dataclass(frozen=True, slots=True)
class Schedule:
    """Of one task: a cron line or an interval."""

    task: str
    cron: str = ""
    every: float = 0.0
    """Seconds, counted from the beginning of Unix time: the same moments everywhere."""
    zone: str = "UTC"
    catch_up: bool = False
    """Whether the last time that nobody was there for is made up for."""

    def __post_init__(self) -> None:
        if bool(self.cron) == bool(self.every):
            raise TaskError(f"{self.task}: a schedule is a cron line or an interval")
        if self.every and self.every < 1:
            raise TaskError(f"{self.task}: an interval is at least a second")
        try:
            ZoneInfo(self.zone)
        except (ZoneInfoNotFoundError, ValueError):
            raise TaskError(f"{self.task}: {self.zone!r} is no time zone") from None
        if self.cron:
            self.after(0.0)

    @property
    def title(self) -> str:
        """``cron */5 * * * *`` or ``every 30s``."""
        return f"cron {self.cron} {self.zone}" if self.cron else f"every {self.every:g}s"

    def after(self, now: float) -> float:
        """The first time after ``now``."""
        if self.every:
            return (now // self.every + 1) * self.every
        from cronsim import CronSim, CronSimError

        # In wall time: an hour that does not exist is run right after, one that exists twice once.
        begin = datetime.fromtimestamp(now, UTC).astimezone(ZoneInfo(self.zone))
        try:
            times = (at.timestamp() for at in CronSim(self.cron, begin))
            # In the hour that comes again, the next on the clock may be one of the first time.
            return next(at for at in times if at > now)
        except CronSimError as error:
            raise TaskError(f"{self.task}: {self.cron!r} is no cron line: {error}") from None
        except StopIteration:
            raise TaskError(f"{self.task}: {self.cron!r} never comes") from None

    def before(self, now: float) -> float | None:
        """The last time up to ``now``, within a week."""
        if self.every:
            return now // self.every * self.every
        for back in _BACK:
            at, found = self.after(now - back.total_seconds()), None
            while at <= now:
                found, at = at, self.after(at)
            if found is not None:
                return found
        return None

    def kept_at_least(self, now: float) -> float:
        """Seconds for which a job that has ended is to be kept: its key is what makes it the only
        one, also for a worker that looks back for what nobody was there for.
        """
        if not self.catch_up:
            return _APART
        return min(self.after(now) - now, _BACK[-1].total_seconds()) + _APART

    def key(self, at: float) -> str:
        """Of the job of that time."""
        return f"schedule:{self.task}:{self.title}:{at:.0f}"
