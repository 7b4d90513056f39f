"""Which start of the machine this is."""

from __future__ import annotations

from pathlib import Path

__all__ = ["boot_id"]


def boot_id() -> str:
    """Another one after every start of the machine; empty where the system has none, so that
    nothing seems to have changed. Leases in the machine's clock are worth nothing after a start.
    """
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    except OSError:
        return ""
