"""Path templates: ``/users/{id:int}``, ``/v{n:int}/{name}.json``, ``/files/{rest:path}``, ``/a/*``.

A template is parsed once into ``Segment``s. The table compiles them; this module knows what each
one means, which of two is more specific, and how to write a path back from parameters.
"""

from __future__ import annotations

import re
import uuid
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from difflib import get_close_matches
from enum import IntEnum
from typing import Final

from nexgate.errors import ConfigError, Refused
from nexgate.routing._path import PathRules, is_dot_risk, matching_key, normalise, unquote

ParamValue = str | int | uuid.UUID
"""What a decoded path parameter can be."""

MAX_SEGMENTS: Final = 256
"""Most segments a template may have. It bounds the depth of the table, not the length of a path."""


class TemplateError(ConfigError, ValueError):
    """A path template that cannot be used. ``hint`` says what to write instead."""

    def __init__(self, template: str, reason: str, hint: str = "") -> None:
        super().__init__(template, reason, hint)
        self.template = template
        self.reason = reason
        self.hint = hint

    def __str__(self) -> str:
        hint = f" ({self.hint})" if self.hint else ""
        return f"path template {self.template!r}: {self.reason}{hint}"


class Kind(IntEnum):
    """What a segment accepts, the most specific first."""

    LITERAL = 0
    MIXED = 1
    TYPED = 2
    PLAIN = 3
    END = 4
    """No segment at all. Before REST: for ``/admin`` the route ``/admin`` precedes ``/admin/*``."""
    REST = 5


@dataclass(frozen=True, slots=True)
class ParamType:
    """A type a parameter can have. All of them accept ASCII only."""

    name: str
    order: int
    """Place among the types in precedence: what accepts less comes first."""
    pattern: bytes
    accepts: Callable[[bytes], object]
    """Truthy for a segment of this type. No conversion: it runs for every candidate."""
    convert: Callable[[bytes], ParamValue]


_HEX: Final = rb"[0-9A-Fa-f]"
_UUID: Final = _HEX + rb"{8}(?:-" + _HEX + rb"{4}){3}-" + _HEX + rb"{12}"
_SLUG: Final = rb"[A-Za-z0-9_-]+"
_INT: Final = rb"[0-9]{1,18}"
# A triplet is taken whole, so that ``{a}5x`` cannot cut "%25x" in two.
_TEXT: Final = rb"(?:[^%/]|%[0-9A-Fa-f]{2})+"


def _is_int(segment: bytes) -> bool:
    # bytes.isdigit() knows ASCII only, unlike str.isdigit(). 18 digits fit a signed 64-bit column.
    return segment.isdigit() and len(segment) <= 18


def _text(raw: bytes) -> str:
    return unquote(raw).decode("utf-8", "replace")


_PLAIN_TYPE: Final = ParamType("str", 3, _TEXT, bool, _text)
_TYPES: Final[Mapping[str, ParamType]] = {
    "uuid": ParamType(
        "uuid", 0, _UUID, re.compile(_UUID).fullmatch, lambda raw: uuid.UUID(raw.decode())
    ),
    "int": ParamType("int", 1, _INT, _is_int, int),
    "slug": ParamType("slug", 2, _SLUG, re.compile(_SLUG).fullmatch, _text),
    "str": _PLAIN_TYPE,
}
_REST_TYPE: Final = ParamType("path", 4, rb"(?s:.*)", lambda _: True, _text)


