"""What reading a body may raise in a filter."""

from __future__ import annotations

from nexgate.errors import Cause, NexgateError, Refused

__all__ = ["BodyTooLarge", "ClientGone"]


class ClientGone(NexgateError):
    """The client went away while a filter awaited its body."""


class BodyTooLarge(Refused):
    """A filter asked for a body that is larger than ``max_buffered_body_bytes``."""

    def __init__(self, limit: int, cause: Cause = Cause.BODY_TOO_LARGE) -> None:
        super().__init__(cause, f"a filter reads at most {limit} bytes")
