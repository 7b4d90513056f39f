"""What a peer has to say about itself."""

from __future__ import annotations

import subprocess
from abc import ABC, abstractmethod
from dataclasses import dataclass
from pathlib import Path


class UnsupportedError(Exception):
    """The peer cannot do this, or not without unfair contortions. ``str()`` says why."""


@dataclass(frozen=True, slots=True)
class Site:
    """What a proxy is configured to be."""

    listen: int
    origin: int
    """Port of the upstream on 127.0.0.1."""
    routes: int = 0
    """0: one route for everything. Otherwise ``/svcN/…`` for N below this, and ``/json``."""
    is_caching: bool = False
    is_policing: bool = False
    """Token check, rate limit, breaker, retries, timeouts, access log: Nexgate only."""


class Peer(ABC):
    """A proxy that can be started."""

    name: str

    @classmethod
    @abstractmethod
    def binary(cls) -> str | None:
        """Where it is installed; None if it is not."""

    @classmethod
    @abstractmethod
    def version(cls) -> str:
        """Its version, as short as possible."""

    @classmethod
    @abstractmethod
    def command(cls, site: Site, folder: Path) -> list[str]:
        """Write the configuration into ``folder`` and return the command that runs it."""

    @classmethod
    def environment(cls, folder: Path) -> dict[str, str]:
        """Variables that the process needs."""
        return {}


def output_of(*command: str) -> str:
    """Return what a short command prints, on whichever stream."""
    done = subprocess.run(command, capture_output=True, text=True, timeout=20, check=False)
    return (done.stdout + done.stderr).strip()
