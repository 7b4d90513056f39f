"""Nexgate: the API gateway you program in Python, and the microservice toolkit around it."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from nexgate.errors import Cause, ConfigError, NexgateError, Refused, Site
    from nexgate.exchange import Request, Response
    from nexgate.gateway import Gateway, Service
    from nexgate.http import Headers

__version__ = "0.1.0"

_HOMES = {
    "Cause": "nexgate.errors",
    "ConfigError": "nexgate.errors",
    "Gateway": "nexgate.gateway",
    "Headers": "nexgate.http",
    "NexgateError": "nexgate.errors",
    "Refused": "nexgate.errors",
    "Request": "nexgate.exchange",
    "Response": "nexgate.exchange",
    "Service": "nexgate.gateway",
    "Site": "nexgate.errors",
}

__all__ = [
    "Cause",
    "ConfigError",
    "Gateway",
    "Headers",
    "NexgateError",
    "Refused",
    "Request",
    "Response",
    "Service",
    "Site",
    "__version__",
]


def __getattr__(name: str) -> Any:
    """Names are imported when they are used: ``nexgate version`` must not load a gateway."""
    home = _HOMES.get(name)
    if home is None:
        raise AttributeError(f"module 'nexgate' has no attribute {name!r}")
    return getattr(import_module(home), name)
