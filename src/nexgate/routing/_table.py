"""The compiled routes: which route is a request's, in a time that does not depend on their number.

Compiling gives every route, under each of its hosts, one rank: its place in the order of
precedence. The routes of one host form a group. A request then costs

1. one look-up of its host, which gives the groups that can answer it,
2. one look-up of its path in a group, if some template is exactly that path, and otherwise
3. a walk over its segments in the group's index (``_trie``, or ``_rows`` for hostile tables),
4. the predicates of the routes found, by rank, until one accepts.

A table is immutable. A reload compiles a new one and swaps it.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Final, Generic, TypeVar

from nexgate.routing._leaf import NO_RANK, Entry, Leaf, make_leaf
from nexgate.routing._path import PathRules, matching_key
from nexgate.routing._route import Match, Miss, Route
from nexgate.routing._rows import Rows
from nexgate.routing._subject import Routable
from nexgate.routing._trie import Trie

T = TypeVar("T")

_MAX_TRIE_VISITS: Final = 256
"""Above this many nodes (about 50 µs) for the worst path, bit sets replace the trie."""

_MAX_SHARED: Final = 32
"""Most entries kept with an exact path. More (many catch-alls) are found through the index."""

_NOT_FOUND: Final = Miss()


class _Group(Generic[T]):
    """The entries of one host pattern."""

    __slots__ = ("_depth", "_index", "exact", "first_rank")

    def __init__(self, entries: list[Entry[T]], rules: PathRules) -> None:
        self.first_rank = min((entry.rank for entry in entries), default=NO_RANK)
        self._depth = max((len(entry.route.template.segments) for entry in entries), default=1)
        self._index: Trie[T] | Rows[T] | None = None
        if entries:
            trie = Trie(entries, rules)
            self._index = trie if trie.worst_case <= _MAX_TRIE_VISITS else Rows(entries, rules)

        self.exact: dict[bytes, Leaf[T]] = {}
        """Paths that some template equals, with every entry that matches them, wildcards too."""
        for entry in entries:
            template = entry.route.template
            key = matching_key(template.literal_prefix, rules)
            if template.is_literal and key not in self.exact:
                leaves = self._index.leaves(key[1:].split(b"/")) if self._index else ()
                found = [other for leaf in leaves for other in leaf.entries]
                own = sum(other.route.template.is_literal for other in found)
                if len(found) - own <= _MAX_SHARED:
                    self.exact[key] = make_leaf(found)
        if all(entry.route.template.is_literal for entry in entries):
            self._index = None

    def search(self, key: bytes, method: bytes, subject: Routable, below: int) -> Entry[T] | None:
        """The best entry for a path that is not in ``exact``."""
        if self._index is None:
            return None
        return self._index.search(key[1:].split(b"/", self._depth), method, subject, below)

    def allowed(self, key: bytes, subject: Routable) -> set[bytes]:
        """The methods of the entries that accept the request in everything but the method."""
        if (leaf := self.exact.get(key)) is not None:
            return leaf.allowed(subject)
        if self._index is None:
            return set()
        return self._index.allowed(key[1:].split(b"/", self._depth), subject)


class RouteTable(Generic[T]):
    """Routes compiled for matching. ``rules`` must be those that normalised the paths."""

    def __init__(self, routes: Iterable[Route[T]], rules: PathRules | None = None) -> None:
        self.rules = rules = rules or PathRules()
        declared = tuple(routes)
        ranked = sorted(
            (
                (route.precedence(host, position), host, route)
                for position, route in enumerate(declared)
                for host in route.hosts or (b"",)
            ),
            key=lambda item: item[0],
        )
        self._entries = [(host, Entry(rank, route)) for rank, (_, host, route) in enumerate(ranked)]
        self.routes: tuple[Route[T], ...] = tuple(
            {id(route): route for _, _, route in ranked}.values()
        )
        """In order of precedence; a route with several hosts where its best one stands."""

        by_host: dict[bytes, list[Entry[T]]] = {b"": []}
        for host, entry in self._entries:
            by_host.setdefault(host, []).append(entry)
        groups = {host: _Group(entries, rules) for host, entries in by_host.items()}
        # A chain is the groups that can answer for a host: its own, its wildcards', and any host's.
        self._any: tuple[_Group[T], ...] = (groups.pop(b""),)
        wildcards = sorted((host for host in groups if host.startswith(b"*")), key=len)
        self._depths: tuple[int, ...] = ()
        self._wildcards: dict[bytes, tuple[_Group[T], ...]] = {}
        for host in wildcards:
            # From the shortest to the longest, so that the chain of the shorter one is there.
            self._wildcards[host[2:]] = (groups.pop(host), *self._wildcard_chain(host[2:]))
            self._depths = tuple(sorted({*self._depths, host.count(b".")}, reverse=True))
        self._exact = {host: (group, *self._wildcard_chain(host)) for host, group in groups.items()}
        self._is_hostless = not self._exact and not self._wildcards

    def match(self, subject: Routable) -> Match[T] | Miss:
        """The route that answers this request, or what to say if there is none. Never raises."""
        path = subject.path
        method = subject.method
        key = path
        if b"%" in path or self.rules.ignore_case:
            key = matching_key(path, self.rules)
        chain = self._any if self._is_hostless else self._chain(subject.host)
        best: Entry[T] | None = None
        below = NO_RANK
        for group in chain:
            if group.first_rank < below:
                leaf = group.exact.get(key)
                if leaf is None:
                    entry = group.search(key, method, subject, below)
                else:
                    entry = leaf.pick(method, subject, below)
                if entry is not None:
                    best, below = entry, entry.rank
        if best is None:
            return self._miss(chain, key, subject)
        return best.match or Match(best.route, path)

    def conflicts(self) -> list[tuple[Route[T], Route[T]]]:
        """Pairs ``(winner, shadowed)``: the second can never match because of the first.

        Found are routes with an equivalent path whose hosts and methods one other route covers,
        with the same predicates or none. What only several others shadow together is not found.
        """
        earlier: dict[object, list[Route[T]]] = {}
        winner: dict[int, Route[T]] = {}
        open_hosts: dict[int, int] = {}
        for host, entry in self._entries:
            route = entry.route
            shape = route.template.shape(self.rules)
            asks = frozenset(route.predicates)
            covering = (
                other
                for wider in _wider(host)
                for predicates in {asks, frozenset()}
                for other in earlier.get((shape, wider, predicates), ())
                if other is not route and _covers_methods(other, route)
            )
            found = next(covering, None)
            if found is None:
                open_hosts[id(route)] = open_hosts.get(id(route), 0) + 1
                earlier.setdefault((shape, host, asks), []).append(route)
            else:
                winner.setdefault(id(route), found)
        return [
            (winner[id(route)], route)
            for route in self.routes
            if id(route) in winner and id(route) not in open_hosts
        ]

    def _chain(self, host: bytes) -> tuple[_Group[T], ...]:
        return self._exact.get(host) or self._wildcard_chain(host)

    def _wildcard_chain(self, host: bytes) -> tuple[_Group[T], ...]:
        """The groups of the longest wildcard above a host; it holds those of the shorter ones."""
        if self._depths:
            labels = host.split(b".")
            for depth in self._depths:
                if depth < len(labels):
                    chain = self._wildcards.get(b".".join(labels[-depth:]))
                    # Nothing before the dot is no label: ".example.com" is not below "example.com".
                    if chain is not None and labels[:-depth] != [b""]:
                        return chain
        return self._any

    def _miss(self, chain: tuple[_Group[T], ...], key: bytes, subject: Routable) -> Miss:
        allow: set[bytes] = set()
        for group in chain:
            allow |= group.allowed(key, subject)
        return Miss(tuple(sorted(allow))) if allow else _NOT_FOUND


def _wider(host: bytes) -> Iterator[bytes]:
    """The host patterns that accept every host a pattern accepts: itself first, any host last."""
    yield host
    labels = host.removeprefix(b"*.").split(b".")
    if host:
        for start in range(1, len(labels)):
            yield b"*." + b".".join(labels[start:])
        yield b""


def _covers_methods(other: Route[T], route: Route[T]) -> bool:
    return not other.methods or (bool(route.methods) and route.methods <= other.methods)
