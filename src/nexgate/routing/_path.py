"""Brings the path of a request to the one form that is matched *and* forwarded.

A gateway is attacked by paths that it reads one way and the service behind it another way
(``/public/..%2fadmin``). Two rules close that gap:

1. What is matched is what is sent. There is one normal form; nobody downstream sees the original.
2. What two sane readers could read differently is refused, never repaired.

``docs/reference/routing.md`` has the table of inputs and outcomes; the tests execute it.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Final, Literal

from nexgate.errors import Cause, Refused


@dataclass(frozen=True, slots=True)
class PathRules:
    """What one listener does with unusual paths. The defaults refuse whatever can be misread."""

    merge_slashes: bool = True
    """``//`` becomes ``/``. Off: empty segments are kept and are segments like any other."""

    encoded_slash: Literal["reject", "keep"] = "reject"
    """``%2F`` and ``%5C``, and what would be dangerous if decoded twice (``%252e``).

    ``keep`` forwards them encoded and never treats them as separators. Only for services that
    decode exactly once and after splitting, such as object stores.
    """

    ignore_case: bool = False
    """ASCII letters of literals match in either case. The forwarded path keeps its case."""


_DIGITS: Final = b"0123456789"
_LETTERS: Final = bytes(range(0x41, 0x5B)) + bytes(range(0x61, 0x7B))
_UNRESERVED: Final = frozenset(_LETTERS + _DIGITS + b"-._~")

_RAW_RESERVED: Final = b"!$&'()*+,:;=@[]^`{|}"
"""Visible, not unreserved, yet accepted raw. ``[]^`{|}`` are outside RFC 3986 but common."""

# One possessive pass over whole segments: an ordinary path costs one call and no allocation.
# Possessive, so that a hostile path cannot make it backtrack.
_SAFE_SEGMENT: Final = rb"[A-Za-z0-9\-._~!$&'()*+,:;=@\[\]^`{|}]*+"
_DOT_SEGMENT: Final = rb"\.{1,2}(?:[/;]|\Z)"
_NORMAL: Final = re.compile(
    rb"(?:/(?!/|" + _DOT_SEGMENT + rb")" + _SAFE_SEGMENT + rb")++"
).fullmatch

_FORBIDDEN: Final = re.compile(rb'[^\x21-\x7e]|["#<>?\\]').search
_BROKEN: Final = re.compile(rb"%(?![0-9A-Fa-f]{2})").search
_CONTROL: Final = re.compile(rb"%(?:[01][0-9A-Fa-f]|7[Ff])").search
_SLASH: Final = re.compile(rb"%(?:2[Ff]|5[Cc])").search
_TRIPLET: Final = re.compile(rb"%[0-9A-Fa-f]{2}").sub

# The patterns below see text whose triplets are already in upper case and decoded where unreserved.
# ``(?:25)*`` covers every depth: %252e, %25252e, ...
_TWICE: Final = re.compile(rb"%25(?:25)*(?:0[0aAdD]|2[eEfF]|5[cC])").search
# A decoder that accepts overlong UTF-8 reads %C0%AE as "." (RFC 3629 §10 warns of exactly this).
_OVERLONG: Final = re.compile(rb"%C[01]%[89AB]|%E0%[89]|%F0%8").search
_DOT_RISK: Final = re.compile(
    rb"(?:/|%2F|%5C)\.{1,2}(?:;|%3B|%2F|%5C)|(?:%2F|%5C)\.{1,2}(?:/|\Z)"
).search
_HAS_DOTS: Final = re.compile(rb"/\.{1,2}(?:/|\Z)").search
_SLASHES: Final = re.compile(rb"//+").sub


def _canonical(byte: int) -> bytes:
    return bytes([byte]) if byte in _UNRESERVED else b"%%%02X" % byte


_CANONICAL: Final = {
    b"%" + high + low: _canonical(int(high + low, 16))
    for high in (bytes([digit]) for digit in b"0123456789abcdefABCDEF")
    for low in (bytes([digit]) for digit in b"0123456789abcdefABCDEF")
}
_FOLDED: Final = {b"%%%02X" % byte: bytes([byte]) for byte in _RAW_RESERVED}
_FOLDABLE: Final = re.compile(b"|".join(map(re.escape, _FOLDED))).sub


