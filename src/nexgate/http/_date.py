"""The Date field, formatted once a second."""

from __future__ import annotations

import time
from email.utils import formatdate

__all__ = ["date_line"]

_second = -1
_line = b""


def date_line() -> bytes:
    """``Date: …`` for now (RFC 9110 §5.6.7). Follows the wall clock, also backwards."""
    global _second, _line
    now = int(time.time())
    if now != _second:
        _second = now
        _line = b"Date: " + formatdate(now, usegmt=True).encode()
    return _line
