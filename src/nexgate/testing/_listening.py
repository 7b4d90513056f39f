"""A listening socket that can stop listening and come back on the same address."""

from __future__ import annotations

import asyncio
import socket
import ssl as tls
from collections.abc import Callable
from pathlib import Path

# A closed uvloop server gives its socket back a few turns of the loop later. Until then the kernel
# would still accept for it, and "refused" would not be true yet.
_TURNS_UNTIL_CLOSED = 3


class Listener:
    """Accepts on ``127.0.0.1`` (port 0: any) or on the unix socket ``path``."""

    def __init__(
        self,
        factory: Callable[[], asyncio.Protocol],
        *,
        port: int = 0,
        path: str | Path | None = None,
        ssl: tls.SSLContext | None = None,
    ) -> None:
        self.host = "127.0.0.1"
        self.port = port
        self.path = None if path is None else str(path)
        self.ssl = ssl
        self._factory = factory
        self._server: asyncio.Server | None = None

    @property
    def is_open(self) -> bool:
        """Whether connections are accepted."""
        return self._server is not None

    @property
    def url(self) -> str:
        """``http://127.0.0.1:PORT``, ``https://…`` or ``unix:PATH``."""
        if self.path is not None:
            return f"unix:{self.path}"
        return f"{'http' if self.ssl is None else 'https'}://{self.host}:{self.port}"

    async def open(self) -> None:
        """Listen. The first time port 0 becomes a real one, which later times keep."""
        if self._server is not None:
            return
        loop = asyncio.get_running_loop()
        if self.path is not None:
            self._server = await loop.create_unix_server(self._factory, self.path, ssl=self.ssl)
            return
        sock = socket.socket()
        try:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            sock.bind((self.host, self.port))
            self.port = sock.getsockname()[1]
            self._server = await loop.create_server(
                self._factory, sock=sock, ssl=self.ssl, backlog=1024
            )
        except BaseException:
            sock.close()
            raise

    async def close(self) -> None:
        """Stop listening; connections that were accepted live on.

        ``Server.wait_closed`` is not used: from Python 3.12 it waits for those connections too.
        """
        if self._server is None:
            return
        self._server.close()
        self._server = None
        for _ in range(_TURNS_UNTIL_CLOSED):
            await asyncio.sleep(0)
        self._remove_socket_file()

    def _remove_socket_file(self) -> None:
        if self.path is not None:
            Path(self.path).unlink(missing_ok=True)
