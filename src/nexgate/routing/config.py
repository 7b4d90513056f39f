"""The predicates of ``[[routes]]``: which requests a route is for."""

from __future__ import annotations

import re
import warnings
from collections.abc import Iterator, Mapping
from typing import Annotated, Any, ClassVar, Final

from pydantic import Field, PlainValidator, WithJsonSchema

from nexgate.config import (
    FieldName,
    Finding,
    Flag,
    HostPattern,
    Integer,
    OneOrMany,
    Section,
    Short,
    Token,
    integer,
    nearest,
    peek,
    wrong,
)
from nexgate.routing._template import Template, TemplateError

_METHODS: Final = ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE")


def parse_template(value: object) -> Template:
    """The path template in a configuration. Raises what pydantic and ``wrong`` expect."""
    if not isinstance(value, str):
        raise wrong("must be a path template", 'for example "/users/{id}"')
    try:
        return Template.parse(value)
    except TemplateError as error:
        # A message never repeats the value, a hint may; and the reason quotes the segment.
        reason = f"{error.reason}; {error.hint}" if error.hint else error.reason
        raise wrong("is not a path template", reason) from None


def _template(value: object) -> str:
    return parse_template(value).text


def _method(value: object) -> str:
    if not isinstance(value, str):
        raise wrong("must be text", 'for example "GET"')
    if not re.fullmatch(r"[!#$%&'*+.^_`|~0-9A-Za-z-]{1,64}", value):
        raise wrong("is not a method", 'for example "GET"')
    if value == "CONNECT":
        raise wrong("is not a method that a gateway serves")
    if value not in _METHODS and value.upper() in _METHODS:
        raise wrong("is not a method", f'methods are case-sensitive: "{value.upper()}"')
    near = nearest(value, _METHODS)
    if near is not None and value not in _METHODS and len(value) == len(near):
        raise wrong("is not a method", f'did you mean "{near}"?')
    return str(value)


def _regex(value: object) -> str:
    if not isinstance(value, str):
        raise wrong("must be a regular expression")
    try:
        with warnings.catch_warnings():
            # "Possible nested set" is Python's doubt about its future, not a problem of the file.
            warnings.simplefilter("ignore", FutureWarning)
            re.compile(value)
    except (re.error, RecursionError, OverflowError) as error:
        raise wrong("is not a regular expression of Python", str(error)) from None
    return str(value)


PathTemplate = Annotated[
    str,
    PlainValidator(_template),
    WithJsonSchema({"type": "string", "pattern": "^/", "examples": ["/users/{id}", "/admin/*"]}),
]
"""A path template, as written."""

Method = Annotated[
    str,
    PlainValidator(_method),
    WithJsonSchema({"type": "string", "examples": list(_METHODS)}),
]


class PredicateConfig(Section):
    """What must be true of the values under one name. The short forms are a text (``equals``) and
    ``true`` or ``false`` (``present``). Of several values, one that fits is enough."""

    foreign: ClassVar[Mapping[str, str]] = {
        "exact": "the key is equals",
        "value": "the key is equals",
        "regexp": "the key is regex",
        "pattern": "the key is regex",
        "matches": "the key is regex",
        "exists": "the key is present",
        "prefix": 'write regex = "prefix.*"',
    }

    equals: str | None = None
    """The value, character by character."""

    regex: (
        Annotated[
            str, PlainValidator(_regex), WithJsonSchema({"type": "string", "format": "regex"})
        ]
        | None
    ) = None
    """A regular expression (Python's ``re``) for the whole value. Clients choose the value: an
    expression that backtracks, like ``(a+)+``, lets them spend the gateway's time."""

    present: Flag | None = None
    """Whether there must be any value, or none."""

    @classmethod
    def hint_for_value(cls, value: object) -> str:
        """Numbers are what people write here: values on the wire are text."""
        return f'put it in quotes: "{value}"' if isinstance(value, (int, float)) else ""

    @classmethod
    def relations(cls, data: Mapping[str, Any]) -> Iterator[Finding]:
        said = [key for key in ("equals", "regex", "present") if data.get(key) is not None]
        if len(said) != 1 and not set(data) - set(cls.keys()):
            yield Finding(
                (), "must say one of equals, regex and present", "or write the value alone"
            )


Predicate = Annotated[PredicateConfig, Short("equals", (str,)), Short("present", (bool,))]


class MatchConfig(Section):
    """Which requests a route is for: those that fulfil everything that is said."""

    path: PathTemplate = Field(examples=['"/users/{id}"'])
    """Path template: ``"/users/{id}"``, typed ``"/users/{id:int}"`` (``int``, ``uuid``, ``slug``),
    the rest of a path ``"/files/{rest:path}"``, or everything below ``"/admin/*"``."""

    host: Annotated[tuple[HostPattern, ...], OneOrMany(), Field(min_length=1)] | None = None
    """Host names, ``"*.example.com"`` too, without a port. Unset: every host."""

    methods: Annotated[tuple[Method, ...], OneOrMany(), Field(min_length=1)] | None = None
    """Methods, in capitals. ``GET`` implies ``HEAD``. Unset: every method."""

    headers: dict[FieldName, Predicate] = {}
    """Conditions on fields: ``{ "X-Version" = "2" }``, ``true`` for present, ``false`` for absent,
    ``{ regex = "…" }``."""

    query: dict[str, Predicate] = {}
    """Conditions on query parameters, in the same form."""

    cookies: dict[Token, Predicate] = {}
    """Conditions on cookies, in the same form."""

    priority: Annotated[Integer, integer(-1_000_000, 1_000_000)] = 0
    """Higher comes first, before any rule. Among equals, the more specific route wins; see the
    reference of routing."""

    @classmethod
    def relations(cls, data: Mapping[str, Any]) -> Iterator[Finding]:
        for key in ("host", "methods"):
            values = peek(data, key)
            seen: set[str] = set()
            for index, value in enumerate(values if isinstance(values, (list, tuple)) else ()):
                if isinstance(value, str) and value in seen:
                    yield Finding((key, index), "is there twice")
                elif isinstance(value, str):
                    seen.add(value)
