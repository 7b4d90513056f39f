"""The base of every configuration table, and how its mistakes are reported all at once.

pydantic stops at the first floor: when one field of a model is wrong, validators of the whole model
do not run, so a person would fix a typo only to meet the next problem. ``Section`` closes that
gap: it validates the fields, then *always* asks ``relations`` about what the fields mean together,
and raises one error with everything. On the way it rewords pydantic's messages for people and adds
hints, which only the section can do: it knows its keys.

A rule that keeps secrets out of reports: **a message never repeats what was written; a hint may.**
Whoever renders a finding drops the hint when the value came from the environment.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Final, Self, TypeVar, get_args

from pydantic import BaseModel, ConfigDict, ModelWrapValidatorHandler, ValidationError
from pydantic import model_validator as _model_validator
from pydantic.fields import FieldInfo
from pydantic_core import ErrorDetails, InitErrorDetails, PydanticCustomError

from .hints import did_you_mean
from .lines import KeyPath

T = TypeVar("T")

_OURS: Final = "nexgate"
"""The pydantic error type of a finding that is already worded."""


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that is wrong, before anyone knows the file and the line."""

    loc: KeyPath
    message: str
    """Completes "``path`` …". Never repeats the value."""
    hint: str = ""
    """What to write instead. May repeat the value."""
    is_secret: bool = False
    """The value itself must not be shown, wherever it came from."""
    is_about_key: bool = False
    """The key is wrong, not the value."""
    is_missing: bool = False
    """The key is not there: point at the table that lacks it."""
    is_warning: bool = False
    """The configuration works; it is just probably not what was meant."""


def wrong(message: str, hint: str = "", *, is_secret: bool = False) -> PydanticCustomError:
    """The error that a field's validator raises: ``raise wrong("is not a port", "1 to 65535")``."""
    return _custom(Finding((), message, hint, is_secret=is_secret))


def attempt(parse: Callable[[Any], T], value: object) -> T | None:
    """``parse(value)``, or ``None`` where it is wrong: ``relations`` compares what is right."""
    try:
        return parse(value)
    except ValueError:
        return None


def findings(error: ValidationError) -> list[Finding]:
    """What is wrong according to ``error``, which came out of a ``Section``."""
    return [_finding(None, details) for details in error.errors(include_url=False)]


def reraise(title: str, found: Iterable[Finding]) -> ValidationError:
    """The pydantic error that carries ``found`` up to the section around it."""
    return ValidationError.from_exception_data(
        title,
        [InitErrorDetails(type=_custom(f), loc=f.loc, input=None) for f in found],
        hide_input=True,
    )


def peek(value: object, *path: str) -> Any:
    """Follow ``path`` through tables that may be missing, wrong, or already models; else ``None``.

    ``relations`` looks at data that did not necessarily validate, so it looks through this.
    """
    for name in path:
        if isinstance(value, Mapping):
            value = value.get(name)
        elif isinstance(value, BaseModel):
            value = getattr(value, name, None)
        else:
            return None
    return value


class Section(BaseModel):
    """A frozen table of the configuration, with a described field per key."""

    model_config = ConfigDict(
        frozen=True,
        extra="forbid",
        hide_input_in_errors=True,
        use_attribute_docstrings=True,
        populate_by_name=True,
    )

    foreign: ClassVar[Mapping[str, str]] = {}
    """What users of other gateways write here, with the hint that brings them home."""

    @classmethod
    def relations(cls, data: Mapping[str, Any]) -> Iterator[Finding]:
        """What is wrong between the fields. ``data`` is as written: trust nothing in it."""
        return iter(())

    def warnings(self) -> Iterator[Finding]:
        """What works but is probably not meant. Asked of the root only, once all is valid."""
        return iter(())

    @_model_validator(mode="wrap")
    @classmethod
    def _report_everything(cls, data: Any, handler: ModelWrapValidatorHandler[Self]) -> Self:
        if isinstance(data, cls):
            return handler(data)
        if not isinstance(data, Mapping):
            raise _not_a_table(cls, data)
        result: Self | None = None
        found: list[Finding] = []
        try:
            result = handler(data)
        except ValidationError as error:
            details = error.errors(include_url=False)
            found = [_finding(cls, detail) for detail in details if not _is_echo(detail)]
        blamed = {f.loc for f in found}
        found.extend(f for f in cls.relations(data) if f.loc not in blamed)
        if found or result is None:
            raise reraise(cls.__name__, found)
        return result

    @classmethod
    def keys(cls) -> dict[str, str]:
        """The keys as written in a file, with the attribute that holds each."""
        return {field.alias or name: name for name, field in cls.model_fields.items()}

    @classmethod
    def hint_for_value(cls, value: object) -> str:
        """What to write in place of ``value``, which is not a table."""
        return f"write {{ {', '.join(f'{key} = …' for key in list(cls.keys())[:2])} }}"

    @classmethod
    def hint_for_unknown(cls, key: str) -> str:
        """What the writer of ``key`` probably wanted."""
        if (known := cls.foreign.get(key.casefold())) is not None:
            return known
        return did_you_mean(key, cls.keys(), otherwise="the keys here are")


def _custom(finding: Finding) -> PydanticCustomError:
    # pydantic fills the template from the context; the finding itself travels beside it.
    context = {"message": finding.message, "hint": finding.hint, "finding": finding}
    return PydanticCustomError(_OURS, "{message}", context)


def _not_a_table(cls: type[Section], data: object) -> PydanticCustomError:
    if isinstance(data, list):
        return wrong("must be a table, not a list", "write [name], with single brackets")
    return wrong("must be a table", cls.hint_for_value(data))


