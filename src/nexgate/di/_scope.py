"""What lives as long as one request, one message, one task."""

from __future__ import annotations

from collections.abc import Mapping
from contextvars import ContextVar
from types import TracebackType
from typing import TYPE_CHECKING, Any, Final, Self, TypeVar

from ._cells import run_now
from ._errors import DependencyError, NeedsAwait

if TYPE_CHECKING:
    from ._container import Container
    from ._engine import Engine

__all__ = ["Scope", "current_scope"]

T = TypeVar("T")

current_scope: Final[ContextVar[Scope | None]] = ContextVar("nexgate_scope", default=None)
"""The scope that the present task is in."""


class Scope:
    """Made by ``Container.scope``; a context manager, ``with`` or ``async with``.

    Leaving it tears down what generators made in it, in reverse order, also on errors, which the
    generators see, and when the task is cancelled. A scope belongs to one task or thread.
    """

    __slots__ = ("_before", "_child", "_container", "_context", "_engine")

    def __init__(
        self, container: Container, engine: Engine, context: Mapping[Any, Any] | None
    ) -> None:
        self._container = container
        self._engine = engine
        self._context = context
        tokens = engine.context_tokens
        given = (
            {tokens[key]: context[key.type] for key in tokens if key.type in context}
            if context and tokens
            else None
        )
        self._child = engine.root(given)
        self._before: Scope | None = None

    def resolve(self, type: type[T], name: str | None = None) -> T:
        """What is registered for ``type``. Raises ``DependencyError``."""
        engine = self._engine
        found = engine.sync_tokens.get(type) if name is None else None
        if found is None:
            found = self._token(type, name, is_sync=True)
            if found is None:
                return self._given(type)
        try:
            made: T = self._child.get_sync(found)
        except Exception as error:
            raise self._told(error) from error.__cause__
        return made

    async def aresolve(self, type: type[T], name: str | None = None) -> T:
        """The same, for what is made by ``async`` factories, too."""
        engine = self._engine
        found = engine.sync_tokens.get(type) if name is None else None
        if found is not None:
            made: T = self._child.get_sync(found)
            return made
        found = self._token(type, name, is_sync=False)
        if found is None:
            return self._given(type)
        try:
            made = await self._child.get(found)
        except Exception as error:
            raise self._told(error) from error.__cause__
        return made

    def _token(self, type_: Any, name: str | None, *, is_sync: bool) -> Any:
        if name is None and self._context is not None and type_ in self._context:
            return None
        node = self._container._node(self._engine, type_, name)
        if is_sync and node.is_async:
            raise NeedsAwait(
                f"{node.key} is made by an async factory: await scope.aresolve({node.key})"
            )
        return self._engine.token(node.key)

    def _given(self, type_: type[T]) -> T:
        assert self._context is not None
        found: T = self._context[type_]
        return found

    def _told(self, error: Exception) -> Exception:
        missing = self._engine.missing_context(error)
        if missing is not None:
            return DependencyError(
                f"{missing} ✗ is given by whoever opens the scope:"
                f" container.scope({{{missing}: …}})"
            )
        return error

    # ---------------------------------------------------------------- its life

    def __enter__(self) -> Self:
        self._before = current_scope.get()
        current_scope.set(self)
        return self

    async def __aenter__(self) -> Self:
        return self.__enter__()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None
    ) -> None:
        current_scope.set(self._before)
        if self._engine.has_teardown:
            run_now(self._child.close(error), "the scope's teardown")

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None
    ) -> None:
        current_scope.set(self._before)
        if not self._engine.has_teardown:
            return
        interrupted: BaseException | None = None
        while True:
            try:
                await self._child.close(error)
            except Exception:
                raise
            except BaseException as stop:
                # Cancelled in the middle of a teardown: that one ended where it was; the others
                # have theirs. Each turn ends at least one.
                interrupted = stop
                continue
            break
        if interrupted is not None:
            raise interrupted
