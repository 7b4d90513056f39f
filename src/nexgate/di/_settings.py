"""Settings from environment variables."""

from __future__ import annotations

import dataclasses
import json
import os
from collections.abc import Collection, Mapping
from types import UnionType
from typing import Annotated, Any, Union, get_args, get_origin, get_type_hints

from pydantic import BaseModel, TypeAdapter, ValidationError

from ._errors import DependencyError
from ._keys import type_name

__all__ = ["SettingsError", "SettingsFactory"]


class SettingsError(DependencyError):
    """Environment variables are missing or wrong. Their values are not shown."""


class SettingsFactory:
    """Makes settings of a dataclass or a pydantic model."""

    def __init__(self, type_: type[Any], prefix: str, environ: Mapping[str, str] | None) -> None:
        self.__qualname__ = f"settings of {type_name(type_)}"
        self._type = type_
        self._prefix = prefix
        self._environ = environ
        self._fields = _fields(type_)
        self._adapter: TypeAdapter[Any] = TypeAdapter(type_)

    def __call__(self) -> Any:
        try:
            return self._read()
        except ValidationError as error:
            raise SettingsError("\n".join(self._told(error))) from None

    def problems(self) -> list[str]:
        """What is missing or wrong at the moment."""
        try:
            self._read()
        except ValidationError as error:
            return self._told(error)
        return []

    def _read(self) -> Any:
        known = os.environ if self._environ is None else self._environ
        found: dict[str, Any] = {}
        for field, annotation in self._fields.items():
            text = known.get(self._variable(field))
            if text is not None:
                found[field] = _value(text, annotation)
        return self._adapter.validate_python(found, by_name=True, by_alias=False)

    def _variable(self, field: str) -> str:
        return f"{self._prefix}{field}".upper()

    def _told(self, error: ValidationError) -> list[str]:
        lines: list[str] = []
        for each in error.errors(include_input=False, include_url=False, include_context=False):
            field, *inside = each["loc"] or ("",)
            name = self._variable(str(field)) if field else "its variables"
            name += "".join(f"[{part!r}]" for part in inside)
            what = "is not set" if each["type"] == "missing" and not inside else each["msg"]
            lines.append(f"{type_name(self._type)} ✗ {name}: {what}")
        return lines


def _fields(type_: type[Any]) -> dict[str, Any]:
    if issubclass(type_, BaseModel):
        return {name: field.annotation for name, field in type_.model_fields.items()}
    if dataclasses.is_dataclass(type_):
        said = get_type_hints(type_)
        return {each.name: said.get(each.name) for each in dataclasses.fields(type_) if each.init}
    raise DependencyError(f"{type_name(type_)} is neither a dataclass nor a pydantic model")


def _value(text: str, annotation: Any) -> Any:
    """JSON where a text cannot be the value, else the text: pydantic reads numbers and times."""
    if not _is_structure(annotation):
        return text
    try:
        read = json.loads(text)
    except ValueError:
        return text
    return read if read is None or isinstance(read, (list, dict)) else text


def _is_structure(annotation: Any) -> bool:
    """Whether it is, or may be, made of others."""
    if get_origin(annotation) in (Union, UnionType, Annotated):
        return any(_is_structure(each) for each in get_args(annotation))
    plain = get_origin(annotation) or annotation
    return isinstance(plain, type) and (
        issubclass(plain, BaseModel)
        or dataclasses.is_dataclass(plain)
        or (issubclass(plain, Collection) and not issubclass(plain, (str, bytes)))
    )
