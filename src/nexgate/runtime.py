"""The living side of a gateway in one worker: services that survive reloads, and the snapshot in
force.

``build`` compiles a configuration into a ``Build`` and touches nothing; it may run in a thread.
``apply`` makes it true in the event loop: services are reconciled by name, instances by URL, and
the new snapshot is swapped in. A pool, a health verdict or a balancer's position is never lost
because something else in the file changed.
"""

from __future__ import annotations

import asyncio
import logging
import ssl
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, Final

from nexgate.config import Objects, Section
from nexgate.discovery import Followed, FollowStatus, Instances, follow
from nexgate.discovery.config import provider_of
from nexgate.edge import EdgeLimits, EdgeState, EdgeTimeouts, affordable_connections
from nexgate.exchange import Handler, Hook, Plan
from nexgate.gateway_config import GatewayConfig, RouteConfig
from nexgate.http import (
    ForwardedRules,
    HeadLimits,
    Kind,
    TrustedProxies,
    register_request_id_field,
)
from nexgate.news import News
from nexgate.plugins import PluginManager, PluginPlan, Program
from nexgate.policies.answer import Answer, Redirect
from nexgate.policies.filters import Filter
from nexgate.policies.filters.config import FilterConfig
from nexgate.policies.headers import request_hook, response_hook
from nexgate.policies.rewrite import PathChange, rewrite, strip_literal, strip_prefix
from nexgate.routing import (
    Absent,
    Condition,
    CookiePredicate,
    Exact,
    HeaderPredicate,
    PathRules,
    Predicate,
    Present,
    QueryPredicate,
    Regex,
    Route,
    RouteTable,
    Template,
)
from nexgate.routing.config import PredicateConfig
from nexgate.snapshot import Snapshot
from nexgate.state import State, StateError, open_state
from nexgate.upstream import (
    DROP_ALWAYS,
    AsgiInstance,
    Forward,
    Guard,
    MadeBalancer,
    Membership,
    ServiceState,
    Split,
    UpstreamTimeouts,
    Votes,
    client_context,
    first_byte_limit,
    make_balancer,
    upstream_timeouts,
)
from nexgate.upstream.balancer import LeastRequests
from nexgate.upstream.config import ServiceConfig, TimeoutConfig

__all__ = ["Build", "Runtime", "build", "configure_guards"]

_log = logging.getLogger("nexgate")

_TICK: Final = 1.0
_FIRST_ANSWER: Final = 2.0
"""Seconds that a service without an instance waits for its discovery before it is served."""


def path_rules(config: GatewayConfig) -> PathRules:
    path = config.gateway.path
    return PathRules(
        merge_slashes=path.merge_slashes,
        encoded_slash=path.encoded_slash,
        ignore_case=path.ignore_case,
    )


RouteGuards = Mapping[str, Mapping[str, tuple[Guard, RouteConfig]]]
"""Of routes that say something of their own: by service, then by route."""


@dataclass(frozen=True, slots=True)
class Build:
    """A configuration compiled, not yet in force."""

    config: GatewayConfig
    snapshot: Snapshot
    services: Mapping[str, ServiceState]
    identities: frozenset[Any]
    guards: RouteGuards
    plugins: PluginPlan
    objects: Objects


