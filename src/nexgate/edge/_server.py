"""Listening in one process: sockets, TLS, and an orderly end."""

from __future__ import annotations

import asyncio
import socket
import ssl
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from nexgate.edge._protocol import EdgeConnection
from nexgate.edge._worker import EdgeState

__all__ = ["Listener", "Server", "bind", "server_context"]

_BACKLOG: Final = 4096


@dataclass(slots=True)
class Listener:
    """A bound socket and how to speak on it."""

    socket: socket.socket
    tls: ssl.SSLContext | None = None
    trust_peer: bool = False

    @property
    def url(self) -> str:
        scheme = "https" if self.tls is not None else "http"
        if self.socket.family == socket.AF_UNIX:
            return f"unix:{self.socket.getsockname()}"
        host, port = self.socket.getsockname()[:2]
        return f"{scheme}://[{host}]:{port}" if ":" in host else f"{scheme}://{host}:{port}"


def bind(host: str, port: int, path: str) -> socket.socket:
    """A listening socket: TCP on ``host:port``, or a Unix socket at ``path`` (replacing a stale
    one). Raises ``OSError``.
    """
    if path:
        _remove_stale(path)
        sock, address = socket.socket(socket.AF_UNIX), path
    else:
        infos = socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE | socket.AI_ADDRCONFIG
        )
        family, _, _, _, address = infos[0]  # type: ignore[assignment]  # tuples for TCP
        sock = socket.socket(family, socket.SOCK_STREAM)
    try:
        if not path:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if sock.family == socket.AF_INET6:
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        sock.bind(address)
        sock.listen(_BACKLOG)
        sock.setblocking(False)
    except BaseException:
        sock.close()
        raise
    return sock


def _remove_stale(path: str) -> None:
    """A socket file that nobody answers on is left over from a process that was killed."""
    probe = socket.socket(socket.AF_UNIX)
    probe.settimeout(1.0)
    try:
        probe.connect(path)
    except (ConnectionRefusedError, TimeoutError):
        Path(path).unlink(missing_ok=True)
    except OSError:
        pass  # nothing there, or nothing that is ours to remove
    finally:
        probe.close()


def server_context(
    *, client_ca: str | None, client_auth: str, min_version: str, ciphers: str | None
) -> ssl.SSLContext:
    """TLS for a listener, without certificates yet."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = (
        ssl.TLSVersion.TLSv1_3 if min_version == "1.3" else ssl.TLSVersion.TLSv1_2
    )
    context.options |= ssl.OP_NO_COMPRESSION | ssl.OP_NO_RENEGOTIATION
    context.set_alpn_protocols(["http/1.1"])
    if ciphers is not None:
        context.set_ciphers(ciphers)
    if client_ca is not None:
        context.load_verify_locations(client_ca)
        context.verify_mode = ssl.CERT_REQUIRED if client_auth == "required" else ssl.CERT_OPTIONAL
    return context


class Server:
    """Serves one ``EdgeState`` on listeners, in the running loop.

    ``connection`` is what a connection is: a subclass may learn who its peer is.
    """

    def __init__(
        self,
        edge: EdgeState,
        listeners: Sequence[Listener],
        *,
        connection: type[EdgeConnection] = EdgeConnection,
    ) -> None:
        self.edge = edge
        self.listeners = list(listeners)
        self._connection = connection
        self._servers: list[asyncio.Server] = []

    async def start(self) -> None:
        edge, connection = self.edge, self._connection
        for listener in self.listeners:
            trust = listener.trust_peer
            scheme = "https" if listener.tls is not None else "http"

            def make(scheme: str = scheme, trust: bool = trust) -> EdgeConnection:
                return connection(edge, scheme, trust_peer=trust)

            if listener.socket.family == socket.AF_UNIX:
                create: Any = edge.loop.create_unix_server
            else:
                create = edge.loop.create_server
            # A handshake is a head too: who dawdles with it is not waited for longer.
            tls: dict[str, Any] = (
                {"ssl": listener.tls, "ssl_handshake_timeout": edge.timeouts.head}
                if listener.tls is not None
                else {}
            )
            server = await create(make, sock=listener.socket, backlog=_BACKLOG, **tls)
            self._servers.append(server)

    @property
    def urls(self) -> list[str]:
        return [listener.url for listener in self.listeners]

    def stop_accepting(self) -> None:
        """Other processes that hold the sockets go on accepting."""
        for server in self._servers:
            server.close()
        self._servers.clear()

    async def stop(self, drain: float) -> bool:
        """Stop accepting, finish what is under way (at most ``drain`` seconds)."""
        self.stop_accepting()
        return await self.edge.drain(drain)
