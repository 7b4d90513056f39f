"""What a program starts and stops with: a bus, tasks, plugins."""

from __future__ import annotations

import inspect
from contextlib import AsyncExitStack
from typing import Any, Protocol

from nexgate.di import Container

__all__ = ["Part", "Parts", "Plugins"]


class Part(Protocol):
    """A bus, or tasks. An ``async`` ``start()``, if it has one, is awaited first."""

    async def aclose(self) -> None:
        """End. Called once, also when a later part could not start."""


class Plugins(Protocol):
    """What ``nexgate.plugins.PluginManager`` has."""

    async def initialize(self, app: Any = None) -> Any:
        """Start them, in their order."""

    async def cleanup(self) -> Any:
        """End them, the last first."""


class Parts:
    """Start in order, stop in reverse; a start that fails stops what had started."""

    def __init__(
        self, container: Container, bus: Part | None, tasks: Part | None, plugins: Plugins | None
    ) -> None:
        self._container = container
        self._bus = bus
        self._tasks = tasks
        self._plugins = plugins
        self._stack: AsyncExitStack | None = None

    async def start(self, app: Any) -> None:
        """Check the container, then start the bus, the tasks, the plugins. Does nothing when they
        are started.
        """
        if self._stack is not None:
            return
        async with AsyncExitStack() as stack:
            self._container.validate()
            stack.push_async_callback(self._container.reset)
            for part in (self._bus, self._tasks):
                if part is not None:
                    start = getattr(part, "start", None)
                    # That of a supervisor is another word: it starts what it is given, at once.
                    if inspect.iscoroutinefunction(start):
                        await start()
                    stack.push_async_callback(part.aclose)
            if self._plugins is not None:
                stack.push_async_callback(self._plugins.cleanup)
                await self._plugins.initialize(app)
            self._stack = stack.pop_all()

    async def aclose(self) -> None:
        """Stop what was started, the last first, and tear down the container's singletons. Every
        part is stopped, whatever becomes of the others.
        """
        stack, self._stack = self._stack, None
        if stack is not None:
            await stack.aclose()
