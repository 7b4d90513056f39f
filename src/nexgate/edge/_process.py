"""What a process that serves sets up for itself."""

from __future__ import annotations

import asyncio
import ctypes
import gc
import sys
import time
from pathlib import Path
from typing import Final

__all__ = [
    "MemoryReturn",
    "affordable_connections",
    "allow_many_files",
    "new_event_loop",
    "tune_collector",
]

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


class MemoryReturn:
    """Gives freed memory back to the operating system, with glibc; nothing elsewhere.

    A crowd of large messages leaves the heap full of holes that glibc keeps for ever: 100 clients
    that do not read their answers cost 25 MiB long after they are gone. Looking costs 20 µs every
    few seconds, giving back about a millisecond, and that only while the process is larger than it
    was; never more than a five-hundredth of the time.
    """

    _EVERY: Final = 3.0
    _WORTH_PAGES: Final = 2048  # 8 MiB

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._least = 0
        try:
            self._trim = ctypes.CDLL(None).malloc_trim
            self._least = self._pages()
        except (AttributeError, OSError, TypeError):
            return  # another C library, or no /proc
        self._handle = loop.call_later(self._EVERY, self._look)

    @staticmethod
    def _pages() -> int:
        with Path("/proc/self/statm").open("rb") as file:
            return int(file.read().split()[1])

    def _look(self) -> None:
        began = time.monotonic()
        try:
            # Not "since the last time": holes that come later do not change the size.
            if self._pages() > self._least + self._WORTH_PAGES:
                self._trim(0)
        except OSError:
            pass  # no file descriptor left; next time
        spent = time.monotonic() - began
        self._handle = self._loop.call_later(max(self._EVERY, 500 * spent), self._look)

    def stop(self) -> None:
        """Call nothing any more."""
        if self._least:
            self._handle.cancel()


def tune_collector() -> None:
    """Exchanges leave no cycles behind, so collections are for user code and can be rare."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(50_000, 20, 50)
