"""Settings from environment variables."""

from __future__ import annotations

import dataclasses
import json
import os
from collections.abc import Callable, Mapping
from typing import Any, cast, get_origin

from pydantic import BaseModel, TypeAdapter, ValidationError

from ._errors import DependencyError
from ._keys import annotations_of, type_name

__all__ = ["SettingsError", "settings_factory"]


class SettingsError(DependencyError):
    """Environment variables are missing or wrong. Their values are not shown."""


def settings_factory(
    type_: type[Any], prefix: str, environ: Mapping[str, str] | None
) -> Callable[[], Any]:
    """What makes settings of ``type_``."""
    fields = _fields(type_)
    adapter = TypeAdapter(type_)

    def variables() -> dict[str, Any]:
        known = os.environ if environ is None else environ
        found: dict[str, Any] = {}
        for field, annotation in fields.items():
            text = known.get(_variable(prefix, field))
            if text is not None:
                found[field] = _read(text, annotation)
        return found

    def read() -> Any:
        try:
            return adapter.validate_python(variables())
        except ValidationError as error:
            raise SettingsError("\n".join(_told(type_, prefix, error))) from None

    def check() -> list[str]:
        try:
            adapter.validate_python(variables())
        except ValidationError as error:
            return _told(type_, prefix, error)
        return []

    made = cast("Any", read)
    made.__qualname__ = f"settings of {type_name(type_)}"
    made.check, made.is_settings = check, True
    return read


def _fields(type_: type[Any]) -> dict[str, Any]:
    if issubclass(type_, BaseModel):
        return {name: field.annotation for name, field in type_.model_fields.items()}
    if dataclasses.is_dataclass(type_):
        said = annotations_of(type_)
        return {each.name: said.get(each.name) for each in dataclasses.fields(type_) if each.init}
    raise DependencyError(f"{type_name(type_)} is neither a dataclass nor a pydantic model")


def _variable(prefix: str, field: str) -> str:
    return f"{prefix}{field}".upper()


def _read(text: str, annotation: Any) -> Any:
    """JSON where a text cannot be the value, else the text: pydantic reads numbers and times."""
    plain = get_origin(annotation) or annotation
    if isinstance(plain, type) and issubclass(
        plain, (list, tuple, set, frozenset, dict, BaseModel)
    ):
        try:
            return json.loads(text)
        except ValueError:
            return text
    return text


def _told(type_: type[Any], prefix: str, error: ValidationError) -> list[str]:
    lines: list[str] = []
    for each in error.errors(include_input=False, include_url=False, include_context=False):
        place = each["loc"]
        name = _variable(prefix, str(place[0])) if place else "its variables"
        what = "is not set" if each["type"] == "missing" else each["msg"]
        lines.append(f"{type_name(type_)} ✗ {name}: {what}")
    return lines
