"""What a parameter asks for: a type, perhaps by name, perhaps all of them, perhaps if there is
one.
"""

from __future__ import annotations

import collections.abc
import inspect
import types
from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated, Any, Final, TypeVar, Union, get_args, get_origin

from ._errors import DependencyError

__all__ = ["INJECTED", "Inject", "Key", "Named", "Wish", "annotations_of", "type_name", "wish_of"]

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Named:
    """Which of several: ``Annotated[Cache, Named("hot")]``."""

    name: str


class _Injected:
    """The mark of ``Inject[T]``."""

    def __repr__(self) -> str:
        return "Inject"


INJECTED: Final = _Injected()

Inject = Annotated[T, INJECTED]
"""``Inject[Users]``: a parameter that the container fills. For type checkers it is ``Users``."""


@dataclass(frozen=True, slots=True)
class Key:
    """What can be registered and asked for."""

    type: Any
    name: str | None = None
    collection: type[Any] | None = None
    """``list`` or ``tuple``: all of the type that were registered with ``collect=True``."""

    @property
    def asked(self) -> Any:
        """The type to resolve."""
        return self.type if self.collection is None else self.collection[self.type]

    def __str__(self) -> str:
        text = type_name(self.type)
        if self.collection is not None:
            text = f"{self.collection.__name__}[{text}]"
        return f"{text} named {self.name!r}" if self.name is not None else text


@dataclass(frozen=True, slots=True)
class Wish:
    """What one parameter asks for."""

    parameter: str
    key: Key
    has_default: bool = False
    is_optional: bool = False
    """``T | None``: ``None`` where nobody registered it."""
    is_marked: bool = False
    """``Inject[T]``."""
    is_positional: bool = False


def type_name(type_: Any) -> str:
    """As people write it, without modules."""
    name = getattr(type_, "__qualname__", None)
    if name is None or get_args(type_):
        return str(type_).replace("typing.", "")
    return str(name).rpartition("<locals>.")[2]


_COLLECTIONS: Final = (list, tuple, collections.abc.Sequence, collections.abc.Iterable)


def wish_of(parameter: str, annotation: Any, *, has_default: bool = False) -> Wish:
    """What ``annotation`` asks for."""
    name: str | None = None
    is_marked = is_optional = False
    while True:
        origin = get_origin(annotation)
        if origin is Annotated:
            annotation, *marks = get_args(annotation)
            for mark in marks:
                if isinstance(mark, Named):
                    name = mark.name
                elif mark is INJECTED:
                    is_marked = True
            continue
        if origin in (Union, types.UnionType):
            others = [each for each in get_args(annotation) if each is not type(None)]
            if len(others) == 1 and len(others) < len(get_args(annotation)):
                annotation, is_optional = others[0], True
                continue
        break
    key = Key(annotation, name)
    if origin in _COLLECTIONS:
        members = [each for each in get_args(annotation) if each is not Ellipsis]
        if len(members) == 1:
            key = Key(members[0], name, list if origin is list else tuple)
    return Wish(parameter, key, has_default, is_optional, is_marked)


def annotations_of(function: Callable[..., Any]) -> dict[str, Any]:
    """Annotations, evaluated where the function was written: its module, and what it closes over.
    Raises ``DependencyError`` for those that cannot be.
    """
    target = function.__init__ if inspect.isclass(function) else function
    target = inspect.unwrap(target)
    target = getattr(target, "func", target)  # partial
    if not hasattr(target, "__annotations__") and callable(target):
        target = type(target).__call__
    target = getattr(target, "__func__", target)
    known = dict(getattr(target, "__globals__", {}))
    code, cells = getattr(target, "__code__", None), getattr(target, "__closure__", None) or ()
    for variable, cell in zip(code.co_freevars if code else (), cells, strict=True):
        try:
            known[variable] = cell.cell_contents
        except ValueError:
            continue  # not assigned yet
    found: dict[str, Any] = {}
    for name, said in getattr(target, "__annotations__", {}).items():
        found[name] = said
        while isinstance(found[name], str):  # quoted, and all annotations of the module are
            text = found[name]
            try:
                found[name] = eval(text, known)  # noqa: S307  # its author's own annotation
            except Exception as error:
                raise DependencyError(
                    f"{type_name(function)}: the annotation of {name}, {text!r}, cannot be"
                    f" evaluated: {error}. Is it imported for type checkers only?"
                ) from None
    return found
