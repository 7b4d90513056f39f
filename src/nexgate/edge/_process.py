"""What a process that serves sets up for itself."""

from __future__ import annotations

import asyncio
import gc
import sys
from typing import Final

__all__ = ["affordable_connections", "allow_many_files", "new_event_loop", "tune_collector"]

_OTHER_FILES: Final = 64
"""Listeners, logs, the event loop, the control socket, modules being imported."""


def new_event_loop() -> asyncio.AbstractEventLoop:
    """uvloop where it is installed, asyncio's own elsewhere."""
    try:
        import uvloop
    except ImportError:
        return asyncio.new_event_loop()
    return uvloop.new_event_loop()


def allow_many_files() -> None:
    """Raise the soft limit of open files to the hard one: the soft one is for ``select`` users."""
    if sys.platform != "win32":
        import resource

        hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
        try:
            resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
        except (OSError, ValueError):
            pass  # macOS names an unlimited hard limit that it does not accept


def affordable_connections() -> int:
    """How many client connections the limit of open files allows, with one to a service for each.

    Beyond that a client would be accepted and could not be served; answering 503 leaves those who
    are in with what they need.
    """
    if sys.platform == "win32":
        return sys.maxsize
    import resource

    soft = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    if soft == resource.RLIM_INFINITY:
        return sys.maxsize
    return max(1, (soft - _OTHER_FILES) // 2)


def tune_collector() -> None:
    """Exchanges leave no cycles behind, so collections are for user code and can be rare."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(50_000, 20, 50)
