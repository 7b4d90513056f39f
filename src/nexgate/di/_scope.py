"""What lives as long as one request, one message, one task."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from contextvars import ContextVar
from types import TracebackType
from typing import TYPE_CHECKING, Any, Final, Self, TypeVar, cast

from dishka.exceptions import NoContextValueError

from ._cells import run_now
from ._ending import unwind
from ._errors import DependencyError, NeedsAwait, NeedsScope, NotRegistered
from ._keys import key_of, wish_of

if TYPE_CHECKING:
    from ._container import Container
    from ._engine import Engine
    from ._graph import Node
    from ._keys import Key

__all__ = ["Scope", "current_scope", "present_scope"]

T = TypeVar("T")

current_scope: Final[ContextVar[Scope | None]] = ContextVar("nexgate_scope", default=None)
"""The scope that the present task is in."""

_at_work: Final[ContextVar[_Turn | None]] = ContextVar("nexgate_scope_at_work", default=None)
"""Within what the present task is making something."""


class _Turn:
    """Things are made in it one after the other."""

    __slots__ = ("freed", "is_busy", "scope")

    def __init__(self, scope: Scope | None) -> None:
        self.scope = scope
        """For which things are made."""
        self.is_busy = False
        self.freed: asyncio.Event | None = None
        """Set when whoever is at work has done; made by whoever waits."""


class Scope:
    """Made by ``Container.scope``; a context manager, ``with`` or ``async with``.

    Leaving it tears down what generators made in it, in reverse order, also on errors, which the
    generators see, and when the task is cancelled. A scope belongs to one task or thread.
    """

    __slots__ = (
        "_before",
        "_child",
        "_container",
        "_context",
        "_depth",
        "_engine",
        "_turn",
        "failure",
    )

    def __init__(
        self, container: Container, engine: Engine, context: Mapping[Any, Any] | None
    ) -> None:
        self._container = container
        self._engine = engine
        self._context = context
        self._child: Any = _OUTSIDE
        self._before: Scope | None = None
        self._turn: _Turn | None = None
        """The outermost; made when something has to be awaited."""
        self._depth = 0
        self.failure: BaseException | None = None
        """What the last function that was injected from here raised. Frameworks make responses of
        exceptions; who opened the scope for one can still let generators see it.
        """

    def resolve(self, type: type[T], name: str | None = None) -> T:
        """What is registered for ``type``; ``None`` for ``T | None`` where nobody registered ``T``.
        Raises ``DependencyError``.
        """
        found = self._engine.sync_tokens.get(type) if name is None else None
        if found is None:
            node = self._node(type, name)
            if node is None:
                return self._given(type)
            if node.is_async:
                raise NeedsAwait(
                    f"{node.key} is made by an async factory: await scope.aresolve({node.key})"
                )
            found = self._engine.token(node.key)
        try:
            return cast("T", self._child.get_sync(found))
        except NoContextValueError as error:
            raise self._not_given(error) from None

    async def aresolve(self, type: type[T], name: str | None = None) -> T:
        """The same, for what is made by ``async`` factories, too. Tasks of one scope that ask at
        once get the same.
        """
        engine = self._engine
        try:
            if name is None:
                if (found := engine.sync_tokens.get(type)) is not None:
                    return cast("T", self._child.get_sync(found))
                if (found := engine.async_tokens.get(type)) is not None:
                    return cast("T", await self._one_by_one(found))
            node = self._node(type, name)
            if node is None:
                return self._given(type)
            cell = engine.cells.get(node.key)
            if cell is not None:
                return cast("T", await cell.aget())
            found = engine.token(node.key)
            if not node.is_async:
                return cast("T", self._child.get_sync(found))
            return cast("T", await self._one_by_one(found))
        except NoContextValueError as error:
            raise self._not_given(error) from None

    async def _one_by_one(self, token: Any) -> Any:
        """Something that is awaited, while no other task makes things here: it could make the same.

        A factory that itself asks this scope is within its own turn, and so are the tasks that it
        starts, one after the other.
        """
        turn = _at_work.get()
        if turn is None or turn.scope is not self:
            turn = self._turn
            if turn is None:
                turn = self._turn = _Turn(None)  # a scope that it knew would be a cycle
        while turn.is_busy:
            if turn.freed is None:
                turn.freed = asyncio.Event()
            await turn.freed.wait()
        turn.is_busy = True
        before = _at_work.set(_Turn(self))
        try:
            return await self._child.get(token)
        finally:
            _at_work.reset(before)
            turn.is_busy = False
            if turn.freed is not None:
                turn.freed.set()
                turn.freed = None

    def _node(self, type_: Any, name: str | None) -> Node | None:
        """What is registered; ``None`` for what was only given at the opening, and for ``T | None``
        where there is no ``T``.
        """
        try:
            return self._container._node(self._engine, type_, name)
        except NotRegistered:
            key = key_of(type_, name)
            is_there = self.has(key)
            if is_there and self._engine.graph.find(key) is None:
                return None
            if not is_there and wish_of("", type_).is_optional:
                return None
            raise

    def has(self, key: Key) -> bool:
        """Whether there is something to resolve."""
        if self._engine.graph.find(key) is not None:
            return True
        return key.name is None and self._context is not None and key.asked in self._context

    def _given(self, type_: type[T]) -> T:
        return cast("T", (self._context or {}).get(key_of(type_).asked))

    def _not_given(self, error: NoContextValueError) -> DependencyError:
        missing = self._engine.missing_context(error)
        return DependencyError(
            f"{missing} ✗ is given by whoever opens the scope: container.scope({{{missing}: …}})"
        )

    # ---------------------------------------------------------------- its life

    def __enter__(self) -> Self:
        if self._child is not _OUTSIDE:
            raise DependencyError("this scope is open: open another with container.scope()")
        tokens, context = self._engine.context_tokens, self._context
        self._child = self._engine.root(
            {tokens[key]: context[key.type] for key in tokens if key.type in context}
            if context and tokens
            else None
        )
        before = current_scope.get()
        if before is not None and before._child is _OUTSIDE:
            before = present_scope()
        self._before = before
        current_scope.set(self)
        return self

    async def __aenter__(self) -> Self:
        return self.__enter__()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None
    ) -> None:
        current_scope.set(self._before)
        child, self._child = self._child, _OUTSIDE
        self.failure = None  # its traceback knows us
        if self._engine.has_teardown:
            run_now(unwind(child, error), "the scope's teardown")

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None
    ) -> None:
        current_scope.set(self._before)
        child, self._child = self._child, _OUTSIDE
        self.failure = None  # its traceback knows us
        if self._engine.has_teardown:
            await unwind(child, error)


def present_scope() -> Scope | None:
    """The innermost scope around the present task that is open: a task that was started in a scope
    may outlive it.
    """
    scope = current_scope.get()
    while scope is not None and scope._child is _OUTSIDE:
        scope = scope._before
    return scope


class _Outside:
    """What a scope has before and after its block: what is made then is never torn down."""

    def get_sync(self, token: Any) -> Any:
        raise NeedsScope("this scope is not open: resolve within its with block")

    async def get(self, token: Any) -> Any:
        return self.get_sync(token)

    async def close(self, error: BaseException | None) -> None:
        """Nothing is left of a scope that is left twice."""


_OUTSIDE: Final = _Outside()
