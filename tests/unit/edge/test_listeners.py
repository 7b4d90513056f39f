"""Binding: what is left over, what is in use."""

from __future__ import annotations

import socket
from pathlib import Path

import pytest

from nexgate import Gateway
from nexgate.testing import RawClient

GET = b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n"


async def test_a_stale_socket_file_is_replaced(tmp_path: Path) -> None:
    path = tmp_path / "gateway.sock"
    stale = socket.socket(socket.AF_UNIX)
    stale.bind(str(path))
    stale.close()
    gateway = Gateway(listen=f"unix:{path}")
    gateway.route("/*", respond=204)
    async with gateway.serving() as served, RawClient(served.url) as client:
        assert (await client.request(GET)).status == 204


async def test_an_address_in_use_is_said_with_the_address() -> None:
    gateway = Gateway()
    gateway.route("/*", respond=204)
    async with gateway.serving("127.0.0.1:0") as served:
        with pytest.raises(OSError, match=f"cannot listen on 127.0.0.1:{served.port}"):
            async with gateway.serving(f"127.0.0.1:{served.port}"):
                pass
