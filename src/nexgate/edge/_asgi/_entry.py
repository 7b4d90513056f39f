"""A scope becomes an exchange."""

from __future__ import annotations

import asyncio
import logging
from typing import Any, Protocol
from urllib.parse import quote

from nexgate.clock import Wheel
from nexgate.edge._asgi._downstream import AsgiDownstream, HttpDownstream
from nexgate.edge._asgi._head import mounted_path, read_head, read_target
from nexgate.edge._asgi._outbox import Message, Receive, Send
from nexgate.edge._asgi._websocket import HANDSHAKE_FIELDS, WebSocketDownstream
from nexgate.edge._worker import EdgeTimeouts, ExchangeLog
from nexgate.errors import Refused
from nexgate.exchange import Exchange, Plan
from nexgate.http import HeadLimits, RequestHead
from nexgate.http._websocket import MAX_MESSAGE_BYTES
from nexgate.problem import problem_content
from nexgate.snapshot import Snapshot

__all__ = ["AsgiEdge", "AsgiEntry"]

_log = logging.getLogger("nexgate.edge")


class AsgiEdge(Protocol):
    """What an entry shares with the connections of its worker. ``EdgeState`` is one."""

    loop: asyncio.AbstractEventLoop
    wheel: Wheel
    snapshot: Snapshot
    timeouts: EdgeTimeouts
    head_limits: HeadLimits
    exchange_log: ExchangeLog | None
    total_exchanges: int
    refused: int

    def next_id(self) -> bytes: ...


class AsgiEntry:
    """An ASGI application that takes ``http`` and ``websocket`` scopes through the gateway.

    Every request meets the snapshot that is in force when it arrives. Mounted below a prefix, the
    prefix is taken off before routing and told to services in ``X-Forwarded-Prefix``.

    Cancelling a call cancels its exchange. ``BrokenResponseError`` comes out of a call whose
    response had begun and could not be completed: servers cut the connection then, which is the
    point.
    """

    def __init__(
        self,
        edge: AsgiEdge,
        *,
        trust_peer: bool = False,
        max_message_bytes: int = MAX_MESSAGE_BYTES,
    ) -> None:
        """``trust_peer``: believe forwarded fields of every client, for a server on a Unix socket
        behind a proxy. ``max_message_bytes``: of one WebSocket message from a service.
        """
        self.edge = edge
        self.trust_peer = trust_peer
        self.max_message_bytes = max_message_bytes

    async def __call__(self, scope: Any, receive: Receive, send: Send) -> None:
        kind = scope["type"]
        if kind == "http":
            await self._http(scope, receive, send)
        elif kind == "websocket":
            await self._websocket(scope, receive, send)
        else:
            raise ValueError(f"there is nothing here for a {kind!r} scope")

    async def _http(self, scope: Any, receive: Receive, send: Send) -> None:
        down = HttpDownstream(self.edge, scope, receive, send, trust_peer=self.trust_peer)
        first: Message | None = None
        try:
            limits = self.edge.head_limits
            head = read_head(scope["headers"], scope, limits)
            head.upgrade = None  # ASGI has no way to hand a connection over
            if head.content_length is None and not head.chunked:
                # HTTP/2, and servers that keep Transfer-Encoding to themselves: only content that
                # arrives says that there is some.
                first = await receive()
                if first["type"] == "http.disconnect":
                    return
                _set_content(head, first)
            down.expect(head.content_length)
            exchange, plan = self._open(down, scope, scope["method"], head, scope["scheme"])
        except Refused as refused:
            await self._refuse(down, refused)
            return
        await down.run(exchange, plan, first)

    async def _websocket(self, scope: Any, receive: Receive, send: Send) -> None:
        if (await receive())["type"] != "websocket.connect":
            return
        down = WebSocketDownstream(
            self.edge,
            scope,
            receive,
            send,
            trust_peer=self.trust_peer,
            max_message_bytes=self.max_message_bytes,
        )
        try:
            limits = self.edge.head_limits
            # What the service gets is HTTP/1.1, whatever the client's connection is.
            head = read_head(scope["headers"], scope, limits, leave_out=HANDSHAKE_FIELDS)
            pairs = [(f.name, f.value) for f in head.fields] + down.handshake()
            head = read_head(pairs, {"http_version": "1.1"}, limits)
            scheme = "https" if scope.get("scheme") == "wss" else "http"
            exchange, plan = self._open(down, scope, "GET", head, scheme)
        except Refused as refused:
            await self._refuse(down, refused)
            return
        await down.run(exchange, plan, None)

    def _open(
        self, down: AsgiDownstream, scope: Any, method: str, head: RequestHead, scheme: str
    ) -> tuple[Exchange, Plan]:
        edge = self.edge
        mounted = mounted_path(scope)
        name, path, query = read_target(
            method, mounted.path, scope.get("query_string") or b"", edge.head_limits
        )
        exchange, plan = edge.snapshot.open(
            down, name, path, query, head, down, scheme, edge.next_id(), edge.loop.time()
        )
        if mounted.prefix:
            line = b"X-Forwarded-Prefix: " + quote(mounted.prefix).encode()
            base = exchange.forward_base
            exchange.forward_base = b"%b\r\n%b" % (base, line) if base else line
        return exchange, plan

    async def _refuse(self, down: AsgiDownstream, refused: Refused) -> None:
        """Answer what never became an exchange."""
        edge = self.edge
        edge.refused += 1
        request_id = edge.next_id().decode()
        _log.info("refused %s (request %s): %s", down.peer, request_id, refused)
        cause = refused.cause
        content_type, body = problem_content(cause, refused.detail, request_id, [])
        down.send_problem(cause.status, content_type, body)
        try:
            await down.outbox.run(edge.timeouts.write)
        except OSError:
            pass  # the client did not wait for it

    def __repr__(self) -> str:
        return f"<AsgiEntry exchanges={self.edge.total_exchanges}>"


def _set_content(head: RequestHead, first: Message) -> None:
    """The framing for a service, of content that came without any."""
    body = first.get("body", b"")
    if first.get("more_body", False):
        head.chunked = head.has_body = True
    elif body:
        head.content_length = len(body)
        head.has_body = True
