"""Durations and sizes as people write them.

What comes out is seconds as ``float`` and bytes as ``int``. Numbers are read with ASCII rules only:
what ``int()`` makes of other scripts' digits is a misunderstanding in a file.
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from typing import Annotated, Any, Final

from pydantic import GetCoreSchemaHandler, PlainValidator, WithJsonSchema
from pydantic.json_schema import JsonSchemaValue
from pydantic_core import CoreSchema, core_schema

from .fields import FROM_ENV, unquoted
from .hints import nearest
from .section import wrong

_UNITS: Final = {"d": 86400.0, "h": 3600.0, "m": 60.0, "s": 1.0, "ms": 1e-3, "us": 1e-6}
_DIGITS: Final = r"[0-9]{1,15}(?:\.[0-9]{1,15})?"
_DURATION: Final = re.compile("".join(f"(?:({_DIGITS}){unit})?" for unit in _UNITS))
_DURATION_PARTS: Final = re.compile(r"([0-9]+(?:[.,][0-9]+)?)\s*([^\W\d_]*)", re.ASCII)
_LONGEST: Final = 10 * 366 * 86400.0
"""Ten years. Longer is a mistake, and a clock that adds it must not overflow."""
_UNIT_WORDS: Final = {
    unit: word.split()
    for unit, word in {
        "d": "d day days",
        "h": "h hr hrs hour hours",
        "m": "m min mins minute minutes",
        "s": "s sec secs second seconds",
        "ms": "ms msec msecs milli millis millisecond milliseconds",
        "us": "us usec µs microsecond microseconds",
    }.items()
}
_DURATION_PATTERN: Final = (
    "^(?=.)" + "".join(rf"([0-9]+(\.[0-9]+)?{unit})?" for unit in _UNITS) + "$"
)


def parse_duration(value: object) -> float:
    """Seconds from ``"1m30s"``, ``"250ms"`` or a number of seconds.

    Units are d, h, m, s, ms and us, the larger before the smaller, each at most once.
    """
    value = unquoted(value)
    if isinstance(value, bool) or not isinstance(value, (int, float, str)):
        raise wrong("must be a duration", 'write for example "5s" or "1m30s"')
    if isinstance(value, str):
        seconds = _seconds(value)
    elif value < 0:
        raise wrong("must not be negative")
    elif value != value:  # NaN; math.isnan() would overflow on a large integer
        raise wrong("is not a number")
    else:
        # Compared before it is converted: a TOML integer may not fit into a float.
        seconds = float(value) if value <= _LONGEST else math.inf
    if seconds > _LONGEST:
        raise wrong("is too long", "at most ten years")
    return seconds


def _seconds(text: str) -> float:
    found = _DURATION.fullmatch(text) if text else None
    if found is None:
        raise wrong("is not a duration", _duration_hint(text))
    return sum(
        float(number) * scale
        for number, scale in zip(found.groups(), _UNITS.values(), strict=True)
        if number
    )


def _duration_hint(text: str) -> str:
    plain = text.strip()[:64]
    if re.fullmatch(r"[0-9]+(\.[0-9]+)?", plain, re.ASCII):
        return f'add the unit: "{plain}s" or "{plain}ms"'
    if plain.startswith("-"):
        return "a duration is not negative"
    meant = ""
    rest = plain
    while found := _DURATION_PARTS.match(rest):
        word = found[2].casefold()
        unit = next((u for u, words in _UNIT_WORDS.items() if word in words), None)
        if unit is None:
            break
        meant += found[1].replace(",", ".") + unit
        rest = rest[found.end() :].lstrip(" ,")
    if meant and not rest and _DURATION.fullmatch(meant):
        return f'did you mean "{meant}"?'
    return 'write for example "5s", "250ms" or "1m30s"'


def spell_duration(seconds: float) -> str:
    """The shortest way to write a duration: ``90.0`` as ``1m30s``."""
    micros = round(seconds * 1_000_000)
    text = ""
    for unit, scale in _UNITS.items():
        count, micros = divmod(micros, round(scale * 1_000_000))
        text += f"{count}{unit}" if count else ""
    return text or "0s"


def _positive(seconds: float) -> float:
    if seconds == 0:
        raise wrong("must be more than zero")
    return seconds


def _never(value: object) -> float | None:
    if value is None or value == "none":
        return None
    seconds = parse_duration(value)
    if seconds == 0:
        raise wrong("must be more than zero", 'to wait without a limit, write "none"')
    return seconds


def _duration_schema(*, minimum: str, never: bool = False) -> WithJsonSchema:
    forms: list[JsonSchemaValue] = [
        {"type": "string", "pattern": _DURATION_PATTERN, "examples": ["5s", "250ms", "1m30s"]},
        {"type": "number", minimum: 0, "description": "Seconds."},
        FROM_ENV,
    ]
    if never:
        forms.append({"const": "none"})
    return WithJsonSchema({"$comment": "timeout" if never else "duration", "anyOf": forms})


Duration = Annotated[float, PlainValidator(parse_duration), _duration_schema(minimum="minimum")]
"""Seconds, zero or more."""

PositiveDuration = Annotated[
    float,
    PlainValidator(lambda value: _positive(parse_duration(value))),
    _duration_schema(minimum="exclusiveMinimum"),
]
"""Seconds, more than zero."""

Timeout = Annotated[
    float | None,
    PlainValidator(_never),
    _duration_schema(minimum="exclusiveMinimum", never=True),
]
"""Seconds, or ``None`` (written ``"none"``) for no limit."""


_SIZE_UNITS: Final[dict[str, int]] = {
    "": 1,
    "b": 1,
    **{f"{p}{b}": 1000**n for n, p in enumerate("kmgt", 1) for b in ("", "b")},
    **{f"{p}i{b}": 1024**n for n, p in enumerate("kmgt", 1) for b in ("", "b")},
}
_SIZE: Final = re.compile(r"([0-9]{1,18})(?:\.([0-9]{1,6}))?[ ]?([A-Za-z]{0,3})", re.ASCII)
_LARGEST: Final = 2**50
"""A pebibyte: more than anyone means, less than anything overflows at."""


def parse_size(value: object) -> int:
    """Bytes from ``"64KiB"`` (1024), ``"1MB"`` or ``"10k"`` (1000), or a number of bytes."""
    value = unquoted(value)
    if isinstance(value, bool) or not isinstance(value, (int, str)):
        raise wrong("must be a size in whole bytes", 'write for example "64KiB" or 65536')
    count = _bytes(value) if isinstance(value, str) else value
    if count < 0:
        raise wrong("must not be negative")
    if count > _LARGEST:
        raise wrong("is too large", "at most 1024TiB")
    return count


def _bytes(text: str) -> int:
    found = _SIZE.fullmatch(text)
    if found is None:
        raise wrong("is not a size", 'write for example "64KiB", "1MB" or 65536')
    whole, fraction, unit = found[1], found[2] or "", found[3].casefold()
    scale: int | None = _SIZE_UNITS.get(unit)
    if scale is None:
        near = nearest(unit, [u for u in _SIZE_UNITS if u])
        hint = f'did you mean "{whole}{near.upper().replace("I", "i")}"?' if near else ""
        raise wrong("has an unknown unit", hint or "the units are B, kB, KiB, MB, MiB, GB, GiB")
    # Exact arithmetic: 0.1 GB has no exact float, and a size must not be off by one.
    divisor: int = 10 ** len(fraction)
    count, remainder = divmod(int(whole + fraction) * scale, divisor)
    if remainder:
        raise wrong("is not a whole number of bytes")
    return count


def spell_size(count: int) -> str:
    """The shortest exact way to write a size: ``65536`` as ``64KiB``."""
    for unit, scale in (("TiB", 2**40), ("GiB", 2**30), ("MiB", 2**20), ("KiB", 2**10)):
        if count and count % scale == 0:
            return f"{count // scale}{unit}"
    return f"{count}B"


def size(minimum: str, maximum: str) -> Any:
    """The metadata of a bounded ``Size``, spelt as it is reported: ``size("1KiB", "1MiB")``."""
    return _BoundedSize(minimum, maximum)


@dataclass(frozen=True)
class _BoundedSize:
    minimum: str
    maximum: str

    def __get_pydantic_core_schema__(
        self, source: Any, handler: GetCoreSchemaHandler
    ) -> CoreSchema:
        return core_schema.no_info_after_validator_function(self._check, handler(source))

    def _check(self, value: int | None) -> int | None:
        if value is not None and not _bytes(self.minimum) <= value <= _bytes(self.maximum):
            raise wrong(f"must be from {self.minimum} to {self.maximum}")
        return value


def _unlimited(value: object) -> int | None:
    return None if value is None or value == "unlimited" else parse_size(value)


_SIZE_SCHEMA: Final[list[JsonSchemaValue]] = [
    {
        "type": "string",
        "pattern": r"^[0-9]+(\.[0-9]+)? ?([KkMmGgTt][Ii]?)?[Bb]?$",
        "examples": ["64KiB", "1MB", "10k"],
    },
    {"type": "integer", "minimum": 0, "description": "Bytes."},
    FROM_ENV,
]

Size = Annotated[
    int, PlainValidator(parse_size), WithJsonSchema({"$comment": "size", "anyOf": _SIZE_SCHEMA})
]
"""Bytes. ``KiB`` and its like count in 1024, ``kB``, ``KB`` and ``k`` in 1000."""

SizeLimit = Annotated[
    int | None,
    PlainValidator(_unlimited),
    WithJsonSchema(
        {
            "$comment": 'size or `"unlimited"`',
            "anyOf": [*_SIZE_SCHEMA, {"const": "unlimited"}],
        }
    ),
]
"""Bytes, or ``None`` (written ``"unlimited"``)."""
