"""Instances that registered themselves."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import AsyncGenerator

from nexgate.discovery._instance import Instances, check_service_name
from nexgate.discovery._registry import ServiceRegistry
from nexgate.discovery._url import may_come_from
from nexgate.state import Scope, State

__all__ = ["RegistryProvider"]

_log = logging.getLogger("nexgate.discovery")

_MOST_WARNINGS = 100


class RegistryProvider:
    """The instances of ``service`` in a registry, or in the state that carries one. ``Reporting``.

    The registry keeps what it knew while its store is away, so this never fails; ``problem`` says
    that it may be old. Instances at ``asgi:`` are taken from this process only, and at ``unix:``
    from this machine only: others could name any code and any socket. Neither the registry nor the
    state is closed with it.
    """

    def __init__(self, registry: ServiceRegistry | State, service: str) -> None:
        self.service = check_service_name(service)
        self.name = f"registry:{service}"
        self._refused: set[str] = set()
        self._source = registry
        self._registry = registry if isinstance(registry, ServiceRegistry) else None

    @property
    def problem(self) -> str | None:
        """Why the set may be old."""
        return None if self._registry is None else self._registry.problem(self.service)

    async def watch(self) -> AsyncGenerator[Instances, None]:
        """Yield the set whenever it changes."""
        if isinstance(self._source, ServiceRegistry):
            async with contextlib.aclosing(self._source.watch(self.service)) as sets:
                async for instances in sets:
                    yield self._trusted(instances, self._source.state.scope)
            return
        async with ServiceRegistry(self._source) as registry:
            self._registry = registry
            async with contextlib.aclosing(registry.watch(self.service)) as sets:
                async for instances in sets:
                    yield self._trusted(instances, self._source.scope)

    def _trusted(self, instances: Instances, scope: Scope) -> Instances:
        refused = {i.url for i in instances if not may_come_from(i.url, scope)}
        for url in sorted(refused - self._refused)[: _MOST_WARNINGS - len(self._refused)]:
            _log.warning("%s: %s is not taken from other machines or processes", self.name, url)
            self._refused.add(url)
        return tuple(i for i in instances if i.url not in refused)
