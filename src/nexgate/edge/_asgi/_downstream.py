"""The ``Downstream`` of an exchange over ``receive`` and ``send``.

Two coroutines serve it: the application call itself writes (``Outbox.run``), a task reads. The task
is there even when the request has no content, because ``receive`` is how the end of the client is
noticed; it is not started for an exchange that was answered at once.
"""

from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING, Any, Final

from nexgate.clock import Wheel
from nexgate.edge._asgi._outbox import BrokenResponseError, Message, Outbox, Receive, Send
from nexgate.errors import Cause
from nexgate.exchange import Exchange, Plan, Response, TunnelEnd
from nexgate.http import Field, Kind, ResponseHead

if TYPE_CHECKING:
    from nexgate.edge._asgi._entry import AsgiEdge

__all__ = ["AsgiDownstream", "HttpDownstream"]

_log = logging.getLogger("nexgate.edge")

# Servers write a Date of their own and would send two.
_NOT_SENT: Final = Kind.HOP | Kind.ANSWER_HOP | Kind.DATE


class AsgiDownstream:
    """What HTTP and WebSocket have in common. ``prefix`` is that of the messages of a response."""

    def __init__(
        self,
        edge: AsgiEdge,
        scope: Any,
        receive: Receive,
        send: Send,
        prefix: str,
        *,
        trust_peer: bool,
    ) -> None:
        self.edge = edge
        self.loop: asyncio.AbstractEventLoop = edge.loop
        self.wheel: Wheel = edge.wheel
        self.exchange: Exchange | None = None
        self.is_complete = False
        """The response has been handed to the outbox in full, or was broken off."""
        self.outbox = Outbox(send, self._on_writable)
        self.may_read = asyncio.Event()
        self.may_read.set()
        self.receive = receive
        client = scope.get("client")
        self.peer: str = client[0] if client else ""
        self.trust_peer = trust_peer
        self.forward_base: bytes | None = None
        self.forward_base_for = b""
        self._prefix = prefix
        self._extensions = scope.get("extensions") or {}

    async def run(self, exchange: Exchange, plan: Plan, first: Message | None) -> None:
        """See the exchange through. ``first`` is a message that was received already."""
        self.exchange = exchange
        reader: asyncio.Task[None] | None = None
        try:
            exchange.begin(plan)
            if not exchange.ended:
                reader = self.loop.create_task(self._read(exchange, first))
            await self.outbox.run(self.edge.timeouts.write)
            await self.settle()
        except TimeoutError:
            exchange.detail = "the client stopped reading"
            raise BrokenResponseError("the client stopped reading") from None
        except OSError:
            pass  # a server of ASGI 2.4 says so when the client is gone
        finally:
            self.hang_up(exchange)
            if reader is not None:
                reader.cancel()
                await asyncio.wait((reader,))

    async def settle(self) -> None:
        """Everything has been sent: is there something to wait for?"""

    def hang_up(self, exchange: Exchange) -> None:
        """The call ends: whatever is still under way for it ends too."""
        exchange.on_client_gone()

    async def _read(self, exchange: Exchange, message: Message | None) -> None:
        try:
            while not exchange.ended:
                if message is None:
                    await self.may_read.wait()
                    message = await self._next(exchange)
                    if message is None:
                        return
                if not self.take(exchange, message):
                    return
                message = None
        except Exception:
            _log.exception("cannot receive from the ASGI server")
            exchange.on_client_gone()

    async def _next(self, exchange: Exchange) -> Message | None:
        """The next message; None when the client took too long with its content."""
        if exchange.request_complete:
            return await self.receive()  # waits for the end of the client, however long
        try:
            async with asyncio.timeout(self.edge.timeouts.body):
                return await self.receive()
        except TimeoutError:
            self.refuse_content(exchange, Cause.BODY_TIMEOUT, "")
            return None

    def take(self, exchange: Exchange, message: Message) -> bool:
        """Something was received. False: nothing more is wanted."""
        raise NotImplementedError

    @staticmethod
    def refuse_content(exchange: Exchange, cause: Cause, detail: str) -> None:
        if not exchange.ended:
            exchange._abandon_attempt()
            exchange.fail(cause, detail)

    def _on_writable(self, writable: bool) -> None:
        if self.exchange is not None:
            self.exchange.on_writable(writable)

    # ---------------------------------------------------------------- Downstream

    @property
    def is_writable(self) -> bool:
        return self.outbox.is_writable

    def send_interim(self, status: int, fields: list[Field]) -> None:
        """Early hints where the server takes them; it says 100 by itself."""
        if status == 103 and "http.response.early_hint" in self._extensions:
            links = [f.value for f in fields if f.name == b"link"]
            if links:
                self.outbox.put({"type": "http.response.early_hint", "links": links})

    def send_head(self, exchange: Exchange, response: Response) -> None:
        self.outbox.put(
            {
                "type": f"{self._prefix}start",
                "status": response.status,
                "headers": response_headers(exchange, response),
            }
        )

    def send_problem(self, status: int, content_type: str, body: bytes) -> None:
        """Answer without an exchange."""
        self.outbox.put(
            {
                "type": f"{self._prefix}start",
                "status": status,
                "headers": [
                    (b"content-type", content_type.encode()),
                    (b"content-length", b"%d" % len(body)),
                    (b"cache-control", b"no-store"),
                ],
            }
        )
        self.send_body(body)
        self.send_end([])

    def send_whole(self, exchange: Exchange, head: ResponseHead, body: bytes) -> bool:
        return False

    def send_body(self, data: bytes) -> None:
        self.outbox.put({"type": f"{self._prefix}body", "body": data, "more_body": True}, len(data))

    def send_end(self, trailers: list[Field]) -> None:
        kind = f"{self._prefix}body"
        last = self.outbox.last
        if last is not None and last["type"] == kind:
            last["more_body"] = False
        else:
            self.outbox.put({"type": kind, "body": b"", "more_body": False})
        self.is_complete = True
        self.outbox.end()

    def flush(self) -> None:
        """Nothing waits here: the outbox is emptied as soon as the loop turns."""

    def take_back_head(self) -> bool:
        return self.outbox.take_back(f"{self._prefix}start")

    def break_off(self) -> None:
        self.is_complete = True
        self.outbox.end(BrokenResponseError("the service did not complete its response"))

    def pause_request(self) -> None:
        self.may_read.clear()

    def resume_request(self) -> None:
        self.may_read.set()

    def open_tunnel(self, exchange: Exchange, response: Response, far: TunnelEnd) -> None:
        raise AssertionError("nothing but a WebSocket is upgraded through ASGI")

    def exchange_ended(self, exchange: Exchange) -> None:
        edge = self.edge
        edge.total_exchanges += 1
        if edge.exchange_log is not None:
            edge.exchange_log(exchange)
        if not self.is_complete:
            self.outbox.abort()


