"""The processes of a demonstration: started, waited for, ended."""

from __future__ import annotations

import socket
import subprocess
import sys
import time
from collections.abc import Sequence
from typing import IO

__all__ = ["end", "free_ports", "start", "wait_for"]


def start(
    module: str, *arguments: str, env: dict[str, str], stderr: IO[bytes] | None = None
) -> subprocess.Popen[bytes]:
    # A session of its own: Ctrl-C reaches this process only, which then ends the others in order.
    return subprocess.Popen(  # noqa: S603  # our own modules
        [sys.executable, "-m", module, *arguments],
        env=env,
        stderr=stderr,
        start_new_session=True,
    )


def end(children: Sequence[subprocess.Popen[bytes]]) -> None:
    for child in reversed(children):
        child.terminate()
    for child in children:
        try:
            child.wait(10)
        except subprocess.TimeoutExpired:
            child.kill()


def free_ports(count: int) -> list[int]:
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    ports = [s.getsockname()[1] for s in sockets]
    for s in sockets:
        s.close()
    return ports


def wait_for(port: int, children: Sequence[subprocess.Popen[bytes]]) -> bool:
    """Until somebody listens; False when one of ``children`` ends first, or after 20 seconds."""
    deadline = time.monotonic() + 20
    while time.monotonic() < deadline:
        if any(child.poll() is not None for child in children):
            return False
        try:
            socket.create_connection(("127.0.0.1", port), 1).close()
        except OSError:
            time.sleep(0.05)
        else:
            return True
    return False