def normalise(target_path: bytes, rules: PathRules) -> bytes:
    """The path to match and to forward, for the path part of an origin-form target.

    ``target_path`` starts with ``/`` and has no query. A path that is normal already is returned as
    it is, the same object. Percent-encoding is decoded at most once, and only where that cannot
    change the meaning (unreserved characters, RFC 3986 §6.2.2.2).

    Raises ``Refused`` with ``Cause.BAD_PATH``: the client's fault, nothing was forwarded.
    """
    if _NORMAL(target_path):
        return target_path
    return _normalise(target_path, rules)


def matching_key(path: bytes, rules: PathRules) -> bytes:
    """The form of a normalised path that literals are compared with. Never forwarded.

    RFC 3986 keeps ``@`` and ``%40`` apart, but every service reads them alike: if a route for
    ``/@root`` missed ``/%40root``, that request would reach the same handler through a less
    guarded route. So they match alike, while the client's bytes are what is sent.
    """
    if b"%" in path:
        path = _FOLDABLE(lambda found: _FOLDED[found[0]], path)
    return path.lower() if rules.ignore_case else path


def is_dot_risk(path: bytes) -> bool:
    """True if some reader of ``path`` could see a dot segment in it."""
    return _HAS_DOTS(path) is not None or _DOT_RISK(path) is not None


def unquote(raw: bytes) -> bytes:
    """Percent-decoded once. What is not percent-encoding stays as it is."""
    return _TRIPLET(lambda found: bytes([int(found[0][1:], 16)]), raw) if b"%" in raw else raw


def _normalise(path: bytes, rules: PathRules) -> bytes:
    # 1. Bytes that have no place in a path.
    if not path.startswith(b"/"):
        raise Refused(Cause.BAD_PATH, "the path does not start with '/'")
    if found := _FORBIDDEN(path):
        raise Refused(Cause.BAD_PATH, f"byte 0x{found[0].hex()} is not allowed in a path")

    # 2. Percent-encoding: refuse, then decode once.
    if b"%" in path:
        path = _decode(path, rules)

    # 3. Empty segments go before dot segments, so that "/a//../b" is "/b" as if written "/a/../b".
    if rules.merge_slashes:
        path = _SLASHES(b"/", path)

    # 4. Dot segments, last: they may have been encoded.
    if _DOT_RISK(path):
        raise Refused(Cause.BAD_PATH, "a dot segment is followed by ';' or an encoded slash")
    return _without_dots(path) if _HAS_DOTS(path) else path


def _decode(path: bytes, rules: PathRules) -> bytes:
    if found := _BROKEN(path):
        raise Refused(Cause.BAD_PATH, f"'%' at offset {found.start()} is not percent-encoding")
    if found := _CONTROL(path):
        raise Refused(Cause.BAD_PATH, f"{found[0].decode()} encodes a control character")
    if rules.encoded_slash == "reject" and (found := _SLASH(path)):
        raise Refused(Cause.BAD_PATH, f"{found[0].decode()} encodes a slash or backslash")
    path = _TRIPLET(lambda triplet: _CANONICAL[triplet[0]], path)
    # On the output: "%25%32%65" only now shows that it is "%252e". It is searched, not decoded.
    if rules.encoded_slash == "reject" and (found := _TWICE(path)):
        raise Refused(Cause.BAD_PATH, f"{found[0].decode()} is encoded twice")
    if _OVERLONG(path):
        raise Refused(Cause.BAD_PATH, "an overlong UTF-8 sequence")
    return path


def _without_dots(path: bytes) -> bytes:
    kept: list[bytes] = []
    segments = path[1:].split(b"/")
    for segment in segments:
        if segment == b"..":
            # RFC 3986 §5.2.4 would stay at the root. No honest client climbs above it.
            if not kept:
                raise Refused(Cause.BAD_PATH, "'..' climbs above the root")
            kept.pop()
        elif segment != b".":
            kept.append(segment)
    if segments[-1] in (b".", b".."):
        kept.append(b"")
    return b"/" + b"/".join(kept)
