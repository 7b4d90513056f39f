"""One version of a plugin from its start to its end."""

from __future__ import annotations

import asyncio
import gc
import logging
import time
from typing import Any, Final

from ._errors import PluginError, their_traceback
from ._loading import Loaded
from ._plugin import Plugin, call_hook
from ._program import Program
from ._resources import Resources

__all__ = ["Running", "to_the_end"]

_log = logging.getLogger("nexgate.plugins")

_LOOK: Final = 0.05
"""Seconds between two looks at whether a version that was replaced is still used."""


class Running:
    """A plugin that was initialised, with what it has of the program."""

    def __init__(self, loaded: Loaded, program: Program) -> None:
        self.loaded = loaded
        self.since = time.time()
        self._resources = Resources(loaded.name, program.container, program.bus, program.tasks)

    @property
    def plugin(self) -> Plugin:
        return self.loaded.plugin

    async def start(self, app: Any, before: Plugin | None) -> None:
        """Initialise it, with the state of the version before. Raises ``PluginError``; when it
        does, or is cancelled, nothing of it is left.
        """
        plugin, spec = self.plugin, self.loaded.spec
        phase: Any = "initialize"
        try:
            plugin._resources = self._resources
            self._subscribe()
            phase = "take over"
            if before is not None:
                state = await call_hook(before.hand_over, timeout=spec.timeout)
                if state is not None:
                    await call_hook(plugin.take_over, state, timeout=spec.timeout)
            phase = "initialize"
            await call_hook(plugin.initialize, app, timeout=spec.timeout)
        except BaseException as error:
            await to_the_end(self._resources.aclose(_nothing, spec.timeout))
            plugin._resources = None
            if not isinstance(error, Exception):
                raise
            if isinstance(error, TimeoutError):
                message = f"{phase} took longer than {spec.timeout:g}s"
                raise PluginError(spec.name, phase, message) from error
            trace = their_traceback(error, tuple(map(str, self.loaded.files)))
            raise PluginError(spec.name, phase, f"{phase} failed", trace=trace) from error

    def _subscribe(self) -> None:
        for method, topic, options in type(self.plugin).handlers():
            self._resources.bus.subscribe(topic, getattr(self.plugin, method), **options)

    def activate(self) -> None:
        """It handles events from here on."""
        self._resources.activate()

    def deactivate(self) -> None:
        """It gets no further event."""
        self._resources.deactivate()

    async def retire(self, drain: float) -> None:
        """Wait until nobody uses it any more, for at most ``drain`` seconds, and end it."""
        loop = asyncio.get_running_loop()
        end = loop.time() + drain
        while self.loaded.is_used and loop.time() < end:  # noqa: ASYNC110  # garbage has no event
            await asyncio.sleep(_LOOK)
        if self.loaded.is_used:
            gc.collect()  # an exchange in a cycle is not an exchange under way
            if self.loaded.is_used:
                _log.warning("plugin %s: still used after %gs; ending it", self.loaded.name, drain)
        await self.stop()

    async def stop(self) -> None:
        """End it: its events, its tasks, itself, what it registered."""
        self.deactivate()
        await to_the_end(self._resources.aclose(self.plugin.cleanup, self.loaded.spec.timeout))
        self.plugin._resources = None


def _nothing() -> None:
    """A version that was not initialised has nothing to clean up."""


async def to_the_end(work: Any) -> None:
    """Await ``work`` also when we are cancelled meanwhile, and be cancelled then."""
    task = asyncio.ensure_future(work)
    cancelled: asyncio.CancelledError | None = None
    while not task.done():
        try:
            await asyncio.shield(task)
        except asyncio.CancelledError as error:
            if task.cancelled():
                raise
            cancelled = error
    task.result()
    if cancelled is not None:
        raise cancelled