def build(
    config: GatewayConfig,
    filters: Sequence[Filter] = (),
    route_filters: Mapping[int, Sequence[Filter]] | None = None,
    living: Mapping[str, ServiceState] | None = None,
    plugins: PluginPlan | None = None,
) -> Build:
    """Compile. ``living`` services are used again; new ones are made empty. ``plugins`` are those
    that the configuration names. Raises ``ConfigError``.
    """
    plugins = plugins or PluginPlan({}, Program())
    objects = plugins.objects
    rules = path_rules(config)
    section = config.gateway
    services = {
        name: (living or {}).get(name) or ServiceState(name, LeastRequests())
        for name in config.services
    }
    program = plugins.program
    everyone = [
        _injected(each, program).hook(rules)
        for each in (*filters, *(_named(said, objects) for said in section.filters))
    ]
    for service in config.services.values():
        _check_custom(service, objects)
    guards = _Guards(services)
    routes: list[Route[Plan]] = []
    for index, route in enumerate(config.routes):
        given = (route_filters or {}).get(index, ())
        own = [
            _injected(each, program).hook(rules)
            for each in (*given, *(_named(said, objects) for said in route.filters))
        ]
        plan = _plan(config, route, [*everyone, *own], guards)
        routes.append(
            Route(
                Template.parse(route.path),
                plan,
                plan.name,
                hosts=tuple(h.encode() for h in route.host or ()),
                methods=frozenset(m.encode() for m in route.methods or ()),
                predicates=_predicates(route),
                priority=route.priority,
            )
        )
    table = RouteTable(routes, rules)
    snapshot = Snapshot(
        table,
        rules,
        ForwardedRules(section.forwarded, TrustedProxies(str(n) for n in section.trusted_proxies)),
        section.via.encode(),
        section.request_id.header.encode(),
        section.request_id.trust,
        section.underscores == "reject",
        Snapshot.fallback_plan(
            tuple(everyone),
            max_body_bytes=section.limits.max_body_bytes,
            max_buffered_body_bytes=section.limits.max_buffered_body_bytes,
        ),
        None if any(route.predicates for route in routes) else {},
    )
    identities = frozenset(r.payload.identity for r in routes)
    return Build(config, snapshot, services, identities, guards.made, plugins, objects)


def _injected(filter: Filter, program: Program) -> Filter:
    """The filter with its ``Inject[…]`` parameters filled."""
    return replace(filter, function=program.inject(filter.function), name=filter.title)


def _check_custom(service: ServiceConfig, objects: Objects) -> None:
    """Whether what the service names is there. Raises ``ConfigError``."""
    if service.balancer.kind == "custom":
        if objects.is_of_plugin(service.balancer.use):
            objects.find(service.balancer.use)  # it may need what `initialize` makes
        else:
            make_balancer(service.balancer, objects)
    for source in service.discover:
        if source.kind == "custom":
            objects.find(source.use)
    for instance in service.instances:
        # Importing an application runs it; a plugin is loaded already.
        if instance.scheme == "asgi" and objects.is_of_plugin(instance.url[5:]):
            objects.find(instance.url[5:])


def _named(said: FilterConfig, objects: Objects) -> Filter:
    """The filter that a configuration names."""
    return Filter(objects.find(said.use), name=said.use, options=said.options)


def _plan(
    config: GatewayConfig,
    route: RouteConfig,
    filters: list[Hook],
    guards: _Guards,
) -> Plan:
    section = config.gateway
    name = route.name or f"{'|'.join(route.methods or ()) or 'any'} {route.path}"
    hooks: list[Hook] = []
    if route.response_headers is not None:
        hooks.append(response_hook(route.response_headers))
    hooks.extend(filters)
    if route.request_headers is not None:
        hooks.append(request_hook(route.request_headers))
    handler: Handler
    timeouts: UpstreamTimeouts | None = None
    total = section.timeouts.total
    change = _path_change(route)
    if route.service is not None:
        handler = guards.forward(route, name, route.service, change)
    elif route.split is not None:
        handler = Split(
            [
                (guards.forward(route, name, part.service, change), float(part.weight))
                for part in route.split
            ]
        )
    elif route.redirect is not None:
        handler = Redirect(
            route.redirect.to, route.redirect.status, keep_query=route.redirect.keep_query
        )
    else:
        assert route.respond is not None
        answer = route.respond
        handler = Answer(
            answer.status,
            answer.body,
            {name: value.reveal() for name, value in answer.headers.items()},
            answer.content_type.reveal() if answer.content_type is not None else None,
        )
    if route.service_names:
        limits = [config.services[n].timeout for n in route.service_names if n != route.fallback]
        total = min((t.total for t in limits if t.total is not None), default=total)
    if (route.timeout is not None or route.retry is not None) and route.service_names:
        service = config.services[route.service_names[0]]
        merged = (route.timeout or TimeoutConfig()).over(service.timeout)
        retry = route.retry or service.retry
        timeouts = upstream_timeouts(
            merged.connect,
            first_byte_limit(merged, retry.per_try if retry is not None else None),
            merged.body,
        )
        if route.timeout is not None and "total" in route.timeout.model_fields_set:
            total = merged.total
    return Plan(
        name,
        handler,
        tuple(hooks),
        max_body_bytes=route.body_limit(section.limits.max_body_bytes),
        max_buffered_body_bytes=section.limits.max_buffered_body_bytes,
        request_buffer_bytes=route.buffer_request,
        total_timeout=total,
        timeouts=timeouts,
        importance=("low", "normal", "high").index(route.importance),
        # A route is the same after a reload when it says the same and its services do: their
        # instances may come and go.
        identity=_meaning(route),
    )


