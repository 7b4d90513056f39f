"""Instances that registered themselves."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncGenerator

from nexgate.discovery._instance import Instances, check_service_name
from nexgate.discovery._registry import ServiceRegistry
from nexgate.state import State

__all__ = ["RegistryProvider"]


class RegistryProvider:
    """The instances of ``service`` in a registry, or in the state that carries one. ``Reporting``.

    The registry keeps what it knew while its store is away, so this never fails; ``problem`` says
    that it may be old. Neither the registry nor the state is closed with it.
    """

    def __init__(self, registry: ServiceRegistry | State, service: str) -> None:
        self.service = check_service_name(service)
        self.name = f"registry:{service}"
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
                    yield instances
            return
        async with ServiceRegistry(self._source) as registry:
            self._registry = registry
            async with contextlib.aclosing(registry.watch(self.service)) as sets:
                async for instances in sets:
                    yield instances
