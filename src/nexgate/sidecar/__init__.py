"""A sidecar: beside one program, in any language, it finds other services and calls them safely.

The program asks its sidecar in plain HTTP for ``Host: users``; the sidecar finds the instances of
``users`` in the registry and calls one, with everything a gateway does for a service. What arrives
for the program comes through the sidecar too, over mutual TLS, with the caller's name.
"""

from __future__ import annotations

from nexgate.sidecar._sidecar import Sidecar, check, run
from nexgate.sidecar.config import SidecarConfig, load_sidecar

__all__ = ["Sidecar", "SidecarConfig", "check", "load_sidecar", "run"]
