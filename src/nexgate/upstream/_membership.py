"""Who belongs to a service: the instances that are listed, and those that discovery finds.

A membership owns the service's ``InstanceState`` objects. An instance is its URL: as long as a URL
is listed or found its pool, health and counts stay, whatever else changes. One that is gone is
retired: nothing new goes there, and what is under way ends by itself.
"""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Callable, Sequence
from functools import cache
from typing import Any

from nexgate.config import MODULES, Objects
from nexgate.discovery import Instances, ServiceInstance
from nexgate.errors import ConfigError
from nexgate.state import State
from nexgate.upstream._asgi import AsgiInstance
from nexgate.upstream._instance import Address, InstanceState, PoolLimits, UpstreamTimeouts
from nexgate.upstream._service import ServiceState
from nexgate.upstream.balancer import (
    Balancer,
    ConsistentHash,
    LeastRequests,
    PeakEwma,
    PeakLatency,
    RoundRobin,
    StickyCookie,
    WeightedRandom,
)
from nexgate.upstream.config import (
    BalancerConfig,
    CustomBalancerConfig,
    InstanceConfig,
    ServiceConfig,
    TimeoutConfig,
)
from nexgate.upstream.health import Probe, ProbeSettings

__all__ = [
    "MadeBalancer",
    "Membership",
    "client_context",
    "first_byte_limit",
    "make_balancer",
    "upstream_timeouts",
]

MadeBalancer = tuple[object, Balancer]
"""What it was made from, to be compared, and itself."""

_FOREVER = 10.0 * 365 * 86400


class Membership:
    """See the module's docstring. ``configure`` first; then ``found`` as often as there is news."""

    def __init__(
        self, service: ServiceState, loop: asyncio.AbstractEventLoop, retire: Callable[[Any], None]
    ) -> None:
        self.service = service
        self._loop = loop
        self._retire = retire
        self._config: ServiceConfig | None = None
        self._drop = 0
        self._context: ssl.SSLContext | None = None
        self._state: State | None = None
        self._listed: dict[str, tuple[Any, InstanceConfig]] = {}
        self._found: dict[str, tuple[Any, ServiceInstance]] = {}
        self._balancer_from: object = None

    @property
    def size(self) -> int:
        return len(self._listed) + len(self._found)

    def instances_for(
        self, config: ServiceConfig, app_of: Callable[[str], Any]
    ) -> tuple[list[Any], list[AsgiInstance]]:
        """The listed instances, those that stay as they are, and the applications among them that
        must be started first. Changes nothing.
        """
        instances: list[Any] = []
        fresh: list[AsgiInstance] = []
        for each in config.instances:
            known = self._known(each.url)
            if each.scheme == "asgi":
                app = app_of(each.url)
                if known is not None and known.app is app:
                    instances.append(known)
                    continue
                made = AsgiInstance(app, each.url, self._loop, service=self.service.name)
                fresh.append(made)
                instances.append(made)
            else:
                instances.append(known or self._make(each.url))
        return instances, fresh

    def balancer_for(
        self, config: ServiceConfig, objects: Objects = MODULES
    ) -> MadeBalancer | None:
        """The balancer of ``config``; ``None`` when the present one is that. Changes nothing.
        Raises ``ConfigError``.
        """
        said = config.balancer
        made_from = said, objects.version(said.use) if said.kind == "custom" else None
        return (
            None if self._balancer_from == made_from else (made_from, make_balancer(said, objects))
        )

    def _known(self, url: str) -> Any:
        entry = self._listed.get(url) or self._found.get(url)
        return entry[0] if entry is not None else None

    def _make(self, url: str) -> InstanceState:
        service = self.service
        return InstanceState(
            Address.parse(url), self._loop, service=service.name, on_change=service.refresh
        )

    def configure(
        self,
        config: ServiceConfig,
        listed: Sequence[Any],
        *,
        drop: int,
        context: ssl.SSLContext | None,
        state: State | None,
        balancer: MadeBalancer | None,
    ) -> None:
        """Take over a configuration, with the instances that it lists. ``drop``: kinds of field
        that never reach an instance; ``state``: where probers agree who asks; ``balancer``: what
        ``balancer_for`` made, if it made one.
        """
        service = self.service
        self._config = config
        self._drop = drop
        self._context = context
        self._state = state
        self._listed = {
            each.url: (instance, each)
            for each, instance in zip(config.instances, listed, strict=True)
        }
        self._found = {u: entry for u, entry in self._found.items() if u not in self._listed}
        if config.retry is not None:
            service.budget.reconfigure(config.retry.budget, config.retry.min_per_second)
        service.outlier.settings = config.outlier.settings()
        for instance, listing in self._listed.values():
            self._configure(instance, listing.weight, listing.zone)
        for instance, found in self._found.values():
            self._configure_found(instance, found)
        self._publish()
        if balancer is not None:
            self._balancer_from, service.balancer = balancer

    def found(self, instances: Instances) -> None:
        """The whole set that discovery knows now. Applications are not found: they would have to
        run here.
        """
        kept: dict[str, tuple[Any, ServiceInstance]] = {}
        for each in instances:
            if each.url in self._listed or each.url.startswith("asgi:"):
                continue
            known = self._found.get(each.url)
            instance = known[0] if known is not None else self._make(each.url)
            kept[each.url] = instance, each
            self._configure_found(instance, each)
        self._found = kept
        self._publish()

    def _publish(self) -> None:
        service = self.service
        everyone = [entry[0] for entry in (*self._listed.values(), *self._found.values())]
        gone = service.set_instances(everyone)
        service.watch_answers()
        for instance in gone:
            self._retire(instance)

    def clear(self) -> None:
        """The service is no more."""
        self._listed = {}
        self._found = {}
        self._publish()

    # ---------------------------------------------------------------- one instance

    def _configure_found(self, instance: InstanceState, found: ServiceInstance) -> None:
        self._configure(instance, found.weight, found.zone)
        if instance.probe is None:
            # Nobody here asks for its health: what its registry says is all there is.
            instance.set_healthy(found.is_usable)

    def _configure(self, instance: Any, weight: float, zone: str | None) -> None:
        config = self._config
        assert config is not None
        if instance.full_weight != weight:
            instance.full_weight = instance.weight = float(weight)
        instance.zone = zone
        balancer = config.balancer
        if balancer.kind != "ewma":
            instance.latency = None
        elif instance.latency is None or instance.latency.half_life != balancer.decay:
            instance.latency = PeakLatency(balancer.decay)
        sticky = balancer.kind == "sticky-cookie"
        instance.on_response = _sticky(self.service, instance) if sticky else None
        t = config.timeout
        instance.timeouts = upstream_timeouts(
            t.connect, first_byte_limit(t, config.per_try), t.body
        )
        instance.drop = self._drop
        if config.host in ("preserve", "instance"):
            instance.host = None
        else:
            instance.host = config.host.encode()
        if isinstance(instance, AsgiInstance):
            return
        if config.host == "instance":
            instance.host = instance.address.authority
        pool = config.pool
        instance.limits = PoolLimits(
            pool.max_connections, pool.max_idle, pool.idle, pool.max_waiting, pool.wait
        )
        instance.max_response_head_bytes = config.max_response_head_bytes
        if instance.address.tls:
            instance.ssl_context = self._context
            instance.ssl_server_name = config.tls.server_name if config.tls else None
        self._probe(instance, config)

    def _probe(self, instance: InstanceState, config: ServiceConfig) -> None:
        health = config.health
        if health is None:
            if instance.probe is not None:
                instance.probe.cancel()
                instance.probe = None
                instance.set_healthy(True)
            return
        settings = ProbeSettings(
            health.path,
            health.method,
            health.status,
            health.interval,
            health.jitter,
            health.timeout,
            health.healthy_after,
            health.unhealthy_after,
            health.port,
            health.host,
        )
        probe = instance.probe
        if probe is None or probe.settings != settings or probe.state is not self._state:
            if probe is not None:
                probe.cancel()
            instance.probe = Probe(instance, settings, self._state)


