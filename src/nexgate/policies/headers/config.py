"""``request_headers`` and ``response_headers`` of a route: changes to the fields of a message."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Annotated, Any, ClassVar, Final

from pydantic import AfterValidator, WithJsonSchema

from nexgate.config import FieldName, FieldValue, Finding, Section, wrong
from nexgate.http import Kind, make_field

_OTHER_WAYS: Final[Mapping[str, str]] = {
    "host": "a service's host decides it",
    "content-length": "it follows from the body",
    "transfer-encoding": "it follows from the body",
    "upgrade": "upgrades pass by themselves",
    "connection": "it belongs to one connection; each side has its own",
}


def _end_to_end(name: str) -> str:
    """Refuse fields that belong to one connection or delimit a message.

    Whoever sets one of them desynchronises the two sides: that is request smuggling by
    configuration.
    """
    lower = name.lower()
    if make_field(lower.encode("ascii"), b"").kind & Kind.HOP or lower == "trailer":
        hint = _OTHER_WAYS.get(lower, "it belongs to one connection, not to the message")
        raise wrong("is a field that the gateway itself decides", hint)
    return name


ChangeableField = Annotated[
    FieldName, AfterValidator(_end_to_end), WithJsonSchema({"type": "string", "minLength": 1})
]
"""The name of a field that may be changed."""


class HeaderRules(Section):
    """Changes to the fields of a message, in the order ``rename``, ``remove``, ``default``,
    ``set``, ``add``.

    Names are compared without case. Values are secrets: they appear in no log and in no report.
    """

    foreign: ClassVar[Mapping[str, str]] = {
        "append": "the key is add",
        "delete": "the key is remove",
        "del": "the key is remove",
        "unset": "the key is remove",
        "replace": "the key is set",
        "overwrite": "the key is set",
        "headers": "the keys are set, add, remove, default and rename",
    }

    rename: dict[ChangeableField, ChangeableField] = {}
    """Old name to new name. The values stay; fields that already had the new name stay too."""

    remove: tuple[ChangeableField, ...] = ()
    """Names of fields to remove."""

    default: dict[ChangeableField, FieldValue] = {}
    """Fields for a message that has none of that name."""

    set: dict[ChangeableField, FieldValue] = {}
    """Fields that replace all of that name."""

    add: dict[ChangeableField, FieldValue] = {}
    """Fields in addition to those that are there."""

    @classmethod
    def hint_for_unknown(cls, key: str) -> str:
        """A field name straight in the table is the most likely mistake here."""
        if key.casefold() not in cls.foreign and ("-" in key or key[:1].isupper()):
            return f"fields stand one level deeper: set = {{ {key} = … }}"
        return super().hint_for_unknown(key)

    @classmethod
    def relations(cls, data: Mapping[str, Any]) -> Iterator[Finding]:
        for key in ("rename", "default", "set", "add"):
            names = data.get(key)
            seen: dict[str, str] = {}
            for name in names if isinstance(names, Mapping) else ():
                first = seen.setdefault(str(name).lower(), str(name))
                if first != name:
                    hint = f"it is {first} already: case makes no difference"
                    yield Finding((key, name), "is there twice", hint, is_about_key=True)
        replaced = {str(name).lower() for name in _names(data.get("set"))}
        for index, name in enumerate(_names(data.get("remove"))):
            if isinstance(name, str) and name.lower() in replaced:
                yield Finding(("remove", index), "is also set", "set alone replaces what was there")


def _names(value: object) -> tuple[Any, ...]:
    return tuple(value) if isinstance(value, (list, tuple, Mapping)) else ()
