"""One client connection speaking HTTP/1.1.

The connection is a small machine; one message is read at a time, so what follows a message is never
interpreted before that message has been answered:

    HEAD ──head complete──▶ BODY ──body complete──▶ WAIT ──answered──▶ HEAD …
      │                       │                       │
      └── error ─▶ LINGER ◀───┘                       └── 101 ──▶ TUNNEL

*HEAD* collects until the empty line. *BODY* feeds content to the exchange. *WAIT* keeps what the
client sends ahead (pipelining), bounded. *LINGER* has answered for the last time and reads on for a
moment, so that closing does not reset the answer away (RFC 9112 §9.6). *TUNNEL* passes bytes.
"""

from __future__ import annotations

import asyncio
import re
import socket
import struct
from typing import TYPE_CHECKING, Final, cast

from nexgate.clock import NEVER, TICK, Timed, Wheel
from nexgate.edge._tunnel import Tunnel
from nexgate.errors import Cause, Refused
from nexgate.exchange import Exchange, Response, TunnelEnd
from nexgate.http import (
    ChunkedDecoder,
    Field,
    Kind,
    RequestHead,
    ResponseHead,
    encode_last_chunk,
    parse_request_fields,
    parse_request_line,
    reason_phrase,
    resolve_target,
    split_target,
)
from nexgate.http._date import date_line
from nexgate.problem import problem_content

if TYPE_CHECKING:
    from nexgate.edge._worker import EdgeState

__all__ = ["EdgeConnection"]

_HEAD, _BODY_FIXED, _BODY_CHUNKED, _WAIT, _LINGER, _TUNNEL, _CLOSED = range(7)

_LINGER_SECONDS: Final = 2.0
_LINGER_BYTES: Final = 1024 * 1024
_EAGER_READS: Final = 32
"""Reads of one unfinished head after which the next are collected for a moment."""
_DRIP_SECONDS: Final = 0.02
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


