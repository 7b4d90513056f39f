"""The handler of a proxying route: picks an instance and hands the exchange to it."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable, Sequence
from random import random
from typing import Any

from nexgate.exchange import Exchange, Failure
from nexgate.http import ResponseHead
from nexgate.upstream._call import Call
from nexgate.upstream._guard import GATEWAY_FAILURES, Guard
from nexgate.upstream._service import ServiceState

__all__ = ["Forward", "Split"]


class Forward:
    """Sends exchanges to one service, and is told what becomes of the attempts (``Caller``)."""

    __slots__ = ("fallback", "guard", "prepare", "service")

    def __init__(
        self,
        service: ServiceState,
        prepare: Callable[[Exchange], None] | None = None,
        *,
        guard: Guard | None = None,
        fallback: Forward | None = None,
    ) -> None:
        self.service = service
        self.prepare = prepare
        """Rewrites the path, once, before the first attempt."""
        self.guard = guard if guard is not None else service.guard
        self.fallback = fallback
        """Asked instead when the service cannot answer."""

    def start(self, exchange: Exchange) -> None:
        if self.prepare is not None:
            self.prepare(exchange)
        exchange.caller = self
        if self.guard.makes_calls:
            Call(self, exchange).begin()
            return
        # What a call would do, for a service that asks for nothing special.
        instance = self.service.only or self.service.pick(exchange)
        if instance is not None:
            instance.start(exchange)
        else:
            Call(self, exchange).attempt()

    def attempt_failed(self, exchange: Exchange, instance: Any, failure: Failure) -> None:
        call: Call = exchange.call or Call(self, exchange, attempts=1)
        call.attempt_failed(exchange, instance, failure)

    def attempt_answered(
        self, exchange: Exchange, instance: Any, head: ResponseHead, seconds: float
    ) -> bool:
        call: Call | None = exchange.call
        if call is None:
            status = head.status
            is_bad = self.fallback is not None and status in GATEWAY_FAILURES
            if not is_bad and status not in self.guard.policy.statuses:
                return True
            call = Call(self, exchange, attempts=1)
        return call.answered(exchange, instance, head, seconds)

    def attempt_dropped(self, exchange: Exchange) -> None:
        exchange.call.dropped(exchange)

    def timed_out(self, exchange: Exchange) -> None:
        if not exchange.request_complete:
            return  # the client took its time: that says nothing about the service
        call: Call | None = exchange.call
        if call is not None and call.is_hurried:
            return  # nor does that it takes hardly any
        if exchange.attempt is None:
            return  # it never left: it waited for a connection of ours, or for a retry
        if exchange.instance is not None:
            exchange.instance.failed()
        if call is not None:
            call.timed_out()

    def describe(self) -> str:
        return f"service {self.service.name}"

    def describe_further(self) -> list[tuple[str, str]]:
        """Names and words of what stands between the route and the instances."""
        found = self.guard.describe()
        if self.fallback is not None:
            found.append(("fallback", self.fallback.describe()))
        return found


class Split:
    """Sends exchanges to one of several services by weight (canary)."""

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
        draw = self._random() * self._cumulative[-1]
        at = bisect_right(self._cumulative, draw, 0, len(self._forwards) - 1)
        self._forwards[at].start(exchange)

    def describe(self) -> str:
        total = sum(self._weights) or 1.0
        return "split " + ", ".join(
            f"{f.service.name} {w / total:.0%}"
            for f, w in zip(self._forwards, self._weights, strict=True)
        )

    def describe_further(self) -> list[tuple[str, str]]:
        """That of the parts, each under its service's name."""
        return [
            (f"{forward.service.name} {name}", words)
            for forward in self._forwards
            for name, words in forward.describe_further()
        ]
