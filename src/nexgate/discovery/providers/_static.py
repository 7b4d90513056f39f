"""Instances that are known beforehand."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Iterable

from nexgate.discovery._instance import Instances, ServiceInstance
from nexgate.discovery._url import normal_url

__all__ = ["StaticProvider"]


class StaticProvider:
    """Always the same set: URLs, or instances."""

    def __init__(self, service: str, instances: Iterable[ServiceInstance | str]) -> None:
        self.name = "static"
        self.instances: Instances = tuple(
            instance
            if isinstance(instance, ServiceInstance)
            else ServiceInstance(normal_url(instance), service, instance)
            for instance in instances
        )

    async def watch(self) -> AsyncGenerator[Instances, None]:
        """Yield the set, once."""
        yield self.instances
        await asyncio.Event().wait()