class EdgeConnection(asyncio.Protocol, Timed):
    """An ``asyncio.Protocol`` for one accepted connection. Also the ``Downstream`` of its
    exchanges.
    """

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
        self.state = _HEAD
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

    # ---------------------------------------------------------------- asyncio.Protocol

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast("asyncio.Transport", transport)
        peer = transport.get_extra_info("peername")
        if isinstance(peer, tuple):
            self.peer = self.client = peer[0]
        if not self.edge.admit(self):
            # Over max_connections: the cheapest honest answer, then gone. Of a flood not even that:
            # the moments for which refused connections linger must not cost what others need.
            if self.edge.is_flooded:
                self.transport.abort()
            else:
                self._refuse_connection()
            return
        self.wheel.set(self, self.loop.time() + self.edge.timeouts.head)

    def _refuse_connection(self) -> None:
        content_type, body = problem_content(Cause.OVERLOADED, "too many connections", "-", [])
        self.transport.write(
            b"HTTP/1.1 503 Service Unavailable\r\nContent-Type: %b\r\nContent-Length: %d\r\n"
            b"Retry-After: 1\r\nConnection: close\r\n\r\n%b"
            % (content_type.encode(), len(body), body)
        )
        self._start_linger()

    def data_received(self, data: bytes) -> None:
        state = self.state
        if state == _HEAD:
            if not self.is_writable:
                self._keep_ahead(data)  # it does not read our answers: no further request yet
                return
            if self._buffer:
                data = self._buffer + data
                self._buffer = b""
            self._read_heads(data)
        elif state == _TUNNEL:
            assert self.tunnel is not None
            self.tunnel.from_client(data)
        elif state == _BODY_FIXED or state == _BODY_CHUNKED:
            rest = self._read_body(data)
            if rest:
                self._keep_ahead(rest)
        elif state == _WAIT:
            self._keep_ahead(data)
        elif state == _LINGER:
            self._lingered += len(data)
            if self._lingered > _LINGER_BYTES:
                self.transport.close()

    def eof_received(self) -> bool:
        """The client sent its FIN. It may still read: a half-close is how some clients end a
        request.
        """
        self._eof = True
        state = self.state
        if state == _TUNNEL:
            assert self.tunnel is not None
            return self.tunnel.client_eof()
        if state == _WAIT and self._scheme == "http":
            # Everything asked has been received and the answer may still be wanted; but a client
            # that has gone for good looks the same, so the service works for it only this much
            # longer.
            self._close_after = True
            self._write_backlog = -1
            self.wheel.set(self, self.loop.time() + self.edge.timeouts.half_close)
            return True
        exchange = self.exchange
        if exchange is not None:
            self.exchange = None
            exchange.cause = Cause.BAD_BODY
            exchange.detail = "the client closed before its request was complete"
            exchange.on_client_gone()
        return False  # the transport closes

    def connection_lost(self, exc: Exception | None) -> None:
        state = self.state
        self.state = _CLOSED
        self.wheel.forget(self)
        self.edge.forget(self)
        self._buffer = b""
        self._pending_head = None
        if state == _TUNNEL and self.tunnel is not None:
            tunnel = self.tunnel
            self.tunnel = None
            tunnel.client_lost()
        exchange = self.exchange
        if exchange is not None:
            self.exchange = None
            exchange.on_client_gone()

    def pause_writing(self) -> None:
        self.is_writable = False
        self._write_backlog = self.transport.get_write_buffer_size()
        if self.state == _TUNNEL:
            assert self.tunnel is not None
            self.tunnel.client_full()
            return
        if self.exchange is not None:
            self.exchange.on_writable(False)
        self.wheel.set(self, self.loop.time() + self.edge.timeouts.write)

    def resume_writing(self) -> None:
        self.is_writable = True
        if self.state == _TUNNEL:
            assert self.tunnel is not None
            self.tunnel.client_drained()
            return
        if self.exchange is not None:
            if self.state in (_BODY_FIXED, _BODY_CHUNKED):
                self.wheel.set(self, self.loop.time() + self.edge.timeouts.body)
            elif self.state == _WAIT:
                self.deadline = NEVER
                if self._eof:
                    self.wheel.set(self, self.loop.time() + self.edge.timeouts.half_close)
            self.exchange.on_writable(True)
        elif self.state == _HEAD and self._buffer:
            self.loop.call_soon(self._read_ahead)

    # ---------------------------------------------------------------- deadlines

    def on_deadline(self, now: float) -> None:
        state = self.state
        if state == _LINGER or state == _CLOSED:
            self.transport.abort()
        elif not self.is_writable:
            backlog = self.transport.get_write_buffer_size()
            if backlog < self._write_backlog:  # slow, but reading
                self._write_backlog = backlog
                self.wheel.set(self, now + self.edge.timeouts.write)
                return
            if self.exchange is not None:
                self.exchange.detail = "the client stopped reading"
            self.transport.abort()
        elif state == _HEAD:
            if self._buffer:
                self._refuse(Refused(Cause.HEAD_TIMEOUT))
            else:
                self._close()  # idle for too long, or it never said a word
        elif state == _BODY_FIXED or state == _BODY_CHUNKED:
            exchange = self.exchange
            if exchange is not None:
                if self._paused_by & 2:  # it is us who do not read
                    self.wheel.set(self, now + self.edge.timeouts.body)
                    return
                self._close_after = True
                exchange._abandon_attempt()
                exchange.fail(Cause.BODY_TIMEOUT)
                self.flush()
            else:
                self._close()
        elif state == _WAIT and self._eof:
            exchange = self.exchange
            if (
                exchange is not None
                and exchange.head_sent
                and exchange.bytes_out != self._write_backlog
            ):
                # The answer has begun and flows: it goes on.
                self._write_backlog = exchange.bytes_out
                self.wheel.set(self, now + self.edge.timeouts.half_close)
            else:
                self.transport.abort()
        elif state == _TUNNEL:
            self.transport.abort()

    def start_drain(self) -> None:
        """Finish what is under way, then close. An idle client gets its next request answered
        first.
        """
        self._close_after = True
        if self.state == _HEAD and not self._buffer:
            self.wheel.set(self, self.loop.time() + self.edge.drain_grace)

    # ---------------------------------------------------------------- reading heads

    def _keep_ahead(self, data: bytes) -> None:
        """Bytes of the next request, early: kept, bounded by pausing."""
        if self.state != _WAIT:
            if self.state != _HEAD:
                return
            self.loop.call_soon(self._read_ahead)
        self._buffer = self._buffer + data if self._buffer else data
        if len(self._buffer) > self.edge.limits.max_pipelined_bytes and not self._paused_by & 1:
            self._pause(1)

    def _read_ahead(self) -> None:
        """The exchange is over (or never began): go on with what the client sent ahead."""
        while self.state == _HEAD and self._buffer and self.is_writable:
            data = self._buffer
            self._buffer = b""
            self._resume(1)
            before = self.requests
            self._read_heads(data)
            if self.requests == before:
                return

    def _read_heads(self, data: bytes) -> None:
        end = data.find(b"\r\n\r\n", self._buffer_searched)
        limits = self.edge.head_limits
        if end < 0:
            if data[:2] == b"\r\n" and len(data) >= 2:
                # RFC 9112 §2.2: one empty line before a request line is ignored.
                data = data[2:]
                if self._blank_skipped or data[:1] in (b"\r", b"\n"):
                    self._refuse(Refused(Cause.BAD_REQUEST, "the request line is empty"))
                    return
                self._blank_skipped = True
            if not data:
                return
            if not self._buffer_searched:
                self._head_reads = 0
                if self.requests:
                    # The first byte of a further request: from now on it is slow, not idle.
                    self.wheel.set(self, self.loop.time() + self.edge.timeouts.head)
            self._head_reads += 1
            if self._head_reads > _EAGER_READS:
                # It drips. Every read costs as much as its thousand bytes would: let some collect.
                self._pause(4)
                self.loop.call_later(_DRIP_SECONDS, self._resume, 4)
            searched = self._buffer_searched
            self._buffer_searched = max(0, len(data) - 3)
            if len(data) > limits.max_bytes:
                self._refuse_oversize(data)
            elif (fault := _early_fault(data, searched)) is not None:
                self._refuse(Refused(Cause.BAD_REQUEST, fault))
            else:
                self._buffer = data
            return
        self._buffer_searched = 0
        start = 0
        if data[0] == 13 and data[:2] == b"\r\n":
            if end == 0 or self._blank_skipped:
                # CRLFCRLF: that is two empty lines.
                self._refuse(Refused(Cause.BAD_REQUEST, "the request line is empty"))
                return
            start = 2
        if end - start > limits.max_bytes:
            self._refuse_oversize(data)
            return
        line_end = data.find(b"\r\n", start)
        try:
            method, target, http10 = parse_request_line(
                data[start:line_end], limits.max_target_bytes
            )
            section = data[line_end + 2 : end]
            # The fields of the request before, again? Then they need no second reading.
            if section == self._section and not http10:
                assert self._section_head is not None
                head = self._section_head
            else:
                head = parse_request_fields(section, limits.max_fields, http10=http10)
                if self.requests and not http10:
                    self._section = section
                    self._section_head = head
            if target[0] != 0x2F:
                head, target = resolve_target(head, method, target)
            path, query = split_target(target)
        except Refused as refused:
            self._refuse(refused)
            return
        self.requests += 1
        self._blank_skipped = False
        at = end + 4
        if head.has_body or len(data) > at or not head.keep_alive:
            self._begin(method, path, query, head, data[at:])
            return
        # All that _begin does for a request without content on a connection that stays.
        self.state = _WAIT
        self.deadline = NEVER
        self.edge.dispatch(self, method, path, query, head)

    def _refuse_oversize(self, data: bytes) -> None:
        line_end = data.find(b"\r\n")
        if line_end < 0 or line_end > self.edge.head_limits.max_target_bytes + 64:
            self._refuse(
                Refused(
                    Cause.URI_TOO_LONG,
                    f"the limit is {self.edge.head_limits.max_target_bytes} bytes",
                )
            )
        else:
            self._refuse(
                Refused(
                    Cause.HEAD_TOO_LARGE, f"the limit is {self.edge.head_limits.max_bytes} bytes"
                )
            )

    def _begin(
        self, method: bytes, path: bytes, query: bytes | None, head: RequestHead, rest: bytes
    ) -> None:
        edge = self.edge
        body: bytes | None = None
        if not head.has_body:
            self.state = _WAIT
            self.deadline = NEVER
        elif (
            head.content_length is not None
            and len(rest) >= head.content_length
            and not head.expects_continue
        ):
            # The content came with the head: it leaves with the head, too.
            self.state = _WAIT
            self.deadline = NEVER
            body = rest[: head.content_length]
            rest = rest[head.content_length :]
        else:
            if head.chunked:
                self.state = _BODY_CHUNKED
                self._decoder = ChunkedDecoder(Cause.BAD_BODY)
            else:
                assert head.content_length is not None
                self.state = _BODY_FIXED
                self._body_left = head.content_length
            self.wheel.set(self, self.loop.time() + edge.timeouts.body)
        if not head.keep_alive:
            self._close_after = True
        self._continue_due = head.expects_continue
        if rest and self.state == _WAIT:
            self._keep_ahead(rest)
            rest = b""
        edge.dispatch(self, method, path, query, head, body)
        if rest and self.state in (_BODY_FIXED, _BODY_CHUNKED):
            rest = self._read_body(rest)
            if rest:
                self._keep_ahead(rest)

    # ---------------------------------------------------------------- reading bodies

    def _read_body(self, data: bytes) -> bytes:
        """Feed the exchange; returns what follows the body."""
        exchange = self.exchange
        rest = b""
        ended = False
        trailers: list[Field] = []
        if self.state == _BODY_FIXED:
            left = self._body_left
            if len(data) > left:
                rest = data[left:]
                data = data[:left]
            self._body_left = left = left - len(data)
            ended = left == 0
        else:
            decoder = self._decoder
            assert decoder is not None
            try:
                data = decoder.feed(data)
            except Refused as refused:
                self._close_after = True
                self.state = _WAIT
                if exchange is None:
                    self._start_linger()
                else:
                    exchange._abandon_attempt()
                    exchange.fail(refused.cause, refused.detail)
                    self.flush()
                return b""
            if decoder.done:
                ended = True
                rest = decoder.rest
                trailers = decoder.trailers
                self._decoder = None
        if ended:
            self.state = _WAIT
            self.deadline = NEVER
        elif data:
            self.deadline = self.loop.time() + self.edge.timeouts.body
        if exchange is None:
            # The answer is out already; the rest of the body is read so that the connection can
            # live on.
            if ended:
                self._next()
            return rest
        if data:
            exchange.on_request_data(data)
        if ended and not exchange.ended:
            exchange.on_request_end(trailers)
        if self._pending_head is not None:
            self.flush()
        return rest

    def _pause(self, by: int) -> None:
        if not self._paused_by and self.state != _CLOSED:
            self.transport.pause_reading()
        self._paused_by |= by

    def _resume(self, by: int) -> None:
        if self._paused_by & by:
            self._paused_by &= ~by
            if not self._paused_by and self.state != _CLOSED:
                self.transport.resume_reading()
                if self.state in (_BODY_FIXED, _BODY_CHUNKED):
                    self.deadline = self.loop.time() + self.edge.timeouts.body

    def pause_request(self) -> None:
        self._pause(2)

    def resume_request(self) -> None:
        self._resume(2)

    def _close(self) -> None:
        """Close when everything has been written, which a client that does not read may prevent."""
        self.state = _LINGER
        self.transport.close()
        self.wheel.set(self, self.loop.time() + _LINGER_SECONDS)

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
        self.state = _LINGER
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
        if self.state == _BODY_FIXED or self.state == _BODY_CHUNKED:
            # Answered before the body is in. After an answer instead of 100 the client may or may
            # not send it (RFC 9110 §10.1.1); a long or endless rest is not worth reading.
            if self._continue_due or (
                response.body is not None
                and (self._decoder is not None or self._body_left > _LINGER_BYTES)
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
            or self.state == _CLOSED
            or self.edge.draining
            or exchange.head.http10
            or exchange.method == b"HEAD"
        ):
            return False
        self.transport.write(encoded + body)
        return True

    def send_body(self, data: bytes) -> None:
        if self.state == _CLOSED:
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
        if self.state == _CLOSED:
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
        if head is not None and self.state != _CLOSED:
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
        if self.state == _CLOSED:
            return
        if self.state == _TUNNEL:
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
        self.state = _LINGER
        self.wheel.set(self, self.loop.time() + _LINGER_SECONDS)

    def exchange_ended(self, exchange: Exchange) -> None:
        edge = self.edge
        edge.total_exchanges += 1
        if edge.exchange_log is not None:
            edge.exchange_log(exchange)
        if self.exchange is not exchange:
            return
        self.exchange = None
        if self.state in (_BODY_FIXED, _BODY_CHUNKED):
            self._early_answer()
        elif self.state == _WAIT:
            self._next()
        elif self.state == _TUNNEL:
            tunnel = self.tunnel
            self.tunnel = None
            if tunnel is not None:
                tunnel.abandon()
            self._close()

    def _early_answer(self) -> None:
        """Answered before the body was in: read a little rest, or give the connection up."""
        if self._close_after or self._body_left > _LINGER_BYTES or self._decoder is not None:
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
        self.state = _HEAD
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
        self.state = _TUNNEL
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

    def __repr__(self) -> str:
        names = ("HEAD", "BODY", "BODY", "WAIT", "LINGER", "TUNNEL", "CLOSED")
        return f"<EdgeConnection {self.client} {names[self.state]} requests={self.requests}>"


_FAULT: Final = re.compile(rb"\x00|(?<!\r)\n|\r(?!\n)(?!\Z)")


def _early_fault(data: bytes, searched: int) -> str | None:
    """What can be said about an incomplete head: bytes that no completion can make valid."""
    m = _FAULT.search(data, searched)
    if m is None:
        return None
    if m[0] == b"\x00":
        return "there is a NUL in the head"
    if m[0] == b"\n":
        return "a line ends in LF without CR"
    return "there is a CR that does not end a line"
