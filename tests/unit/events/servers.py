"""A real NATS server in a process of its own."""

from __future__ import annotations

import socket
import subprocess
import sys
import sysconfig
import tempfile
import time
from pathlib import Path
from typing import Self

from nexgate.testing import free_port


class Nats:
    """A server with JetStream on a port of its own."""

    def __init__(self) -> None:
        self.port = free_port()
        self._folder = tempfile.TemporaryDirectory()
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        return f"nats://127.0.0.1:{self.port}"

    def start(self) -> None:
        program = Path(sysconfig.get_path("scripts")) / "nats-server"
        if not program.exists():
            program = Path(sys.executable).parent / "nats-server"
        self._process = subprocess.Popen(
            [
                *(str(program), "-a", "127.0.0.1", "-p", str(self.port)),
                *("-js", "-sd", self._folder.name),
            ],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        deadline = time.monotonic() + 10
        while time.monotonic() < deadline:
            try:
                socket.create_connection(("127.0.0.1", self.port), 0.5).close()
            except OSError:
                assert self._process.poll() is None, "the server ended at once"
                time.sleep(0.01)
            else:
                return
        raise TimeoutError("the server does not listen")

    def kill(self) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.kill()
        self._folder.cleanup()
