"""Numbers, truth values, files and Python objects in a configuration.

Every field type of this package is an ``Annotated`` type with its own validator, wording and JSON
Schema. It accepts what a TOML file can say *and* what Python code passes; what comes out is the
plain Python value, so nothing downstream knows how it was written.
"""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Final

from pydantic import (
    BeforeValidator,
    Field,
    GetCoreSchemaHandler,
    GetJsonSchemaHandler,
    PlainSerializer,
    PlainValidator,
    Strict,
    ValidationInfo,
    WithJsonSchema,
)
from pydantic.json_schema import JsonSchemaValue
from pydantic_core import CoreSchema, core_schema

from .environment import FromEnv
from .hints import nearest
from .section import wrong

FROM_ENV: Final[JsonSchemaValue] = {"type": "string", "pattern": r"^\$\{[^}]+\}$"}
"""What an editor accepts where the environment supplies a number or a truth value."""

_OBJECT: Final = re.compile(
    r"[A-Za-z_]\w*(?:\.[A-Za-z_]\w*)*:[A-Za-z_]\w*(?:\.[A-Za-z_]\w*)*", re.ASCII
)


def unquoted(value: object) -> object:
    """What ``"${PORT}"`` stands for.

    Only a whole variable is read so: a literal ``workers = "4"`` stays wrong.
    """
    if not isinstance(value, FromEnv):
        return value
    if re.fullmatch(r"[+-]?[0-9]{1,18}", value):
        return int(value)
    if re.fullmatch(r"[+-]?[0-9]{1,18}\.[0-9]{1,18}", value):
        return float(value)
    return {"true": True, "false": False}.get(value.casefold(), value)


class _OrFromEnv:
    """Adds ``"${NAME}"`` to the JSON Schema of a number."""

    def __get_pydantic_json_schema__(
        self, schema: CoreSchema, handler: GetJsonSchemaHandler
    ) -> JsonSchemaValue:
        return {"anyOf": [handler(schema), FROM_ENV]}


Integer = Annotated[int, Strict(), BeforeValidator(unquoted)]
"""A whole number; text is not one, unless it is exactly one ``${NAME}``."""

Number = Annotated[float, Strict(), Field(allow_inf_nan=False), BeforeValidator(unquoted)]
"""A finite number, with or without a fraction."""

Flag = Annotated[bool, Strict(), BeforeValidator(unquoted), _OrFromEnv()]
"""``true`` or ``false``; nothing else reads as a truth value, certainly not ``"no"``."""


def integer(minimum: int, maximum: int) -> Any:
    """The metadata of a bounded ``Integer``: ``Annotated[Integer, integer(1, 65535)]``."""
    return _Bounded(minimum, maximum)


@dataclass(frozen=True)
class _Bounded:
    minimum: int
    maximum: int

    def __get_pydantic_core_schema__(
        self, source: Any, handler: GetCoreSchemaHandler
    ) -> CoreSchema:
        return core_schema.no_info_after_validator_function(self._check, handler(source))

    def _check(self, value: int) -> int:
        if not self.minimum <= value <= self.maximum:
            raise wrong(f"must be from {self.minimum} to {self.maximum}")
        return value

    def __get_pydantic_json_schema__(
        self, schema: CoreSchema, handler: GetJsonSchemaHandler
    ) -> JsonSchemaValue:
        number = {"type": "integer", "minimum": self.minimum, "maximum": self.maximum}
        return {"anyOf": [number, FROM_ENV]}


def parse_object_path(value: object) -> str:
    """``package.module:name``."""
    if not isinstance(value, str):
        raise wrong("must be text")
    if not _OBJECT.fullmatch(value):
        hint = 'write "package.module:name"'
        module, dot, name = value.rpartition(".")
        if ":" not in value and dot and _OBJECT.fullmatch(f"{module}:{name}"):
            hint = f'did you mean "{module}:{name}"?'
        raise wrong("is not the path of a Python object", hint)
    return str(value)


ObjectPath = Annotated[
    str,
    PlainValidator(parse_object_path),
    WithJsonSchema(
        {"$comment": "object", "type": "string", "pattern": r"^[A-Za-z_][\w.]*:[A-Za-z_][\w.]*$"}
    ),
]
"""``"package.module:name"``: something to import."""


def _readable(value: object, info: ValidationInfo) -> Path:
    if not isinstance(value, (str, Path)) or not str(value):
        raise wrong("must be the path of a file")
    if "\0" in str(value):
        raise wrong("is not the path of a file")
    directory = (info.context or {}).get("directory")
    path = Path(value) if directory is None else Path(directory) / value
    try:
        is_file, is_directory = path.is_file(), path.is_dir()
    except (OSError, ValueError):
        is_file = is_directory = False
    if is_directory:
        raise wrong("names a directory, not a file")
    if not is_file:
        near = nearest(path.name, _names_beside(path))
        hint = f'did you mean "{near}"?' if near else "it is looked for beside the configuration"
        raise wrong("names a file that does not exist", hint)
    if not os.access(path, os.R_OK):
        raise wrong("names a file that this user may not read")
    return path


def _names_beside(path: Path) -> list[str]:
    try:
        return sorted(entry.name for entry in path.parent.iterdir())[:1000]
    except (OSError, ValueError):
        return []


def _folder(value: object, info: ValidationInfo) -> Path:
    if not isinstance(value, (str, Path)) or not str(value) or "\0" in str(value):
        raise wrong("must be the path of a folder")
    directory = (info.context or {}).get("directory")
    path = Path(value) if directory is None else Path(directory) / value
    if not path.is_dir():
        hint = "it is looked for beside the configuration"
        raise wrong("names a folder that does not exist", hint)
    return path


ExistingFolder = Annotated[
    Path,
    PlainValidator(_folder),
    PlainSerializer(str, return_type=str),
    WithJsonSchema({"$comment": "folder", "type": "string"}),
]
"""A folder that exists, relative to the configuration as ``ReadableFile``."""


ReadableFile = Annotated[
    Path,
    PlainValidator(_readable),
    PlainSerializer(str, return_type=str),
    WithJsonSchema({"$comment": "file", "type": "string"}),
]
"""A file that exists and can be read.

A relative path starts at the directory of the configuration, or in Python code at the current one.
"""
