"""A service: its instances, which of them may be picked, and the balancer that picks."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterable
from typing import Any

from nexgate.exchange import Exchange, Response
from nexgate.upstream.balancer import Balancer

__all__ = ["ServiceState"]

_log = logging.getLogger("nexgate.upstream")


class ServiceState:
    """Living state of one service. ``set_instances`` keeps what stays, adds, and retires the rest.

    An instance is available when its probe says so and it was reachable lately. When probes call
    none healthy there is nothing to pick: the caller answers 503. When all healthy ones were merely
    unreachable a moment ago, they are tried all the same: being wrong about that costs a refused
    connect, being right a lost request.
    """

    __slots__ = ("_available", "_balancer", "balancer_config", "instances", "name", "only")

    def __init__(self, name: str, balancer: Balancer) -> None:
        self.name = name
        self.instances: dict[str, Any] = {}
        self._available: list[Any] = []
        self.only: Any = None
        """The one available instance, when there is just one: no balancer need be asked."""
        self._balancer = balancer
        self.balancer_config: Any = None
        """What the balancer was made from: equal means that it stays."""

    @property
    def balancer(self) -> Balancer:
        return self._balancer

    @balancer.setter
    def balancer(self, balancer: Balancer) -> None:
        self._balancer = balancer
        self.refresh()

    @property
    def available(self) -> list[Any]:
        return self._available

    def set_instances(self, instances: Iterable[Any]) -> list[Any]:
        """The instances from now on; returns those that are gone (the caller retires them)."""
        new = {i.url: i for i in instances}
        gone = [i for url, i in self.instances.items() if new.get(url) is not i]
        self.instances = new
        self.refresh()
        return gone

    def refresh(self) -> None:
        """An instance became available or unavailable."""
        everyone = list(self.instances.values())
        available = [i for i in everyone if i.is_available]
        if not available:
            available = [i for i in everyone if i.is_healthy]
        self._available = available
        self.only = available[0] if len(available) == 1 else None
        self._balancer.rebuild(everyone, available)

    def pick(self, exchange: Exchange) -> Any:
        """An instance for the exchange, or None. Skips those it could not reach before."""
        available = self._available
        if not available:
            return None
        instance = self._balancer.pick(exchange)
        tried = exchange.tried
        avoid = exchange.avoid
        if tried is None and avoid is None:
            return instance
        tried = tried or []
        if instance in tried or instance is avoid:
            rest = [i for i in available if i not in tried and i is not avoid]
            if rest:
                return min(rest, key=lambda i: i.active / i.weight)
            # The one whose connection died is still better than none.
            return avoid if avoid is not None and avoid not in tried else None
        return instance

    def on_response(self, exchange: Exchange, response: Response, instance: Any) -> None:
        self._balancer.on_response(exchange, response, instance)

    async def aclose(self) -> None:
        await asyncio.gather(*(i.aclose() for i in self.instances.values()))
