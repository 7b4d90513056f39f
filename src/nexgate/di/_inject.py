"""Functions whose marked parameters are filled: handlers, task functions, filters."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, TypeVar

from ._errors import DependencyError
from ._keys import Wish, annotations_of, type_name, wish_of
from ._scope import Scope, current_scope

if TYPE_CHECKING:
    from ._container import Container

__all__ = ["inject", "injecting", "wishes_in"]

F = TypeVar("F", bound=Callable[..., Any])


def wishes_in(function: Callable[..., Any]) -> tuple[Wish, ...]:
    """The parameters that are marked with ``Inject``."""
    try:
        parameters = inspect.signature(function).parameters.values()
    except (TypeError, ValueError):
        return ()
    if not any("Inject" in str(each.annotation) for each in parameters):
        return ()  # annotations of others may be for type checkers only
    annotations = annotations_of(function)
    found = (
        wish_of(each.name, annotations[each.name], has_default=each.default is not each.empty)
        for each in parameters
        if each.name in annotations
    )
    return tuple(wish for wish in found if wish.is_marked)


def inject(function: F) -> F:
    """Fill the parameters of ``function`` that are annotated ``Inject[T]`` from the present scope
    (see ``Container.scope``). Others see it without them. Raises ``DependencyError`` when it is
    called outside of a scope.
    """
    return injecting(function, None)


def injecting(function: F, container: Container | None) -> F:
    """``inject``, with a container for calls outside of a scope."""
    wishes = wishes_in(function)
    if not wishes:
        return function
    names = {wish.parameter for wish in wishes}
    signature = inspect.signature(function)

    wrapper: Any
    if inspect.iscoroutinefunction(inspect.unwrap(function)):

        @functools.wraps(function)
        async def wrapper(*args: Any, **given: Any) -> Any:
            scope = _present(container)
            if scope is not None:
                for wish in wishes:
                    if wish.parameter not in given:
                        given[wish.parameter] = await _aresolved(scope, wish)
                return await function(*args, **given)
            async with _own(container, function) as scope:
                for wish in wishes:
                    if wish.parameter not in given:
                        given[wish.parameter] = await _aresolved(scope, wish)
                return await function(*args, **given)

    else:

        @functools.wraps(function)
        def wrapper(*args: Any, **given: Any) -> Any:
            scope = _present(container)
            if scope is not None:
                _fill(scope, wishes, given)
                return function(*args, **given)
            with _own(container, function) as scope:
                _fill(scope, wishes, given)
                return function(*args, **given)

    wrapper.__signature__ = signature.replace(
        parameters=[p for n, p in signature.parameters.items() if n not in names]
    )
    wrapper.__annotations__ = {
        name: said
        for name, said in getattr(function, "__annotations__", {}).items()
        if name not in names
    }
    found: F = wrapper
    return found


def _present(container: Container | None) -> Scope | None:
    """The scope that we are in, if it is one of this container."""
    scope = current_scope.get()
    if scope is not None and container is not None and scope._container is not container:
        return None
    return scope


def _own(container: Container | None, function: Callable[..., Any]) -> Scope:
    if container is None:
        raise DependencyError(
            f"{type_name(function)} was called outside of a scope: install the toolkit in the"
            " application, or use container.inject"
        )
    return container.scope()


def _fill(scope: Scope, wishes: tuple[Wish, ...], given: dict[str, Any]) -> None:
    for wish in wishes:
        if wish.parameter not in given:
            if not _is_there(scope, wish):
                if wish.is_optional and not wish.has_default:
                    given[wish.parameter] = None
                continue
            given[wish.parameter] = scope.resolve(wish.key.asked, wish.key.name)


async def _aresolved(scope: Scope, wish: Wish) -> Any:
    if wish.is_optional and not _is_there(scope, wish):
        return None
    return await scope.aresolve(wish.key.asked, wish.key.name)


def _is_there(scope: Scope, wish: Wish) -> bool:
    if not (wish.is_optional or wish.has_default):
        return True
    return scope._engine.graph.find(wish.key) is not None