@dataclass(frozen=True, slots=True)
class Segment:
    """One segment of a template."""

    kind: Kind
    before: bytes = b""
    """The literal, or what precedes the parameter; as it is written into a path."""
    after: bytes = b""
    name: str = ""
    """Of the parameter. Empty for a literal and for the anonymous rest ``*``."""
    type: ParamType = _PLAIN_TYPE

    @property
    def is_anonymous_rest(self) -> bool:
        """True for ``*``, which also accepts that there is no segment at all."""
        return self.kind is Kind.REST and not self.name

    def shape(self, rules: PathRules) -> tuple[object, ...]:
        """Equal for two segments that accept the same text. The parameter's name plays no part."""
        before, after = matching_key(self.before, rules), matching_key(self.after, rules)
        return (self.kind, before, after, self.type.order, self.is_anonymous_rest)

    @property
    def specificity(self) -> tuple[object, ...]:
        """Sorts the more specific of two segments first."""
        literal_bytes = len(_key(self.before)) + len(_key(self.after))
        if self.kind is Kind.LITERAL:
            return (self.kind,)
        if self.kind is Kind.REST:
            return (self.kind, self.is_anonymous_rest)
        return (self.kind, -literal_bytes, self.type.order)

    def acceptor(self, *, ignore_case: bool) -> Callable[[bytes], object]:
        """A test of one segment in the form of ``matching_key``; truthy when it is accepted."""
        if self.kind is Kind.MIXED:
            return re.compile(self._pattern(), re.IGNORECASE if ignore_case else 0).fullmatch
        if self.kind is Kind.LITERAL:
            key = _key(self.before, ignore_case=ignore_case)
            return lambda segment: segment == key
        return self.type.accepts

    def capture(self, raw: bytes) -> bytes:
        """The parameter's part of a segment that was accepted, in the client's bytes."""
        if self.kind is not Kind.MIXED:
            return raw
        # It was accepted, so the case of the literal parts is settled already.
        found = re.compile(self._pattern(), re.IGNORECASE).fullmatch(raw)
        return found[1] if found else raw

    def describe(self) -> str:
        """The segment as it would be written in a template."""
        before, after = self.before.decode(), self.after.decode()
        if self.kind is Kind.LITERAL:
            return before
        if self.kind is Kind.REST and not self.name:
            return "*"
        suffix = "" if self.type is _PLAIN_TYPE else f":{self.type.name}"
        return f"{before}{{{self.name}{suffix}}}{after}"

    def _pattern(self) -> bytes:
        return b"%b(%b)%b" % (_literal(self.before), self.type.pattern, _literal(self.after))


