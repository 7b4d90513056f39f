"""Where a registry keeps what, in the state.

====================================  ========================================
``services/NAME/i/ID``                a registered instance, under a lease
``services/NAME/h/ID``                what its probes found
``probes/NAME/ID``                    the lease of the one who probes it
====================================  ========================================
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from urllib.parse import quote, unquote

__all__ = [
    "ALL_SERVICES",
    "instance_key",
    "instances_under",
    "name_in",
    "probe_key",
    "service_prefix",
    "verdict_key",
    "verdicts_under",
]

ALL_SERVICES = "services/"


def service_prefix(name: str) -> str:
    """Everything about a service."""
    return f"{ALL_SERVICES}{name}/"


def instance_key(name: str, instance_id: str) -> str:
    """The record of an instance. Whatever an id is made of, it stays one part of the key."""
    return f"{service_prefix(name)}i/{quote(instance_id, safe='')}"


def verdict_key(name: str, instance_id: str) -> str:
    """What probes found."""
    return f"{service_prefix(name)}h/{quote(instance_id, safe='')}"


def probe_key(name: str, instance_id: str) -> str:
    """The lease of the prober."""
    return f"probes/{name}/{quote(instance_id, safe='')}"


def instances_under(prefix: str, records: Mapping[str, bytes]) -> Iterator[tuple[str, bytes]]:
    """Keys and records of the instances among ``records``."""
    start = f"{prefix}i/"
    return ((key, data) for key, data in records.items() if key.startswith(start))


def verdicts_under(prefix: str, records: Mapping[str, bytes]) -> Iterator[tuple[str, bytes]]:
    """Ids and verdicts among ``records``."""
    start = f"{prefix}h/"
    return (
        (unquote(key[len(start) :]), data) for key, data in records.items() if key.startswith(start)
    )


def name_in(key: str) -> str | None:
    """The service that an instance's key belongs to; ``None`` for any other key."""
    parts = key.split("/", 3)
    return parts[1] if len(parts) == 4 and parts[0] == "services" and parts[2] == "i" else None
