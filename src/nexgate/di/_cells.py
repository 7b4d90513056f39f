"""Where a singleton is kept: made once, whoever asks first, from whatever thread or task."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Awaitable, Callable, Coroutine
from concurrent.futures import Future
from contextvars import ContextVar
from typing import TYPE_CHECKING, Any, Final, Protocol

from ._ending import unwind
from ._errors import DependencyCycle, DependencyError, NeedsAwait
from ._keys import Key

if TYPE_CHECKING:
    from dishka import AsyncContainer

__all__ = ["NOTHING", "Cell", "run_now"]

NOTHING: Final[Any] = object()

_being_made: ContextVar[tuple[Cell, ...]] = ContextVar("nexgate_being_made", default=())
"""Singletons that the present task or thread is making: asking for one of them is a cycle that no
graph shows, because a factory asked the container itself."""

_waiting = threading.Lock()
"""Held while somebody decides to wait: of two that would wait for each other, one must see it."""


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
        self,
        key: Key,
        needs: frozenset[int],
        made: Callable[[Cell], None],
        *,
        has_teardown: bool,
        ends_async: bool,
    ) -> None:
        self.key = key
        self.needs = needs
        """Numbers of all registrations that it is made of."""
        self.has_teardown = has_teardown
        self.ends_async = ends_async
        """Its teardown may have to be awaited."""
        self.value: Any = NOTHING
        self.is_over = False
        """Taken out of its container: it is not made again, also not by a scope that knows it."""
        self._maker: Maker | None = None
        """Knows a whole generation, and is forgotten when there is nothing to make any more."""
        self._made = made
        self._lock = threading.Lock()
        self._making: Future[None] | None = None
        self._thread = 0
        self._waits_for: list[Cell] = []
        """Others without which its factory does not go on."""
        self._scope: AsyncContainer | None = None

    @property
    def is_made(self) -> bool:
        return self.value is not NOTHING

    def renew(self, maker: Maker) -> None:
        """Be made by ``maker`` from here on: of the same registrations as by the one before, whose
        generation can go.
        """
        with self._lock:
            if self.value is NOTHING and not self.is_over:
                self._maker = maker

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
            waiting = self._wait()
            try:
                other.result()
            finally:
                self._waited(waiting)
        return self.value

    async def aget(self) -> Any:
        """The same, for a task."""
        while self.value is NOTHING:
            other = self._begin()
            if other is None:
                return await self._make(is_async=True)
            waiting = self._wait()
            try:
                # Shielded: a caller that gives up must not give up for the others.
                await asyncio.shield(asyncio.wrap_future(other))
            finally:
                self._waited(waiting)
        return self.value

    def _begin(self) -> Future[None] | None:
        """Who is making it; ``None`` when it is the caller from here on."""
        making = _being_made.get()
        if self in making:
            raise _cycle((*making[making.index(self) :], self))
        with self._lock:
            if self._making is not None:
                return self._making
            if self.is_over:
                raise self._ended()
            if self.value is NOTHING:
                self._making = Future()
                self._thread = threading.get_ident()
                return None
        done: Future[None] = Future()  # made between our look and the lock
        done.set_result(None)
        return done

    def _wait(self) -> Cell | None:
        """Note that what the caller is making waits for this. Raises ``DependencyCycle`` when that
        would be for ever: whoever makes this one waits for the caller.
        """
        making = _being_made.get()
        if not making:
            return None
        with _waiting:
            path = _path_to(self, frozenset(making), {self})
            if path is not None:
                raise _cycle((*making[making.index(path[-1]) :], *path))
            making[-1]._waits_for.append(self)
        return making[-1]

    def _waited(self, waiting: Cell | None) -> None:
        if waiting is not None:
            with _waiting:
                waiting._waits_for.remove(self)

    async def _make(self, *, is_async: bool) -> Any:
        maker, making = self._maker, self._making
        assert maker is not None
        assert making is not None
        before = _being_made.get()
        _being_made.set((*before, self))
        # One that makes another on the way does not go on without it.
        if before:
            with _waiting:
                before[-1]._waits_for.append(self)
        try:
            scope, token = maker.open()
            try:
                value = await scope.get(token) if is_async else scope.get_sync(token)
            except BaseException as error:
                await unwind(scope, error)  # what it had of transient things
                raise
            with self._lock:
                is_over = self.is_over
                if not is_over:
                    # Which knows its generation, too, so it is kept where it is needed only.
                    self._scope = scope if self.has_teardown else None
                    self.value = value
            if is_over:
                await unwind(scope)
                raise self._ended()
            self._made(self)
            return value
        finally:
            _being_made.set(before)
            if before:
                self._waited(before[-1])
            with self._lock:
                self._making = None
                if self.is_over or self.is_made:
                    self._maker = None
            making.set_result(None)

    # ---------------------------------------------------------------- ending

    def over(self) -> None:
        """Let nobody make it any more; one that is being made is torn down when it is."""
        with self._lock:
            self.is_over = True
            if self._making is None:
                self._maker = None

    async def aclose(self) -> None:
        """Run its teardown, if it was made. Raises what that raises."""
        with self._lock:
            scope, self._scope = self._scope, None
            self.value = NOTHING
        if scope is not None:
            await unwind(scope)

    def _ended(self) -> DependencyError:
        return DependencyError(
            f"{self.key} has ended: the container was closed, or what it is made of was taken back"
        )


def _path_to(cell: Cell, wanted: frozenset[Cell], seen: set[Cell]) -> tuple[Cell, ...] | None:
    """From ``cell`` along what waits for what, to one of ``wanted``."""
    if cell in wanted:
        return (cell,)
    for each in cell._waits_for:
        if each not in seen:
            seen.add(each)
            path = _path_to(each, wanted, seen)
            if path is not None:
                return (cell, *path)
    return None


def _cycle(cells: tuple[Cell, ...]) -> DependencyCycle:
    path = " → ".join(str(each.key) for each in cells)
    return DependencyCycle(f"{path} ✗ its own factory asks for it")


def run_now(work: Coroutine[Any, Any, Any] | Awaitable[Any], what: object) -> Any:
    """Run a coroutine that has no reason to wait. Raises ``NeedsAwait`` if it has one."""
    running = work.__await__()
    try:
        next(running)
    except StopIteration as done:
        return done.value
    running.close() if hasattr(running, "close") else None
    raise NeedsAwait(f"{what} has something asynchronous in it: use the await form")
