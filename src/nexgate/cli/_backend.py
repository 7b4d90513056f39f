"""The parts of the gateway that commands start, imported only when one does."""

from __future__ import annotations

import importlib
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, cast

if TYPE_CHECKING:
    from nexgate.config import Overrides
    from nexgate.gateway_config import GatewayConfig
    from nexgate.routing import Explanation


class LoadedGateway(Protocol):
    """What commands need of ``nexgate.gateway.Gateway``."""

    @property
    def config(self) -> GatewayConfig:
        """The configuration that the gateway was made from, or amounts to."""

    def explain(
        self, method: str, url: str, headers: Sequence[tuple[str, str]]
    ) -> Explanation[Any]:
        """Why a request gets its route."""


def load_gateway(path: Path) -> LoadedGateway:
    """Compile the gateway of a ``.toml`` or ``.py`` file without starting anything."""
    return cast("LoadedGateway", importlib.import_module("nexgate.gateway").load(path))


def run_gateway(path: Path, overrides: Overrides) -> int:
    """Serve until told to stop; the exit code."""
    return int(importlib.import_module("nexgate.edge.supervisor").run(path, overrides) or 0)


def run_demo(port: int, seconds: float | None) -> int:
    """Run the demonstration; ``seconds`` is ``None`` for "until Ctrl-C"."""
    return int(importlib.import_module("nexgate.demo").run(port=port, seconds=seconds) or 0)
