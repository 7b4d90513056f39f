"""What a parameter asks for: a type, perhaps by name, perhaps all of them, perhaps if there is
one.
"""

from __future__ import annotations

import collections.abc
import dataclasses
import functools
import inspect
import sys
import types
from collections.abc import Callable
from typing import Annotated, Any, Final, ForwardRef, TypeVar, Union, get_args, get_origin

from ._errors import DependencyError

__all__ = [
    "INJECTED",
    "Inject",
    "Key",
    "Named",
    "Wish",
    "annotations_of",
    "function_of",
    "key_of",
    "type_name",
    "wish_of",
]

T = TypeVar("T")


@dataclasses.dataclass(frozen=True, slots=True)
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


@dataclasses.dataclass(frozen=True, slots=True)
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


@dataclasses.dataclass(frozen=True, slots=True)
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
        if isinstance(annotation, dataclasses.InitVar):
            annotation = annotation.type
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


def key_of(type_: Any, name: str | None = None) -> Key:
    """What ``type_`` says when it is registered or asked for; ``name`` goes before its own."""
    key = wish_of("", type_).key
    return key if name is None else Key(key.type, name, key.collection)


def function_of(function: Callable[..., Any]) -> Any:
    """What runs in the end when ``function`` is called: behind partials and generic types, of a
    class and of an object that can be called.
    """
    while isinstance(function, functools.partial):
        function = function.func
    function = get_origin(function) or function
    if inspect.isclass(function):
        # A named tuple has no ``__init__`` of its own.
        return function.__new__ if function.__init__ is object.__init__ else function.__init__
    if inspect.isroutine(function) or hasattr(function, "__wrapped__"):
        return function
    return type(function).__call__


def annotations_of(
    function: Callable[..., Any], *, is_needed: Callable[[str], bool] = lambda text: True
) -> dict[str, Any]:
    """Annotations, evaluated where the function was written: its module, and what it closes over.
    Raises ``DependencyError`` for those that cannot be and are needed; leaves the others out.
    """
    target = inspect.unwrap(function_of(function))
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
        value = said
        try:
            while isinstance(value, (str, ForwardRef)):  # quoted, as all of the module may be
                if isinstance(value, ForwardRef):
                    value = value.__forward_arg__
                value = eval(value, known | _around(function, name))  # noqa: S307  # its author's
        except Exception as error:
            if not is_needed(str(value)):
                continue
            raise DependencyError(
                f"{type_name(function)}: the annotation of {name}, {value!r}, cannot be"
                f" evaluated: {error}. Is it imported for type checkers only?"
            ) from None
        found[name] = value
    return found


def _around(function: Any, field: str) -> dict[str, Any]:
    """What is made of a class's fields has their annotations as they stand: they mean what they
    mean in the module of that class, which may be a base.
    """
    is_made_of_fields = dataclasses.is_dataclass(function) or hasattr(function, "_fields")
    if not (inspect.isclass(function) and is_made_of_fields):
        return {}
    home = next((c for c in function.__mro__ if field in inspect.get_annotations(c)), None)
    return dict(vars(sys.modules[home.__module__])) if home is not None else {}
