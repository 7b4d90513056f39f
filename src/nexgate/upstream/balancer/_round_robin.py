"""In turn; with weights, interleaved so that a heavy instance is not picked in bursts.

The turn order is computed when the set changes: smoothly for small sets, by earliest deadline with
period 1/weight for large ones. A pick is then one list access. Workers start at a random place, so
that they do not march in step.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from heapq import heapify, heapreplace
from random import random
from typing import Any, Final

from nexgate.exchange import Exchange, Response

__all__ = ["RoundRobin"]

_MAX_TURNS: Final = 20_000
_SMOOTH: Final = 32


class RoundRobin:
    __slots__ = ("_at", "_random", "_turns")

    def __init__(self, random: Callable[[], float] = random) -> None:
        self._random = random
        self._turns: list[Any] = []
        self._at = -1

    def rebuild(self, instances: Sequence[Any], available: Sequence[Any]) -> None:
        self._turns = _turns(list(available))
        if self._at < 0:
            self._at = int(self._random() * max(1, len(self._turns)))

    def pick(self, exchange: Exchange) -> Any:
        turns = self._turns
        at = self._at + 1
        if at >= len(turns):
            at = 0
        self._at = at
        return turns[at]

    def on_response(self, exchange: Exchange, response: Response, instance: Any) -> None:
        pass


def _turns(available: list[Any]) -> list[Any]:
    weights = [i.weight for i in available]
    if len(set(weights)) <= 1:
        return available
    least = min(weights)
    rounds = sum(w / least for w in weights)
    # A weight of 1.5 needs two rounds of the lightest to come out even; 20 come out nearly even for
    # any.
    scale = next((k for k in range(1, 21) if _is_whole(weights, least, k)), 20)
    length = max(len(available), min(round(rounds * scale), _MAX_TURNS))
    if len(available) <= _SMOOTH:
        return _smooth(available, weights, length)
    due = [(0.5 / w, n, 1.0 / w) for n, w in enumerate(weights)]
    heapify(due)
    turns: list[Any] = []
    for _ in range(length):
        at, n, period = due[0]
        turns.append(available[n])
        heapreplace(due, (at + period, n, period))
    return turns


def _smooth(available: list[Any], weights: list[float], length: int) -> list[Any]:
    """nginx's smooth weighting: who has gained most goes, and pays what all gained together.

    The most even order there is, at a cost of length times instances: for small sets only.
    """
    total = sum(weights)
    credit = [0.0] * len(weights)
    turns: list[Any] = []
    for _ in range(length):
        for n, weight in enumerate(weights):
            credit[n] += weight
        best = max(range(len(weights)), key=credit.__getitem__)
        credit[best] -= total
        turns.append(available[best])
    return turns


def _is_whole(weights: list[float], least: float, scale: int) -> bool:
    return all(abs(w / least * scale - round(w / least * scale)) < 1e-9 for w in weights)
