"""Two ways to write less: one value for a table, one element for a list.

What comes out always has the long shape, so nothing downstream asks how it was written; and no
report names a key or an index that nobody wrote.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

from pydantic import GetCoreSchemaHandler, GetJsonSchemaHandler, ValidationError
from pydantic.json_schema import JsonSchemaValue
from pydantic_core import CoreSchema, core_schema

from .section import Finding, findings, reraise


@dataclass(frozen=True)
class Short:
    """A section that may be written as one value.

    With ``Short("path")``, ``health = "/health"`` means ``health = { path = "/health" }``. With
    ``may_be_custom``, ``"module:name"`` means ``{ kind = "custom", use = "module:name" }``.
    """

    key: str
    types: tuple[type, ...] = (str,)
    may_be_custom: bool = False

    def __get_pydantic_core_schema__(
        self, source: Any, handler: GetCoreSchemaHandler
    ) -> CoreSchema:
        return core_schema.no_info_wrap_validator_function(self._expand, handler(source))

    def _expand(self, value: object, handler: Callable[[object], Any]) -> Any:
        if not isinstance(value, self.types) or (
            isinstance(value, bool) and bool not in self.types
        ):
            return handler(value)
        if self.may_be_custom and isinstance(value, str) and ":" in value:
            return handler({"kind": "custom", "use": value})
        try:
            return handler({self.key: value})
        except ValidationError as error:
            # Nobody wrote the key, so no report names it.
            raise reraise(self.key, [_without(f, self.key) for f in findings(error)]) from None

    def __get_pydantic_json_schema__(
        self, schema: CoreSchema, handler: GetJsonSchemaHandler
    ) -> JsonSchemaValue:
        inner = handler(schema)
        properties = handler.resolve_ref_schema(inner).get("properties", {})
        form = properties.get(self.key)
        if form is None:  # a choice of sections: their tags are the short forms
            form = {"type": "string"}
        return {"anyOf": [{k: v for k, v in form.items() if k != "default"}, inner]}


def _without(finding: Finding, key: str | int) -> Finding:
    return replace(finding, loc=finding.loc[1:]) if finding.loc[:1] == (key,) else finding


@dataclass(frozen=True)
class OneOrMany:
    """A list that may be written as its only element: ``host = "a.example"``."""

    def __get_pydantic_core_schema__(
        self, source: Any, handler: GetCoreSchemaHandler
    ) -> CoreSchema:
        return core_schema.no_info_wrap_validator_function(self._expand, handler(source))

    def _expand(self, value: object, handler: Callable[[object], Any]) -> Any:
        if isinstance(value, (list, tuple)):
            return handler(value)
        try:
            return handler([value])
        except ValidationError as error:
            raise reraise("list", [_without(f, 0) for f in findings(error)]) from None

    def __get_pydantic_json_schema__(
        self, schema: CoreSchema, handler: GetJsonSchemaHandler
    ) -> JsonSchemaValue:
        inner = handler(schema)
        return {"anyOf": [inner.get("items", {}), inner]}
