"""Conditions on headers, query parameters and cookies.

A predicate is a place to look (``HeaderPredicate``, ``QueryPredicate``, ``CookiePredicate``) and a
condition on what is found there (``Exact``, ``Regex``, ``Present``, ``Absent``). A name that occurs
several times fulfils a condition if any of its values does.
"""

from __future__ import annotations

import re
import warnings
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Final, Protocol

from nexgate.errors import ConfigError
from nexgate.routing._subject import Routable

_SECRET_HEADERS: Final = frozenset(
    {b"authorization", b"cookie", b"proxy-authorization", b"x-api-key", b"x-auth-token"}
)
_SHOWN_CHARACTERS: Final = 64


class Condition(Protocol):
    """What must be true of the values found under one name."""

    def holds(self, values: Sequence[str]) -> bool:
        """True if any value, or their absence, is what was asked for."""

    @property
    def requirement(self) -> str:
        """Continues "header x-version must …": ``be '2'``."""

    def describe(self) -> str:
        """Continues "header x-version …": ``is '2'``."""


@dataclass(frozen=True, slots=True)
class Exact:
    """One value, compared character by character."""

    value: str

    def holds(self, values: Sequence[str]) -> bool:
        """True if any value is equal."""
        return self.value in values

    @property
    def requirement(self) -> str:
        """``be '2'``."""
        return f"be {self.value!r}"

    def describe(self) -> str:
        """``is '2'``."""
        return f"is {self.value!r}"


@dataclass(frozen=True, slots=True)
class Regex:
    """A regular expression (Python's ``re``) that must match a whole value.

    Clients choose the value: an expression that backtracks (``(a+)+``) lets them spend the worker's
    time. Raises ``ConfigError`` for an expression that does not compile.
    """

    pattern: str
    _compiled: re.Pattern[str] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", FutureWarning)  # see routing/config.py
                object.__setattr__(self, "_compiled", re.compile(self.pattern))
        except re.error as error:
            raise ConfigError(f"regular expression {self.pattern!r}: {error}") from error

    def holds(self, values: Sequence[str]) -> bool:
        """True if any value matches as a whole."""
        fullmatch = self._compiled.fullmatch
        return any(fullmatch(value) for value in values)

    @property
    def requirement(self) -> str:
        """``match '[0-9]+'``."""
        return f"match {self.pattern!r}"

    def describe(self) -> str:
        """``matches '[0-9]+'``."""
        return f"matches {self.pattern!r}"


@dataclass(frozen=True, slots=True)
class Present:
    """Any value, the empty one too."""

    def holds(self, values: Sequence[str]) -> bool:
        """True if there is a value."""
        return bool(values)

    @property
    def requirement(self) -> str:
        """``be present``."""
        return "be present"

    def describe(self) -> str:
        """``is present``."""
        return "is present"


@dataclass(frozen=True, slots=True)
class Absent:
    """No value at all. An empty value is a value."""

    def holds(self, values: Sequence[str]) -> bool:
        """True if there is no value."""
        return not values

    @property
    def requirement(self) -> str:
        """``be absent``."""
        return "be absent"

    def describe(self) -> str:
        """``is absent``."""
        return "is absent"


class Predicate(Protocol):
    """A condition on a request beyond host, path and method."""

    def matches(self, subject: Routable) -> bool:
        """True if the request fulfils it. Never raises."""

    def describe(self) -> str:
        """What it asks for: ``header x-version is '2'``."""

    def why_not(self, subject: Routable) -> str:
        """What was found instead: ``header x-version: is '1', not '2'``. Secrets are withheld."""


@dataclass(frozen=True, slots=True)
class HeaderPredicate:
    """A condition on a header field. The name is lower-cased; values are read as UTF-8."""

    name: bytes
    condition: Condition

    def __post_init__(self) -> None:
        object.__setattr__(self, "name", self.name.lower())

    def matches(self, subject: Routable) -> bool:
        """True if the field's values fulfil the condition."""
        return self.condition.holds(self.found(subject))

    def describe(self) -> str:
        """``header x-version is '2'``. What a credential must be is withheld."""
        is_secret = self.name in _SECRET_HEADERS and isinstance(self.condition, Exact | Regex)
        what = "has a value (withheld)" if is_secret else self.condition.describe()
        return f"header {self.name.decode('latin-1')} {what}"

    def why_not(self, subject: Routable) -> str:
        """What the field has instead. Values of credential fields are withheld."""
        return _why_not(
            f"header {self.name.decode('latin-1')}",
            self.condition,
            self.found(subject),
            hide=self.name in _SECRET_HEADERS,
        )

    def found(self, subject: Routable) -> Sequence[str]:
        """The values the condition is asked about."""
        # surrogateescape: distinct bytes stay distinct, and it cannot raise.
        values = subject.header_values(self.name)
        return [value.decode("utf-8", "surrogateescape") for value in values]


@dataclass(frozen=True, slots=True)
class QueryPredicate:
    """A condition on a query parameter, after decoding."""

    name: str
    condition: Condition

    def matches(self, subject: Routable) -> bool:
        """True if the parameter's values fulfil the condition."""
        return self.condition.holds(subject.query_values(self.name))

    def found(self, subject: Routable) -> Sequence[str]:
        """The values the condition is asked about."""
        return subject.query_values(self.name)

    def describe(self) -> str:
        """``query page is present``."""
        return f"query {self.name} {self.condition.describe()}"

    def why_not(self, subject: Routable) -> str:
        """What the parameter has instead."""
        return _why_not(
            f"query {self.name}",
            self.condition,
            subject.query_values(self.name),
            hide=False,
        )


@dataclass(frozen=True, slots=True)
class CookiePredicate:
    """A condition on a cookie. Its values are never shown: cookies are where sessions live."""

    name: str
    condition: Condition

    def matches(self, subject: Routable) -> bool:
        """True if the cookie's values fulfil the condition."""
        return self.condition.holds(subject.cookie_values(self.name))

    def found(self, subject: Routable) -> Sequence[str]:
        """The values the condition is asked about."""
        return subject.cookie_values(self.name)

    def describe(self) -> str:
        """``cookie beta is '1'``."""
        return f"cookie {self.name} {self.condition.describe()}"

    def why_not(self, subject: Routable) -> str:
        """Whether the cookie is there; not its value."""
        return _why_not(
            f"cookie {self.name}",
            self.condition,
            subject.cookie_values(self.name),
            hide=True,
        )


def _why_not(place: str, condition: Condition, values: Sequence[str], *, hide: bool) -> str:
    if isinstance(condition, Absent):
        return f"{place}: is present, must be absent"
    if not values:
        return f"{place}: is absent, must {'be present' if hide else condition.requirement}"
    if hide:
        return f"{place}: has another value (withheld)"
    found = " and ".join(_shown(value) for value in values[:3])
    if len(values) > 3:
        found += f" and {len(values) - 3} more"
    if isinstance(condition, Exact):
        return f"{place}: is {found}, not {condition.value!r}"
    return f"{place}: is {found}, must {condition.requirement}"


def _shown(value: str) -> str:
    text = value.encode("utf-8", "replace").decode()
    return repr(text if len(text) <= _SHOWN_CHARACTERS else text[:_SHOWN_CHARACTERS] + "…")
