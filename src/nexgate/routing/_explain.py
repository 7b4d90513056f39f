"""Why this request has this route, and why the other routes are not it.

Asks every route for every reason, so its time does grow with the table. It is for operators
(``nexgate explain``), not for the request path.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, Generic, TypeVar

from nexgate.routing._route import Match, Miss, Route
from nexgate.routing._subject import Routable
from nexgate.routing._table import RouteTable

T = TypeVar("T")

MAX_CANDIDATES: Final = 20
"""How many routes an explanation shows beside the one that matched: the closest ones."""


@dataclass(frozen=True, slots=True)
class Candidate(Generic[T]):
    """A route that was not chosen."""

    route: Route[T]
    reasons: tuple[str, ...]
    """One sentence per thing that failed: ``method: POST is not one of GET, HEAD``. Never empty."""
    is_shadowed: bool
    """True if nothing failed, but a route before it matched."""


@dataclass(frozen=True, slots=True)
class Explanation(Generic[T]):
    """The outcome of matching one request, with its reasons."""

    outcome: Match[T] | Miss
    candidates: tuple[Candidate[T], ...]
    """The closest first: fewest failures, then longest common path, then precedence."""
    omitted: int
    """How many routes were further away than those shown."""

    @property
    def matched(self) -> Route[T] | None:
        """The route that answers, or None for a miss."""
        return self.outcome.route if isinstance(self.outcome, Match) else None


def explain(table: RouteTable[T], subject: Routable) -> Explanation[T]:
    """Match a request and say why. Values of credentials and cookies do not appear in it."""
    outcome = table.match(subject)
    matched = outcome.route if isinstance(outcome, Match) else None
    ranked: list[tuple[tuple[int, int, int], Candidate[T]]] = []
    for position, route in enumerate(table.routes):
        if route is matched:
            continue
        reasons = tuple(route.why_not(subject, table.rules))
        is_shadowed = not reasons
        if matched is not None and is_shadowed:
            reasons = (f"precedence: it matches, but {matched.name!r} comes first",)
        distance = (0 if is_shadowed else len(reasons), -_common(route, subject, table), position)
        ranked.append((distance, Candidate(route, reasons, is_shadowed)))
    ranked.sort(key=lambda item: item[0])
    shown = tuple(candidate for _, candidate in ranked[:MAX_CANDIDATES])
    return Explanation(outcome, shown, len(ranked) - len(shown))


def _common(route: Route[T], subject: Routable, table: RouteTable[T]) -> int:
    """How many leading segments of the path the template accepts."""
    return route.template.common_segments(subject.path, table.rules)
