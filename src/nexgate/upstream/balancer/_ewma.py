"""Peak EWMA: the lower of two by expected latency (Finagle's load metric, 2015).

Each instance keeps a moving average of its answer times that jumps up at once and forgets with a
half-life of 10 s. Load is that average times the requests under way, so a slow or stalled instance
repels traffic before it answers. Two traps are closed: an instance without history that has
requests under way is assumed slow (one request probes it, not a flood), and a 5xx counts as at
least a second, because a quick error must not attract traffic.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from random import random
from typing import Any, Final

from nexgate.exchange import Exchange, Response
from nexgate.upstream.balancer._latency import PeakLatency

__all__ = ["PeakEwma"]

_UNKNOWN: Final = 1000.0


class PeakEwma:
    __slots__ = ("_available", "_random")

    def __init__(self, random: Callable[[], float] = random) -> None:
        self._random = random
        self._available: list[Any] = []

    def rebuild(self, instances: Sequence[Any], available: Sequence[Any]) -> None:
        self._available = list(available)

    def pick(self, exchange: Exchange) -> Any:
        available = self._available
        n = len(available)
        if n == 1:
            return available[0]
        i = int(self._random() * n)
        j = int(self._random() * (n - 1))
        if j >= i:
            j += 1
        one = available[i]
        other = available[j]
        return other if _load(other) < _load(one) else one

    def on_response(self, exchange: Exchange, response: Response, instance: Any) -> None:
        pass


def _load(instance: Any) -> float:
    active: int = instance.active
    weight: float = instance.weight
    latency: PeakLatency | None = instance.latency
    if latency is None or not latency.seconds:
        return (_UNKNOWN + active if active else 0.0) / weight
    return latency.seconds * (active + 1) / weight
