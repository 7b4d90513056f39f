"""One run of an application for one exchange: its task, its answer, and the end of both.

The call is the ``Attempt`` of its exchange. Which of the two ends first decides what happens:

* the *answer* is complete: the exchange goes on without us, the application may work on in the
  background until the instance is closed;
* the *application* ends before its answer: nobody can know what the rest would have been, so the
  exchange fails (a problem, or a visibly broken answer if it had begun);
* the *exchange* wants no more (the client is gone, a deadline passed, a policy answered otherwise):
  the application is told, by ``http.disconnect`` or an ``OSError`` from ``send``. One that does not
  ask within ``disconnect_grace`` is cancelled; one that was told has ``CLEANUP`` seconds.

The head is held until there is content to go with it, as ASGI demands: an application that fails in
between is still answered with a proper problem.
"""

from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING, Final

from nexgate.clock import NEVER, Timed
from nexgate.errors import Cause
from nexgate.exchange import Exchange, Failure, Response
from nexgate.http import Field, Kind, ResponseHead, make_field, reason_phrase
from nexgate.upstream._asgi._scope import Message, Scope

if TYPE_CHECKING:
    from nexgate.upstream._asgi._instance import AsgiInstance

__all__ = ["CLEANUP", "Call", "DisconnectedError", "response_head"]

_log = logging.getLogger("nexgate.upstream")

CLEANUP: Final = 10.0
"""Seconds that an application has to end after it was told that nobody listens any more."""

_NOTHING, _HEAD_HELD, _CONTENT, _TRAILERS, _COMPLETE = range(5)
_PHASES: Final = ("before", "after the start of", "within", "after the content of", "after")

_NOT_TRAILERS: Final = Kind.HOP | Kind.NO_TRAILER | Kind.SECRET | Kind.UNDERSCORE


class DisconnectedError(OSError):
    """Raised by ``send`` when nobody listens any more (ASGI 2.4: a subclass of ``OSError``)."""


