"""WebSocket for the two places where the gateway itself speaks it: to an application, and from one.

A WebSocket between a client and a service passes through as bytes (``edge/_tunnel.py``). Only
where one side is ASGI must frames become messages. The framing is ``wsproto``'s; this module adds
what a gateway owes on top of it: handshakes held to RFC 6455 §4, messages put together under a
limit, a bound on the pongs that are owed, and close codes that may go on the wire. Sans-IO like the
rest of the package.

No extension is ever negotiated: compression would cost each connection a window of memory, and
between processes of one machine it saves nothing.
"""

from __future__ import annotations

import base64
import hashlib
import re
import secrets
from collections import deque
from dataclasses import dataclass
from typing import Final, Literal

from wsproto.connection import Connection, ConnectionState, ConnectionType
from wsproto.events import BytesMessage, CloseConnection, Ping, Pong, TextMessage
from wsproto.frame_protocol import CloseReason

from nexgate.errors import Cause, Refused
from nexgate.http._fields import Field

__all__ = [
    "MAX_MESSAGE_BYTES",
    "WebSocketClosed",
    "WebSocketCodec",
    "accept_token",
    "handshake_key",
    "is_sendable_code",
    "make_key",
    "offered_subprotocols",
]

MAX_MESSAGE_BYTES: Final = 16 * 1024 * 1024
"""Default limit on one message, put together from its frames. Beyond it: Close 1009."""

_GUID: Final = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11"  # RFC 6455 §1.3
# base64 of 16 bytes; the last letter before the padding carries two bits that must be zero.
_KEY: Final = re.compile(rb"[A-Za-z0-9+/]{21}[AQgw]==").fullmatch
_TOKEN: Final = re.compile(rb"[!#$%&'*+\-.^_`|~0-9A-Za-z]+").fullmatch
_MAX_PONGS: Final = 64
# Reserved for reporting, never sent (RFC 6455 §7.4.1): no status, cut off, TLS failure.
_NEVER_SENT: Final = frozenset((1004, 1005, 1006, 1015))


# -------------------------------------------------------------------- handshake


def make_key() -> bytes:
    """A fresh Sec-WebSocket-Key (RFC 6455 §4.1)."""
    return base64.b64encode(secrets.token_bytes(16))


def accept_token(key: bytes) -> bytes:
    """The Sec-WebSocket-Accept that answers ``key`` (RFC 6455 §4.2.2)."""
    return base64.b64encode(hashlib.sha1(key + _GUID, usedforsecurity=False).digest())


def handshake_key(method: bytes, fields: list[Field]) -> bytes:
    """The key of a client's handshake. Raises ``Refused`` when it is none (RFC 6455 §4.2.1).

    The version is the caller's to look at first: a wrong one has an answer of its own.
    """
    if method != b"GET":
        raise Refused(Cause.BAD_REQUEST, "a WebSocket handshake is a GET")
    keys = [f[1] for f in fields if f[0] == b"sec-websocket-key"]
    if len(keys) != 1 or _KEY(keys[0]) is None:
        raise Refused(Cause.BAD_REQUEST, "there is no valid Sec-WebSocket-Key")
    return keys[0]


def offered_subprotocols(fields: list[Field]) -> list[str]:
    """What the client offers, in its order. Raises ``Refused`` for what is no list of tokens."""
    offered: list[str] = []
    for field in fields:
        if field[0] != b"sec-websocket-protocol":
            continue
        for member in field[1].split(b","):
            name = member.strip(b" \t")
            if not name:
                continue
            if _TOKEN(name) is None:
                raise Refused(Cause.BAD_REQUEST, "Sec-WebSocket-Protocol is not a list of tokens")
            offered.append(name.decode())
    return offered


def is_sendable_code(code: int) -> bool:
    """Whether ``code`` may stand in a Close frame (RFC 6455 §7.4)."""
    return (1000 <= code <= 1014 or 3000 <= code <= 4999) and code not in _NEVER_SENT


# -------------------------------------------------------------------- messages


@dataclass(frozen=True, slots=True)
class WebSocketClosed:
    """The last thing a codec reports: nothing is received after it."""

    code: int
    reason: str
    by_peer: bool
    """False when it is us who fail the connection: the peer broke the protocol or the limit."""