@dataclass(frozen=True, slots=True)
class Template:
    """A parsed path template. Make one with ``Template.parse``."""

    text: str
    segments: tuple[Segment, ...]
    names: tuple[str, ...] = field(init=False)
    """The parameters from left to right, as ``decode`` and ``render`` know them."""
    literal_prefix: bytes = field(init=False)
    """The leading literal segments: ``/api/v1`` of ``/api/v1/{rest:path}``, empty for ``/{id}``."""
    literal_count: int = field(init=False)
    """How many segments ``literal_prefix`` has."""

    def __post_init__(self) -> None:
        names = tuple(segment.name for segment in self.segments if segment.name)
        leading: list[bytes] = []
        for segment in self.segments:
            if segment.kind is not Kind.LITERAL:
                break
            leading.append(b"/" + segment.before)
        object.__setattr__(self, "names", names)
        object.__setattr__(self, "literal_prefix", b"".join(leading))
        object.__setattr__(self, "literal_count", len(leading))

    @classmethod
    def parse(cls, text: str) -> Template:
        """Parse a template. Raises ``TemplateError`` for the first thing that is wrong with it."""
        return cls(text, _parse(text))

    @property
    def rest(self) -> Segment | None:
        """The last segment if it is ``{name:path}`` or ``*``."""
        last = self.segments[-1]
        return last if last.kind is Kind.REST else None

    @property
    def is_literal(self) -> bool:
        """True if exactly one path matches."""
        return self.literal_count == len(self.segments)

    def shape(self, rules: PathRules) -> tuple[object, ...]:
        """Equal for two templates that match the same paths."""
        return tuple(segment.shape(rules) for segment in self.segments)

    @property
    def specificity(self) -> tuple[object, ...]:
        """Sorts the more specific of two templates first, segment by segment from the left."""
        parts = [segment.specificity for segment in self.segments]
        return tuple(parts if self.rest else [*parts, (Kind.END,)])

    def capture(self, path: bytes) -> tuple[bytes, ...]:
        """The raw parameters of a normalised path that matches, in the order of ``names``."""
        if not self.names:
            return ()
        rest = self.rest
        raw = path[1:].split(b"/", len(self.segments) - 1 if rest else -1)
        return tuple(
            segment.capture(raw[at]) for at, segment in enumerate(self.segments) if segment.name
        )

    def decode(self, raw: tuple[bytes, ...]) -> dict[str, ParamValue]:
        """Parameters by name from what ``capture`` gave: percent-decoded once, then converted.

        Text is read as UTF-8; what is not UTF-8 becomes U+FFFD, so a parameter never raises.
        """
        typed = [segment for segment in self.segments if segment.name]
        return {
            segment.name: segment.type.convert(value)
            for segment, value in zip(typed, raw, strict=True)
        }

    def strip(self, path: bytes) -> bytes:
        """A matched path without its leading literal segments: ``/api/x`` gives ``/x``.

        Counts segments, not bytes: with ``ignore_case`` or ``%40`` for ``@`` the prefix that
        matched need not be as long as ``literal_prefix``.
        """
        parts = path[1:].split(b"/", self.literal_count)
        return b"/" + parts[self.literal_count] if len(parts) > self.literal_count else b"/"

    def why_not(self, path: bytes, rules: PathRules) -> str | None:
        """Why a normalised path does not match, or None if it does. For people; not fast."""
        got = matching_key(path, rules)[1:].split(b"/")
        shown = path[1:].split(b"/")
        for at, segment in enumerate(self.segments):
            if segment.kind is Kind.REST:
                if at < len(got) or segment.is_anonymous_rest:
                    return None
                return f"ends after segment {at}, '/' must follow"
            if at >= len(got):
                return f"ends after segment {at}, {segment.describe()!r} must follow"
            if not segment.acceptor(ignore_case=rules.ignore_case)(got[at]):
                text = shown[at].decode("ascii", "replace")
                return f"segment {at + 1} {text!r} is not {segment.describe()!r}"
        if len(got) > len(self.segments):
            extra = shown[len(self.segments)].decode("ascii", "replace")
            return f"segment {len(self.segments) + 1} {extra!r} is one too many"
        return None

    def common_segments(self, path: bytes, rules: PathRules) -> int:
        """How many leading segments of a normalised path are accepted. For people; not fast."""
        got = matching_key(path, rules)[1:].split(b"/")
        for at, (segment, part) in enumerate(zip(self.segments, got, strict=False)):
            if not segment.acceptor(ignore_case=rules.ignore_case)(part):
                return at
        return min(len(self.segments), len(got))


_PARAMETER: Final = re.compile(r"([^{}]*)\{([^{}:]*)(?::([^{}]*))?\}([^{}]*)")
_NAME: Final = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")


def _parse(text: str) -> tuple[Segment, ...]:
    if not text.startswith("/"):
        raise TemplateError(text, "does not start with '/'", f"write {'/' + text!r}")
    parts = text[1:].split("/")
    if len(parts) > MAX_SEGMENTS:
        raise TemplateError(text, f"has more than {MAX_SEGMENTS} segments")
    segments: list[Segment] = []
    seen: set[str] = set()
    for at, part in enumerate(parts):
        is_last = at == len(parts) - 1
        segment = _parse_segment(text, part, is_last=is_last)
        if segment.name in seen:
            raise TemplateError(text, f"parameter {segment.name!r} occurs twice", "rename one")
        if segment.name:
            seen.add(segment.name)
        segments.append(segment)
    return tuple(segments)