class Call(Timed):
    """See the module's docstring. ``prefix`` is that of the messages an answer is made of."""

    def __init__(self, instance: AsgiInstance, exchange: Exchange, prefix: str) -> None:
        super().__init__()
        self.instance = instance
        self.loop = instance.loop
        self.exchange: Exchange | None = exchange
        """None once the exchange and the call have let go of each other."""
        self.is_gone = False
        """Nobody listens any more."""
        self.what = f"{exchange.method.decode()} {exchange.path.decode()}"
        self.request_id = exchange.id.decode()
        self.task: asyncio.Task[None] | None = None
        self.changed = asyncio.Event()
        """There is something new for ``receive``."""
        self.writable = asyncio.Event()
        """There may be room for what ``send`` has."""
        self.is_paused = False
        self.timeouts = exchange.plan.timeouts or instance.timeouts
        self._prefix = prefix
        self._method = exchange.method
        self._passes_trailers = exchange.head.te_trailers
        self._began_at = self.loop.time()
        self._phase = _NOTHING
        self._head: ResponseHead | None = None
        self._left: int | None = None
        self._has_content = True
        self._has_trailers = False
        self._trailers: list[Field] = []

    # ---------------------------------------------------------------- for the subclasses

    async def receive(self) -> Message:
        raise NotImplementedError

    async def send(self, message: Message) -> None:
        raise NotImplementedError

    def on_returned(self) -> None:
        """The application has ended by itself."""
        if self.exchange is not None:
            _log.error(
                "%s returned without completing its answer to %s (request %s)",
                self.instance.url,
                self.what,
                self.request_id,
            )
            self.fail(Cause.APP_FAILED)

    def on_raised(self, error: BaseException) -> None:
        if self.is_gone:
            # It was told that nobody listens: however it put that, it is no failure.
            _log.debug("%s ended after its client: %r", self.instance.url, error)
            return
        _log.error(
            "%s failed on %s (request %s)",
            self.instance.url,
            self.what,
            self.request_id,
            exc_info=error,
        )
        if self.exchange is not None:
            self.fail(Cause.APP_FAILED)

    def on_cancelled(self) -> None:
        """Somebody cancelled the task: the instance that is being closed, or the application."""
        if self.exchange is not None:
            self.fail(Cause.DRAINING)

    def is_waiting_for_client(self) -> bool:
        """The application cannot answer yet, because the request has not arrived in full."""
        return False

    # ---------------------------------------------------------------- running

    def begin(self, exchange: Exchange, scope: Scope) -> None:
        exchange.attempt_ready(self)
        task = self.task = self.loop.create_task(self._run(scope))
        self.instance.calls.add(self)
        task.add_done_callback(self._ended)
        self.instance.wheel.set(self, self._began_at + self.timeouts.first_byte)

    async def _run(self, scope: Scope) -> None:
        await self.instance.app(scope, self.receive, self.send)

    def _ended(self, task: asyncio.Task[None]) -> None:
        self.instance.calls.discard(self)
        self.instance.wheel.forget(self)
        if task.cancelled():
            self.on_cancelled()
            return
        error = task.exception()
        if error is not None:
            self.on_raised(error)
        else:
            self.on_returned()

    @property
    def is_answered(self) -> bool:
        return self._phase == _COMPLETE

    @property
    def has_begun_to_answer(self) -> bool:
        """Content has been sent, and the head with it."""
        return self._phase > _HEAD_HELD

    def fail(self, cause: Cause, detail: str = "") -> None:
        exchange = self.exchange
        assert exchange is not None
        self.exchange = None
        self.go()
        self.instance.finished(exchange)
        self.instance.failed()
        exchange.attempt_failed(self.instance, Failure(cause, detail))

    def go(self) -> None:
        """Nobody listens any more: tell the application, and see to it that it ends."""
        self.is_gone = True
        self.changed.set()
        self.writable.set()
        if self.task is not None and not self.task.done():
            self.instance.wheel.set(self, self.loop.time() + self.instance.disconnect_grace)

    def told(self) -> None:
        """The application has heard that it is over."""
        if self.is_gone and self.task is not None and not self.task.done():
            self.instance.wheel.set(self, self.loop.time() + CLEANUP)

    # ---------------------------------------------------------------- Attempt

    def send_body(self, data: bytes) -> None:
        raise AssertionError("this request has no content")

    def send_end(self, trailers: list[Field]) -> None:
        pass

    def pause_response(self) -> None:
        self.is_paused = True
        if not self.is_gone:
            self.deadline = NEVER  # the client is slow, not the application

    def resume_response(self) -> None:
        if self.is_paused:
            self.is_paused = False
            if self.exchange is not None:
                self.instance.wheel.set(self, self.loop.time() + self.timeouts.body)
        self.writable.set()

    def cancel(self) -> None:
        exchange = self.exchange
        self.exchange = None
        self.go()
        if exchange is not None:
            self.instance.finished(exchange)

    def on_deadline(self, now: float) -> None:
        if self.is_gone:
            assert self.task is not None
            self.task.cancel()
        elif self.exchange is None:
            pass
        elif self.has_begun_to_answer:
            self.fail(Cause.UPSTREAM_STALLED)
        elif self.is_waiting_for_client():
            self.instance.wheel.set(self, now + self.timeouts.first_byte)
        else:
            self.fail(Cause.UPSTREAM_FIRST_BYTE_TIMEOUT)

    # ---------------------------------------------------------------- the answer

    async def answer(self, message: Message) -> None:
        """One message of a response. What does not fit raises, which the application sees."""
        kind = message["type"].removeprefix(self._prefix)
        phase = self._phase
        if kind == "start" and phase == _NOTHING:
            self._hold_head(message)
        elif kind == "body" and phase in (_HEAD_HELD, _CONTENT):
            more = bool(message.get("more_body", False))
            self._pass_content(bytes(message.get("body", b"")), more=more)
            if more:
                await self.drain()
        elif kind == "trailers" and phase == _TRAILERS:
            self._trailers += [make_field(*pair) for pair in message.get("headers", ())]
            if not message.get("more_trailers", False):
                self._finish()
        elif kind == "early_hint" and phase == _NOTHING:
            exchange = self.exchange
            if exchange is not None:
                links = [make_field(b"Link", bytes(link)) for link in message.get("links", ())]
                exchange.on_interim(103, links)
        else:
            raise RuntimeError(f"{message['type']!r} came {_PHASES[phase]} the answer")

    async def drain(self) -> None:
        """Wait until the client can take more."""
        while (exchange := self.exchange) is not None and (
            self.is_paused or (exchange.head_sent and not exchange.down.is_writable)
        ):
            self.writable.clear()
            await self.writable.wait()
        if self.is_gone:
            self.told()
            raise DisconnectedError("the client is gone")

    def _hold_head(self, message: Message) -> None:
        status = message["status"]
        if not isinstance(status, int) or not 200 <= status <= 599:
            raise ValueError(f"{status!r} is not a final HTTP status")
        fields: list[Field] = []
        flags = 0
        length: int | None = None
        for name, value in message.get("headers", ()):
            field = make_field(bytes(name), bytes(value))
            if field.name == b"content-length":
                if length is not None:
                    raise ValueError("Content-Length occurs twice")
                if not field.value.isdigit() or len(field.value) > 18:
                    raise ValueError("Content-Length is not a decimal number")
                length = int(field.value)
                if status == 204:
                    continue  # RFC 9110 §8.6: not even in answer to HEAD
            elif field.kind & Kind.HOP:
                continue  # the connection is ours, and so is the framing
            fields.append(field)
            flags |= field.kind
        head = response_head(status, fields, flags)
        if self._method == b"HEAD" or status in (204, 304):
            # Its length is that of the content it would have had (RFC 9110 §8.6): nothing follows.
            head.content_length = 0
            self._has_content = False
        else:
            head.content_length = self._left = length
        self._has_trailers = bool(message.get("trailers", False))
        self._head = head
        self._phase = _HEAD_HELD

    def _pass_content(self, data: bytes, *, more: bool) -> None:
        exchange = self.exchange
        if exchange is None:
            return  # nobody listens: drain() says so
        if not self._has_content:
            data = b""
        left = self._left
        if left is not None:
            left -= len(data)
            if left < 0:
                raise RuntimeError("there is more content than Content-Length said")
            if left and not more:
                raise RuntimeError("there is less content than Content-Length said")
            self._left = left
        if self._phase == _HEAD_HELD:
            head = self._head
            assert head is not None
            is_whole = not (more or self._has_trailers)
            if head.content_length is None:
                if is_whole:
                    head.content_length = len(data)
                else:
                    head.chunked = True
            self._phase = _CONTENT
            instance = self.instance
            instance.answered(exchange, head, self.loop.time() - self._began_at)
            if is_whole and instance.on_response is None:
                self._let_go(exchange)
                exchange.on_whole_response(head, data)
                return
            response = Response.streaming(exchange, head)
            if instance.on_response is not None:
                instance.on_response(exchange, response)
            exchange.on_response(response)
            if self.exchange is None:
                return  # a policy answered otherwise
        if not self.is_paused:
            self.instance.wheel.set(self, self.loop.time() + self.timeouts.body)
        if data:
            exchange.on_response_data(data)
        if not more:
            if self._has_trailers:
                self._phase = _TRAILERS
            else:
                self._finish()
        if exchange.head_sent and not exchange.ended:
            exchange.down.flush()

    def _finish(self) -> None:
        exchange = self.exchange
        if exchange is None:
            self._phase = _COMPLETE
            return
        self._let_go(exchange)
        wanted = self._trailers if self._passes_trailers else []
        exchange.on_response_end([f for f in wanted if not f.kind & _NOT_TRAILERS])

    def _let_go(self, exchange: Exchange) -> None:
        """The answer is complete: the exchange needs us no more."""
        self._phase = _COMPLETE
        self.exchange = None
        self.instance.wheel.forget(self)
        self.instance.finished(exchange)
        self.changed.set()

    async def answer_empty(self, status: int) -> None:
        await self.answer({"type": f"{self._prefix}start", "status": status})
        await self.answer({"type": f"{self._prefix}body"})

    def __repr__(self) -> str:
        state = "gone" if self.is_gone else _PHASES[self._phase] + " the answer"
        return f"<{type(self).__name__} {self.what} {state}>"


def response_head(status: int, fields: list[Field], flags: int = 0) -> ResponseHead:
    head = ResponseHead()
    head.status = status
    head.reason = reason_phrase(status)
    head.fields = fields
    head.flags = flags
    return head