class WebSocketCodec:
    """Bytes to messages and back, for one end of one open connection.

    ``feed`` returns the complete messages (``str`` or ``bytes``) and, at the end, a
    ``WebSocketClosed``. Whatever must be sent in response waits in ``take_output``: call it after
    each ``feed``, and again when the peer can take data once more. A peer that pings without
    reading is owed the latest pongs, not all of them (RFC 6455 §5.5.3 would allow just one).
    """

    __slots__ = ("_answer", "_connection", "_is_over", "_max_bytes", "_parts", "_pings", "_size")

    def __init__(
        self, role: Literal["client", "server"], *, max_message_bytes: int = MAX_MESSAGE_BYTES
    ) -> None:
        self._connection = Connection(
            ConnectionType.CLIENT if role == "client" else ConnectionType.SERVER
        )
        self._max_bytes = max_message_bytes
        self._parts: list[str] | list[bytes] = []
        self._size = 0
        self._answer = bytearray()
        self._pings: deque[bytes] = deque(maxlen=_MAX_PONGS)
        self._is_over = False

    @property
    def can_send(self) -> bool:
        """Neither side has said Close."""
        return self._connection.state is ConnectionState.OPEN

    @property
    def is_closed(self) -> bool:
        """Nothing more comes in: Close was received, or the connection failed."""
        return self._is_over

    def feed(self, data: bytes) -> list[str | bytes | WebSocketClosed]:
        """What became complete with ``data``. Ignores what follows the end."""
        found: list[str | bytes | WebSocketClosed] = []
        if self._is_over:
            return found
        connection = self._connection
        connection.receive_data(data)
        for event in connection.events():
            if isinstance(event, TextMessage | BytesMessage):
                message = self._add(event)
                if message is not None:
                    found.append(message)
                elif self._size > self._max_bytes:
                    text = f"a message is larger than {self._max_bytes} bytes"
                    found.append(self._fail(1009, text))
                    break
            elif isinstance(event, Ping):
                self._pings.append(bytes(event.payload))
            elif isinstance(event, CloseConnection):
                found.append(self._closed(event))
                break
        return found

    def _add(self, event: TextMessage | BytesMessage) -> str | bytes | None:
        """The whole message, if this was its last piece and all of it is within the limit."""
        data: str | bytes
        if isinstance(event, TextMessage):
            data = event.data
            self._size += len(data) if data.isascii() else len(data.encode())
        else:
            data = bytes(event.data)
            self._size += len(data)
        if self._size > self._max_bytes:
            return None
        if event.message_finished and not self._parts:
            self._size = 0
            return data
        if data:
            # All pieces of a message are of one kind: wsproto sees to it.
            self._parts.append(data)  # type: ignore[arg-type]
        if not event.message_finished:
            return None
        parts = self._parts
        self._parts = []
        self._size = 0
        if isinstance(event, BytesMessage):
            return b"".join(parts)  # type: ignore[arg-type]  # see above
        return "".join(parts)  # type: ignore[arg-type]  # see above

    def _closed(self, event: CloseConnection) -> WebSocketClosed:
        state = self._connection.state
        if state is ConnectionState.OPEN or state is ConnectionState.LOCAL_CLOSING:
            # No Close frame moved the state: wsproto reports what it could not read.
            return self._fail(int(event.code), event.reason or "")
        self._is_over = True
        if state is ConnectionState.REMOTE_CLOSING:
            # RFC 6455 §5.5.1: answered with the status that was received.
            self._answer += self._connection.send(event.response())
        return WebSocketClosed(int(event.code), event.reason or "", by_peer=True)

    def _fail(self, code: int, reason: str) -> WebSocketClosed:
        self._is_over = True
        self._parts = []
        if self.can_send:
            self._answer += self._connection.send(CloseConnection(code, reason))
        return WebSocketClosed(code, reason, by_peer=False)

    def take_output(self) -> bytes:
        """Pong and Close frames that are due."""
        out = bytearray()
        if self.can_send:
            for ping in self._pings:
                out += self._connection.send(Pong(ping))
        self._pings.clear()
        out += self._answer
        self._answer.clear()
        return bytes(out)

    def encode(self, data: str | bytes) -> bytes:
        """The frame of one message. Call only while ``can_send``."""
        if isinstance(data, str):
            return bytes(self._connection.send(TextMessage(data)))
        return bytes(self._connection.send(BytesMessage(data)))

    def close(self, code: int, reason: str = "") -> bytes:
        """The Close frame, once; empty when Close has been said. ``reason`` is cut to what fits.

        1005 makes one without a status. Raises ``ValueError`` for a code that must not be sent.
        """
        if not self.can_send:
            return b""
        if code == 1005:
            return bytes(self._connection.send(CloseConnection(CloseReason.NO_STATUS_RCVD)))
        if not is_sendable_code(code):
            raise ValueError(f"{code} is not a WebSocket close code that may be sent")
        return bytes(self._connection.send(CloseConnection(code, reason)))