def _parse_segment(text: str, part: str, *, is_last: bool) -> Segment:
    if part == "*" and is_last:
        return Segment(Kind.REST, type=_REST_TYPE)
    if "*" in part:
        hint = "only a last '/*' is a wildcard; write {name} for one segment, %2A for an asterisk"
        raise TemplateError(text, f"'*' in segment {part!r}", hint)
    if "{" not in part and "}" not in part:
        if not part and not is_last:
            raise TemplateError(text, "has an empty segment", "write one '/'")
        return Segment(Kind.LITERAL, _encode_literal(text, part))
    return _parse_parameter(text, part, is_last=is_last)


def _parse_parameter(text: str, part: str, *, is_last: bool) -> Segment:
    found = _PARAMETER.fullmatch(part)
    if found is None:
        if part.count("{") > 1 and part.count("{") == part.count("}"):
            raise TemplateError(
                text, f"two parameters in segment {part!r}", "one parameter per segment"
            )
        raise TemplateError(text, f"unbalanced braces in segment {part!r}")
    before, name, type_name, after = found[1], found[2], found[3], found[4]
    if not _NAME.fullmatch(name):
        hint = "letters, digits and '_', not starting with a digit"
        raise TemplateError(text, f"{name!r} is not a parameter name", hint)
    if type_name == "path":
        if before or after or not is_last:
            raise TemplateError(
                text, f"{{{name}:path}} is not the whole last segment", "move it to the end"
            )
        return Segment(Kind.REST, name=name, type=_REST_TYPE)
    kind = _TYPES.get("str" if type_name is None else type_name)
    if kind is None:
        close = get_close_matches(type_name, [*_TYPES, "path"], n=1, cutoff=0.5)
        hint = f"did you mean {close[0]!r}?" if close else f"one of {', '.join(_TYPES)}, path"
        raise TemplateError(text, f"unknown type {type_name!r}", hint)
    if before or after:
        return Segment(
            Kind.MIXED,
            _encode_literal(text, before, whole=False),
            _encode_literal(text, after, whole=False),
            name,
            kind,
        )
    return Segment(Kind.PLAIN if kind is _PLAIN_TYPE else Kind.TYPED, name=name, type=kind)


_KEEP: Final = PathRules(encoded_slash="keep")
_LEGAL_IN_LITERAL: Final = re.compile(rb"[^A-Za-z0-9\-._~!$&'()*+,:;=@\[\]^`|%]")


def _encode_literal(text: str, part: str, *, whole: bool = True) -> bytes:
    """The literal as it stands in a normalised path: UTF-8, encoded where a path must be."""
    if "?" in part or "#" in part:
        hint = "match the query with a query predicate; write %3F or %23 for the character"
        raise TemplateError(text, f"{part!r} has a query or a fragment", hint)
    encoded = _LEGAL_IN_LITERAL.sub(lambda byte: b"%%%02X" % byte[0][0], part.encode("utf-8"))
    # The "x" keeps a part like ".json" or "." of a mixed segment from reading as a dot segment.
    guard = b"/" if whole else b"/x"
    if whole and part and is_dot_risk(guard + encoded.replace(b"%2e", b".").replace(b"%2E", b".")):
        raise TemplateError(text, f"{part!r} is a dot segment", "no normalised path contains one")
    try:
        return normalise(guard + encoded, _KEEP)[len(guard) :]
    except Refused as refused:
        raise TemplateError(text, f"{part!r} cannot occur in a path: {refused.detail}") from refused


def _key(literal: bytes, *, ignore_case: bool = False) -> bytes:
    return matching_key(literal, PathRules(ignore_case=ignore_case))


def _literal(part: bytes) -> bytes:
    """A pattern for a literal in the form of ``matching_key`` and also as the client wrote it."""
    pieces: list[bytes] = []
    for byte in re.findall(rb"%[0-9A-F]{2}|.", _key(part), re.DOTALL):
        escaped = re.escape(byte)
        is_folded = len(byte) == 1 and not (byte.isalnum() or byte in b"-._~")
        pieces.append(b"(?:%b|%%%02X)" % (escaped, byte[0]) if is_folded else escaped)
    return b"".join(pieces)
