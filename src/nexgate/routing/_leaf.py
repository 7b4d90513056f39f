"""The end of the search: the routes that share a path, and the choice among them."""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Iterable
from typing import Final, Generic, TypeVar

from nexgate.routing._predicates import CookiePredicate, Exact, HeaderPredicate, QueryPredicate
from nexgate.routing._route import Match, Route
from nexgate.routing._subject import Routable

T = TypeVar("T")

NO_RANK: Final = sys.maxsize
"""Comes after every rank."""

_SWITCH_FROM: Final = 8
"""Entries from which looking a value up is cheaper than asking every entry."""

_Named = HeaderPredicate | QueryPredicate | CookiePredicate


class Entry(Generic[T]):
    """A route under one of its hosts, with its place in the order of the whole table."""

    __slots__ = ("is_unconditional", "match", "predicates", "rank", "route")

    def __init__(self, rank: int, route: Route[T]) -> None:
        self.rank = rank
        """Lower is asked first. Unique in a table."""
        self.route = route
        self.predicates = route.predicates
        self.is_unconditional = not route.methods and not route.predicates
        self.match = None if route.template.names else Match(route, b"/")
        """Made once for templates without parameters: then a match allocates nothing."""


class Leaf(Generic[T]):
    """Entries whose host and path match, by method, in the order of their rank."""

    __slots__ = ("_always_allowed", "_asking", "_by_method", "_other", "entries", "first_rank")

    def __init__(self, entries: Iterable[Entry[T]]) -> None:
        self.entries = _reachable(sorted(entries, key=lambda entry: entry.rank))
        self.first_rank = self.entries[0].rank if self.entries else NO_RANK
        methods = frozenset[bytes]().union(*(entry.route.methods for entry in self.entries))
        self._by_method = {method: self._accepting(method) for method in methods}
        self._other = tuple(entry for entry in self.entries if not entry.route.methods)
        # For 405: methods that need no question, and the entries that must be asked first.
        limited = [entry.route for entry in self.entries if entry.route.methods]
        plain = [route for route in limited if not route.predicates]
        self._always_allowed = frozenset[bytes]().union(*(route.methods for route in plain))
        self._asking = tuple(route for route in limited if route.predicates)

    def pick(self, method: bytes, subject: Routable, below: int) -> Entry[T] | None:
        """The first entry that accepts the request and ranks before ``below``."""
        for entry in self._by_method.get(method, self._other):
            if entry.rank >= below:
                return None
            if not entry.predicates or entry.route.accepts_rest(subject):
                return entry
        return None

    def allowed(self, subject: Routable) -> set[bytes]:
        """The methods of the entries that accept the request in everything but the method."""
        allowed = set(self._always_allowed)
        for route in self._asking:
            if not route.methods <= allowed and route.accepts_rest(subject):
                allowed |= route.methods
        return allowed

    def _accepting(self, method: bytes) -> tuple[Entry[T], ...]:
        return tuple(entry for entry in self.entries if entry.route.accepts_method(method))


class SwitchLeaf(Leaf[T]):
    """A leaf whose entries mostly ask one header, parameter or cookie for one exact value.

    A thousand tenants told apart by a header are one dictionary look-up instead of a thousand
    questions.
    """

    __slots__ = ("_by_value", "_default", "_question")

    def __init__(self, entries: Iterable[Entry[T]], question: _Named) -> None:
        super().__init__(entries)
        self._asking = ()
        self._question = question
        by_value: dict[str, list[Entry[T]]] = {}
        others: list[Entry[T]] = []
        for entry in self.entries:
            value = _exact_value(entry, question)
            (others if value is None else by_value.setdefault(value, [])).append(entry)
        self._by_value = {value: make_leaf(same) for value, same in by_value.items()}
        self._default = make_leaf(others)

    def pick(self, method: bytes, subject: Routable, below: int) -> Entry[T] | None:
        """As ``Leaf.pick``, asking only the entries that ask for a value the request has."""
        best: Entry[T] | None = None
        for value in self._question.found(subject):
            leaf = self._by_value.get(value)
            if leaf is not None and (entry := leaf.pick(method, subject, below)):
                best, below = entry, entry.rank
        return self._default.pick(method, subject, below) or best

    def allowed(self, subject: Routable) -> set[bytes]:
        """As ``Leaf.allowed``, asking only the same entries as ``pick``."""
        allowed = self._default.allowed(subject)
        for value in self._question.found(subject):
            if (leaf := self._by_value.get(value)) is not None:
                allowed |= leaf.allowed(subject)
        return allowed


def make_leaf(entries: Iterable[Entry[T]]) -> Leaf[T]:
    """The leaf that costs least for these entries."""
    entries = list(entries)
    if len(entries) >= _SWITCH_FROM:
        asked = Counter(place for entry in entries for place in _places(entry))
        if asked:
            (kind, name), count = asked.most_common(1)[0]
            values = {_exact_value(entry, kind(name, Exact(""))) for entry in entries}
            # Fewer than two values would split nothing off, and recurse without end.
            if count * 2 >= len(entries) and len(values) > 1:
                return SwitchLeaf(entries, kind(name, Exact("")))
    return Leaf(entries)


def _reachable(entries: list[Entry[T]]) -> tuple[Entry[T], ...]:
    """Up to and including the first that accepts everything: no request gets past it."""
    for at, entry in enumerate(entries):
        if entry.is_unconditional:
            return tuple(entries[: at + 1])
    return tuple(entries)


def _places(entry: Entry[T]) -> set[tuple[type, object]]:
    return {
        (type(predicate), predicate.name)
        for predicate in entry.predicates
        if isinstance(predicate, _Named) and isinstance(predicate.condition, Exact)
    }


def _exact_value(entry: Entry[T], question: _Named) -> str | None:
    for predicate in entry.predicates:
        if (
            isinstance(predicate, type(question))
            and predicate.name == question.name
            and isinstance(predicate.condition, Exact)
        ):
            return predicate.condition.value
    return None
