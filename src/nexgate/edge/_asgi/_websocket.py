"""WebSockets: an ASGI server has made messages of the frames, a service wants frames.

The handshake with the service is ours: key, version and the subprotocols that the client offered.
When the service says 101 we are a WebSocket client on the tunnel to it. An answer other than 101
goes to the client as an HTTP response where the server can do that, else as a refused handshake.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any, Final

from nexgate.edge._asgi._downstream import AsgiDownstream, response_headers
from nexgate.edge._asgi._outbox import Message, Receive, Send
from nexgate.errors import Cause
from nexgate.exchange import Exchange, Response, TunnelEnd
from nexgate.http._websocket import (
    MAX_MESSAGE_BYTES,
    WebSocketClosed,
    WebSocketCodec,
    accept_token,
    is_sendable_code,
    make_key,
)
from nexgate.problem import problem_content

if TYPE_CHECKING:
    from nexgate.edge._asgi._entry import AsgiEdge

__all__ = ["HANDSHAKE_FIELDS", "WebSocketDownstream"]

HANDSHAKE_FIELDS: Final = frozenset(
    (
        b"connection",
        b"content-length",
        b"sec-websocket-accept",
        b"sec-websocket-extensions",
        b"sec-websocket-key",
        b"sec-websocket-protocol",
        b"sec-websocket-version",
        b"te",
        b"transfer-encoding",
        b"upgrade",
    )
)
"""Fields of the client's own handshake with the server that runs us: replaced by ours."""

_GOODBYE: Final = 1.0
"""Seconds for the service to answer our Close, so that it sees an orderly end."""

_MESSAGE_COST: Final = 64
"""What a message counts for beside its content, so that a million empty ones are not free."""


