"""The handler of a proxying route: picks an instance and hands the exchange to it."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable, Sequence
from random import random

from nexgate.errors import Cause
from nexgate.exchange import Exchange
from nexgate.upstream._service import ServiceState

__all__ = ["Forward", "Split"]


class Forward:
    """Sends exchanges to one service. Called again for an exchange whose instance was
    unreachable.
    """

    __slots__ = ("prepare", "service")

    def __init__(
        self, service: ServiceState, prepare: Callable[[Exchange], None] | None = None
    ) -> None:
        self.service = service
        self.prepare = prepare
        """Rewrites the path, once, before the first attempt."""

    def start(self, exchange: Exchange) -> None:
        if self.prepare is not None and exchange.tried is None and exchange.avoid is None:
            self.prepare(exchange)
        instance = self.service.only
        if instance is None or exchange.tried is not None or exchange.avoid is not None:
            instance = self.service.pick(exchange)
        if instance is not None:
            instance.start(exchange)
        elif exchange.cause is not None:
            exchange.on_failed(exchange.cause, exchange.detail)
        else:
            exchange.on_failed(
                Cause.NO_INSTANCE, f"every instance of {self.service.name} is unhealthy", 1.0
            )

    def describe(self) -> str:
        return f"service {self.service.name}"


class Split:
    """Sends exchanges to one of several services by weight (canary). A retry stays with its
    choice.
    """

    __slots__ = ("_cumulative", "_forwards", "_random", "_weights")

    def __init__(
        self,
        parts: Sequence[tuple[Forward, float]],
        random: Callable[[], float] = random,
    ) -> None:
        self._forwards = [f for f, _ in parts]
        self._weights = [w for _, w in parts]
        total = 0.0
        self._cumulative: list[float] = []
        for weight in self._weights:
            total += weight
            self._cumulative.append(total)
        self._random = random

    def start(self, exchange: Exchange) -> None:
        if exchange.choice is None:
            draw = self._random() * self._cumulative[-1]
            at = bisect_right(self._cumulative, draw, 0, len(self._forwards) - 1)
            exchange.choice = self._forwards[at]
        exchange.choice.start(exchange)

    def describe(self) -> str:
        total = sum(self._weights) or 1.0
        return "split " + ", ".join(
            f"{f.service.name} {w / total:.0%}"
            for f, w in zip(self._forwards, self._weights, strict=True)
        )
