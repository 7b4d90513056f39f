"""The service registry: shared state with names."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import random
import ssl as tls
import uuid
from collections.abc import AsyncGenerator, Callable
from dataclasses import dataclass
from typing import Final, Self

from nexgate.discovery._health import HealthChecks, Probing
from nexgate.discovery._instance import (
    Instances,
    ServiceInstance,
    check_service_name,
    encode,
)
from nexgate.discovery._keys import ALL_SERVICES, instance_key, name_in, verdict_key
from nexgate.discovery._view import View
from nexgate.state import MemoryState, State, StateError, StateUnavailable, open_state

__all__ = ["RegistryStatistics", "ServiceRegistry"]

_log = logging.getLogger("nexgate.discovery")

_BEATS_PER_TTL: Final = 3
_RETRIES_PER_TTL: Final = 10
_LONGEST_NAP: Final = 1.0
_AT_ONCE: Final = 16
_FIRST_SET_WITHIN: Final = 3.0
_MOST_VIEWS: Final = 1024
_LEAST_HOLD: Final = 10.0


@dataclass(slots=True)
class _Registration:
    instance: ServiceInstance
    record: bytes
    ttl: float
    due: float
    is_stored: bool = False
    is_displaced: bool = False
    """Another process registered the same id later."""


@dataclass(frozen=True, slots=True)
class RegistryStatistics:
    """Counters since the registry was made."""

    registered: int
    """Instances whose lease this registry keeps."""
    watched: int
    """Services that this registry follows."""
    renewals: int
    repairs: int
    """Registrations that the store had lost, and was told again."""
    failures: int
    """Renewals that the store did not take."""


class ServiceRegistry:
    """Instances of services, registered under leases in a ``State``.

    ::

        async with ServiceRegistry("local") as registry:
            await registry.register("api", ServiceInstance("1", "api", "http://127.0.0.1:8000"))
            instance = await registry.get_instance("api")

    ``state`` is a store or its name (see ``open_state``), which is then closed with the registry;
    by default the memory of this process. A registration lives for ``ttl`` seconds unless it is
    renewed, which one background task does for all of them, three times per ``ttl``. So whoever
    dies is gone within ``ttl``, and whoever closes the registry is gone at once.

    Reading never waits for the store once a service is known: the registry follows it, and keeps
    what it knew while the store is away.
    """

    def __init__(
        self,
        state: State | str | None = None,
        *,
        ttl: float = 15.0,
        hold: float | None = None,
        probing: Probing | None = None,
        ssl: tls.SSLContext | None = None,
        draw: Callable[[], float] = random.random,
    ) -> None:
        """``hold``: how long an instance that is missing is kept after the store was away, for it
        may have come back empty; unset, ``ttl``, at least 10 seconds, which is what it takes
        everybody to notice that the store is back. ``probing`` says how ``health_check`` asks;
        ``ssl`` is for probes of ``https``.
        """
        if not 0 < ttl <= 86400:
            raise ValueError("ttl must be more than zero and at most a day")
        self._owns_state = state is None or isinstance(state, str)
        if state is None:
            state = MemoryState()
        self.state: State = open_state(state) if isinstance(state, str) else state
        self.ttl = ttl
        self._hold = max(ttl, _LEAST_HOLD) if hold is None else hold
        self.id = uuid.uuid4().hex
        """Names this registry among all that share the state."""
        self._probing = Probing() if probing is None else probing
        self._ssl = ssl
        self._draw = draw
        self._registrations: dict[tuple[str, str], _Registration] = {}
        self._views: dict[str, View] = {}
        self._beating: asyncio.Task[None] | None = None
        self._woken = asyncio.Event()
        self._outages = self.state.statistics().outages
        self._is_failing = False
        self._is_closed = False
        self._closing: set[asyncio.Future[None]] = set()
        self._renewals = self._repairs = self._failures = 0

    # -- registering ---------------------------------------------------------------------------

    async def register(
        self, name: str, instance: ServiceInstance, ttl: float | None = None
    ) -> bool:
        """Make the instance known, and keep it known until ``unregister`` or ``aclose``.

        False when the store could not be told yet: it will be, as soon as it can be reached. An
        application must start whether or not its registry does.

        Whoever registers an id last has it. The one before is told by a warning and takes the id
        back when it is free again.
        """
        self._check_open()
        check_service_name(name)
        if instance.name != name:
            raise ValueError(f"the instance is one of {instance.name!r}, not of {name!r}")
        seconds = self.ttl if ttl is None else ttl
        if not 0 < seconds <= 86400:
            raise ValueError("ttl must be more than zero and at most a day")
        # The mark tells our registration from one of the same instance by another process.
        record = encode(instance, registration=uuid.uuid4().hex, ttl=seconds)
        registration = _Registration(instance, record, seconds, 0.0)
        self._registrations[name, instance.id] = registration
        self.start()
        try:
            await self.state.set(instance_key(name, instance.id), record, ttl=seconds)
        except StateError as error:
            self._failures += 1
            _log.warning("%s of %s is not registered yet: %s", instance.id, name, error)
            self._woken.set()
            return False
        registration.is_stored = True
        registration.due = self._next_beat(seconds)
        self._woken.set()
        await self._refresh(name)
        return True

    async def unregister(self, name: str, instance_id: str) -> None:
        """Make it unknown, at once. Also one that another process registered.

        An instance of our own whose id another process has taken over stays the other's. When the
        store cannot be reached the lease ends by itself.
        """
        check_service_name(name)
        registration = self._registrations.pop((name, instance_id), None)
        expected = None if registration is None else registration.record
        try:
            removed = await self.state.delete(instance_key(name, instance_id), expected=expected)
            if removed:
                await self.state.delete(verdict_key(name, instance_id))
        except StateError as error:
            _log.warning("%s of %s ends with its lease: %s", instance_id, name, error)
            return
        if removed and (view := self._views.get(name)) is not None:
            view.forget(instance_id)
        await self._refresh(name)

    # -- asking --------------------------------------------------------------------------------

    async def get_instance(self, name: str) -> ServiceInstance | None:
        """One that is not known to be unhealthy, at random by weight; ``None`` if there is none."""
        view = self._views.get(name)
        if view is None or view.instances is None:
            view = await self._known(name)
        return view.pick()

    async def get_instances(self, name: str) -> Instances:
        """All of them, also the unhealthy ones, in the order of their ids.

        Raises ``StateUnavailable`` when the store has never answered about this service.
        """
        view = self._views.get(name)
        if view is None or view.instances is None:
            view = await self._known(name)
        return view.instances or ()

    async def names(self) -> tuple[str, ...]:
        """Of the services that have an instance, in order."""
        found = await self.state.scan(ALL_SERVICES)
        return tuple(sorted({name for key in found if (name := name_in(key)) is not None}))

    async def watch(self, name: str) -> AsyncGenerator[Instances, None]:
        """Yield the whole set whenever it changes, the first one as soon as it is known.

        Ends when the registry is closed. Never raises for a store that is away: see ``problem``.
        """
        view = self._view(name)
        view.watchers += 1
        try:
            seen = 0
            while await view.wait_newer(seen):
                seen = view.version
                yield view.instances or ()
        finally:
            view.watchers -= 1

    def problem(self, name: str) -> str | None:
        """Why what is known about a service may be old; ``None`` when it is current, or when nobody
        has asked for it.
        """
        view = self._views.get(name)
        return None if view is None else view.problem

    async def health_check(self) -> None:
        """Probe every registered instance, again and again, until cancelled.

        Of all registries that share the state and run this, one probes an instance, under a lease;
        the others see its verdict. When it dies, another takes over within two intervals.
        """
        self._check_open()
        checks = HealthChecks(self.state, self._probing, ssl=self._ssl, draw=self._draw)
        await checks.run()

    def statistics(self) -> RegistryStatistics:
        """Counters."""
        return RegistryStatistics(
            registered=len(self._registrations),
            watched=len(self._views),
            renewals=self._renewals,
            repairs=self._repairs,
            failures=self._failures,
        )

    # -- life ----------------------------------------------------------------------------------

    def start(self) -> None:
        """Begin to renew. ``register`` does it, too."""
        self._check_open()
        if self._beating is None or self._beating.done():
            self._beating = asyncio.get_running_loop().create_task(self._beat())

    async def aclose(self) -> None:
        """Unregister what this registry registered, and end everything. Twice is allowed."""
        if self._is_closed:
            return
        self._is_closed = True
        beating, self._beating = self._beating, None
        if beating is not None:
            beating.cancel()
            await asyncio.gather(beating, return_exceptions=True)
        keys = list(self._registrations)
        for at in range(0, len(keys), _AT_ONCE):
            await asyncio.gather(*(self.unregister(*key) for key in keys[at : at + _AT_ONCE]))
        views, self._views = list(self._views.values()), {}
        for view in views:
            await view.aclose()
        if self._owns_state:
            await self.state.aclose()

    async def __aenter__(self) -> Self:
        self.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.aclose()

    def _check_open(self) -> None:
        if self._is_closed:
            raise StateError("this registry is closed")

    # -- views ---------------------------------------------------------------------------------

    def _view(self, name: str) -> View:
        view = self._views.get(name)
        if view is None:
            self._check_open()
            check_service_name(name)
            self._drop_views()
            view = self._views[name] = View(self.state, name, self._hold, draw=self._draw)
        return view

    async def _known(self, name: str) -> View:
        view = self._view(name)
        view.watchers += 1
        try:
            async with asyncio.timeout(_FIRST_SET_WITHIN):
                await view.wait_newer(0)
        except TimeoutError:
            raise StateUnavailable(f"nothing is known about {name}: {view.problem}") from None
        finally:
            view.watchers -= 1
        return view

    def _drop_views(self) -> None:
        """Bounded: names may come from requests."""
        if len(self._views) < _MOST_VIEWS:
            return
        for name, view in list(self._views.items()):
            if not view.watchers:
                del self._views[name]
                self._closing.add(task := asyncio.ensure_future(view.aclose()))
                task.add_done_callback(self._closing.discard)
                return

    async def _refresh(self, name: str) -> None:
        """Who writes reads what it wrote, however soon the watch would have noticed."""
        view = self._views.get(name)
        if view is not None:
            await view.reload()

    # -- renewing ------------------------------------------------------------------------------

    async def _beat(self) -> None:
        loop = asyncio.get_running_loop()
        while True:
            dues = [r.due for r in self._registrations.values()]
            nap = min(_LONGEST_NAP, min(dues, default=loop.time() + _LONGEST_NAP) - loop.time())
            if not dues:
                await self._woken.wait()
            elif nap > 0:
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(nap):
                        await self._woken.wait()
            self._woken.clear()
            outages = self._lost_stores()
            now = loop.time()
            due = [
                (name, r) for (name, _), r in self._registrations.items() if r.due <= now or outages
            ]
            for at in range(0, len(due), _AT_ONCE):
                await asyncio.gather(*(self._renew(*item) for item in due[at : at + _AT_ONCE]))

    def _lost_stores(self) -> bool:
        """Whether the store was lost, and may have forgotten us, since the last look."""
        found = self.state.statistics()
        if found.is_degraded or found.outages == self._outages:
            return False
        self._outages = found.outages
        return True

    async def _renew(self, name: str, registration: _Registration) -> None:
        try:
            await self._keep(name, registration)
        except StateError as error:
            self._failures += 1
            if not self._is_failing:
                self._is_failing = True
                _log.warning("registrations cannot be renewed, and are retried: %s", error)
            loop = asyncio.get_running_loop()
            pause = min(_LONGEST_NAP, registration.ttl / _RETRIES_PER_TTL)
            registration.due = loop.time() + pause * (0.5 + self._draw())
        except Exception:
            _log.exception("renewing %s of %s failed", registration.instance.id, name)
            registration.due = self._next_beat(registration.ttl)
        else:
            self._is_failing = False
            registration.due = self._next_beat(registration.ttl)

    async def _keep(self, name: str, registration: _Registration) -> None:
        """Prolong the lease, or say it again if the store lost it; never take another's id."""
        key = instance_key(name, registration.instance.id)
        record, ttl = registration.record, registration.ttl
        if await self.state.replace(key, record, record, ttl=ttl):
            self._renewals += 1
        elif self._registrations.get((name, registration.instance.id)) is not registration:
            return  # unregistered while we asked: it must not come back
        elif await self.state.add(key, record, ttl=ttl):
            if registration.is_stored:
                self._repairs += 1
                _log.info("%s of %s is registered again", registration.instance.id, name)
            await self._refresh(name)
        else:
            if not registration.is_displaced:
                registration.is_displaced = True
                _log.warning(
                    "another process registered %s of %s; it has the id now",
                    registration.instance.id,
                    name,
                )
            return
        registration.is_stored = True
        registration.is_displaced = False
        if self._registrations.get((name, registration.instance.id)) is not registration:
            await self.state.delete(key, expected=record)

    def _next_beat(self, ttl: float) -> float:
        """Jittered, so that those who registered together do not renew together for ever."""
        loop = asyncio.get_running_loop()
        return loop.time() + ttl / _BEATS_PER_TTL * (0.9 + 0.1 * self._draw())
