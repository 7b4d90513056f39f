"""Text that must not be seen."""

from __future__ import annotations

import hmac
from typing import Any

from pydantic import GetCoreSchemaHandler, GetJsonSchemaHandler
from pydantic.json_schema import JsonSchemaValue
from pydantic_core import CoreSchema, core_schema

from .section import wrong


class SecretText:
    """Text that no log, traceback or dump shows. ``reveal()`` is the one way to it.

    Not a ``str``, on purpose: an f-string that needs it must say so, and mypy sees who forgot.
    """

    __slots__ = ("_text",)

    def __init__(self, text: str) -> None:
        self._text = text

    def reveal(self) -> str:
        """The text itself. Keep the answer out of messages."""
        return self._text

    def __repr__(self) -> str:
        return "SecretText('********')"

    def __str__(self) -> str:
        return "********"

    def __eq__(self, other: object) -> bool:
        # Reloads compare configurations; in constant time, because it costs nothing to be careful.
        if not isinstance(other, SecretText):
            return NotImplemented
        return hmac.compare_digest(_utf8(self._text), _utf8(other._text))

    def __hash__(self) -> int:
        return hash(self._text)

    def __len__(self) -> int:
        return len(self._text)

    @classmethod
    def __get_pydantic_core_schema__(cls, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        return core_schema.no_info_plain_validator_function(
            cls._validate,
            serialization=core_schema.plain_serializer_function_ser_schema(str),
        )

    @classmethod
    def __get_pydantic_json_schema__(
        cls, schema: CoreSchema, handler: GetJsonSchemaHandler
    ) -> JsonSchemaValue:
        return {"type": "string"}

    @classmethod
    def _validate(cls, value: object) -> SecretText:
        if isinstance(value, SecretText):
            return value
        if not isinstance(value, str):
            raise wrong("must be text", is_secret=True)
        return cls(str(value))


def _utf8(text: str) -> bytes:
    return text.encode("utf-8", "surrogatepass")
