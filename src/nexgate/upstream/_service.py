"""A service: its instances, which of them may be picked, and the balancer that picks."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Sequence
from typing import Any

from nexgate.exchange import Exchange, Response
from nexgate.resilience import RetryBudget
from nexgate.upstream._guard import Guard
from nexgate.upstream.balancer import Balancer, ConsistentHash
from nexgate.upstream.outlier import Outlier, OutlierSettings

__all__ = ["ServiceState"]


class ServiceState:
    """Living state of one service. ``set_instances`` keeps what stays, adds, and retires the rest.

    An instance is available when its probe says so, it was reachable lately, and it has not been
    ejected for failing. When probes call none healthy there is nothing to pick: the caller answers
    503. When all healthy ones merely failed a moment ago, they are tried all the same: being wrong
    about that costs a refused connect, being right a lost request.

    ``tick`` must be called about once a second.
    """

    __slots__ = (
        "_available",
        "_balancer",
        "_seen_requests",
        "_seen_retries",
        "budget",
        "guard",
        "guards",
        "hedges",
        "instances",
        "name",
        "only",
        "outlier",
        "retries",
    )

    def __init__(self, name: str, balancer: Balancer) -> None:
        self.name = name
        self.instances: dict[str, Any] = {}
        self._available: list[Any] = []
        self.only: Any = None
        """The one available instance, when there is just one: no balancer need be asked."""
        self._balancer = balancer
        self.guard = Guard(name)
        self.guards: dict[str, Guard] = {}
        """Of routes that say something of their own, by the route's name."""
        self.budget = RetryBudget()
        """Shared by the retries and hedges of all routes."""
        self.outlier = Outlier(OutlierSettings())
        self.retries = 0
        """Attempts beyond the first, hedges included, that the budget allowed."""
        self.hedges = 0
        self._seen_requests = 0
        self._seen_retries = 0

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
        for url, instance in new.items():
            if self.instances and url not in self.instances:
                instance.slow_since = instance.loop.time()
            instance.on_failure = self._instance_failed
        gone = [i for url, i in self.instances.items() if new.get(url) is not i]
        self.instances = new
        self.refresh()
        return gone

    def refresh(self) -> None:
        """An instance became available or unavailable, or its weight changed."""
        everyone = list(self.instances.values())
        available = [i for i in everyone if i.is_available]
        settings = self.outlier.settings
        if not available:
            available = [i for i in everyone if i.is_healthy]
        elif settings is not None and len(available) < settings.panic * len(everyone):
            available = everyone
        self._available = available
        self.only = available[0] if len(available) == 1 else None
        self._balancer.rebuild(everyone, available)

    def _instance_failed(self, instance: Any) -> None:
        self.outlier.failed(instance, self.instances.values(), instance.loop.time())

    def watch_answers(self) -> None:
        """Instances tell of every answer as long as some guard wants to know."""
        guards = (self.guard, *self.guards.values())
        wanted = any(g.makes_calls or min(g.policy.statuses, default=500) < 500 for g in guards)
        for instance in self.instances.values():
            instance.watch(wanted)

    def tick(self, now: float) -> None:
        """Once a second: what need not be done for each request."""
        instances = self.instances.values()
        requests = sum(i.total_requests for i in instances)
        asked = requests - self._seen_requests - (self.retries - self._seen_retries)
        self._seen_requests = requests
        self._seen_retries = self.retries
        if asked > 0:
            self.budget.deposit(asked, now)
        self.outlier.tick(instances, now)
        if any(i.slow_since for i in instances):
            self._ramp_up(now)

    def _ramp_up(self, now: float) -> None:
        """New and returning instances get their share step by step, where that is wanted."""
        is_changed = False
        for instance in self.instances.values():
            share = self.outlier.share(instance, now)
            if isinstance(self._balancer, ConsistentHash):
                share = 1.0  # its keys would wander with every step
            weight = instance.full_weight * share
            is_changed |= weight != instance.weight
            instance.weight = weight
        if is_changed:
            self.refresh()

    def try_retry(self, now: float) -> bool:
        """Whether one more attempt than requests is affordable, and take it."""
        if not self.budget.try_spend(now):
            return False
        self.retries += 1
        return True

    def pick(self, exchange: Exchange) -> Any:
        """An instance for the exchange, or None."""
        return self._balancer.pick(exchange) if self._available else None

    def pick_other(self, exchange: Exchange, tried: Sequence[Any], failed: Sequence[Any]) -> Any:
        """None of those ``tried``; one that ``failed`` only when there is no other."""
        available = self._available
        if not available:
            return None
        instance = self._balancer.pick(exchange)
        if instance not in tried and instance not in failed:
            return instance
        rest = [i for i in available if i not in tried and i not in failed]
        if not rest:
            rest = [i for i in available if i not in tried]
        return min(rest, key=lambda i: i.active / i.weight, default=None)

    def on_response(self, exchange: Exchange, response: Response, instance: Any) -> None:
        self._balancer.on_response(exchange, response, instance)

    async def aclose(self) -> None:
        await asyncio.gather(*(i.aclose() for i in self.instances.values()))
