"""Messages to standard error: one line each, the time first."""

from __future__ import annotations

import logging
import sys
import time

__all__ = ["configure_logging"]


class _Format(logging.Formatter):
    converter = staticmethod(time.gmtime)
    default_msec_format = "%s.%03dZ"

    def __init__(self) -> None:
        super().__init__("%(asctime)s %(levelname)-7s %(message)s", "%Y-%m-%dT%H:%M:%S")


def configure_logging(level: str) -> None:
    """Send ``nexgate``'s messages to standard error, unless the program has set logging up
    itself.
    """
    logger = logging.getLogger("nexgate")
    logger.setLevel(level.upper())
    if not logger.handlers and not logging.getLogger().handlers:
        handler = logging.StreamHandler(sys.stderr)
        handler.setFormatter(_Format())
        logger.addHandler(handler)
        logger.propagate = False
    asyncio_logger = logging.getLogger("asyncio")
    if not asyncio_logger.handlers and logger.handlers:
        asyncio_logger.addHandler(logger.handlers[0])
        asyncio_logger.propagate = False
