"""The phases of a client connection; ``_protocol`` draws how they follow each other."""

from __future__ import annotations

from typing import Final

__all__ = ["BODY_CHUNKED", "BODY_FIXED", "CLOSED", "HEAD", "LINGER", "TUNNEL", "WAIT"]

HEAD: Final = 0
BODY_FIXED: Final = 1
BODY_CHUNKED: Final = 2
WAIT: Final = 3
LINGER: Final = 4
TUNNEL: Final = 5
CLOSED: Final = 6