def upstream_timeouts(
    connect: float, first_byte: float | None, body: float | None
) -> UpstreamTimeouts:
    """The limits in force, where ``None`` is no limit."""
    return UpstreamTimeouts(
        connect,
        first_byte if first_byte is not None else _FOREVER,
        body if body is not None else _FOREVER,
    )


def first_byte_limit(timeout: TimeoutConfig, per_try: float | None) -> float | None:
    """How long one attempt may take to begin its answer."""
    limits = (timeout.first_byte, per_try)
    return min((limit for limit in limits if limit is not None), default=None)


def make_balancer(config: BalancerConfig, objects: Objects = MODULES) -> Balancer:
    """A new balancer as configured. Raises ``ConfigError`` for one that is none."""
    match config.kind:
        case "least-requests":
            return LeastRequests()
        case "round-robin":
            return RoundRobin()
        case "random":
            return WeightedRandom()
        case "ewma":
            return PeakEwma()
        case "consistent-hash":
            return ConsistentHash(config.key)
        case "sticky-cookie":
            return StickyCookie(config.cookie, None if config.ttl is None else int(config.ttl))
        case "custom":
            return _custom_balancer(config, objects)


def _custom_balancer(config: CustomBalancerConfig, objects: Objects) -> Balancer:
    make = objects.find(config.use)
    try:
        made = make(**config.options)
    except Exception as error:
        raise ConfigError(f"{config.use}: {type(error).__name__}: {error}") from error
    lacking = [
        n for n in ("rebuild", "pick", "on_response") if not callable(getattr(made, n, None))
    ]
    if lacking:
        kind = type(made).__name__
        raise ConfigError(f"{config.use} made {kind}, which is no Balancer: no {lacking[0]}")
    balancer: Balancer = made
    return balancer


@cache
def _default_context() -> ssl.SSLContext:
    """The system's authorities, verified. Reading them takes 20 ms: once for all services."""
    context = ssl.create_default_context()
    context.set_alpn_protocols(["http/1.1"])
    return context


def client_context(config: ServiceConfig) -> ssl.SSLContext:
    """TLS towards the instances of a service."""
    tls = config.tls
    if tls is None:
        return _default_context()
    context = ssl.create_default_context(cafile=str(tls.ca) if tls.ca else None)
    context.set_alpn_protocols(["http/1.1"])
    if not tls.verify:
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    if tls.min_version == "1.3":
        context.minimum_version = ssl.TLSVersion.TLSv1_3
    if tls.certificate is not None:
        context.load_cert_chain(str(tls.certificate), str(tls.key), password=lambda: b"")
    return context


def _sticky(service: ServiceState, instance: Any) -> Callable[[Any, Any], None]:
    def on_response(exchange: Any, response: Any) -> None:
        service.on_response(exchange, response, instance)

    return on_response
