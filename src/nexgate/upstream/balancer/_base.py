"""What a balancer is."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import accumulate
from typing import Any, Protocol

from nexgate.exchange import Exchange, Response
from nexgate.upstream.balancer._latency import PeakLatency

__all__ = ["Balanced", "Balancer", "Weights"]


class Balanced(Protocol):
    """What a balancer may know of an instance."""

    url: str
    weight: float
    active: int
    latency: PeakLatency | None

    @property
    def is_available(self) -> bool: ...


class Balancer(Protocol):
    """Picks an instance. Synchronous, no I/O, O(1) or O(log n) per pick.

    ``rebuild`` is called with all instances and those available whenever either changes; ``pick``
    is then called with at least one available. Strategies that answer something to the client (a
    cookie) implement ``on_response``.
    """

    def rebuild(self, instances: Sequence[Balanced], available: Sequence[Balanced]) -> None: ...

    def pick(self, exchange: Exchange) -> Any: ...

    def on_response(self, exchange: Exchange, response: Response, instance: Any) -> None: ...


class Weights:
    """Cumulative weights for picking with ``bisect``; None when all weights are equal."""

    @staticmethod
    def of(instances: Sequence[Any]) -> list[float] | None:
        weights = [i.weight for i in instances]
        if len(set(weights)) <= 1:
            return None
        return list(accumulate(weights))
