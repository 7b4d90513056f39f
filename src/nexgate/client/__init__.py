"""Calling services: discovery, balancing and resilience for what one service asks of another.

``ServiceClient`` is the gateway's own upstream side, for coroutines: the same pools, balancers,
breakers, budget and ejection. ``ServiceTransport`` gives them to code that uses an httpx-like
client. ``Propagation`` passes on what a request carries: its id, its trace, its deadline.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from nexgate.client._client import ClientStatistics, InstanceStatistics, ServiceClient
from nexgate.client._errors import (
    ServiceBodyTooLarge,
    ServiceConnectionError,
    ServiceError,
    ServiceStatusError,
    ServiceTimeout,
    ServiceUnavailable,
)
from nexgate.client._propagation import Propagation, propagating
from nexgate.client._response import ServiceResponse, StreamedResponse

if TYPE_CHECKING:
    from nexgate.client._transport import ServiceTransport

__all__ = [
    "ClientStatistics",
    "InstanceStatistics",
    "Propagation",
    "ServiceBodyTooLarge",
    "ServiceClient",
    "ServiceConnectionError",
    "ServiceError",
    "ServiceResponse",
    "ServiceStatusError",
    "ServiceTimeout",
    "ServiceTransport",
    "ServiceUnavailable",
    "StreamedResponse",
    "propagating",
]


def __getattr__(name: str) -> Any:
    # It needs httpx2, which only those have who use it.
    if name == "ServiceTransport":
        from nexgate.client._transport import ServiceTransport

        return ServiceTransport
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
