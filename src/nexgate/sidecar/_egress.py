"""The way out: ``Host: users`` goes to an instance of the service ``users``.

A service is looked up when it is first asked for and followed from then on. The first request
waits for the registry's first answer, a moment and no longer; others go their way meanwhile. What
nobody uses for a while is closed, and so is the one unused for longest when there are too many: the
names come from requests.
"""

from __future__ import annotations

import asyncio
import logging
import re
import ssl
from collections.abc import Awaitable
from typing import Any, Final

from nexgate.discovery import Followed, Instances, check_service_name, follow
from nexgate.discovery.config import provider_of
from nexgate.errors import Cause, ConfigError, Refused
from nexgate.exchange import Exchange, Hook, Plan, Response
from nexgate.sidecar._certificates import Contexts
from nexgate.sidecar._identity import FIELD_NAME
from nexgate.sidecar.config import SidecarConfig
from nexgate.state import State
from nexgate.upstream import DROP_ALWAYS, Forward, Membership, ServiceState, Votes, client_context
from nexgate.upstream.balancer import LeastRequests
from nexgate.upstream.config import ServiceConfig

__all__ = ["Called", "Egress"]

_log = logging.getLogger("nexgate.sidecar")

_FIRST_ANSWER: Final = 2.0
"""Seconds that requests for a service that nobody knows yet wait for the registry."""
_UNKNOWN_IDLE: Final = 10.0
"""Seconds for which a name that no service has is remembered."""
_NUMERIC: Final = re.compile(r"[0-9.]+")


class Called:
    """A service that the local program calls, as long as it does."""

    __slots__ = (
        "config",
        "followed",
        "is_known",
        "is_ready",
        "members",
        "plan",
        "state",
        "used",
        "wait_until",
    )

    def __init__(self, state: ServiceState, config: ServiceConfig, members: Membership) -> None:
        self.state = state
        self.config = config
        self.members = members
        self.followed: Followed | None = None
        self.plan: Plan = None  # type: ignore[assignment]  # set before any exchange comes
        self.is_known = False
        """It has or had an instance, or the configuration speaks of it."""
        self.is_ready = bool(config.instances)
        """Who its instances are has been said once."""
        self.used = 0.0
        self.wait_until = 0.0

    @property
    def is_busy(self) -> bool:
        return any(each.active for each in self.state.instances.values())


