"""Statuses of HTTP as people write them: one, or a range."""

from __future__ import annotations

import re

from .section import wrong

__all__ = ["parse_status_range"]


def parse_status_range(value: object, hint: str) -> tuple[int, int]:
    """First and last status of ``503`` or ``"500-599"``, both included. ``hint`` shows how it is
    written where it stands.
    """
    low: object
    high: object
    if isinstance(value, tuple) and len(value) == 2:
        low, high = value
    elif isinstance(value, str) and (
        found := re.fullmatch(r"([0-9]{3})(?:\s*-\s*([0-9]{3}))?", value, re.ASCII)
    ):
        low, high = int(found[1]), int(found[2] or found[1])
    elif isinstance(value, str) and re.fullmatch(r"[1-5][xX]{2}", value):
        raise wrong("is not a range of statuses", f'did you mean "{value[0]}00-{value[0]}99"?')
    else:
        low = high = value
    if not isinstance(low, int) or not isinstance(high, int) or isinstance(low, bool):
        raise wrong("must be a status, a range or a list of them", hint)
    if not 100 <= low <= high <= 599:
        raise wrong("must be from 100 to 599, the lower first", hint)
    return low, high
