"""What probes found, as it stands in the state."""

from __future__ import annotations

import json
import math

from nexgate.discovery._instance import Health

__all__ = ["Verdict", "read_verdict", "write_verdict"]

Verdict = tuple[str, Health, float]
"""The URL that was probed, what was found, and when."""


def write_verdict(url: str, health: Health, last_check: float) -> bytes:
    """The record of a verdict."""
    return json.dumps({"url": url, "health": health, "last_check": last_check}).encode()


def read_verdict(data: bytes) -> Verdict | None:
    """The verdict, or ``None`` when the record is not one."""
    try:
        found = json.loads(data)
        url, health, last_check = found["url"], found["health"], float(found["last_check"])
    except (ValueError, TypeError, KeyError, RecursionError, OverflowError):
        return None
    if not isinstance(url, str) or not math.isfinite(last_check):
        return None
    if health == "healthy" or health == "unhealthy":
        return url, health, last_check
    return (url, "unknown", last_check) if health == "unknown" else None
