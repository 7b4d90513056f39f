"""How a client connection answers: heads, content, refusals, and what comes after.

This is the ``Downstream`` half of an ``EdgeConnection``, and holds the state of both halves; the
other half reads (``_protocol``).
"""

from __future__ import annotations

import asyncio
import socket
import struct
from typing import TYPE_CHECKING, Final

from nexgate.clock import NEVER, TICK, Timed, Wheel
from nexgate.edge._phase import BODY_CHUNKED, BODY_FIXED, CLOSED, HEAD, LINGER, TUNNEL, WAIT
from nexgate.edge._tunnel import Tunnel
from nexgate.errors import Refused
from nexgate.exchange import Exchange, Response, TunnelEnd
from nexgate.http import (
    ChunkedDecoder,
    Field,
    Kind,
    RequestHead,
    ResponseHead,
    encode_last_chunk,
    reason_phrase,
)
from nexgate.http._date import date_line
from nexgate.problem import problem_content

if TYPE_CHECKING:
    from nexgate.edge._worker import EdgeState

__all__ = ["LINGER_BYTES", "Answering"]

_LINGER_SECONDS: Final = 2.0
LINGER_BYTES: Final = 1024 * 1024
"""How much of an unwanted rest is read before the connection is given up."""
_RESET: Final = struct.pack("ii", 1, 0)

_status_lines: dict[int, bytes] = {}


def _status_line(status: int, reason: bytes) -> bytes:
    """Remembered for the canonical phrase; services that invent phrases pay the formatting."""
    line = _status_lines.get(status)
    if line is None:
        line = _status_lines[status] = b"HTTP/1.1 %d %b" % (status, reason_phrase(status))
    if reason and not line.endswith(reason):
        return b"HTTP/1.1 %d %b" % (status, reason)
    return line


