"""Where instances come from: one file per kind."""

from __future__ import annotations

from nexgate.discovery.providers._consul import ConsulProvider
from nexgate.discovery.providers._dns import DnsProvider
from nexgate.discovery.providers._file import FileProvider
from nexgate.discovery.providers._http import HttpProvider
from nexgate.discovery.providers._kubernetes import KubernetesProvider
from nexgate.discovery.providers._registry import RegistryProvider
from nexgate.discovery.providers._static import StaticProvider

__all__ = [
    "ConsulProvider",
    "DnsProvider",
    "FileProvider",
    "HttpProvider",
    "KubernetesProvider",
    "RegistryProvider",
    "StaticProvider",
]
