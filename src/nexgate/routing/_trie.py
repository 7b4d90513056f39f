"""Finds routes by walking the segments of a path: the index of an ordinary table.

A node looks its literals up in a dictionary, so siblings cost nothing. Where a segment fits several
children (``/users/me`` and ``/users/{id}``) all of them must be followed, because a priority can
put the less specific one first. Two things keep that cheap: every node knows the best rank below
it, so a walk that already has a better match turns back at once; and the trie is a tree, so no node
is visited twice. ``worst_case`` says how many nodes the most expensive path visits; the table uses
``_rows`` instead when that is too many.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Generic, TypeVar

from nexgate.routing._leaf import NO_RANK, Entry, Leaf, make_leaf
from nexgate.routing._path import PathRules, matching_key
from nexgate.routing._subject import Routable
from nexgate.routing._template import Kind, Segment

T = TypeVar("T")


class _Draft(Generic[T]):
    """A node while it is being built."""

    def __init__(self) -> None:
        self.literals: dict[bytes, _Draft[T]] = {}
        self.tests: dict[tuple[object, ...], tuple[Segment, _Draft[T]]] = {}
        self.plain: _Draft[T] | None = None
        self.end: list[Entry[T]] = []
        self.rest: list[Entry[T]] = []


class _Node(Generic[T]):
    __slots__ = ("end", "first_rank", "literals", "plain", "rest", "tests", "worst_case")

    def __init__(self, draft: _Draft[T], rules: PathRules) -> None:
        self.literals = {key: _Node(child, rules) for key, child in draft.literals.items()}
        # Least specific first: they are pushed on a stack.
        tests = sorted(draft.tests.values(), key=lambda test: test[0].specificity, reverse=True)
        self.tests: tuple[tuple[Callable[[bytes], object], _Node[T]], ...] = tuple(
            (segment.acceptor(ignore_case=rules.ignore_case), _Node(child, rules))
            for segment, child in tests
        )
        self.plain: _Node[T] | None = _Node(draft.plain, rules) if draft.plain else None
        self.end: Leaf[T] | None = make_leaf(draft.end) if draft.end else None
        self.rest: Leaf[T] | None = make_leaf(draft.rest) if draft.rest else None

        others = [child for _, child in self.tests]
        if self.plain is not None:
            others.append(self.plain)
        self.first_rank: int = min(
            [leaf.first_rank for leaf in (self.end, self.rest) if leaf is not None]
            + [child.first_rank for child in (*self.literals.values(), *others)],
            default=NO_RANK,
        )
        # One literal at most is followed; of the others perhaps all.
        self.worst_case: int = (
            1
            + max((child.worst_case for child in self.literals.values()), default=0)
            + sum(child.worst_case for child in others)
        )


class Trie(Generic[T]):
    """The entries of one host as a tree of segments."""

    def __init__(self, entries: Iterable[Entry[T]], rules: PathRules) -> None:
        root: _Draft[T] = _Draft()
        for entry in entries:
            _insert(root, entry, rules)
        self._root = _Node(root, rules)
        self.worst_case = self._root.worst_case
        """An upper bound of the nodes that one search visits, whatever the path."""

    def search(
        self, segments: Sequence[bytes], method: bytes, subject: Routable, below: int
    ) -> Entry[T] | None:
        """The entry with the lowest rank before ``below`` that accepts the request."""
        best: Entry[T] | None = None
        stack: list[tuple[_Node[T], int]] = []
        rests: list[Leaf[T]] = []
        length = len(segments)
        node, at = self._root, 0
        while True:
            if node.first_rank < below:
                if at == length:
                    if node.end is not None and (found := node.end.pick(method, subject, below)):
                        best, below = found, found.rank
                else:
                    if node.rest is not None:
                        rests.append(node.rest)
                    segment = segments[at]
                    at += 1
                    child = node.literals.get(segment)
                    if child is None and not node.tests:
                        # The usual node has either literals or one parameter: no detour.
                        if node.plain is not None and segment:
                            node = node.plain
                            continue
                    else:
                        if node.plain is not None and segment:
                            stack.append((node.plain, at))
                        for accepts, other in node.tests:
                            if accepts(segment):
                                stack.append((other, at))
                        if child is not None:
                            node = child
                            continue
            if not stack:
                break
            node, at = stack.pop()
        # Last and deepest first: they are the least specific, and often no longer needed.
        for leaf in reversed(rests):
            if leaf.first_rank < below and (found := leaf.pick(method, subject, below)):
                best, below = found, found.rank
        return best

    def allowed(self, segments: Sequence[bytes], subject: Routable) -> set[bytes]:
        """The methods of the entries that accept the request in everything but the method."""
        return set[bytes]().union(*(leaf.allowed(subject) for leaf in self.leaves(segments)))

    def leaves(self, segments: Sequence[bytes]) -> Iterator[Leaf[T]]:
        """Every leaf whose path matches. In no order."""
        stack: list[tuple[_Node[T], int]] = [(self._root, 0)]
        while stack:
            node, at = stack.pop()
            if at == len(segments):
                if node.end is not None:
                    yield node.end
                continue
            if node.rest is not None:
                yield node.rest
            segment = segments[at]
            if (child := node.literals.get(segment)) is not None:
                stack.append((child, at + 1))
            if node.plain is not None and segment:
                stack.append((node.plain, at + 1))
            stack.extend((other, at + 1) for accepts, other in node.tests if accepts(segment))


def _insert(root: _Draft[T], entry: Entry[T], rules: PathRules) -> None:
    node = root
    for segment in entry.route.template.segments:
        if segment.kind is Kind.REST:
            node.rest.append(entry)
            if segment.is_anonymous_rest:
                node.end.append(entry)
            return
        if segment.kind is Kind.LITERAL:
            node = node.literals.setdefault(matching_key(segment.before, rules), _Draft())
        elif segment.kind is Kind.PLAIN:
            node.plain = node.plain or _Draft()
            node = node.plain
        else:
            node = node.tests.setdefault(segment.shape(rules), (segment, _Draft()))[1]
    node.end.append(entry)