class _Guards:
    """The guards of routes that say something of their own, by service and route."""

    def __init__(self, services: Mapping[str, ServiceState]) -> None:
        self._services = services
        self.made: dict[str, dict[str, tuple[Guard, RouteConfig]]] = {}

    def forward(
        self, route: RouteConfig, name: str, service_name: str, change: PathChange | None
    ) -> Forward:
        """The handler that asks a service for a route."""
        service = self._services[service_name]
        guard: Guard | None = None
        if route.has_own_guard:
            # Routes without a name are called by their path, and may share it: by host, say.
            taken = self.made.setdefault(service_name, {})
            plain, count = name, 1
            while name in taken:
                count += 1
                name = f"{plain} #{count}"
            # Used again or made here; what the route says takes effect when the build is applied.
            guard = service.guards.get(name) or Guard(service_name, name)
            taken[name] = guard, route
        fallback = Forward(self._services[route.fallback]) if route.fallback else None
        return Forward(service, change, guard=guard, fallback=fallback)


def _meaning(value: Any) -> Any:
    """Something that is equal, and can be hashed, for configurations that say the same.

    Not the dump: that shows every secret in the same way, so that a route whose field values
    changed would pass for the one before.
    """
    if isinstance(value, Section):
        return tuple((name, _meaning(getattr(value, name))) for name in type(value).model_fields)
    if isinstance(value, Mapping):
        return tuple((key, _meaning(each)) for key, each in value.items())
    if isinstance(value, (list, tuple)):
        return tuple(_meaning(each) for each in value)
    return value


def _predicates(route: RouteConfig) -> tuple[Predicate, ...]:
    found: list[Predicate] = []
    for name, config in route.headers.items():
        found.append(HeaderPredicate(name.lower().encode("latin-1"), _condition(config)))
    for name, config in route.query.items():
        found.append(QueryPredicate(name, _condition(config)))
    for name, config in route.cookies.items():
        found.append(CookiePredicate(name, _condition(config)))
    return tuple(found)


def _condition(config: PredicateConfig) -> Condition:
    if config.equals is not None:
        return Exact(config.equals)
    if config.regex is not None:
        return Regex(config.regex)
    return Present() if config.present else Absent()


def _path_change(route: RouteConfig) -> PathChange | None:
    if route.rewrite is not None:
        return rewrite(route.rewrite)
    if route.strip_prefix is True:
        return strip_literal(Template.parse(route.path))
    if route.strip_prefix:
        return strip_prefix(route.strip_prefix)
    return None


def _configure_guards(service: ServiceState, config: ServiceConfig, made: RouteGuards) -> None:
    service.guard.take(config)
    own = made.get(service.name, {})
    for guard, said in own.values():
        guard.take(said, service.guard)
    service.guards = {route: guard for route, (guard, _) in own.items()}


def configure_guards(made: Build) -> None:
    """Give the guards of a build that is not going to be applied what they would have."""
    for name, service in made.services.items():
        _configure_guards(service, made.config.services[name], made.guards)


def edge_limits(config: GatewayConfig) -> EdgeLimits:
    limits = config.gateway.limits
    return EdgeLimits(
        HeadLimits(limits.max_head_bytes, limits.max_fields, limits.max_target_bytes),
        min(limits.max_connections, affordable_connections()),
        limits.max_pipelined_bytes,
    )


def edge_timeouts(config: GatewayConfig) -> EdgeTimeouts:
    t = config.gateway.timeouts
    return EdgeTimeouts(t.head, t.idle, t.body, t.write, t.drain, t.half_close)


@dataclass(frozen=True, slots=True)
class _Planned:
    """What a service is going to be."""

    members: Membership
    config: ServiceConfig
    instances: list[Any]
    context: ssl.SSLContext | None
    balancer: MadeBalancer | None