class Answering(Timed):
    """See the module's docstring."""

    __slots__ = (
        "_blank_skipped",
        "_body_left",
        "_buffer",
        "_buffer_searched",
        "_chunked_out",
        "_close_after",
        "_close_delimited",
        "_continue_due",
        "_decoder",
        "_eof",
        "_head_reads",
        "_lingered",
        "_paused_by",
        "_pending_head",
        "_scheme",
        "_section",
        "_section_head",
        "_write_backlog",
        "client",
        "edge",
        "exchange",
        "forward_base",
        "forward_base_for",
        "is_writable",
        "loop",
        "peer",
        "requests",
        "state",
        "transport",
        "trust_peer",
        "tunnel",
        "wheel",
    )

    def __init__(self, edge: EdgeState, scheme: str = "http", *, trust_peer: bool = False) -> None:
        self.deadline = NEVER
        self._slot = -1
        self.edge = edge
        self.loop: asyncio.AbstractEventLoop = edge.loop
        self.wheel: Wheel = edge.wheel
        self.transport: asyncio.Transport = None  # type: ignore[assignment]  # set on connection
        self.state = HEAD
        self.exchange: Exchange | None = None
        self.tunnel: Tunnel | None = None
        self.requests = 0
        self.peer = ""
        self.client = ""
        self.is_writable = True
        self.forward_base: bytes | None = None
        self.forward_base_for: bytes = b""
        self.trust_peer = trust_peer
        self._scheme = scheme
        self._buffer = b""
        self._buffer_searched = 0
        self._head_reads = 0
        self._blank_skipped = False
        self._section: bytes | None = None
        self._section_head: RequestHead | None = None
        self._body_left = 0
        self._decoder: ChunkedDecoder | None = None
        self._pending_head: bytes | None = None
        self._chunked_out = False
        self._close_delimited = False
        self._close_after = False
        self._continue_due = False
        self._eof = False
        self._paused_by = 0
        self._lingered = 0
        self._write_backlog = 0

    # ---------------------------------------------------------------- flow

    def _pause(self, by: int) -> None:
        if not self._paused_by and self.state != CLOSED:
            self.transport.pause_reading()
        self._paused_by |= by

    def _resume(self, by: int) -> None:
        if self._paused_by & by:
            self._paused_by &= ~by
            if not self._paused_by and self.state != CLOSED:
                self.transport.resume_reading()
                if self.state in (BODY_FIXED, BODY_CHUNKED):
                    self.deadline = self.loop.time() + self.edge.timeouts.body

    def pause_request(self) -> None:
        self._pause(2)

    def resume_request(self) -> None:
        self._resume(2)

    def _close(self) -> None:
        """Close when everything has been written, which a client that does not read may prevent."""
        self.state = LINGER
        self.transport.close()
        self.wheel.set(self, self.loop.time() + _LINGER_SECONDS)

    def _read_ahead(self) -> None:
        """Go on with what the client sent ahead; the other half's."""
        raise NotImplementedError

    # ---------------------------------------------------------------- answering

    def _refuse(self, refused: Refused) -> None:
        """Answer a request that never became an exchange, and close: its framing cannot be
        trusted.
        """
        cause = refused.cause
        request_id = self.edge.next_id()
        content_type, body = problem_content(cause, refused.detail, request_id.decode(), [])
        self.transport.write(
            b"HTTP/1.1 %d %b\r\nContent-Type: %b\r\nContent-Length: %d\r\n"
            b"Cache-Control: no-store\r\n%b\r\nConnection: close\r\n\r\n%b"
            % (
                cause.status,
                reason_phrase(cause.status),
                content_type.encode(),
                len(body),
                date_line(),
                body,
            )
        )
        self.edge.on_refused(self, request_id, refused)
        self._start_linger()

    def _start_linger(self) -> None:
        self.state = LINGER
        self._buffer = b""
        self._lingered = 0
        if self._paused_by:
            self._paused_by = 0
            self.transport.resume_reading()
        if self._eof or not self.transport.can_write_eof():
            self._close()
        else:
            self.transport.write_eof()
            self.wheel.set(self, self.loop.time() + _LINGER_SECONDS)

    def send_interim(self, status: int, fields: list[Field]) -> None:
        if status == 100:
            if not self._continue_due:
                return  # nobody waits for it
            self._continue_due = False
        lines = [_status_line(status, b"")]
        lines.extend(f.line for f in fields if not f.kind & Kind.HOP)
        self.transport.write(b"\r\n".join(lines) + b"\r\n\r\n")

    def send_head(self, exchange: Exchange, response: Response) -> None:
        request = exchange.head
        head = response.head
        self._close_delimited = False
        if (
            head is not None
            and response.fields is head.fields
            and response.body is None
            and response.status == head.status
            and not self._close_after
            and not self._continue_due
            and not self.edge.draining
            and not request.http10
            and exchange.method != b"HEAD"
        ):
            # The service's own head for a client that stays: the same bytes whoever asked.
            self._chunked_out = head.chunked or head.until_close
            encoded = head.encoded
            if encoded is None:
                encoded = head.encoded = self._encode_head(exchange, response)
            self._pending_head = (
                encoded if head.flags & 128 else b"%b%b\r\n\r\n" % (encoded[:-2], date_line())
            )
            return
        if self.state == BODY_FIXED or self.state == BODY_CHUNKED:
            # Answered before the body is in. After an answer instead of 100 the client may or may
            # not send it (RFC 9110 §10.1.1); a long or endless rest is not worth reading.
            if self._continue_due or (
                response.body is not None
                and (self._decoder is not None or self._body_left > LINGER_BYTES)
            ):
                self._close_after = True
        if self.edge.draining:
            self._close_after = True
        encoded = self._encode_head(exchange, response)
        more = b""
        if not any(f[3] & 128 for f in response.fields):
            more = date_line() + b"\r\n"
        if exchange.allow is not None:
            more += b"Allow: %b\r\n" % exchange.allow
        if self._close_after:
            more += b"Connection: close\r\n"
        elif request.http10:
            more += b"Connection: keep-alive\r\n"
        self._pending_head = b"%b%b\r\n" % (encoded[:-2], more)

    def _encode_head(self, exchange: Exchange, response: Response) -> bytes:
        """Status line, fields and framing, with the final empty line, without Date and Connection
        of ours.
        """
        status = response.status
        body = response.body
        head = response.head
        named = head.named if head is not None else ()
        sent = {id(field) for field in head.fields} if head is not None and named else set()
        is_head = exchange.method == b"HEAD"
        told = (is_head and status != 204) or status == 304  # RFC 9110 §8.6
        lines = [_status_line(status, response.reason)]
        for field in response.fields:
            kind = field[3]
            if kind & 257:  # Kind.HOP | Kind.ANSWER_HOP
                # The length that the content would have: told where no content follows.
                if not (field[0] == b"content-length" and body is None and told):
                    continue
            if named and field[0] in named and id(field) in sent:
                continue
            lines.append(field[2])
        self._chunked_out = False
        if status != 204 and status != 304:
            length = len(body) if body is not None else response.content_length
            if is_head:
                if body is not None:
                    lines.append(b"Content-Length: %d" % len(body))
            elif length is not None:
                lines.append(b"Content-Length: %d" % length)
            elif exchange.head.http10:
                self._close_delimited = True
                self._close_after = True
            else:
                self._chunked_out = True
                lines.append(b"Transfer-Encoding: chunked")
        lines.append(b"\r\n")
        return b"\r\n".join(lines)

    def send_whole(self, exchange: Exchange, head: ResponseHead, body: bytes) -> bool:
        encoded = head.encoded
        if (
            encoded is None  # its first time: the long way makes it
            or head.content_length is None
            or not head.flags & 128
            or self._close_after
            or self._continue_due
            or self.state == CLOSED
            or self.edge.draining
            or exchange.head.http10
            or exchange.method == b"HEAD"
        ):
            return False
        self.transport.write(encoded + body)
        return True

    def send_body(self, data: bytes) -> None:
        if self.state == CLOSED:
            return
        if self._chunked_out:
            head = self._pending_head
            if head is not None:
                self._pending_head = None
                self.transport.write(b"%b%x\r\n%b\r\n" % (head, len(data), data))
            elif len(data) > 4096:
                self.transport.writelines((b"%x\r\n" % len(data), data, b"\r\n"))
            else:
                self.transport.write(b"%x\r\n%b\r\n" % (len(data), data))
            return
        head = self._pending_head
        if head is not None:
            self._pending_head = None
            if len(data) > 65536:
                self.transport.write(head)
            else:
                data = head + data
        self.transport.write(data)

    def send_end(self, trailers: list[Field]) -> None:
        if self.state == CLOSED:
            return
        head = self._pending_head
        self._pending_head = None
        if self._chunked_out:
            last = encode_last_chunk(trailers)
            self.transport.write(last if head is None else head + last)
        elif head is not None:
            self.transport.write(head)

    def flush(self) -> None:
        head = self._pending_head
        if head is not None and self.state != CLOSED:
            self._pending_head = None
            self.transport.write(head)

    def take_back_head(self) -> bool:
        """Whether the head was still waiting for content, and is now as if never sent."""
        if self._pending_head is None:
            return False
        self._pending_head = None
        return True

    def break_off(self) -> None:
        """Cut the response so that it is visibly incomplete (RFC 9112 §8)."""
        self._pending_head = None
        self._close_after = True
        if self.state == CLOSED:
            return
        if self.state == TUNNEL:
            if self.tunnel is not None:
                self.tunnel.go_away()
            return
        if self._close_delimited:
            # Only a reset tells this client; an orderly close would look like the end of the
            # content.
            sock = self.transport.get_extra_info("socket")
            if sock is not None:
                try:
                    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
                except OSError:
                    pass
            self.transport.abort()
        else:
            self.transport.close()
        self.state = LINGER
        self.wheel.set(self, self.loop.time() + _LINGER_SECONDS)

    def exchange_ended(self, exchange: Exchange) -> None:
        edge = self.edge
        edge.total_exchanges += 1
        if edge.exchange_log is not None:
            edge.exchange_log(exchange)
        if self.exchange is not exchange:
            return
        self.exchange = None
        if self.state in (BODY_FIXED, BODY_CHUNKED):
            self._early_answer()
        elif self.state == WAIT:
            self._next()
        elif self.state == TUNNEL:
            tunnel = self.tunnel
            self.tunnel = None
            if tunnel is not None:
                tunnel.abandon()
            self._close()

    def _early_answer(self) -> None:
        """Answered before the body was in: read a little rest, or give the connection up."""
        if self._close_after or self._body_left > LINGER_BYTES or self._decoder is not None:
            self._start_linger()
            return
        if self._paused_by & 2:
            self._resume(2)
        self.wheel.set(self, self.loop.time() + self.edge.timeouts.body)

    def _next(self) -> None:
        """The message is over in both directions: read the next one, or close."""
        if self._close_after or self.edge.draining:
            self._start_linger()
            return
        self.state = HEAD
        self._continue_due = False
        self._buffer_searched = 0
        if self._paused_by:
            self._resume(3)
        if self._buffer:
            self.wheel.set(self, self.loop.time() + self.edge.timeouts.head)
            self.loop.call_soon(self._read_ahead)
        else:
            deadline = self.loop.time() + self.edge.timeouts.idle
            if self._slot >= 0 and self._slot * TICK <= deadline:
                self.deadline = deadline
            else:
                self.wheel.set(self, deadline)

    # ---------------------------------------------------------------- tunnels

    def open_tunnel(self, exchange: Exchange, response: Response, far: TunnelEnd) -> None:
        named = response.head.named if response.head is not None else ()
        lines = [_status_line(101, response.reason)]
        lines.extend(
            f.line
            for f in response.fields
            if not f.kind & (Kind.HOP | Kind.ANSWER_HOP) and f.name not in named
        )
        upgrade = response.headers.raw(b"upgrade")
        if upgrade is not None:
            lines.append(b"Upgrade: " + upgrade)
        lines.append(b"Connection: Upgrade")
        lines.append(b"\r\n")
        self.transport.write(b"\r\n".join(lines))
        self.deadline = NEVER
        self.state = TUNNEL
        is_websocket = upgrade is not None and upgrade.lower() == b"websocket"
        self.tunnel = tunnel = Tunnel(self, exchange, far, is_websocket=is_websocket)
        self.edge.on_tunnel_opened(tunnel)
        early = self._buffer
        self._buffer = b""
        if self._paused_by:
            self._resume(3)
        far.tunnel_opened(tunnel)
        if early:
            tunnel.from_client(early)
