"""One thing that was registered: what it gives, how it is made, what that needs."""

from __future__ import annotations

import collections.abc
import inspect
import itertools
from collections.abc import Callable
from dataclasses import dataclass, field
from enum import Enum
from typing import Any, Literal, get_args, get_origin

from ._errors import DependencyError
from ._keys import Key, Wish, annotations_of, function_of, type_name, wish_of

__all__ = ["Kind", "Lifetime", "Registration", "made_type", "wishes_of"]

Lifetime = Literal["singleton", "scoped", "transient"]
"""One for the container; one for each scope; one for each use."""

_numbers = itertools.count(1)


class Kind(Enum):
    """How something comes to be."""

    INSTANCE = "instance"
    FUNCTION = "function"
    COROUTINE = "coroutine"
    GENERATOR = "generator"
    ASYNC_GENERATOR = "async generator"
    ALIAS = "alias"
    COLLECTION = "collection"
    CONTEXT = "context"
    """Given by whoever opens a scope."""

    @property
    def has_teardown(self) -> bool:
        return self in (Kind.GENERATOR, Kind.ASYNC_GENERATOR)

    @property
    def is_async(self) -> bool:
        return self in (Kind.COROUTINE, Kind.ASYNC_GENERATOR)


@dataclass(frozen=True, slots=True, eq=False)
class Registration:
    """Compared by identity: registering the same again is another registration."""

    key: Key
    kind: Kind
    lifetime: Lifetime
    source: Any
    """The instance, or what makes it."""
    wishes: tuple[Wish, ...] = ()
    owner: str = ""
    number: int = field(default_factory=lambda: next(_numbers))

    @property
    def title(self) -> str:
        """What makes it, for people."""
        if self.kind is Kind.INSTANCE:
            return "an instance"
        return type_name(self.source) if callable(self.source) else str(self.key)


def kind_of(factory: Callable[..., Any]) -> Kind:
    """How a factory makes what it makes: as the outermost of its decorators that says so."""
    plain = function_of(factory)
    while True:
        if inspect.isasyncgenfunction(plain):
            return Kind.ASYNC_GENERATOR
        if inspect.isgeneratorfunction(plain):
            return Kind.GENERATOR
        if inspect.iscoroutinefunction(plain):
            return Kind.COROUTINE
        if not hasattr(plain, "__wrapped__"):
            return Kind.FUNCTION
        plain = plain.__wrapped__


def wishes_of(factory: Callable[..., Any]) -> tuple[Wish, ...]:
    """What a factory's parameters ask for. Raises ``DependencyError`` for one that says nothing."""
    if function_of(factory) is object.__new__:
        return ()
    try:
        parameters = inspect.signature(get_origin(factory) or factory).parameters.values()
    except (TypeError, ValueError):
        raise DependencyError(f"{type_name(factory)} has no signature: give a function") from None
    annotations = annotations_of(factory)
    found: list[Wish] = []
    for each in parameters:
        if each.kind in (each.VAR_POSITIONAL, each.VAR_KEYWORD):
            continue
        has_default = each.default is not each.empty
        # Classes that describe themselves, such as pydantic's, do so in their signature.
        said = annotations.get(each.name, each.annotation)
        if said is each.empty:
            if has_default:
                continue
            raise DependencyError(
                f"{type_name(factory)}: its parameter {each.name} has no annotation, so nobody"
                " knows what to give it"
            )
        wish = wish_of(each.name, said, has_default=has_default)
        found.append(
            Wish(
                wish.parameter,
                wish.key,
                wish.has_default,
                wish.is_optional,
                wish.is_marked,
                each.kind is each.POSITIONAL_ONLY,
            )
        )
    return tuple(found)


_YIELDING = (
    collections.abc.Iterator,
    collections.abc.Iterable,
    collections.abc.Generator,
    collections.abc.AsyncIterator,
    collections.abc.AsyncIterable,
    collections.abc.AsyncGenerator,
)


def made_type(factory: Callable[..., Any]) -> Any:
    """What a factory says that it makes. Raises ``DependencyError`` when it says nothing."""
    if inspect.isclass(factory):
        return factory
    said = annotations_of(factory).get("return")
    if said is None:
        name = type_name(factory)
        raise DependencyError(f"{name} does not say what it makes: annotate what it returns")
    if kind_of(factory).has_teardown and get_origin(said) in _YIELDING:
        return get_args(said)[0]
    return said
