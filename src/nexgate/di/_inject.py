"""Functions whose marked parameters are filled: handlers, task functions, filters."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from types import TracebackType
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar

from ._errors import DependencyError
from ._keys import Wish, annotations_of, type_name, wish_of
from ._registration import Kind, kind_of
from ._scope import Scope, present_scope

if TYPE_CHECKING:
    from ._container import Container

__all__ = ["inject", "injecting"]

F = TypeVar("F", bound=Callable[..., Any])


def _wishes_in(signature: inspect.Signature) -> tuple[Wish, ...]:
    """The parameters that are marked with ``Inject``."""
    found = (
        wish_of(name, each.annotation, has_default=each.default is not each.empty)
        for name, each in signature.parameters.items()
    )
    return tuple(wish for wish in found if wish.is_marked)


def _signature(function: Callable[..., Any]) -> inspect.Signature | None:
    """With annotations that mean something wherever they are read."""
    try:
        found = inspect.signature(function)
    except (TypeError, ValueError):
        return None
    said = annotations_of(function, is_needed=lambda text: "Inject" in text)
    return found.replace(
        parameters=[
            each.replace(annotation=said.get(name, each.annotation))
            for name, each in found.parameters.items()
        ],
        return_annotation=said.get("return", found.return_annotation),
    )


def inject(function: F) -> F:
    """Fill the parameters of ``function`` that are annotated ``Inject[T]`` from the present scope
    (see ``Container.scope``). Others see it without them. Raises ``DependencyError`` when it is
    called outside of a scope, and ``TypeError`` for a generator: open a scope in that.
    """
    return injecting(function, None)


def injecting(function: F, container: Container | None) -> F:
    """``inject``, with a container for calls outside of a scope."""
    signature = _signature(function)
    wishes = _wishes_in(signature) if signature is not None else ()
    if signature is None or not wishes:
        return function
    kind = kind_of(function)
    if kind.has_teardown:
        raise TypeError(
            f"{type_name(function)} is a generator, which may outlive the scope it was called in:"
            " open one in it"
        )
    asks = _asks(wishes)
    names = {wish.parameter for wish in wishes}
    shown = [each for name, each in signature.parameters.items() if name not in names]
    by_name = _must_be_named(signature, names)

    wrapper: Any
    if kind is Kind.COROUTINE:

        @functools.wraps(function)
        async def wrapper(*args: Any, **given: Any) -> Any:
            if by_name:
                args = _named(by_name, args, given)
            scope = _present(container)
            if scope is not None:
                await _afill(scope, asks, given)
                with _Noting(scope):
                    return await function(*args, **given)
            async with _own(container, function) as scope:
                await _afill(scope, asks, given)
                return await function(*args, **given)

    else:

        @functools.wraps(function)
        def wrapper(*args: Any, **given: Any) -> Any:
            if by_name:
                args = _named(by_name, args, given)
            scope = _present(container)
            if scope is not None:
                _fill(scope, asks, given)
                with _Noting(scope):
                    return function(*args, **given)
            with _own(container, function) as scope:
                _fill(scope, asks, given)
                return function(*args, **given)

    wrapper.__signature__ = signature.replace(parameters=shown)
    wrapper.__annotations__ = {
        each.name: each.annotation for each in shown if each.annotation is not each.empty
    }
    if signature.return_annotation is not signature.empty:
        wrapper.__annotations__["return"] = signature.return_annotation
    found: F = wrapper
    return found


def _must_be_named(signature: inspect.Signature, injected: set[str]) -> tuple[str, ...]:
    """Parameters, in order, that have to be passed by name, because an injected one that callers
    do not see stands before one of them.
    """
    positional = [
        name
        for name, each in signature.parameters.items()
        if each.kind is each.POSITIONAL_OR_KEYWORD
    ]
    first = next((n for n, name in enumerate(positional) if name in injected), len(positional))
    if all(name in injected for name in positional[first:]):
        return ()
    return tuple(name for name in positional if name not in injected)


def _named(names: tuple[str, ...], args: tuple[Any, ...], given: dict[str, Any]) -> tuple[Any, ...]:
    """Move what was passed by position to ``given``; what is too much is for Python to refuse."""
    given.update(zip(names, args, strict=False))
    return args[len(names) :]


class _Noting:
    """Keeps what the outermost call raises: what an inner one does is the outer one's to handle."""

    __slots__ = ("_scope",)

    def __init__(self, scope: Scope) -> None:
        self._scope = scope

    def __enter__(self) -> None:
        self._scope._depth += 1

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None
    ) -> None:
        scope = self._scope
        scope._depth -= 1
        if not scope._depth:
            scope.failure = error


def _present(container: Container | None) -> Scope | None:
    """The scope that we are in, if it is one of this container."""
    scope = present_scope()
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


class _Ask(NamedTuple):
    """A wish, worked out for every call."""

    parameter: str
    type: Any
    name: str | None
    perhaps: Wish | None
    """Set when it may be missing."""


def _asks(wishes: tuple[Wish, ...]) -> tuple[_Ask, ...]:
    return tuple(
        _Ask(
            wish.parameter,
            wish.key.asked,
            wish.key.name,
            wish if wish.is_optional or wish.has_default else None,
        )
        for wish in wishes
    )


def _fill(scope: Scope, asks: tuple[_Ask, ...], given: dict[str, Any]) -> None:
    for parameter, type_, name, perhaps in asks:
        if parameter not in given and (perhaps is None or _is_there(scope, perhaps, given)):
            given[parameter] = scope.resolve(type_, name)


async def _afill(scope: Scope, asks: tuple[_Ask, ...], given: dict[str, Any]) -> None:
    for parameter, type_, name, perhaps in asks:
        if parameter not in given and (perhaps is None or _is_there(scope, perhaps, given)):
            given[parameter] = await scope.aresolve(type_, name)


def _is_there(scope: Scope, wish: Wish, given: dict[str, Any]) -> bool:
    """Whether to resolve it; one that is missing has its default, or ``None``."""
    if scope.has(wish.key):
        return True
    if not wish.has_default:
        given[wish.parameter] = None
    return False
