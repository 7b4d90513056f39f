"""At random, by weight."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable, Sequence
from random import random
from typing import Any

from nexgate.exchange import Exchange, Response
from nexgate.upstream.balancer._base import Weights

__all__ = ["WeightedRandom"]


class WeightedRandom:
    __slots__ = ("_available", "_cumulative", "_random")

    def __init__(self, random: Callable[[], float] = random) -> None:
        self._random = random
        self._available: list[Any] = []
        self._cumulative: list[float] | None = None

    def rebuild(self, instances: Sequence[Any], available: Sequence[Any]) -> None:
        self._available = list(available)
        self._cumulative = Weights.of(available)

    def pick(self, exchange: Exchange) -> Any:
        available = self._available
        cumulative = self._cumulative
        n = len(available)
        if cumulative is None:
            return available[int(self._random() * n)]
        return available[bisect_right(cumulative, self._random() * cumulative[-1], 0, n - 1)]

    def on_response(self, exchange: Exchange, response: Response, instance: Any) -> None:
        pass
