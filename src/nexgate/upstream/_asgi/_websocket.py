"""The ``websocket`` scope: the application's messages on one side, a tunnel of frames on the other.

    CONNECTING ──accept──▶ ACCEPTED ──tunnel──▶ OPEN ──close──▶ CLOSING ──their Close──▶ CLOSED
        │                     │                  │                 └──── too long ─────────▲
        ├── close, response   └── a policy       └── their Close, or the connection lost ──┘
        ▼   of its own            refused
      an ordinary answer

The client leaves by saying Close or by being gone; the application hears of it after the messages
that were sent before. The application leaves by ``websocket.close``, by returning (1000), by
raising (1011) or by being shut down (1001); the client then has ``CLOSE_WAIT`` seconds to say Close
too.
"""

from __future__ import annotations

import logging
from collections import deque
from typing import TYPE_CHECKING, Any, Final

from nexgate.errors import Cause, Refused
from nexgate.exchange import HELD_BYTES, Exchange, Response, TunnelEnd
from nexgate.http import Field, Kind, make_field
from nexgate.http._websocket import (
    WebSocketClosed,
    WebSocketCodec,
    accept_token,
    handshake_key,
    offered_subprotocols,
)
from nexgate.problem import problem_content
from nexgate.upstream._asgi._call import Call, DisconnectedError, response_head
from nexgate.upstream._asgi._scope import Message, websocket_scope

if TYPE_CHECKING:
    from nexgate.upstream._asgi._instance import AsgiInstance

__all__ = ["WebSocketCall", "asks_for_websocket", "start_websocket"]

_log = logging.getLogger("nexgate.upstream")

CLOSE_WAIT: Final = 5.0

_CONNECTING, _ACCEPTED, _OPEN, _CLOSING, _CLOSED = range(5)
_STATES: Final = ("connecting", "accepted", "open", "closing", "closed")

_MESSAGE_COST: Final = 64
"""What a message counts for beside its content, so that a million empty ones are not free."""


def asks_for_websocket(upgrade: bytes | None) -> bool:
    """Whether ``websocket`` is among the protocols of an Upgrade field."""
    return upgrade is not None and any(
        p.strip(b" \t").lower() == b"websocket" for p in upgrade.split(b",")
    )


def start_websocket(instance: AsgiInstance, exchange: Exchange) -> None:
    """Begin a call for a handshake, or refuse what is none."""
    try:
        if exchange.header_values(b"sec-websocket-version") != [b"13"]:
            _refuse_version(instance, exchange)
            return
        if exchange.head.has_body:
            raise Refused(Cause.BAD_REQUEST, "a WebSocket handshake has no content")
        key = handshake_key(exchange.method, exchange.fields)
        offered = offered_subprotocols(exchange.fields)
    except Refused as refused:
        instance.finished(exchange)
        exchange.on_failed(refused.cause, refused.detail)
        return
    call = WebSocketCall(instance, exchange, key, offered)
    call.begin(
        exchange,
        websocket_scope(
            exchange,
            offered,
            instance.root_path,
            instance.host,
            instance.drop,
            instance.state,
        ),
    )


def _refuse_version(instance: AsgiInstance, exchange: Exchange) -> None:
    """RFC 6455 §4.4: say which version we speak.

    With 400, as in the example there: a 426 would have to carry Upgrade (RFC 9110 §15.5.22), which
    is a field of the connection and not ours to send.
    """
    detail = "the only WebSocket version is 13"
    content_type, body = problem_content(
        Cause.BAD_REQUEST, detail, exchange.id.decode("latin-1"), exchange.header_values(b"accept")
    )
    response = Response(400, body, {"Sec-WebSocket-Version": "13"}, content_type=content_type)
    exchange.cause = Cause.BAD_REQUEST
    exchange.detail = detail
    instance.finished(exchange)
    exchange.respond(response)


