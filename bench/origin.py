"""The upstream of all peers: as fast as possible, so that the proxy is what is measured."""

from __future__ import annotations

import subprocess
import sys
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from bench.machine import LOAD_CORE, free_port, start, stop, wait_until_serving
from bench.peers.nginx import Nginx, prelude

if TYPE_CHECKING:
    from collections.abc import Iterator

GIB = 1 << 30

JSON_BODY = (
    '{"id":42,"name":"Ada Lovelace","email":"ada@example.test","roles":["admin","reader"],'
    '"active":true,"created":"2026-01-01T00:00:00Z","balance":1234.56,'
    '"note":"a small answer this"}'
)
assert len(JSON_BODY) == 179, len(JSON_BODY)


@contextmanager
def running_origin(folder: Path) -> Iterator[int]:
    """Run the upstream; yields its port. nginx if there is one, else a small asyncio server."""
    folder.mkdir(exist_ok=True)
    port = free_port()
    if Nginx.binary() is None:
        process = _start_asyncio(port, folder)
    else:
        process = _start_nginx(port, folder)
    try:
        wait_until_serving(port, process, 10)
        yield port
    finally:
        stop(process)


@contextmanager
def running_sink(folder: Path) -> Iterator[int]:
    """Run an upstream that reads every body before it answers, which ``return`` does not."""
    folder.mkdir(exist_ok=True)
    port = free_port()
    process = _start_asyncio(port, folder)
    try:
        wait_until_serving(port, process, 10)
        yield port
    finally:
        stop(process)


def _start_asyncio(port: int, folder: Path) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-m", "bench.asyncio_origin", str(port)]
    return start(command, core=LOAD_CORE, log=folder / "asyncio.log")


def _start_nginx(port: int, folder: Path) -> subprocess.Popen[bytes]:
    for name, size in {"10k": 10 * 1024, "1m": 1 << 20, "1g": GIB}.items():
        with (folder / name).open("wb") as file:
            file.truncate(size)  # sparse: costs neither disk nor time
    conf = folder / "origin.conf"
    conf.write_text(
        prelude(folder) + CONF.format(port=port, root=folder, body=JSON_BODY.replace('"', '\\"'))
    )
    command = [Nginx.binary() or "", "-p", str(folder), "-e", "stderr", "-c", str(conf)]
    return start(command, core=LOAD_CORE, log=folder / "nginx.log")


CONF = """\
  sendfile on;
  open_file_cache max=16;
  default_type application/json;
  server {{
    listen 127.0.0.1:{port} backlog=1024;
    location / {{ return 200 "{body}"; }}
    location = /cached {{
      add_header Cache-Control "public, max-age=300";
      return 200 "{body}";
    }}
    location = /10k {{ root {root}; }}
    location = /1m {{ root {root}; }}
    location = /1g {{ root {root}; }}
  }}
}}
"""
