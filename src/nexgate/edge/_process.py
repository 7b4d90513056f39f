"""What a process that serves sets up for itself."""

from __future__ import annotations

import asyncio
import gc

__all__ = ["new_event_loop", "tune_collector"]


def new_event_loop() -> asyncio.AbstractEventLoop:
    """uvloop where it is installed, asyncio's own elsewhere."""
    try:
        import uvloop
    except ImportError:
        return asyncio.new_event_loop()
    return uvloop.new_event_loop()


def tune_collector() -> None:
    """Exchanges leave no cycles behind, so collections are for user code and can be rare."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(50_000, 20, 50)
