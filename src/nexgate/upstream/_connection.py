"""One connection to an instance: sends an exchange's request, reads the response, goes back to the
pool.

A response is held to the standard a request is held to: what is malformed, ambiguous or cut short
fails the attempt, and the connection is never used again. A connection returns to the pool only
when both messages ended exactly where they said, and nothing followed.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Final, cast

from nexgate.clock import NEVER, TICK, Timed, Wheel
from nexgate.errors import Cause, Refused
from nexgate.exchange import Exchange, Failure, Reach, Response, TunnelEnd
from nexgate.http import ChunkedDecoder, Field, ResponseHead, encode_last_chunk, parse_response_head

if TYPE_CHECKING:
    from nexgate.upstream._instance import InstanceState

__all__ = ["UpstreamConnection"]

_IDLE, _HEAD, _FIXED, _CHUNKED, _UNTIL_CLOSE, _TUNNEL, _CLOSED = range(7)

_MAX_INTERIM: Final = 16
_LAST_WORDS: Final = 30.0
"""Seconds that a service has to read what the client said last before it left a tunnel."""


class UpstreamConnection(asyncio.Protocol, Timed):
    """An ``asyncio.Protocol``; the ``Attempt`` of its exchange; the far ``TunnelEnd`` after a
    101.
    """

    __slots__ = (
        "_buffer",
        "_chunked_request",
        "_decoder",
        "_interims",
        "_is_paused",
        "_keep_alive",
        "_left",
        "_near",
        "_request_sent",
        "_searched",
        "_timeouts",
        "_tunnel_early",
        "_write_full",
        "exchange",
        "instance",
        "loop",
        "sent_at",
        "state",
        "transport",
        "uses",
        "wheel",
    )

    def __init__(
        self, instance: InstanceState, loop: asyncio.AbstractEventLoop, wheel: Wheel
    ) -> None:
        self.deadline = NEVER
        self._slot = -1
        self.instance = instance
        self.loop = loop
        self.wheel = wheel
        self.transport: asyncio.Transport = None  # type: ignore[assignment]  # set on connection
        self.state = _IDLE
        self.exchange: Exchange | None = None
        self.uses = 0
        self.sent_at = 0.0
        self._buffer = b""
        self._searched = 0
        self._decoder: ChunkedDecoder | None = None
        self._left = 0
        self._keep_alive = True
        self._request_sent = False
        self._chunked_request = False
        self._is_paused = False
        self._write_full = False
        self._interims = 0
        self._timeouts = instance.timeouts
        self._near: TunnelEnd | None = None
        self._tunnel_early: list[bytes] | None = None

    # ---------------------------------------------------------------- the pool's view

    @property
    def is_usable(self) -> bool:
        """Idle, open, and the service has not said anything since its last answer."""
        return self.state == _IDLE and not self.transport.is_closing()

    def start(self, exchange: Exchange, head: bytes, now: float) -> None:
        """Send the head; content follows through the ``Attempt`` methods."""
        self.exchange = exchange
        self._timeouts = exchange.plan.timeouts or self.instance.timeouts
        self.state = _HEAD
        self.uses += 1
        self._keep_alive = True
        self._interims = 0
        request = exchange.head
        self._chunked_request = request.chunked
        self.sent_at = now
        if not request.has_body:
            self._request_sent = True
        elif not request.chunked and (held := exchange.take_held()) is not None:
            self._request_sent = True
            head = b"".join((head, *held))
        else:
            self._request_sent = False
        self.transport.write(head)
        deadline = now + self._timeouts.first_byte
        if self._slot >= 0 and self._slot * TICK <= deadline:
            self.deadline = deadline  # what Wheel.set would do, without the call
        else:
            self.wheel.set(self, deadline)
        if self._request_sent:
            exchange.attempt = self
        else:
            exchange.attempt_ready(self)

    def close(self) -> None:
        """Close without further ado; the instance forgets the connection when it is lost."""
        self.state = _CLOSED
        self.wheel.forget(self)
        self.transport.abort()

    # ---------------------------------------------------------------- Attempt

    def send_body(self, data: bytes) -> None:
        if self.state == _CLOSED:
            return
        if self._chunked_request:
            if len(data) > 4096:
                self.transport.writelines((b"%x\r\n" % len(data), data, b"\r\n"))
            else:
                self.transport.write(b"%x\r\n%b\r\n" % (len(data), data))
        else:
            self.transport.write(data)
        if self.state == _HEAD:
            # The service may wait for the whole body before it answers: sending is progress.
            self.deadline = self.loop.time() + self._timeouts.first_byte

    def send_end(self, trailers: list[Field]) -> None:
        if self.state == _CLOSED:
            return
        self._request_sent = True
        if self._chunked_request:
            self.transport.write(encode_last_chunk(trailers))
        if self.state == _HEAD:
            self.wheel.set(self, self.loop.time() + self._timeouts.first_byte)

    def pause_response(self) -> None:
        if not self._is_paused and self.state != _CLOSED:
            self._is_paused = True
            self.deadline = NEVER  # the client is slow, not the service
            self.transport.pause_reading()

    def resume_response(self) -> None:
        if self._is_paused:
            self._is_paused = False
            if self.state != _CLOSED:
                self.transport.resume_reading()
                self.wheel.set(self, self.loop.time() + self._timeouts.body)

    def cancel(self) -> None:
        exchange = self.exchange
        self.exchange = None
        self.close()
        if exchange is not None:
            self.instance.finished(exchange)

    # ---------------------------------------------------------------- asyncio.Protocol

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast("asyncio.Transport", transport)

    def pause_writing(self) -> None:
        self._write_full = True
        if self.state == _TUNNEL:
            if self._near is not None:
                self._near.tunnel_pause()
        elif self.exchange is not None:
            self.exchange.down.pause_request()

    def resume_writing(self) -> None:
        self._write_full = False
        if self.state == _TUNNEL:
            if self._near is not None:
                self._near.tunnel_resume()
        elif self.exchange is not None:
            self.exchange.down.resume_request()

    def data_received(self, data: bytes) -> None:
        state = self.state
        if state == _HEAD:
            self._read_head(data)
        elif state == _FIXED:
            self._read_fixed(data)
        elif state == _CHUNKED:
            self._read_chunked(data)
        elif state == _UNTIL_CLOSE:
            assert self.exchange is not None
            self.deadline = self.loop.time() + self._timeouts.body
            self.exchange.on_response_data(data)
        elif state == _TUNNEL:
            if self._near is not None:
                self._near.tunnel_data(data)
            elif self._tunnel_early is not None:
                self._tunnel_early.append(data)
        elif state == _IDLE:
            # Nobody asked: an answer to nobody must never become the answer to somebody.
            self.instance.drop_idle(self)
            self.close()

    def eof_received(self) -> bool:
        if self.state == _TUNNEL:
            if self._near is not None:
                self._near.tunnel_eof()
            return self.transport.can_write_eof()
        if self.state == _UNTIL_CLOSE:
            self._finish([])
        return False

    def connection_lost(self, exc: Exception | None) -> None:
        state = self.state
        self.state = _CLOSED
        self.wheel.forget(self)
        if state == _TUNNEL:
            near = self._near
            self._near = None
            if near is not None:
                near.tunnel_lost()
        self.instance.connection_gone(self, was_idle=state == _IDLE)
        exchange = self.exchange
        if exchange is None:
            return
        self.exchange = None
        if state == _UNTIL_CLOSE and exc is None:
            exchange.on_response_end([])
        elif state == _HEAD:
            self.instance.attempt_died(exchange, heard=bool(self._buffer or self._interims))
        elif state in (_FIXED, _CHUNKED, _UNTIL_CLOSE):
            self.instance.attempt_failed(exchange, Failure(Cause.UPSTREAM_CUT))

    def on_deadline(self, now: float) -> None:
        state = self.state
        exchange = self.exchange
        if state == _IDLE:
            self.instance.drop_idle(self)
            self.close()
            return
        if state == _HEAD and not self._request_sent and not self._write_full:
            # It is the client that we wait for; the edge watches over that.
            self.wheel.set(self, now + self._timeouts.first_byte)
            return
        self.exchange = None
        self.close()
        if exchange is None:
            return
        if state == _HEAD:
            failure = Failure(Cause.UPSTREAM_FIRST_BYTE_TIMEOUT, reach=Reach.SILENCE)
        else:
            failure = Failure(Cause.UPSTREAM_STALLED)
        self.instance.attempt_failed(exchange, failure)
        if not exchange.ended:
            exchange.down.flush()

    # ---------------------------------------------------------------- reading the response

    def _read_head(self, data: bytes) -> None:
        exchange = self.exchange
        assert exchange is not None
        if self._buffer:
            data = self._buffer + data
            self._buffer = b""
        instance = self.instance
        while True:
            end = data.find(b"\r\n\r\n", self._searched)
            if end < 0:
                if len(data) > instance.max_response_head_bytes:
                    self._fail(Cause.UPSTREAM_MALFORMED, "the response head is too large")
                elif not b"HTTP/1.".startswith(data[:7]):
                    self._fail(Cause.UPSTREAM_MALFORMED, "the answer is not HTTP/1")
                else:
                    self._searched = max(0, len(data) - 3)
                    self._buffer = data
                return
            self._searched = 0
            if end > instance.max_response_head_bytes:
                self._fail(Cause.UPSTREAM_MALFORMED, "the response head is too large")
                return
            is_head = exchange.method == b"HEAD"
            raw = data[:end]
            # Within a second, a service's heads repeat: Date is the same, and often all the rest.
            known = instance.heads.get(raw) if not is_head else None
            if known is not None:
                head = known
            else:
                try:
                    head = parse_response_head(raw, 256, head_request=is_head)
                except Refused as refused:
                    self._fail(refused.cause, refused.detail)
                    return
                if not is_head:
                    instance.remember_head(raw, head)
            status = head.status
            if status >= 200:
                break
            if status == 101:
                self._switch(exchange, head, data[end + 4 :])
                return
            self._interims += 1
            if self._interims > _MAX_INTERIM:
                self._fail(Cause.UPSTREAM_MALFORMED, "there are too many interim responses")
                return
            exchange.on_interim(status, head.fields)
            data = data[end + 4 :]
            if self.exchange is not exchange:
                return
            if not data:
                return
        at = end + 4
        if not head.keep_alive:
            self._keep_alive = False
        now = self.loop.time()
        if status >= 500 or instance.is_watched:
            if not instance.answered(exchange, head, now - self.sent_at):
                self._drop_answer(exchange, head, len(data) - at)
                return
            call = exchange.call
            if call is not None and call.exchange is not exchange:
                adopter: Exchange = call.adopt(exchange, self)
                exchange = self.exchange = adopter
        if (
            head.content_length == len(data) - at
            and self._keep_alive
            and self._request_sent
            and instance.on_response is None
            and not self._write_full
            and not self._is_paused
        ):
            # The whole response in one read, the most common case by far.
            self.exchange = None
            self.state = _IDLE
            instance.release(self, exchange, now)
            exchange.on_whole_response(head, data[at:])
            return
        response = Response.streaming(exchange, head)
        if instance.on_response is not None:
            instance.on_response(exchange, response)
        if head.chunked:
            self.state = _CHUNKED
            self._decoder = ChunkedDecoder(Cause.UPSTREAM_CUT)
        elif head.until_close:
            self.state = _UNTIL_CLOSE
        else:
            self.state = _FIXED
            self._left = head.content_length or 0
        self.wheel.set(self, now + self._timeouts.body)
        exchange.on_response(response)
        if self.exchange is not exchange:
            return  # a hook answered otherwise, or the client is gone
        if len(data) > at:
            self.data_received(data[at:])
        elif self.state == _FIXED and not self._left:
            self._finish([])
        if exchange.head_sent and not exchange.ended:
            exchange.down.flush()

    def _drop_answer(self, exchange: Exchange, head: ResponseHead, present: int) -> None:
        """The answer is not wanted. If all of it is here, the connection can be used again."""
        self.exchange = None
        # First: whoever ends this exchange must not cancel what the connection carries next.
        exchange.attempt = None
        if (
            head.content_length == present
            and self._keep_alive
            and self._request_sent
            and not self._write_full
        ):
            self.state = _IDLE
            self.instance.release(self, exchange, self.loop.time())
        else:
            self.close()
            self.instance.finished(exchange)
        assert exchange.caller is not None
        exchange.caller.attempt_dropped(exchange)
        if not exchange.ended:
            exchange.down.flush()

    def _read_fixed(self, data: bytes) -> None:
        exchange = self.exchange
        assert exchange is not None
        left = self._left - len(data)
        if left > 0:
            self._left = left
            self.deadline = self.loop.time() + self._timeouts.body
            exchange.on_response_data(data)
            return
        if left < 0:
            # More than was announced: the surplus is nobody's answer.
            self._keep_alive = False
            data = data[:left]
        if data:
            exchange.on_response_data(data)
        if self.exchange is exchange:
            self._finish([])

    def _read_chunked(self, data: bytes) -> None:
        exchange = self.exchange
        decoder = self._decoder
        assert exchange is not None
        assert decoder is not None
        try:
            content = decoder.feed(data)
        except Refused as refused:
            self._fail(Cause.UPSTREAM_CUT, refused.detail)
            return
        self.deadline = self.loop.time() + self._timeouts.body
        if content:
            exchange.on_response_data(content)
        if decoder.done and self.exchange is exchange:
            if decoder.rest:
                self._keep_alive = False
            self._finish(decoder.trailers)

    def _finish(self, trailers: list[Field]) -> None:
        """The response is complete: let go of the exchange first, so that its next can reuse us."""
        exchange = self.exchange
        assert exchange is not None
        self.exchange = None
        self._decoder = None
        instance = self.instance
        if self._keep_alive and self._request_sent and not self._write_full:
            if self._is_paused:
                self._is_paused = False
                self.transport.resume_reading()
            self.state = _IDLE
            instance.release(self, exchange, self.loop.time())
        else:
            self.close()
            instance.finished(exchange)
        exchange.on_response_end(trailers)

    def _fail(self, cause: Cause, detail: str) -> None:
        exchange = self.exchange
        self.exchange = None
        self.close()
        if exchange is not None:
            self.instance.attempt_failed(exchange, Failure(cause, detail))

    # ---------------------------------------------------------------- TunnelEnd

    def _switch(self, exchange: Exchange, head: ResponseHead, early: bytes) -> None:
        upgrade = head.upgrade
        asked = exchange.head.upgrade
        offered = [p.strip(b" \t").lower() for p in (asked or b"").split(b",")]
        if asked is None or upgrade is None or upgrade.lower() not in offered:
            self._fail(Cause.UPSTREAM_MALFORMED, "the service switched protocols unasked")
            return
        self.deadline = NEVER
        self.exchange = None
        self.state = _TUNNEL
        self._tunnel_early = [early] if early else []
        self.instance.answered(exchange, head, self.loop.time() - self.sent_at)
        response = Response.streaming(exchange, head)
        response.body = b""
        exchange.on_upgraded(response, self)

    def tunnel_opened(self, near: TunnelEnd) -> None:
        self._near = near
        early = self._tunnel_early
        self._tunnel_early = None
        for data in early or ():
            near.tunnel_data(data)
        if self._write_full:
            near.tunnel_pause()

    def tunnel_data(self, data: bytes) -> None:
        if self.state == _TUNNEL:
            self.transport.write(data)

    def tunnel_eof(self) -> None:
        if self.state == _TUNNEL:
            if self.transport.can_write_eof():
                self.transport.write_eof()
            else:
                self.transport.close()

    def tunnel_lost(self) -> None:
        self._near = None
        if self.state == _TUNNEL:
            self.transport.close()  # after what is still to be written, but not for ever
            self.wheel.set(self, self.loop.time() + _LAST_WORDS)

    def tunnel_pause(self) -> None:
        if self.state == _TUNNEL:
            self.transport.pause_reading()

    def tunnel_resume(self) -> None:
        if self.state == _TUNNEL:
            self.transport.resume_reading()

    def __repr__(self) -> str:
        names = ("IDLE", "HEAD", "FIXED", "CHUNKED", "UNTIL_CLOSE", "TUNNEL", "CLOSED")
        return f"<UpstreamConnection {self.instance.url} {names[self.state]} uses={self.uses}>"