class WebSocketCall(Call):
    """The ``Attempt`` of the handshake; then the far ``TunnelEnd``."""

    def __init__(
        self, instance: AsgiInstance, exchange: Exchange, key: bytes, offered: list[str]
    ) -> None:
        super().__init__(instance, exchange, "websocket.http.response.")
        self._key = key
        self._offered = offered
        self._codec = WebSocketCodec("server", max_message_bytes=instance.max_message_bytes)
        self._state = _CONNECTING
        self._near: TunnelEnd | None = None
        self._connect_told = False
        self._messages: deque[str | bytes] = deque()
        self._queued = 0
        self._is_full = False
        self._has_left = False
        """The application has sent ``websocket.close``."""
        self._end: tuple[int, str] | None = None
        """Code and reason of ``websocket.disconnect``, once it is over."""

    # ---------------------------------------------------------------- ASGI

    async def receive(self) -> Message:
        if not self._connect_told:
            self._connect_told = True
            return {"type": "websocket.connect"}
        while True:
            if self._messages:
                return self._next_message()
            if self._end is not None or self.is_gone or self.is_answered:
                code, reason = self._end or (1006, "")
                self.told()
                return {"type": "websocket.disconnect", "code": code, "reason": reason}
            self.changed.clear()
            await self.changed.wait()

    def _next_message(self) -> Message:
        data = self._messages.popleft()
        self._queued -= len(data) + _MESSAGE_COST
        if self._is_full and self._queued <= HELD_BYTES // 2:
            self._is_full = False
            if self._near is not None:
                self._near.tunnel_resume()
        if self.is_gone:
            # Working off what came before the end is no reason to be cancelled.
            self.deadline = self.loop.time() + self.instance.disconnect_grace
        kind = "text" if isinstance(data, str) else "bytes"
        return {"type": "websocket.receive", kind: data}

    async def send(self, message: Message) -> None:
        kind = message["type"]
        state = self._state
        if state == _CLOSING:
            raise RuntimeError(f"{kind!r} came after 'websocket.close'")
        if self.is_gone:
            self.told()
            raise DisconnectedError("the client is gone")
        if state == _OPEN and kind == "websocket.send":
            data = message.get("bytes")
            if data is None:
                data = message.get("text")
            if data is None:
                raise ValueError("'websocket.send' needs 'bytes' or 'text'")
            self._write(self._codec.encode(data))
            await self.drain()
        elif state == _OPEN and kind == "websocket.close":
            self._close(message.get("code") or 1000, message.get("reason") or "")
            self._has_left = True
        elif state == _CONNECTING and kind == "websocket.accept" and not self._is_answering:
            self._accept(message)
            while self._near is None and not self.is_gone:
                self.writable.clear()
                await self.writable.wait()
            await self.drain()
        elif state == _CONNECTING and kind == "websocket.close" and not self._is_answering:
            await self.answer_empty(403)
        elif state == _CONNECTING and kind.startswith("websocket.http.response."):
            await self.answer(message)
        else:
            raise RuntimeError(f"{kind!r} came while the WebSocket is {_STATES[state]}")

    @property
    def _is_answering(self) -> bool:
        return self._phase != 0

    async def drain(self) -> None:
        if self._state == _CONNECTING:
            await super().drain()
            return
        while self.is_paused and not self.is_gone:
            self.writable.clear()
            await self.writable.wait()
        if self.is_gone:
            self.told()
            raise DisconnectedError("the client is gone")

    # ---------------------------------------------------------------- handshake

    def _accept(self, message: Message) -> None:
        exchange = self.exchange
        assert exchange is not None
        fields = [
            make_field(b"Upgrade", b"websocket"),
            make_field(b"Connection", b"Upgrade"),
            make_field(b"Sec-WebSocket-Accept", accept_token(self._key)),
        ]
        subprotocol = message.get("subprotocol")
        if subprotocol is not None:
            if subprotocol not in self._offered:
                raise ValueError(f"the client did not offer the subprotocol {subprotocol!r}")
            fields.append(make_field(b"Sec-WebSocket-Protocol", subprotocol.encode()))
        fields += _extra_fields(message.get("headers", ()))
        head = response_head(101, fields)
        head.upgrade = b"websocket"
        self._state = _ACCEPTED
        self.exchange = None
        self.instance.wheel.forget(self)
        self.is_paused = False
        self.instance.answered(exchange, head, self.loop.time() - self._began_at)
        response = Response.streaming(exchange, head)
        response.body = b""
        # The exchange still counts as ours, until the tunnel has ended: it tells the instance.
        exchange.on_upgraded(response, self)

    # ---------------------------------------------------------------- closing

    def _close(self, code: int, reason: str) -> None:
        """Say Close, and wait for theirs; what they send until then is for nobody."""
        frame = self._codec.close(code, reason)
        self._state = _CLOSING
        self._messages.clear()
        if self._end is None:
            self._end = code, reason
        near = self._near
        if near is not None:
            near.tunnel_data(frame)
            if self._is_full:
                self._is_full = False
                near.tunnel_resume()
            self.instance.wheel.set(self, self.loop.time() + CLOSE_WAIT)
        self.changed.set()

    def _hang_up(self) -> None:
        """End the connection: both have said Close, or it makes no sense to wait for theirs."""
        near = self._near
        self._near = None
        self._state = _CLOSED
        self.go()
        if near is not None:
            near.tunnel_lost()

    def go(self) -> None:
        super().go()
        if self._has_left:
            self.told()  # it was the application that wanted to leave

    def on_deadline(self, now: float) -> None:
        if self._state == _CLOSING and self._near is not None:
            self._hang_up()
        elif self._state == _OPEN or self._state == _ACCEPTED:
            pass  # a tunnel may be silent for as long as it likes
        else:
            super().on_deadline(now)

    def on_returned(self) -> None:
        if self._state == _CONNECTING:
            super().on_returned()
        else:
            self._leave(1000)

    def on_raised(self, error: BaseException) -> None:
        super().on_raised(error)
        self._leave(1011)

    def on_cancelled(self) -> None:
        super().on_cancelled()
        self._leave(1001)

    def _leave(self, code: int) -> None:
        """The application has ended; whatever is still open ends too."""
        if self._state == _OPEN:
            self._close(code, "")
        elif self._state == _ACCEPTED:
            # The response phase is still under way: the tunnel ends when it opens.
            self._end = code, ""
        elif self._state == _CLOSING and self._near is not None:
            self.instance.wheel.set(self, self.loop.time() + CLOSE_WAIT)

    # ---------------------------------------------------------------- TunnelEnd

    def tunnel_opened(self, near: TunnelEnd) -> None:
        self._near = near
        self._state = _OPEN
        self.writable.set()
        if self._end is not None:
            self._close(*self._end)

    def tunnel_data(self, data: bytes) -> None:
        near = self._near
        if near is None:
            return
        for found in self._codec.feed(data):
            if isinstance(found, WebSocketClosed):
                if self._end is None:
                    self._end = found.code, found.reason
                self._answer_frames()
                self._hang_up()
                return
            if self._state == _OPEN:
                self._messages.append(found)
                self._queued += len(found) + _MESSAGE_COST
        self._answer_frames()
        if self._queued > HELD_BYTES and self._state == _OPEN:
            self._is_full = True
            near.tunnel_pause()
        self.changed.set()

    def _answer_frames(self) -> None:
        # A client that pings but does not read gets its pong when it reads.
        if not self.is_paused or self._codec.is_closed:
            self._write(self._codec.take_output())

    def _write(self, frame: bytes) -> None:
        if frame and self._near is not None:
            self._near.tunnel_data(frame)

    def tunnel_eof(self) -> None:
        """No Close, and nothing will come: RFC 6455 §7.1.5 calls it 1006."""
        self._end = self._end or (1006, "")
        self._hang_up()

    def tunnel_lost(self) -> None:
        self._near = None
        self._state = _CLOSED
        self._end = self._end or (1006, "")
        self.go()

    def tunnel_pause(self) -> None:
        self.is_paused = True

    def tunnel_resume(self) -> None:
        self.is_paused = False
        self._answer_frames()
        self.writable.set()

    def __repr__(self) -> str:
        return f"<WebSocketCall {self.what} {_STATES[self._state]}>"


def _extra_fields(headers: Any) -> list[Field]:
    """What the application adds to the 101. The handshake itself is not its to write."""
    fields: list[Field] = []
    for name, value in headers:
        field = make_field(bytes(name), bytes(value))
        if field.name.startswith(b"sec-websocket-"):
            raise ValueError(f"{field.name.decode()} is part of the handshake, not a header")
        if not field.kind & Kind.HOP:
            fields.append(field)
    return fields