class Egress:
    """Gives every exchange the plan of the service that its Host names. ``plan`` is what it comes
    with.
    """

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        config: SidecarConfig,
        state: State,
        contexts: Contexts | None,
    ) -> None:
        self._loop = loop
        self._config = config
        self._suffix = f".{config.sidecar.suffix}" if config.sidecar.suffix else ""
        self._state = state
        self._contexts = contexts
        self._system: ssl.SSLContext | None = None
        self._services: dict[str, Called] = {}
        self._closing: set[asyncio.Task[None]] = set()
        self._hooks = (Hook("service", on_request=self._choose),)
        self._votes = Votes(state, loop, lambda: self.states) if state.is_shared else None
        self.plan = Plan("egress", self, self._hooks)

    @property
    def states(self) -> dict[str, ServiceState]:
        """Of the services that are followed, by name."""
        return {name: called.state for name, called in self._services.items()}

    def describe(self) -> str:
        """For people."""
        return "the service that Host names"

    def start(self, exchange: Exchange) -> None:
        """The hook gave every exchange another plan."""
        raise AssertionError("an exchange has no service")

    # ---------------------------------------------------------------- one exchange

    def _choose(self, exchange: Exchange) -> Awaitable[Response | None] | None:
        name = self._name_in(exchange.host)
        called = self._services.get(name)
        if called is None:
            called = self._open(name)
        called.used = exchange.started
        if not called.is_ready:
            return self._wait(exchange, name, called)
        if not called.is_known:
            raise _unknown(name)
        self._assign(exchange, called)
        return None

    async def _wait(self, exchange: Exchange, name: str, called: Called) -> None:
        left = called.wait_until - self._loop.time()
        assert called.followed is not None
        if left <= 0 or not await called.followed.wait_answered(left):
            raise Refused(Cause.NO_INSTANCE, f"the registry has not said yet who {name} is")
        if not called.is_known:
            raise _unknown(name)
        if self._services.get(name) is not called:  # closed meanwhile, to make room
            raise Refused(Cause.OVERLOADED, "too many services are called at once")
        self._assign(exchange, called)

    def _assign(self, exchange: Exchange, called: Called) -> None:
        # Who calls is for the certificate to say, not for the program.
        if any(field[0] == FIELD_NAME for field in exchange.fields):
            exchange.fields = [f for f in exchange.fields if f[0] != FIELD_NAME]
        exchange.plan = plan = called.plan
        if plan.total_timeout is not None:
            exchange.down.wheel.set(exchange, exchange.started + plan.total_timeout)

    def _name_in(self, host: bytes) -> str:
        name = host.decode("latin-1")
        if self._suffix:
            name = name.removesuffix(self._suffix)
        try:
            check_service_name(name)
        except ValueError:
            raise Refused(Cause.NOT_FOUND, "Host is not the name of a service") from None
        if _NUMERIC.fullmatch(name):
            raise Refused(Cause.NOT_FOUND, f"Host is an address, not the name of a service: {name}")
        return name

    # ---------------------------------------------------------------- services

    def _open(self, name: str) -> Called:
        if len(self._services) >= self._config.sidecar.max_services:
            self._make_room()
        config = self._config.called(name)
        service = ServiceState(name, LeastRequests())
        service.guard.take(config)
        members = Membership(service, self._loop, _retire)
        called = Called(service, config, members)
        self._configure(called)
        called.plan = Plan(name, Forward(service), self._hooks, total_timeout=config.timeout.total)
        called.is_known = name in self._config.services
        called.wait_until = self._loop.time() + _FIRST_ANSWER
        if config.discover:
            provider = provider_of(config.discover, name, self._state)
            called.followed = follow(provider, lambda found: self._found(called, found))
        if self._votes is not None:
            self._votes.listen_to(service)
        self._services[name] = called
        return called

    def _configure(self, called: Called) -> None:
        config = called.config
        listed, _ = called.members.instances_for(config, _no_application)
        called.members.configure(
            config,
            listed,
            drop=DROP_ALWAYS,
            context=self._context(config),
            state=self._state,
            balancer=called.members.balancer_for(config),
        )

    def _context(self, config: ServiceConfig) -> ssl.SSLContext:
        tls = config.tls
        if tls is not None and tls.model_fields_set - {"server_name"}:
            return client_context(config)  # it says more than we did (SidecarConfig.called)
        if self._contexts is not None:
            return self._contexts.client
        if self._system is None:
            # Reading the system's authorities takes long, and names come from requests.
            self._system = client_context(config)
        return self._system

    def _found(self, called: Called, instances: Instances) -> None:
        if self._services.get(called.state.name) is not called:
            return  # closed a moment ago: its instances would be nobody's
        if self._config.sidecar.tls_only:
            secured = tuple(each for each in instances if each.url.startswith("https:"))
            if len(secured) < len(instances):
                name = called.state.name
                _log.warning("instances of %s without TLS are not called (tls_only)", name)
            instances = secured
        called.is_ready = True
        if instances and not called.is_known:
            called.is_known = True
            count = len(instances)
            plural = "" if count == 1 else "s"
            _log.info("%s is called, and has %d instance%s", called.state.name, count, plural)
        called.members.found(instances)

    def renew(self, contexts: Contexts) -> None:
        """Connections from now on are made with these."""
        self._contexts = contexts
        for called in self._services.values():
            self._configure(called)

    # ---------------------------------------------------------------- the end of services

    def tick(self, now: float) -> None:
        """Once a second."""
        idle = self._config.sidecar.idle
        for name, called in list(self._services.items()):
            try:
                called.state.tick(now)
            except Exception:
                _log.exception("service %s", name)
            limit = idle if called.is_known else min(idle, _UNKNOWN_IDLE)
            if now - called.used > limit and not called.is_busy:
                self._close(name)

    def _make_room(self) -> None:
        idle = [name for name, called in self._services.items() if not called.is_busy]
        if not idle:
            raise Refused(Cause.OVERLOADED, "too many services are called at once")
        self._close(min(idle, key=lambda name: self._worth(self._services[name])))

    @staticmethod
    def _worth(called: Called) -> tuple[bool, float]:
        """Names that no service has go first."""
        return called.is_known, called.used

    def _close(self, name: str) -> None:
        called = self._services.pop(name)
        _log.debug("%s is not followed any longer", name)
        called.members.clear()
        if called.followed is not None:
            task = self._loop.create_task(called.followed.aclose())
            self._closing.add(task)
            task.add_done_callback(self._closing.discard)

    async def aclose(self) -> None:
        """Close every service."""
        states = list(self.states.values())
        instances = [each for state in states for each in state.instances.values()]
        for name in list(self._services):
            self._close(name)
        await asyncio.gather(*self._closing, *(each.aclose() for each in instances))
        if self._votes is not None:
            await self._votes.aclose()


def _retire(instance: Any) -> None:
    instance.remove()


def _no_application(url: str) -> Any:
    raise ConfigError(f"{url}: a sidecar runs no application")


def _unknown(name: str) -> Refused:
    return Refused(Cause.NOT_FOUND, f"there is no service {name}")
