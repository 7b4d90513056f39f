"""A real NATS server in a process of its own."""

from __future__ import annotations

import sys
from pathlib import Path

from tests.unit.state.servers import Server


class Nats(Server):
    """With JetStream."""

    @property
    def url(self) -> str:
        return f"nats://127.0.0.1:{self.port}"

    def argv(self) -> list[str]:
        program = Path(sys.executable).parent / "nats-server"  # where its package puts it
        return [
            *(str(program), "-a", "127.0.0.1", "-p", str(self.port)),
            *("-js", "-sd", self._directory.name),
        ]
