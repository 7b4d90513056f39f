"""Discovery: which instances a service has, as a stream of whole sets.

``ServiceRegistry`` and ``register_service`` are for services that say where they are; providers
are for what is known elsewhere; ``follow`` runs any of them and keeps what it said while it is
away.
"""

from __future__ import annotations

from nexgate.discovery._follow import Followed, FollowStatus, United, follow
from nexgate.discovery._health import Probing
from nexgate.discovery._instance import (
    Health,
    Instances,
    ServiceInstance,
    check_service_name,
)
from nexgate.discovery._provider import DiscoveryError, Provider, Reporting
from nexgate.discovery._register import register_service
from nexgate.discovery._registry import RegistryStatistics, ServiceRegistry
from nexgate.discovery.providers import (
    ConsulProvider,
    DnsProvider,
    FileProvider,
    HttpProvider,
    KubernetesProvider,
    RegistryProvider,
    StaticProvider,
)

__all__ = [
    "ConsulProvider",
    "DiscoveryError",
    "DnsProvider",
    "FileProvider",
    "FollowStatus",
    "Followed",
    "Health",
    "HttpProvider",
    "Instances",
    "KubernetesProvider",
    "Probing",
    "Provider",
    "RegistryProvider",
    "RegistryStatistics",
    "Reporting",
    "ServiceInstance",
    "ServiceRegistry",
    "StaticProvider",
    "United",
    "check_service_name",
    "follow",
    "register_service",
]
