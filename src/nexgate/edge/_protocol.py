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
from typing import Final, cast

from nexgate.clock import NEVER
from nexgate.edge._answering import LINGER_BYTES, Answering
from nexgate.edge._phase import BODY_CHUNKED, BODY_FIXED, CLOSED, HEAD, LINGER, TUNNEL, WAIT
from nexgate.errors import Cause, Refused
from nexgate.http import (
    ChunkedDecoder,
    Field,
    RequestHead,
    parse_request_fields,
    parse_request_line,
    resolve_target,
    split_target,
)
from nexgate.problem import problem_content

__all__ = ["EdgeConnection"]

_DRIP_SECONDS: Final = 0.02
"""For how long the bytes of a head that drips are left to collect."""


class EdgeConnection(Answering, asyncio.Protocol):
    """An ``asyncio.Protocol`` for one accepted connection. Also the ``Downstream`` of its
    exchanges.
    """

    __slots__ = ()

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
        if state == HEAD:
            if not self.is_writable:
                self._keep_ahead(data)  # it does not read our answers: no further request yet
                return
            if self._buffer:
                data = self._buffer + data
                self._buffer = b""
            self._read_heads(data)
        elif state == TUNNEL:
            assert self.tunnel is not None
            self.tunnel.from_client(data)
        elif state == BODY_FIXED or state == BODY_CHUNKED:
            rest = self._read_body(data)
            if rest:
                self._keep_ahead(rest)
        elif state == WAIT:
            self._keep_ahead(data)
        elif state == LINGER:
            self._lingered += len(data)
            if self._lingered > LINGER_BYTES:
                self.transport.close()

    def eof_received(self) -> bool:
        """The client sent its FIN. It may still read: a half-close is how some clients end a
        request.
        """
        self._eof = True
        state = self.state
        if state == TUNNEL:
            assert self.tunnel is not None
            return self.tunnel.client_eof()
        if state == WAIT and self._scheme == "http":
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
        self.state = CLOSED
        self.wheel.forget(self)
        self.edge.forget(self)
        self._buffer = b""
        self._pending_head = None
        if state == TUNNEL and self.tunnel is not None:
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
        if self.state == TUNNEL:
            assert self.tunnel is not None
            self.tunnel.client_full()
            return
        if self.exchange is not None:
            self.exchange.on_writable(False)
        self.wheel.set(self, self.loop.time() + self.edge.timeouts.write)

    def resume_writing(self) -> None:
        self.is_writable = True
        if self.state == TUNNEL:
            assert self.tunnel is not None
            self.tunnel.client_drained()
            return
        if self.exchange is not None:
            if self.state in (BODY_FIXED, BODY_CHUNKED):
                self.wheel.set(self, self.loop.time() + self.edge.timeouts.body)
            elif self.state == WAIT:
                self.deadline = NEVER
                if self._eof:
                    self.wheel.set(self, self.loop.time() + self.edge.timeouts.half_close)
            self.exchange.on_writable(True)
        elif self.state == HEAD and self._buffer:
            self.loop.call_soon(self._read_ahead)

    # ---------------------------------------------------------------- deadlines

    def on_deadline(self, now: float) -> None:
        state = self.state
        if state == LINGER or state == CLOSED:
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
        elif state == HEAD:
            if self._buffer:
                self._refuse(Refused(Cause.HEAD_TIMEOUT))
            else:
                self._close()  # idle for too long, or it never said a word
        elif state == BODY_FIXED or state == BODY_CHUNKED:
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
        elif state == WAIT and self._eof:
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
        elif state == TUNNEL:
            self.transport.abort()

    def start_drain(self) -> None:
        """Finish what is under way, then close. An idle client gets its next request answered
        first.
        """
        self._close_after = True
        if self.state == HEAD and not self._buffer:
            self.wheel.set(self, self.loop.time() + self.edge.drain_grace)

    # ---------------------------------------------------------------- reading heads

    def _keep_ahead(self, data: bytes) -> None:
        """Bytes of the next request, early: kept, bounded by pausing."""
        if self.state != WAIT:
            if self.state != HEAD:
                return
            self.loop.call_soon(self._read_ahead)
        self._buffer = self._buffer + data if self._buffer else data
        if len(self._buffer) > self.edge.limits.max_pipelined_bytes and not self._paused_by & 1:
            self._pause(1)

    def _read_ahead(self) -> None:
        """The exchange is over (or never began): go on with what the client sent ahead."""
        while self.state == HEAD and self._buffer and self.is_writable:
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
            if self._head_reads > self.edge.limits.eager_head_reads:
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
        self.state = WAIT
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
            self.state = WAIT
            self.deadline = NEVER
        elif (
            head.content_length is not None
            and len(rest) >= head.content_length
            and not head.expects_continue
        ):
            # The content came with the head: it leaves with the head, too.
            self.state = WAIT
            self.deadline = NEVER
            body = rest[: head.content_length]
            rest = rest[head.content_length :]
        else:
            if head.chunked:
                self.state = BODY_CHUNKED
                self._decoder = ChunkedDecoder(Cause.BAD_BODY)
            else:
                assert head.content_length is not None
                self.state = BODY_FIXED
                self._body_left = head.content_length
            self.wheel.set(self, self.loop.time() + edge.timeouts.body)
        if not head.keep_alive:
            self._close_after = True
        self._continue_due = head.expects_continue
        if rest and self.state == WAIT:
            self._keep_ahead(rest)
            rest = b""
        edge.dispatch(self, method, path, query, head, body)
        if rest and self.state in (BODY_FIXED, BODY_CHUNKED):
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
        if self.state == BODY_FIXED:
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
                self.state = WAIT
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
            self.state = WAIT
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
