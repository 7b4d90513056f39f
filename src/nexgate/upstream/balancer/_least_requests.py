"""Least requests by the power of two choices (Mitzenmacher, 2001): the default.

Two instances at random, the one with fewer requests under way. Nearly as even as looking at all of
them, at constant cost, and without the herd that chases one idle instance from every worker at
once. With weights, the draw is by weight and the comparison by requests per weight.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable, Sequence
from random import random
from typing import Any

from nexgate.exchange import Exchange, Response
from nexgate.upstream.balancer._base import Weights

__all__ = ["LeastRequests"]


class LeastRequests:
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
        n = len(available)
        if n == 1:
            return available[0]
        cumulative = self._cumulative
        draw = self._random
        if cumulative is None:
            i = int(draw() * n)
            j = int(draw() * (n - 1))
            if j >= i:
                j += 1
            one = available[i]
            other = available[j]
            return other if other.active < one.active else one
        total = cumulative[-1]
        one = available[bisect_right(cumulative, draw() * total, 0, n - 1)]
        other = available[bisect_right(cumulative, draw() * total, 0, n - 1)]
        if (other.active + 1) * one.weight < (one.active + 1) * other.weight:
            return other
        return one

    def on_response(self, exchange: Exchange, response: Response, instance: Any) -> None:
        pass
