"""Where a singleton is kept: made once, whoever asks first, from whatever thread or task."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Awaitable, Callable, Coroutine
from concurrent.futures import Future
from contextvars import ContextVar
from typing import TYPE_CHECKING, Any, Final, Protocol

from ._errors import DependencyCycle, NeedsAwait
from ._keys import Key

if TYPE_CHECKING:
    from dishka import AsyncContainer

__all__ = ["NOTHING", "Cell", "run_now"]

NOTHING: Final[Any] = object()

_being_made: ContextVar[tuple[Cell, ...]] = ContextVar("nexgate_being_made", default=())
"""Singletons that the present task or thread is making: asking for one of them is a cycle that no
graph shows, because a factory asked the container itself."""


class Maker(Protocol):
    """Makes a singleton in a scope of its own."""

    def open(self) -> tuple[AsyncContainer, type[Any]]:
        """The scope, and what to ask it for."""


class Cell:
    """One singleton of one set of registrations. ``get`` and ``aget`` make it at the first call.

    One caller makes it; the others wait for that. When making it fails or is cancelled, one of
    those who wait tries again.
    """

    def __init__(
        self, key: Key, needs: frozenset[int], maker: Maker | None, made: Callable[[Cell], None]
    ) -> None:
        self.key = key
        self.needs = needs
        """Numbers of all registrations that it is made of."""
        self.value: Any = NOTHING
        self._maker = maker
        self._made = made
        self._lock = threading.Lock()
        self._making: Future[None] | None = None
        self._thread = 0
        self._scope: AsyncContainer | None = None

    @property
    def is_made(self) -> bool:
        return self.value is not NOTHING

    # ---------------------------------------------------------------- making

    def get(self) -> Any:
        """The singleton, made in this thread if need be. Raises ``NeedsAwait`` when a task of this
        very thread is making it: waiting for that would be for ever.
        """
        while self.value is NOTHING:
            other = self._begin()
            if other is None:
                return run_now(self._make(is_async=False), self.key)
            if self._thread == threading.get_ident():
                raise NeedsAwait(
                    f"{self.key} is being made by a task of this thread: await"
                    f" container.aresolve({self.key})"
                )
            other.result()
        return self.value

    async def aget(self) -> Any:
        """The same, for a task."""
        while self.value is NOTHING:
            other = self._begin()
            if other is None:
                return await self._make(is_async=True)
            # Shielded: a caller that gives up must not give up for the others.
            await asyncio.shield(asyncio.wrap_future(other))
        return self.value

    def _begin(self) -> Future[None] | None:
        """Who is making it; ``None`` when it is the caller from here on."""
        making = _being_made.get()
        if self in making:
            path = " → ".join(str(each.key) for each in (*making[making.index(self) :], self))
            raise DependencyCycle(f"{path} ✗ its own factory asks for it")
        with self._lock:
            if self._making is not None:
                return self._making
            if self.value is NOTHING:
                self._making = Future()
                self._thread = threading.get_ident()
                return None
        done: Future[None] = Future()  # made between our look and the lock
        done.set_result(None)
        return done

    async def _make(self, *, is_async: bool) -> Any:
        maker, making = self._maker, self._making
        assert maker is not None
        assert making is not None
        before = _being_made.get()
        _being_made.set((*before, self))
        try:
            scope, token = maker.open()
            try:
                value = await scope.get(token) if is_async else scope.get_sync(token)
            except BaseException as error:
                await scope.close(error)  # what it had of transient things
                raise
            self._scope = scope
            self.value = value
            self._made(self)
            return value
        finally:
            _being_made.set(before)
            with self._lock:
                self._making = None
            making.set_result(None)

    # ---------------------------------------------------------------- ending

    async def aclose(self) -> None:
        """Run its teardown, if it was made. Raises what that raises."""
        scope, self._scope = self._scope, None
        self.value = NOTHING
        if scope is not None:
            await scope.close()


def run_now(work: Coroutine[Any, Any, Any] | Awaitable[Any], what: object) -> Any:
    """Run a coroutine that has no reason to wait. Raises ``NeedsAwait`` if it has one."""
    running = work.__await__()
    try:
        next(running)
    except StopIteration as done:
        return done.value
    running.close() if hasattr(running, "close") else None
    raise NeedsAwait(f"{what} has something asynchronous in it: use the await form")