class HttpDownstream(AsgiDownstream):
    def __init__(
        self, edge: AsgiEdge, scope: Any, receive: Receive, send: Send, *, trust_peer: bool
    ) -> None:
        super().__init__(edge, scope, receive, send, "http.response.", trust_peer=trust_peer)
        self._left: int | None = None

    def expect(self, content_length: int | None) -> None:
        self._left = content_length

    def take(self, exchange: Exchange, message: Message) -> bool:
        if message["type"] == "http.disconnect":
            exchange.on_client_gone()
            return False
        if exchange.request_complete:
            return True
        data: bytes = message.get("body", b"")
        more: bool = message.get("more_body", False)
        left = self._left
        if left is not None:
            left -= len(data)
            if left < 0 or (left and not more):
                # The server let pass what its own framing should have caught.
                self.refuse_content(exchange, Cause.BAD_BODY, "Content-Length is wrong")
                return False
            self._left = left
        if data:
            exchange.on_request_data(data)
        if not more and not exchange.ended:
            exchange.on_request_end([])
        return True


def response_headers(exchange: Exchange, response: Response) -> list[tuple[bytes, bytes]]:
    """The fields for the server, with the length when it is known: chunking is the server's."""
    head = response.head
    body = response.body
    status = response.status
    named = head.named if head is not None else ()
    is_head = exchange.method == b"HEAD"
    headers: list[tuple[bytes, bytes]] = []
    for field in response.fields:
        name = field.name
        # The length that the content would have is told where no content follows.
        is_told = (
            name == b"content-length"
            and body is None
            and (status == 304 or (is_head and status != 204))
        )
        if (is_told or not field.kind & _NOT_SENT) and name not in named:
            headers.append((name, field.value))
    if status not in (204, 304):
        length = len(body) if body is not None else response.content_length
        if is_head and body is None:
            length = None
        if length is not None:
            headers.append((b"content-length", b"%d" % length))
    if exchange.allow is not None:
        headers.append((b"allow", exchange.allow))
    return headers
