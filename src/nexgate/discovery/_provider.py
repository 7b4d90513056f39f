"""What a provider is."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Protocol, runtime_checkable

from nexgate.discovery._instance import Instances
from nexgate.errors import NexgateError

__all__ = ["DiscoveryError", "Provider", "Reporting"]


class DiscoveryError(NexgateError):
    """A provider cannot say who is there. What was known before stays."""


class Provider(Protocol):
    """A source of instances.

    ``watch`` is an asynchronous generator of *complete* sets: a set that is lost is mended by the
    next, a difference that is lost would be wrong for ever. Yielding an empty set says that there
    is nobody; not knowing is an exception, and whoever follows keeps the last set. It may be called
    again after it has raised or ended, and is closed by whoever iterates.
    """

    name: str
    """For logs: the kind and what it looks at, ``dns:api.example``. Without credentials."""

    def watch(self) -> AsyncIterator[Instances]:
        """Yield the set, then again whenever it has changed (or may have)."""


@runtime_checkable
class Reporting(Protocol):
    """A provider that mends its troubles itself, and can say that it has one."""

    @property
    def problem(self) -> str | None:
        """Why its last set may be old; ``None`` when it is current."""
