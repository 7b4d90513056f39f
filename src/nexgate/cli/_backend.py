"""The parts of the gateway that commands start, imported only when one does."""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from nexgate.config import Overrides
    from nexgate.gateway import Gateway
    from nexgate.sidecar import SidecarConfig


def load_gateway(path: Path) -> Gateway:
    """Compile the gateway of a ``.toml`` or ``.py`` file without starting anything."""
    from nexgate.gateway import load

    return load(path)


def run_gateway(path: Path, overrides: Overrides) -> int:
    """Serve until told to stop; the exit code."""
    from nexgate.supervisor import run

    return run(path, overrides)


def run_demo(port: int, seconds: float | None) -> int:
    """Run the demonstration; ``seconds`` is ``None`` for "until Ctrl-C"."""
    return int(importlib.import_module("nexgate.demo").run(port=port, seconds=seconds) or 0)


def run_drill(port: int) -> int:
    """Run the drill; the exit code."""
    return int(importlib.import_module("nexgate.demo").run_drill(port))


def run_sidecar(config: SidecarConfig) -> int:
    """Serve beside a program until told to stop; the exit code."""
    from nexgate.sidecar import run

    return run(config)
