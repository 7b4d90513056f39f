"""The ``http`` scope: the request's content goes in piece by piece, with back-pressure."""

from __future__ import annotations

from typing import TYPE_CHECKING

from nexgate.clock import NEVER
from nexgate.exchange import HELD_BYTES, Exchange
from nexgate.http import Field
from nexgate.upstream._asgi._call import Call, DisconnectedError
from nexgate.upstream._asgi._scope import Message

if TYPE_CHECKING:
    from nexgate.upstream._asgi._instance import AsgiInstance

__all__ = ["HttpCall"]


class HttpCall(Call):
    def __init__(self, instance: AsgiInstance, exchange: Exchange) -> None:
        super().__init__(instance, exchange, "http.response.")
        self._content: list[bytes] = []
        self._content_bytes = 0
        self._is_full = False
        self._request_complete = not exchange.head.has_body
        self._end_told = False
        self._continue_due = exchange.head.expects_continue

    def is_waiting_for_client(self) -> bool:
        return not self._request_complete and not self._is_full

    # ---------------------------------------------------------------- Attempt

    def send_body(self, data: bytes) -> None:
        exchange = self.exchange
        if exchange is None:
            return
        self._content.append(data)
        self._content_bytes += len(data)
        if self._content_bytes > HELD_BYTES:
            # Said every time: the exchange may have resumed the client after we said it before.
            self._is_full = True
            exchange.down.pause_request()
        self._news()

    def send_end(self, trailers: list[Field]) -> None:
        self._request_complete = True
        # No more content can come: reading on is how the end of the client is noticed.
        self._resume_request()
        self._news()

    def _news(self) -> None:
        self.changed.set()
        if not self.has_begun_to_answer and self.deadline != NEVER:
            # It may wait for the whole content before it answers: receiving is progress.
            self.deadline = self.loop.time() + self.timeouts.first_byte

    def _resume_request(self) -> None:
        if self._is_full:
            self._is_full = False
            if self.exchange is not None:
                self.exchange.down.resume_request()

    # ---------------------------------------------------------------- ASGI

    async def receive(self) -> Message:
        if self._continue_due and self.exchange is not None:
            self._continue_due = False
            self.exchange.down.send_interim(100, [])
        while True:
            if self.exchange is None:
                self.told()
                return {"type": "http.disconnect"}
            if self._content or (self._request_complete and not self._end_told):
                break
            self.changed.clear()
            await self.changed.wait()
        content = self._content[0] if len(self._content) == 1 else b"".join(self._content)
        self._content = []
        self._content_bytes = 0
        self._resume_request()
        self._end_told = self._request_complete
        return {
            "type": "http.request",
            "body": content,
            "more_body": not self._request_complete,
        }

    async def send(self, message: Message) -> None:
        if self.is_gone:
            self.told()
            raise DisconnectedError("the client is gone")
        await self.answer(message)
