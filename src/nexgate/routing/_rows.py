"""Finds routes by intersecting bit sets: the index of a table that is too ambiguous for a trie.

Templates like ``/a/b/c``, ``/{x}/b/c``, ``/a/{y}/c``, … in all combinations make a trie follow an
exponential number of branches for one path. Here bit *n* of an integer stands for the entry of rank
*n*; each segment of the path removes the entries that do not accept it. The cost is the number of
segments times one ``&`` of as many bits as there are entries (10,000 entries: 0.2 µs), whatever
the templates and the path look like. It is not the index of every table because those integers cost
memory: one per distinct literal and position.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Generic, TypeVar

from nexgate.routing._leaf import Entry, Leaf, make_leaf
from nexgate.routing._path import PathRules, matching_key
from nexgate.routing._subject import Routable
from nexgate.routing._template import Kind, Segment

T = TypeVar("T")


class _Row:
    """Which entries accept which segment at one position."""

    __slots__ = ("free", "literals", "tests")

    def __init__(self) -> None:
        self.literals: dict[bytes, int] = {}
        self.tests: list[tuple[Callable[[bytes], object], int]] = []
        self.free = 0
        """Entries whose rest has begun: they accept anything."""


class Rows(Generic[T]):
    """The entries of one host as one bit set per distinct segment."""

    def __init__(self, entries: Iterable[Entry[T]], rules: PathRules) -> None:
        self._entries = sorted(entries, key=lambda entry: entry.rank)
        templates = [entry.route.template for entry in self._entries]
        self._depth = max(len(template.segments) for template in templates)
        self._rows = [_Row() for _ in range(self._depth)]
        # By number of segments. The last stands for "more than any template has".
        self._lengths = [0] * (self._depth + 2)
        tests: list[dict[tuple[object, ...], tuple[Segment, int]]] = [{} for _ in self._rows]
        for number, template in enumerate(templates):
            bit = 1 << number
            fixed = len(template.segments) - (1 if template.rest else 0)
            for at, segment in enumerate(template.segments[:fixed]):
                if segment.kind is Kind.LITERAL:
                    literals = self._rows[at].literals
                    key = matching_key(segment.before, rules)
                    literals[key] = literals.get(key, 0) | bit
                else:
                    same = tests[at].get(segment.shape(rules), (segment, 0))
                    tests[at][segment.shape(rules)] = (segment, same[1] | bit)
            if template.rest is None:
                self._lengths[fixed] |= bit
                continue
            for row in self._rows[fixed:]:
                row.free |= bit
            shortest = fixed if template.rest.is_anonymous_rest else fixed + 1
            for length in range(shortest, len(self._lengths)):
                self._lengths[length] |= bit
        for row, same_shape in zip(self._rows, tests, strict=True):
            row.tests = [
                (segment.acceptor(ignore_case=rules.ignore_case), bits)
                for segment, bits in same_shape.values()
            ]
        methods = frozenset[bytes]().union(*(entry.route.methods for entry in self._entries))
        self._by_method = {method: self._accepting(method) for method in methods}
        self._other = self._accepting(b"")
        # For 405: entries with methods, and those among them that must be asked first.
        self._limited = self._asking = 0
        for number, entry in enumerate(self._entries):
            if entry.route.methods:
                self._limited |= 1 << number
                self._asking |= bool(entry.predicates) << number
        plain = self._limited & ~self._asking
        self._plain_by_method = {
            method: bits & plain for method, bits in self._by_method.items() if bits & plain
        }

    def search(
        self, segments: Sequence[bytes], method: bytes, subject: Routable, below: int
    ) -> Entry[T] | None:
        """The entry with the lowest rank before ``below`` that accepts the request."""
        bits = self._accepted(segments, self._by_method.get(method, self._other))
        for entry in self._by_rank(bits):
            if entry.rank >= below:
                return None
            if entry.route.accepts_rest(subject):
                return entry
        return None

    def allowed(self, segments: Sequence[bytes], subject: Routable) -> set[bytes]:
        """The methods of the entries that accept the request in everything but the method."""
        bits = self._accepted(segments, self._limited)
        allowed = {method for method, plain in self._plain_by_method.items() if bits & plain}
        for entry in self._by_rank(bits & self._asking):
            if not entry.route.methods <= allowed and entry.route.accepts_rest(subject):
                allowed |= entry.route.methods
        return allowed

    def leaves(self, segments: Sequence[bytes]) -> Iterator[Leaf[T]]:
        """One leaf with every entry whose path matches."""
        yield make_leaf(self._by_rank(self._accepted(segments, -1)))

    def _accepted(self, segments: Sequence[bytes], bits: int) -> int:
        """Those of ``bits`` whose path matches."""
        bits &= self._lengths[min(len(segments), self._depth + 1)]
        for segment, row in zip(segments, self._rows, strict=False):
            if not bits:
                break
            accepted = row.literals.get(segment, 0) | row.free
            for accepts, same in row.tests:
                if accepts(segment):
                    accepted |= same
            bits &= accepted
        return bits

    def _by_rank(self, bits: int) -> Iterator[Entry[T]]:
        while bits:
            lowest = bits & -bits
            yield self._entries[lowest.bit_length() - 1]
            bits ^= lowest

    def _accepting(self, method: bytes) -> int:
        bits = 0
        for number, entry in enumerate(self._entries):
            if entry.route.accepts_method(method):
                bits |= 1 << number
        return bits
