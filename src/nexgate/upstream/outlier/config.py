"""``outlier = { … }`` of a service."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Annotated, Any, ClassVar

from pydantic import Field

from nexgate.config import (
    Duration,
    Finding,
    Flag,
    Integer,
    Number,
    PositiveDuration,
    Section,
    integer,
)
from nexgate.upstream.outlier._outlier import OutlierSettings

__all__ = ["OutlierConfig"]


class OutlierConfig(Section):
    """Instances that fail real requests are left alone for a while. On by default."""

    foreign: ClassVar[Mapping[str, str]] = {
        "consecutive_5xx": "the key is failures",
        "consecutive_errors": "the key is failures",
        "consecutive_gateway_failure": "the key is failures",
        "max_fails": "the key is failures",
        "fail_timeout": "the key is eject_for",
        "base_ejection_time": "the key is eject_for",
        "max_ejection_time": "the key is max_eject_for",
        "max_ejection_percent": "the key is max_ejected, a share such as 0.5",
        "panic_threshold": "the key is panic, a share such as 0.5",
        "slow_start_window": "the key is slow_start",
    }

    enabled: Flag = True
    """``false``, or ``outlier = false``, leaves failing instances in."""

    failures: Annotated[Integer, integer(1, 1000)] | None = 5
    """Failures in a row that eject an instance: no connection, no answer in time, nonsense, or 502,
    503 or 504. A 500 is none: one client could eject everything with it."""

    failure_ratio: Annotated[Number, Field(gt=0, le=1)] | None = 0.5
    """Share of failures within ``interval`` that ejects an instance."""

    minimum_requests: Annotated[Integer, integer(1, 1_000_000)] = 20
    """Requests within ``interval`` before ``failure_ratio`` is looked at."""

    interval: PositiveDuration = 10.0
    """How often ``failure_ratio`` is looked at."""

    eject_for: PositiveDuration = 10.0
    """How long the first time; twice as long each time after, up to ``max_eject_for``."""

    max_eject_for: PositiveDuration = 300.0
    """The longest time."""

    max_ejected: Annotated[Number, Field(gt=0, le=1)] = 0.5
    """Largest share of a service's instances that may be out at once; one always may, but never the
    last."""

    panic: Annotated[Number, Field(ge=0, le=1)] = 0.0
    """When a smaller share than this is available, for whatever reason, all are asked. 0: never."""

    slow_start: Duration = 0.0
    """How long a new instance, or one that comes back, takes to get its full share. Not with
    ``consistent-hash``, whose keys would wander."""

    share: Flag = False
    """Whether an ejection is told to all that share ``gateway.state``, and theirs is heard. Each
    keeps to its own ``max_ejected``."""

    def settings(self) -> OutlierSettings | None:
        """What the detector goes by; None when it is off."""
        if not self.enabled:
            return None
        return OutlierSettings(**self.model_dump(exclude={"enabled"}))

    @classmethod
    def relations(cls, data: Mapping[str, Any]) -> Iterator[Finding]:
        if data.get("failures", 5) is None and data.get("failure_ratio", 0.5) is None:
            yield Finding(("failures",), "leaves nothing to judge by", "write outlier = false")
