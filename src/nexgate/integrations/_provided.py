"""A dependency as a function without parameters, which is what frameworks' own markers take."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any, TypeVar

from nexgate.di import DependencyError, Scope, current_scope

__all__ = ["present_scope", "provided"]

T = TypeVar("T")


def present_scope() -> Scope:
    """The scope of the present request. Raises ``DependencyError`` outside of one."""
    scope = current_scope.get()
    if scope is None:
        raise DependencyError("there is no request here: is the toolkit installed in the app?")
    return scope


def provided(type: type[T], name: str | None = None) -> Callable[[], Awaitable[T]]:
    """An async function that returns the ``type`` of the present request: for Nexios
    ``Depend(provided(Users))``, for Litestar ``Provide(provided(Users))``.
    """

    async def give() -> Any:
        return await present_scope().aresolve(type, name)

    return give