class Runtime:
    """One per worker. Owns the services and the ``EdgeState``."""

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        first: Build,
        apps: Mapping[str, Any],
        *,
        plugins: PluginManager | None = None,
        default_state: str = "memory",
    ) -> None:
        """``default_state``: where the state is that the configuration says nothing of."""
        self.loop = loop
        self.plugins = plugins or PluginManager()
        """What extends it. Their ``initialize`` gets this ``Runtime``."""
        self.objects = first.objects
        self.services: dict[str, ServiceState] = {}
        self.apps = dict(apps)
        """ASGI applications by instance URL, for those that were given as objects."""
        self.config = first.config
        self.state: State | None = None
        """Shared with other workers or machines; opened when the first build is applied."""
        self.edge = EdgeState(
            loop,
            first.snapshot,
            limits=edge_limits(first.config),
            timeouts=edge_timeouts(first.config),
        )
        self._default_state = default_state
        self._state_spec: str | None = None
        self._votes: Votes | None = None
        self._members: dict[str, Membership] = {}
        self._followed: dict[str, tuple[Any, Followed]] = {}
        """By service: what its discovery was made from, and what follows it."""
        self._ticker: asyncio.TimerHandle | None = loop.call_later(_TICK, self._tick)
        self._retiring: set[asyncio.Task[None]] = set()
        self.news = News(loop, lambda: self.plugins.program, lambda: self._votes)
        self._is_started = False

    async def apply(self, made: Build) -> None:
        """Make a build true. New plugins and applications are started before any request can reach
        them. Raises ``ConfigError``, and has changed nothing then.
        """
        await self.plugins.start(made.plugins, self)
        try:
            await self._apply(made)
        except BaseException:
            await self.plugins.abandon(made.plugins)
            raise
        self.plugins.announce(made.plugins)
        what = "gateway.reloaded" if self._is_started else "gateway.started"
        self._is_started = True
        config = made.config
        self.news.tell(what, {"services": len(config.services), "routes": len(config.routes)})

    async def _apply(self, made: Build) -> None:
        config = made.config
        fresh: list[AsgiInstance] = []
        planned: list[_Planned] = []
        try:
            for name, service_config in config.services.items():
                members = self._members.get(name) or Membership(
                    made.services[name], self.loop, self._retire
                )
                balancer = members.balancer_for(service_config, made.objects)
                instances, starting = members.instances_for(
                    service_config, partial(self._app, made.objects)
                )
                fresh += starting
                context = _context(service_config)
                planned.append(_Planned(members, service_config, instances, context, balancer))
            for instance in fresh:
                await instance.startup()
        except BaseException:
            for instance in fresh:
                await instance.aclose()
            raise
        retired_state = self._open_state(config.gateway.state or self._default_state)
        register_request_id_field(config.gateway.request_id.header.encode())
        drop = DROP_ALWAYS
        if config.gateway.underscores != "allow":
            drop |= Kind.UNDERSCORE
        # From here on nothing awaits: the swap is one step for every request.
        self.plugins.commit(made.plugins)
        self.objects = made.objects
        for each in planned:
            _configure_guards(each.members.service, each.config, made.guards)
            each.members.configure(
                each.config,
                each.instances,
                drop=drop,
                context=each.context,
                state=self.state,
                balancer=each.balancer,
            )
        for name, members in self._members.items():
            if name not in made.services:
                members.clear()
        self._members = {each.members.service.name: each.members for each in planned}
        self.services = dict(made.services)
        self.config = config
        self.edge.configure(made.snapshot, edge_limits(config), edge_timeouts(config))
        self.edge.depart(made.identities, config.gateway.on_change)
        await self._vote()
        self.news.follow(self.services.values())
        await self._discover(config)
        if retired_state is not None:
            await retired_state.aclose()

    async def _vote(self) -> None:
        """Share what is found out with those who share the state, if that is anybody."""
        assert self.state is not None
        before, self._votes = self._votes, None
        if self.state.is_shared:
            if before is not None and before.state is self.state:
                self._votes, before = before, None
            else:
                self._votes = Votes(self.state, self.loop, lambda: self.services)
            for service in self.services.values():
                self._votes.listen_to(service)
        if before is not None:
            await before.aclose()

    def _app(self, objects: Objects, url: str) -> Any:
        app = self.apps.get(url)
        return app if app is not None else objects.find(url.removeprefix("asgi:"))

    def _open_state(self, spec: str) -> State | None:
        """Open another state if it is to be another; returns the one before, to be closed."""
        if spec == self._state_spec:
            return None
        before = self.state
        try:
            self.state = open_state(spec)
        except StateError as error:
            # The gateway must serve whether or not its workers can agree on anything.
            _log.error("every worker is on its own: %s", error)
            self.state = open_state("memory")
        self._state_spec = spec
        return before

    # ---------------------------------------------------------------- discovery

    async def _discover(self, config: GatewayConfig) -> None:
        """Follow what the configuration says; what it says as before is not touched."""
        assert self.state is not None
        leaving: list[Followed] = []
        waiting: list[Followed] = []
        wanted = {
            name: (service.discover, id(self.state), _versions(service, self.objects))
            for name, service in config.services.items()
            if service.discover
        }
        for name in [
            n for n, (made_from, _) in self._followed.items() if wanted.get(n) != made_from
        ]:
            leaving.append(self._followed.pop(name)[1])
            if name in self._members and name not in wanted:
                self._members[name].found(())
        for name, made_from in wanted.items():
            if name not in self._followed:
                try:
                    provider = provider_of(made_from[0], name, self.state, self.objects)
                except Exception:
                    # Everything else is in force already, and serves.
                    _log.exception("service %s: its discovery cannot begin", name)
                    continue
                followed = follow(provider, partial(self._found, name))
                self._followed[name] = made_from, followed
                if not self._members[name].size:
                    waiting.append(followed)
        # A service that has nobody yet is worth a moment: its first request comes soon.
        await asyncio.gather(
            *(each.wait_answered(_FIRST_ANSWER) for each in waiting),
            *(each.aclose() for each in leaving),
        )

    def _found(self, name: str, instances: Instances) -> None:
        members = self._members.get(name)
        if members is not None:
            members.found(instances)

    def discovery_status(self, name: str) -> FollowStatus | None:
        """How the discovery of a service is; ``None`` when it has none."""
        found = self._followed.get(name)
        return found[1].status if found is not None else None

    # ---------------------------------------------------------------- the end of instances

    def _retire(self, instance: Any) -> None:
        """Idle connections close now; what is under way on the instance ends by itself."""
        instance.remove()
        if isinstance(instance, AsgiInstance):
            task = self.loop.create_task(self._shut_down(instance))
            self._retiring.add(task)
            task.add_done_callback(self._retiring.discard)

    async def _shut_down(self, instance: AsgiInstance) -> None:
        deadline = self.loop.time() + self.edge.timeouts.drain
        while instance.active and self.loop.time() < deadline:  # noqa: ASYNC110  # rare, nobody waits
            await asyncio.sleep(0.1)
        await instance.aclose()

    def _tick(self) -> None:
        """What services do once a second, so that requests need not."""
        self._ticker = self.loop.call_later(_TICK, self._tick)
        now = self.loop.time()
        for service in self.services.values():
            try:
                service.tick(now)
            except Exception:
                _log.exception("service %s", service.name)

    async def aclose(self) -> None:
        self.news.tell("gateway.stopping", {})
        await self.news.aclose()
        if self._ticker is not None:
            self._ticker.cancel()
            self._ticker = None
        for task in list(self._retiring):
            task.cancel()
        try:
            await asyncio.gather(*(followed.aclose() for _, followed in self._followed.values()))
            self._followed.clear()
            if self._votes is not None:
                await self._votes.aclose()
            for service in self.services.values():
                await service.aclose()
        finally:
            # Sources of instances and applications may be theirs.
            await self.plugins.cleanup()
        if self.state is not None:
            await self.state.aclose()


def _versions(config: ServiceConfig, objects: Objects) -> tuple[object, ...]:
    """Of what custom sources are made by: another version makes another source."""
    return tuple(objects.version(each.use) for each in config.discover if each.kind == "custom")


def _context(config: ServiceConfig) -> ssl.SSLContext | None:
    """TLS towards a service, if it may have instances that want it."""
    is_needed = (
        config.tls is not None
        or config.discover
        or any(each.scheme == "https" for each in config.instances)
    )
    return client_context(config) if is_needed else None
