"""What routing needs to know about a request, and how a query and cookies are read."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from nexgate.routing._path import unquote


class Routable(Protocol):
    """A request as routing sees it. The edge's exchange is one; ``Subject`` is one for tools.

    The methods are called only when a candidate has a predicate that needs them, so an
    implementation should parse on the first call and remember.
    """

    @property
    def method(self) -> bytes:
        """As received; methods are case-sensitive (RFC 9110 §9.1)."""

    @property
    def host(self) -> bytes:
        """In lower case, without port and trailing dot. Empty if there is none."""

    @property
    def path(self) -> bytes:
        """What ``normalise`` returned."""

    @property
    def query(self) -> bytes:
        """Without the ``?``. Empty if there is none."""

    def header_values(self, name: bytes) -> Sequence[bytes]:
        """Every value of a field, by lower-case name, in the order received."""

    def query_values(self, name: str) -> Sequence[str]:
        """Every value of a query parameter, decoded as ``parse_query`` does."""

    def cookie_values(self, name: str) -> Sequence[str]:
        """Every value of a cookie, as ``parse_cookies`` reads them."""


def parse_query(query: bytes) -> dict[str, list[str]]:
    """Values by name: percent-decoded once, ``+`` is a space, UTF-8 with U+FFFD for what is not.

    ``a`` and ``a=`` both mean an empty value. Only ``&`` separates: reading ``;`` as a separator,
    as some did, lets a client say one thing to the gateway and another to the service.
    """
    values: dict[str, list[str]] = {}
    for pair in query.split(b"&"):
        if pair:
            name, _, value = pair.replace(b"+", b" ").partition(b"=")
            values.setdefault(_text(name), []).append(_text(value))
    return values


def parse_cookies(fields: Sequence[bytes]) -> dict[str, list[str]]:
    """Values by name from all ``Cookie`` fields (RFC 6265 §4.2.1): not decoded, quotes removed."""
    values: dict[str, list[str]] = {}
    for line in fields:
        for pair in line.split(b";"):
            name, equals, value = pair.partition(b"=")
            if equals:
                value = value.strip(b" \t")
                if len(value) >= 2 and value.startswith(b'"') and value.endswith(b'"'):
                    value = value[1:-1]
                values.setdefault(_raw_text(name.strip(b" \t")), []).append(_raw_text(value))
    return values


@dataclass(frozen=True, slots=True)
class Subject:
    """A request made of plain values, for ``explain``, tests and tools."""

    method: bytes = b"GET"
    host: bytes = b""
    path: bytes = b"/"
    query: bytes = b""
    headers: Mapping[bytes, Sequence[bytes]] = field(default_factory=dict)
    """By lower-case name."""

    def header_values(self, name: bytes) -> Sequence[bytes]:
        """Every value of the field, or none."""
        return self.headers.get(name, ())

    def query_values(self, name: str) -> Sequence[str]:
        """Parses the query at every call."""
        return parse_query(self.query).get(name, ())

    def cookie_values(self, name: str) -> Sequence[str]:
        """Parses the cookies at every call."""
        return parse_cookies(self.header_values(b"cookie")).get(name, ())


def _text(raw: bytes) -> str:
    return unquote(raw).decode("utf-8", "replace")


def _raw_text(raw: bytes) -> str:
    return raw.decode("utf-8", "replace")
