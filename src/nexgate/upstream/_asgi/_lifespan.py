"""Startup and shutdown of an application (the ASGI lifespan protocol)."""

from __future__ import annotations

import asyncio
import logging
from typing import Any, Final

from nexgate.errors import NexgateError
from nexgate.upstream._asgi._scope import AsgiApp, Message

__all__ = ["AsgiStartupError", "Lifespan"]

_log = logging.getLogger("nexgate.upstream")

_VERSIONS: Final = {"version": "3.0", "spec_version": "2.0"}


class AsgiStartupError(NexgateError):
    """An application said that it cannot start. ``app`` names it; the message has its reason."""

    def __init__(self, app: str, reason: str) -> None:
        super().__init__(app, reason)
        self.app = app
        self.reason = reason

    def __str__(self) -> str:
        shown = self.reason.strip() or "it gave no reason"
        return f"the application {self.app} failed to start: {shown}"


class Lifespan:
    """One run of an application's lifespan, from ``startup`` to ``shutdown``.

    An application that knows no lifespan raises, or returns at once; that is no failure (the
    specification demands to go on), it merely is not told about the end either.
    """

    def __init__(self, app: AsgiApp, name: str, state: dict[str, Any]) -> None:
        self._app = app
        self._name = name
        self._state = state
        self._task: asyncio.Task[None] | None = None
        self._received: asyncio.Queue[Message] = asyncio.Queue()
        self._started = asyncio.Event()
        self._stopped = asyncio.Event()
        self._start_failure: str | None = None
        self._is_supported = False

    async def startup(self) -> None:
        """Returns when requests may come. Raises ``AsgiStartupError``.

        Takes as long as the application does; when cancelled, so is the application.
        """
        self._received.put_nowait({"type": "lifespan.startup"})
        self._task = asyncio.get_running_loop().create_task(self._run())
        try:
            await self._started.wait()
        except asyncio.CancelledError:
            await self._end_task()
            raise
        if self._start_failure is not None:
            await self._end_task()
            raise AsgiStartupError(self._name, self._start_failure)

    async def shutdown(self, limit: float) -> None:
        """Tell the application that it is over; wait at most ``limit`` seconds for it. Never raises
        what the application raises: that is logged, because nothing can be done about it any more.
        """
        task = self._task
        if task is None:
            return
        try:
            if self._is_supported and not task.done():
                self._received.put_nowait({"type": "lifespan.shutdown"})
                async with asyncio.timeout(limit):
                    await self._stopped.wait()
                    # What it does after its last message belongs to its shutdown too.
                    await asyncio.wait((task,))
        except TimeoutError:
            _log.warning("%s did not shut down within %g s", self._name, limit)
        finally:
            await self._end_task()

    async def _end_task(self) -> None:
        task = self._task
        self._task = None
        if task is not None:
            task.cancel()
            await asyncio.wait((task,))

    async def _run(self) -> None:
        scope: dict[str, Any] = {
            "type": "lifespan",
            "asgi": _VERSIONS.copy(),
            "state": self._state,
        }
        try:
            await self._app(scope, self._received.get, self._send)
        except Exception as error:
            if self._is_supported and not self._stopped.is_set():
                _log.error("the lifespan of %s failed", self._name, exc_info=error)
            elif not self._is_supported and self._start_failure is None:
                _log.debug("%s has no lifespan: %r", self._name, error)
        finally:
            self._started.set()
            self._stopped.set()

    async def _send(self, message: Message) -> None:
        kind = message["type"]
        if kind == "lifespan.startup.complete" and not self._started.is_set():
            self._is_supported = True
            self._started.set()
        elif kind == "lifespan.startup.failed" and not self._started.is_set():
            self._start_failure = str(message.get("message", ""))
            self._started.set()
        elif kind == "lifespan.shutdown.complete" and self._is_supported:
            self._stopped.set()
        elif kind == "lifespan.shutdown.failed" and self._is_supported:
            reason = message.get("message", "")
            _log.error("the shutdown of %s failed: %s", self._name, reason)
            self._stopped.set()
        else:
            raise RuntimeError(f"{kind!r} does not belong here")
