"""The coroutine's side of an exchange: the ``Downstream`` of a call."""

from __future__ import annotations

import asyncio
from collections import deque
from typing import Final

from nexgate.client._errors import ServiceError, error_for
from nexgate.clock import NEVER, Wheel
from nexgate.errors import Cause
from nexgate.exchange import Exchange, Response, TunnelEnd
from nexgate.http import Field, ResponseHead

__all__ = ["Waiting"]

_HIGH_WATER: Final = 256 * 1024
"""Bytes of content that nobody has taken yet, before the service is slowed down."""


class Waiting:
    """Keeps what comes back until somebody takes it. One per call.

    Three things are waited for, on one future at a time: the head (``answered``), a piece of
    content (``next_piece``), and room for more of the request (``wait_room``).
    """

    __slots__ = (
        "_future",
        "_is_over",
        "_pieces",
        "_room",
        "_size",
        "attempts",
        "error",
        "exchange",
        "head_timeout",
        "is_writable",
        "keeps_all",
        "length",
        "loop",
        "max_body_bytes",
        "response",
        "retry_after",
        "service",
        "until",
        "wheel",
        "whole_body",
    )

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        wheel: Wheel,
        service: str,
        max_body_bytes: int,
        *,
        keeps_all: bool,
    ) -> None:
        self.loop = loop
        self.wheel = wheel
        self.service = service
        self.max_body_bytes = max_body_bytes
        self.keeps_all = keeps_all
        """The whole answer is wanted at once: no back-pressure, but a limit."""
        self.exchange: Exchange = None  # type: ignore[assignment]  # set when the call begins
        self.is_writable = True
        self.response: Response | None = None
        self.whole_body: bytes | None = None
        """Head and content came together, which is the rule."""
        self.error: ServiceError | None = None
        self.retry_after: float | None = None
        self.attempts = 1
        """How often the service was asked. Known with the head: later the exchange forgets it."""
        self.until = NEVER
        """When all must be over, on the loop's clock."""
        self.head_timeout: float | None = None
        """Seconds in which the head must come, counted from the last progress of the request; the
        content may take longer.
        """
        self.length: int | None = None
        """Of a streamed request, when it is known and its pieces are certain to keep to it."""
        self._pieces: deque[bytes] = deque()
        self._size = 0
        self._is_over = False
        self._future: asyncio.Future[None] | None = None
        self._room: asyncio.Event | None = None

    # ---------------------------------------------------------------- waiting

    async def answered(self) -> None:
        """Until the head is here; with ``keeps_all``, until all is. Raises ``ServiceError``."""
        while not (self._is_over or (self.response is not None and not self.keeps_all)):
            await self._wait()
        if self.error is not None:
            raise self.error

    async def next_piece(self) -> bytes:
        """Content, or nothing at its end."""
        while True:
            if self._pieces:
                piece = self._pieces.popleft()
                self._size -= len(piece)
                if not self.is_writable and self._size <= _HIGH_WATER // 2:
                    self.is_writable = True
                    self.exchange.on_writable(True)
                return piece
            if self.error is not None:
                raise self.error
            if self._is_over:
                return b""
            await self._wait()

    async def whole(self) -> bytes:
        """All content that is still to come."""
        parts = []
        size = 0
        while piece := await self.next_piece():
            size += len(piece)
            if size > self.max_body_bytes:
                self.give_up()
                raise self._too_large()
            parts.append(piece)
        return b"".join(parts)

    async def wait_room(self) -> None:
        """Until the service takes more of the request."""
        if self._room is not None and not self._is_over:
            await self._room.wait()

    async def _wait(self) -> None:
        if self._future is not None:
            # It would take the other's turn, and the other would wait for ever.
            raise RuntimeError("the answer is being read elsewhere: one reader at a time")
        self._future = future = self.loop.create_future()
        try:
            await future
        finally:
            self._future = None

    def _wake(self) -> None:
        future = self._future
        if future is not None and not future.done():
            future.set_result(None)

    def go_on_waiting(self) -> None:
        """The request made progress: ``head_timeout`` begins anew."""
        if self.head_timeout is not None and self.response is None and not self.exchange.ended:
            self.wheel.set(self.exchange, min(self.until, self.loop.time() + self.head_timeout))

    def give_up(self) -> None:
        """Nobody waits any more: what is under way is cancelled."""
        exchange = self.exchange
        if exchange is not None and not exchange.ended:
            exchange.on_client_gone()

    def client_closed(self) -> None:
        """The same, and whoever waits learns that it was not the service."""
        if not self.exchange.ended:
            instance = self.exchange.served_by[1]
            self.error = error_for(self.service, Cause.DRAINING, "", instance, None, self.attempts)
            self.give_up()

    def let_go(self) -> None:
        """All has been taken. Nothing may keep the exchange alive from inside: that would be work
        for the cycle collector at every call.
        """
        self.response = None
        self.exchange = None  # type: ignore[assignment]

    def _too_large(self) -> ServiceError:
        detail = f"the limit is {self.max_body_bytes} bytes"
        instance = self.exchange.served_by[1]
        cause = Cause.RESPONSE_TOO_LARGE
        return error_for(self.service, cause, detail, instance, None, self.attempts)

    # ---------------------------------------------------------------- Downstream

    def send_whole(self, exchange: Exchange, head: ResponseHead, body: bytes) -> bool:
        if len(body) > self.max_body_bytes:
            return False
        self.response = Response.streaming(exchange, head)
        if exchange.call is not None:
            self.attempts = exchange.call.attempts
        if self.keeps_all:
            self.whole_body = body
        elif body:
            self._pieces.append(body)
            self._size += len(body)
        return True

    def send_head(self, exchange: Exchange, response: Response) -> None:
        self.response = response
        if exchange.call is not None:
            self.attempts = exchange.call.attempts
        if exchange.cause is not None:
            # Not the service's: it says why there is no answer.
            after = response.headers.get("retry-after")
            self.retry_after = float(after) if after is not None else None
            self._fail(exchange)
        elif self.head_timeout is not None:
            self.wheel.set(exchange, self.until)
        if not self.keeps_all:
            self._wake()

    def _fail(self, exchange: Exchange) -> None:
        assert exchange.cause is not None
        self.error = error_for(
            self.service,
            exchange.cause,
            exchange.detail,
            exchange.served_by[1],
            self.retry_after,
            self.attempts,
        )

    def send_body(self, data: bytes) -> None:
        if self.error is not None or not data:
            return
        self._size += len(data)
        self._pieces.append(data)
        if self.keeps_all:
            if self._size > self.max_body_bytes:
                self.error = self._too_large()
                self._pieces.clear()
                self.loop.call_soon(self.give_up)  # not from within the attempt that calls us
            return
        if self._size > _HIGH_WATER and self.is_writable:
            self.is_writable = False
            self.exchange.on_writable(False)
        self._wake()

    def send_end(self, trailers: list[Field]) -> None:
        pass

    def send_interim(self, status: int, fields: list[Field]) -> None:
        pass

    def flush(self) -> None:
        pass

    def take_back_head(self) -> bool:
        """A head that nobody has seen can be replaced by an error."""
        if self.keeps_all:
            self._pieces.clear()
            self._size = 0
            self.response = None
        return self.keeps_all

    def break_off(self) -> None:
        self._fail(self.exchange)

    def pause_request(self) -> None:
        if self._room is None:
            self._room = asyncio.Event()
        self._room.clear()

    def resume_request(self) -> None:
        if self._room is not None:
            self._room.set()

    def open_tunnel(self, exchange: Exchange, response: Response, far: TunnelEnd) -> None:
        far.tunnel_lost()  # an upgrade was never asked for

    def exchange_ended(self, exchange: Exchange) -> None:
        self._is_over = True
        if self.error is None and not exchange.response_complete:
            if exchange.cause is None:
                exchange.cause = Cause.UPSTREAM_CUT
            self._fail(exchange)
        if self._room is not None:
            self._room.set()
        self._wake()
