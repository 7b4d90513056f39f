"""Request ids: taken over when they are harmless, else made."""

from __future__ import annotations

import logging
import re
import secrets
from typing import Final

from ._connection import current_request_id

__all__ = ["HEADER", "RequestIdFilter", "accepted", "new_id"]

HEADER: Final = b"x-request-id"
# What fits in a log line and a header without being quoted, and is not long.
_HARMLESS: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._:/+=@-]{0,127}")


def accepted(given: str | None) -> str | None:
    """``given``, if it can be repeated in logs and headers; else ``None``."""
    return given if given is not None and _HARMLESS.fullmatch(given) else None


def new_id() -> str:
    """128 random bits."""
    return secrets.token_hex(16)


class RequestIdFilter(logging.Filter):
    """Gives log records ``request_id``; ``"-"`` outside of requests. Add it to a handler."""

    def filter(self, record: logging.LogRecord) -> bool:
        record.request_id = current_request_id.get() or "-"
        return True
