"""Discovery: which instances a service has, as a stream of whole sets.

``ServiceRegistry`` and ``register_service`` are for services that say where they are.
"""

from __future__ import annotations

from nexgate.discovery._health import Probing
from nexgate.discovery._instance import Health, Instances, ServiceInstance
from nexgate.discovery._register import register_service
from nexgate.discovery._registry import RegistryStatistics, ServiceRegistry

__all__ = [
    "Health",
    "Instances",
    "Probing",
    "RegistryStatistics",
    "ServiceInstance",
    "ServiceRegistry",
    "register_service",
]