def _is_echo(details: ErrorDetails) -> bool:
    """pydantic counts valid elements only: a list of nothing but mistakes "is too short", too."""
    least = details.get("ctx", {}).get("min_length", 0)
    return (
        details["type"] == "too_short"
        and isinstance(details["input"], (list, tuple))
        and len(details["input"]) >= least
    )


def _finding(cls: type[Section] | None, details: ErrorDetails) -> Finding:
    """Reword one pydantic error; ``cls`` is the section in whose fields it happened."""
    loc: KeyPath = details["loc"]
    field = cls.model_fields.get(cls.keys().get(str(loc[0]), "")) if cls and loc else None
    # pydantic inserts the chosen member's tag, which nobody wrote.
    if field is not None and field.discriminator is not None and len(loc) > 1:
        loc = (loc[0], *loc[2:])
    elif len(loc) > 2 and isinstance(loc[1], int) and _holds_members(field):
        loc = (*loc[:2], *loc[3:])
    is_key = bool(loc) and loc[-1] == "[key]"
    if is_key:
        loc = loc[:-1]
    kind, context = details["type"], details.get("ctx", {})
    if kind == _OURS:
        known: Finding = context["finding"]
        return replace(known, loc=loc, is_about_key=known.is_about_key or is_key)
    if kind == "extra_forbidden":
        hint = cls.hint_for_unknown(str(loc[-1])) if cls else ""
        # A misspelt key may well hold a secret: what it holds is not shown.
        return Finding(loc, "is not a key here", hint, is_secret=True, is_about_key=True)
    if kind == "missing":
        example = field.examples[0] if field is not None and field.examples else None
        hint = f"for example {loc[-1]} = {example}" if example else ""
        return Finding(loc, "is required", hint, is_missing=True)
    reword = _WORDING.get(kind)
    message, hint = reword(details["input"], context) if reword else (details["msg"], "")
    return Finding(loc, message, hint, is_about_key=is_key)


def _holds_members(field: FieldInfo | None) -> bool:
    """Whether the field is a list whose elements have a tag that tells their kind."""
    elements = get_args(field.annotation) if field is not None else ()
    return any(
        getattr(mark, "discriminator", None) is not None
        for element in elements
        for mark in getattr(element, "__metadata__", ())
    )


_Worded = tuple[str, str]


def _choice(value: object, context: Mapping[str, Any]) -> _Worded:
    quoted = str(context.get("expected", context.get("expected_tags", "")))
    choices = re.findall(r"'([^']*)'", quoted) or re.findall(r"-?[0-9]+", quoted)
    if isinstance(value, Mapping):
        value = value.get(str(context.get("discriminator", "")).strip("'"))
    near = did_you_mean(value, choices) if isinstance(value, str) else ""
    return f"must be one of {', '.join(choices)}", near


def _text(value: object, _: Mapping[str, Any]) -> _Worded:
    is_plain = isinstance(value, (int, float)) and not isinstance(value, bool)
    return "must be text", f'put it in quotes: "{value}"' if is_plain else ""


def _number(value: object, _: Mapping[str, Any]) -> _Worded:
    is_quoted = isinstance(value, str) and value.isascii() and value.isdigit()
    return "must be a whole number", f"without the quotes: {value}" if is_quoted else ""


def _truth(value: object, _: Mapping[str, Any]) -> _Worded:
    is_word = isinstance(value, str) and value.casefold() in ("true", "false")
    return "must be true or false", "without the quotes" if is_word else ""


def _list(value: object, _: Mapping[str, Any]) -> _Worded:
    if isinstance(value, Mapping):
        return "must be a list", "write [[name]] with double brackets, once for each element"
    return "must be a list", "put it in brackets: [ … ]"


def _empty(_: object, context: Mapping[str, Any]) -> _Worded:
    least = context.get("min_length", 1)
    return ("must not be empty" if least == 1 else f"needs at least {least} elements"), ""


def _bound(word: str, name: str) -> Callable[[object, Mapping[str, Any]], _Worded]:
    return lambda _, context: (f"must be {word} {context.get(name)}", "")


def _table(_: object, __: Mapping[str, Any]) -> _Worded:
    return "must be a table", 'write { name = "value" }'


def _tag_missing(_: object, context: Mapping[str, Any]) -> _Worded:
    name = str(context.get("discriminator", "kind")).strip("'")
    return f"does not say its {name}", f'write {{ {name} = "…" }} or the {name} alone'


_WORDING: Final[Mapping[str, Callable[[object, Mapping[str, Any]], _Worded]]] = {
    "bool_parsing": _truth,
    "bool_type": _truth,
    "dict_type": _table,
    "finite_number": lambda _, __: ("must be a finite number", ""),
    "float_parsing": lambda _, __: ("must be a number", ""),
    "float_type": lambda _, __: ("must be a number", ""),
    "greater_than": _bound("more than", "gt"),
    "greater_than_equal": _bound("at least", "ge"),
    "int_from_float": _number,
    "int_parsing": _number,
    "int_type": _number,
    "less_than": _bound("less than", "lt"),
    "less_than_equal": _bound("at most", "le"),
    "list_type": _list,
    "literal_error": _choice,
    "mapping_type": _table,
    "string_pattern_mismatch": lambda _, __: ("has a character that must not be in it", ""),
    "string_too_long": lambda _, context: (
        f"must have at most {context['max_length']} letters",
        "",
    ),
    "string_too_short": _empty,
    "string_type": _text,
    "string_unicode": lambda _, __: ("must be valid Unicode", ""),
    "too_short": _empty,
    "tuple_type": _list,
    "union_tag_invalid": _choice,
    "union_tag_not_found": _tag_missing,
}