class WebSocketDownstream(AsgiDownstream):
    """The ``Downstream`` of the handshake; then the near ``TunnelEnd``."""

    def __init__(
        self,
        edge: AsgiEdge,
        scope: Any,
        receive: Receive,
        send: Send,
        *,
        trust_peer: bool,
        max_message_bytes: int = MAX_MESSAGE_BYTES,
    ) -> None:
        super().__init__(
            edge, scope, receive, send, "websocket.http.response.", trust_peer=trust_peer
        )
        self._key = make_key()
        self._offered: list[str] = list(scope.get("subprotocols") or ())
        self._codec = WebSocketCodec("client", max_message_bytes=max_message_bytes)
        self._far: TunnelEnd | None = None
        self._has_tunnel = False
        self._far_is_full = False
        self._is_leaving = False
        self._far_gone = asyncio.Event()

    def handshake(self) -> list[tuple[bytes, bytes]]:
        fields = [
            (b"connection", b"Upgrade"),
            (b"upgrade", b"websocket"),
            (b"sec-websocket-version", b"13"),
            (b"sec-websocket-key", self._key),
        ]
        if self._offered:
            fields.append((b"sec-websocket-protocol", ", ".join(self._offered).encode("latin-1")))
        return fields

    # ---------------------------------------------------------------- the end of the call

    async def settle(self) -> None:
        if self._is_leaving and self._far is not None:
            try:
                async with asyncio.timeout(_GOODBYE):
                    await self._far_gone.wait()
            except TimeoutError:
                pass

    def hang_up(self, exchange: Exchange) -> None:
        if not self._has_tunnel:
            exchange.on_client_gone()
            return
        self._let_far_go()
        exchange.tunnel_closed()

    def _let_far_go(self) -> None:
        far = self._far
        self._far = None
        self._far_gone.set()
        if far is not None:
            far.tunnel_lost()

    # ---------------------------------------------------------------- from the client

    def take(self, exchange: Exchange, message: Message) -> bool:
        kind = message["type"]
        if kind == "websocket.disconnect":
            if not self._has_tunnel:
                exchange.on_client_gone()
                return False
            self._leave(message.get("code", 1005), message.get("reason") or "")
            return False
        far = self._far
        if kind == "websocket.receive" and far is not None and self._codec.can_send:
            data = message.get("bytes")
            if data is None:
                data = message.get("text") or ""
            frame = self._codec.encode(data)
            exchange.bytes_in += len(frame)
            far.tunnel_data(frame)
        return True

    def _leave(self, code: int, reason: str) -> None:
        """The client has gone: the service is told as it told us, or cut off as we were."""
        far = self._far
        self._is_leaving = True
        if far is not None:
            if code == 1005 or is_sendable_code(code):
                far.tunnel_data(self._codec.close(code, reason))
                if not self.outbox.is_writable:
                    far.tunnel_resume()  # its Close may be behind what nobody will read
            else:
                self._let_far_go()
        self.outbox.abort()

    # ---------------------------------------------------------------- Downstream

    # An answer that is no 101: a response of its own if the server can, else a bare refusal, after
    # which the outbox takes no more.

    def send_head(self, exchange: Exchange, response: Response) -> None:
        if self._can_answer():
            super().send_head(exchange, response)

    def send_problem(self, status: int, content_type: str, body: bytes) -> None:
        if self._can_answer():
            super().send_problem(status, content_type, body)

    def _can_answer(self) -> bool:
        if "websocket.http.response" in self._extensions:
            return True
        self.outbox.put({"type": "websocket.close", "code": 1008, "reason": ""})
        self.is_complete = True
        self.outbox.end()
        return False

    def open_tunnel(self, exchange: Exchange, response: Response, far: TunnelEnd) -> None:
        problem, subprotocol = self._check(response)
        if problem:
            self._refuse_tunnel(exchange, far, problem)
            return
        self._has_tunnel = self.is_complete = True
        self._far = far
        self.outbox.put(
            {
                "type": "websocket.accept",
                "subprotocol": subprotocol,
                "headers": [
                    (name, value)
                    for name, value in response_headers(exchange, response)
                    if not name.startswith(b"sec-websocket-") and name != b"content-length"
                ],
            }
        )
        far.tunnel_opened(self)

    def _check(self, response: Response) -> tuple[str, str | None]:
        """What is wrong with the service's handshake (RFC 6455 §4.1), and its subprotocol."""
        values = response.headers.raw_all
        if values(b"sec-websocket-accept") != [accept_token(self._key)]:
            return "the service's Sec-WebSocket-Accept is wrong", None
        if values(b"sec-websocket-extensions"):
            return "the service uses a WebSocket extension unasked", None
        chosen = [v.decode("latin-1") for v in values(b"sec-websocket-protocol")]
        if len(chosen) > 1 or not set(chosen) <= set(self._offered):
            return "the service chose a subprotocol that was not offered", None
        return "", chosen[0] if chosen else None

    def _refuse_tunnel(self, exchange: Exchange, far: TunnelEnd, problem: str) -> None:
        cause = exchange.cause = Cause.UPSTREAM_MALFORMED
        exchange.detail = problem
        exchange.status = cause.status
        far.tunnel_lost()
        content_type, body = problem_content(
            cause, problem, exchange.id.decode("latin-1"), exchange.header_values(b"accept")
        )
        self.send_problem(cause.status, content_type, body)
        exchange.tunnel_closed()

    def _on_writable(self, writable: bool) -> None:
        far = self._far
        if far is None:
            super()._on_writable(writable)
        elif writable:
            far.tunnel_resume()
        else:
            far.tunnel_pause()

    # ---------------------------------------------------------------- TunnelEnd

    def tunnel_data(self, data: bytes) -> None:
        exchange = self.exchange
        far = self._far
        if far is None or exchange is None:
            return
        exchange.bytes_out += len(data)
        for found in self._codec.feed(data):
            if isinstance(found, WebSocketClosed):
                self._closed_by_far(found)
                return
            kind = "text" if isinstance(found, str) else "bytes"
            message = {"type": "websocket.send", kind: found}
            self.outbox.put(message, len(found) + _MESSAGE_COST)
        if not self._far_is_full:
            self._write(self._codec.take_output())

    def _closed_by_far(self, closed: WebSocketClosed) -> None:
        far = self._far
        self._far = None
        self._far_gone.set()
        code = closed.code
        if not closed.by_peer and code != 1009:
            code = 1011  # it is the service that broke the protocol, not the client
        elif not is_sendable_code(code):
            code = 1000  # 1005: it gave no status
        reason = closed.reason if closed.by_peer else ""
        self.outbox.put({"type": "websocket.close", "code": code, "reason": reason})
        self.outbox.end()
        if far is not None:
            far.tunnel_data(self._codec.take_output())
            far.tunnel_lost()

    def _write(self, frame: bytes) -> None:
        if frame and self._far is not None:
            self._far.tunnel_data(frame)

    def tunnel_eof(self) -> None:
        """The end of a service without a Close: there is a code for that, but not to send."""
        self._fail_client()
        self._let_far_go()

    def tunnel_lost(self) -> None:
        if self._far is not None:
            self._far = None
            self._far_gone.set()
            self._fail_client()

    def _fail_client(self) -> None:
        reason = "the service closed the connection"
        self.outbox.put({"type": "websocket.close", "code": 1011, "reason": reason})
        self.outbox.end()

    def tunnel_pause(self) -> None:
        self._far_is_full = True
        self.may_read.clear()

    def tunnel_resume(self) -> None:
        self._far_is_full = False
        self.may_read.set()
        self._write(self._codec.take_output())

    def tunnel_opened(self, near: TunnelEnd) -> None:
        raise AssertionError("a tunnel is opened from its far side only")
