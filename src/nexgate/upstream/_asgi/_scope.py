"""What an application is told about a request.

The header fields are those that a service behind a connection would receive: they are taken from
the very head that would be sent, so that the rules of ``_encode.py`` hold here without being
repeated. What is left out is what only a connection has.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any, Final
from urllib.parse import quote, unquote

from nexgate.exchange import Exchange
from nexgate.upstream._encode import encode_request_head

__all__ = ["AsgiApp", "Message", "Receive", "Scope", "Send", "http_scope", "websocket_scope"]

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
AsgiApp = Callable[[Scope, Receive, Send], Awaitable[None]]
"""An ASGI 3 application, such as a Starlette, FastAPI, Litestar or Nexios object."""

VERSIONS: Final = {"version": "3.0", "spec_version": "2.4"}

# Expect is met by us when the application asks for content; the others belong to a connection.
_NOT_FOR_APPS: Final = frozenset(
    (b"connection", b"expect", b"te", b"transfer-encoding", b"upgrade")
)


def http_scope(
    exchange: Exchange, root_path: str | None, host: bytes | None, drop: int, state: dict[str, Any]
) -> Scope:
    """The ``http`` scope; ``root_path`` as in ``AsgiInstance``."""
    extensions: dict[str, Any] = {}
    if exchange.head.te_trailers:
        extensions["http.response.trailers"] = {}
    if not exchange.head.http10:
        extensions["http.response.early_hint"] = {}
    scope = _common(exchange, exchange.scheme, root_path, host, drop, state)
    scope["type"] = "http"
    scope["method"] = exchange.method.decode("ascii")
    scope["extensions"] = extensions
    return scope


def websocket_scope(
    exchange: Exchange,
    subprotocols: list[str],
    root_path: str | None,
    host: bytes | None,
    drop: int,
    state: dict[str, Any],
) -> Scope:
    scheme = "wss" if exchange.scheme == "https" else "ws"
    scope = _common(exchange, scheme, root_path, host, drop, state)
    scope["type"] = "websocket"
    scope["subprotocols"] = subprotocols
    scope["extensions"] = {"websocket.http.response": {}}
    return scope


def _common(
    exchange: Exchange,
    scheme: str,
    root_path: str | None,
    host: bytes | None,
    drop: int,
    state: dict[str, Any],
) -> Scope:
    path = exchange.path
    prefix = _prefix_taken_off(exchange) if root_path is None else quote(root_path).encode()
    root = unquote(prefix.decode("utf-8", "replace"))
    return {
        "asgi": VERSIONS.copy(),
        "http_version": "1.0" if exchange.head.http10 else "1.1",
        "scheme": scheme,
        # The path includes root_path, which frameworks take off again (ASGI: "path").
        "path": root + unquote(path.decode("utf-8", "replace")),
        "raw_path": prefix + path,
        "query_string": exchange.query,
        "root_path": root,
        "headers": _headers(exchange, host, drop),
        "client": (exchange.client, 0) if exchange.client else None,
        "server": _server(exchange),
        "state": state.copy(),
    }


def _prefix_taken_off(exchange: Exchange) -> bytes:
    """What the route took off the path, and what a server that mounted us took off before.

    Both are told to services in X-Forwarded-Prefix; what a client says there is dropped.
    """
    base = exchange.forward_base
    if b"X-Forwarded-Prefix: " not in base:
        return b""
    lines = base.split(b"\r\n")
    return b"".join(line[20:] for line in lines if line.startswith(b"X-Forwarded-Prefix: "))


def _headers(exchange: Exchange, host: bytes | None, drop: int) -> list[tuple[bytes, bytes]]:
    raw = encode_request_head(exchange, host or exchange.head.authority or b"localhost", drop)
    headers: list[tuple[bytes, bytes]] = []
    for line in raw[:-4].split(b"\r\n")[1:]:
        name, _, value = line.partition(b": ")
        name = name.lower()
        if name not in _NOT_FOR_APPS:
            headers.append((name, value))
    return headers


def _server(exchange: Exchange) -> tuple[str, int] | None:
    """Where the client believes to be: an application has no address of its own."""
    authority = exchange.head.authority.decode("latin-1")
    if not authority:
        return None
    host, colon, port = authority.rpartition(":")
    if colon and port.isdigit():
        return host.strip("[]"), int(port)
    return authority.strip("[]"), 443 if exchange.scheme == "https" else 80
