"""What the command line may say over the file."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True, slots=True)
class Overrides:
    """Options of ``nexgate run`` that beat the ``[gateway]`` section; ``None`` leaves it.

    They stay in force when the file is read again: ``GatewayConfig.with_overrides`` applies them to
    every version of it.
    """

    listen: tuple[str, ...] | None = None
    workers: int | Literal["auto"] | None = None
    log_level: str | None = None
    reload: bool | None = None
    access_log: str | None = None

    def values(self) -> dict[str, object]:
        """The overridden keys of ``[gateway]``, with their values as a file would say them."""
        pairs = {
            "listen": None if self.listen is None else list(self.listen),
            "workers": self.workers,
            "log_level": self.log_level,
            "reload": self.reload,
            "access_log": self.access_log,
        }
        return {key: value for key, value in pairs.items() if value is not None}
