"""The state of an exchange, and the way of its request's content.

The lower half of ``Exchange``: what it knows, and step 4 of its life. Content flows to the attempt;
while there is none it is held, bounded, and may be collected, kept for sending it again, or
replaced.
"""

from __future__ import annotations

import asyncio
from typing import Any, Final

from nexgate.clock import NEVER, Timed
from nexgate.errors import Cause
from nexgate.exchange._errors import BodyTooLarge
from nexgate.exchange._plan import NO_PLAN, Plan
from nexgate.exchange._request import Request
from nexgate.exchange._response import Response
from nexgate.exchange._sides import Attempt, Caller, Downstream, TunnelEnd
from nexgate.http import Field, RequestHead
from nexgate.routing import Match, parse_cookies, parse_query

__all__ = ["HELD_BYTES", "Incoming"]

HELD_BYTES: Final = 64 * 1024
"""How much content is held in each direction while the other side is not ready, before reading
pauses.
"""

_IDEMPOTENT: Final = frozenset((b"GET", b"HEAD", b"OPTIONS", b"PUT", b"DELETE"))


class Incoming(Timed):
    """See the module's docstring. Its slots are the whole state of an exchange."""

    __slots__ = (
        "_around",
        "_collecting",
        "_collector",
        "_depth",
        "_epoch",
        "_failure",
        "_held",
        "_held_bytes",
        "_held_response",
        "_read_paused",
        "_replay",
        "_replay_left",
        "_request",
        "_response_end",
        "_tasks",
        "_upgrade_far",
        "allow",
        "attempt",
        "bytes_in",
        "bytes_out",
        "call",
        "caller",
        "cause",
        "choice",
        "client",
        "detail",
        "down",
        "ended",
        "fields",
        "forward_base",
        "head",
        "head_sent",
        "host",
        "id",
        "id_name",
        "instance",
        "match",
        "method",
        "path",
        "plan",
        "raw_query",
        "request_complete",
        "request_trailers",
        "response",
        "response_complete",
        "scheme",
        "served_by",
        "started",
        "state",
        "status",
        "wants_new_connection",
    )

    def __init__(
        self,
        down: Downstream,
        method: bytes,
        path: bytes,
        query: bytes | None,
        head: RequestHead,
        client: str,
        scheme: str,
        forward_base: bytes,
        id: bytes,
        id_name: bytes,
        started: float,
    ) -> None:
        self.deadline = NEVER
        self._slot = -1
        self.down = down
        self.head = head
        self.method = method
        self.host = head.host
        self.path = path
        """Normalised; a rewrite changes it before the attempt starts."""
        self.raw_query = query
        """What follows ``?``; None when there is none."""
        self.fields = head.fields
        """Shared with other exchanges of the connection until ``own_fields`` makes them ours."""
        self.client = client
        self.scheme = scheme
        self.forward_base = forward_base
        """Forwarded and Via lines for the service."""
        self.id = id
        self.id_name = id_name
        """Field in which the id travels."""
        self.started = started
        self.match: Match[Plan] | None = None
        self.plan: Plan = NO_PLAN
        self.state: dict[str, Any] | None = None
        self.attempt: Attempt | None = None
        self.instance: Any = None
        self.served_by: tuple[str, str] = ("", "")
        """Service and URL of the instance that was asked last."""
        self.caller: Caller | None = None
        """Who sent the exchange to its instance."""
        self.call: Any = None
        """What the caller keeps about the exchange, if anything; told when the exchange ends."""
        self.wants_new_connection = False
        """A kept one has just died under it."""
        self.choice: Any = None
        """The part of a split that the exchange was drawn into."""
        self.allow: bytes | None = None
        """Value of the Allow field of a 405 (RFC 9110 §15.5.6)."""
        self.response: Response | None = None
        self.status = 0
        self.cause: Cause | None = None
        self.detail = ""
        self.bytes_in = 0
        self.bytes_out = 0
        self.head_sent = False
        self.ended = False
        self.request_complete = not head.has_body
        self.request_trailers: list[Field] = []
        self.response_complete = False
        self._request: Request | None = None
        self._depth = 0
        self._epoch = 0
        """Counts failures: a step that began before the last one has nothing more to say."""
        self._failure: tuple[Cause, str] | None = None
        self._around: list[tuple[int, asyncio.Future[Response]]] | None = None
        self._tasks: set[asyncio.Task[None]] | None = None
        self._held: list[bytes] | None = None
        self._held_bytes = 0
        self._held_response: list[bytes] | None = None
        self._response_end: list[Field] | None = None
        self._collector: asyncio.Future[bytes] | None = None
        self._collecting = 0
        """Bytes of content to have before the handler starts; 0 once it may."""
        self._read_paused = False
        self._replay: list[bytes] | None = None
        """Content that was sent, for sending it again; None where that is not to happen."""
        self._replay_left = 0
        self._upgrade_far: TunnelEnd | None = None

    # ---------------------------------------------------------------- routing's view (Routable)

    def header_values(self, name: bytes) -> list[bytes]:
        return [f[1] for f in self.fields if f[0] == name]

    @property
    def query(self) -> bytes:
        """Without the ``?``; empty when there is none."""
        return self.raw_query or b""

    def own_fields(self) -> list[Field]:
        """The request's fields, for changing."""
        if self.fields is self.head.fields:
            self.fields = self.fields.copy()
        return self.fields

    def query_values(self, name: str) -> list[str]:
        return parse_query(self.query).get(name, [])

    def cookie_values(self, name: str) -> list[str]:
        return parse_cookies(self.header_values(b"cookie")).get(name, [])

    @property
    def is_idempotent(self) -> bool:
        """RFC 9110 §9.2.2: doing it twice is doing it once."""
        return self.method in _IDEMPOTENT

    @property
    def is_replayable(self) -> bool:
        """Nothing of the request is lost when it is sent again: there was no content, or all that
        was sent of it is kept.
        """
        return not self.head.has_body or self._replay is not None

    # ---------------------------------------------------------------- request content

    def take_whole(self, body: bytes) -> None:
        """All content of the request, before it begins."""
        self._held = [body]
        self._held_bytes = self.bytes_in = len(body)
        self.request_complete = True

    def take_held(self) -> list[bytes] | None:
        """What an attempt sends with its head: the content, when all of it is here."""
        held = self._held
        if held is None or not self.request_complete:
            return None
        self._held = None
        self._held_bytes = 0
        if self._replay is not None:
            for data in held:
                self._keep(data)
        return held

    def keep_for_replay(self, limit: int) -> None:
        """Keep up to ``limit`` bytes of the content that is sent. Before the first attempt."""
        self._replay = []
        self._replay_left = limit

    def keep_nothing(self) -> None:
        """What is sent is not to be sent again, whatever ``keep_for_replay`` was told."""
        self._replay = None

    def _keep(self, data: bytes) -> None:
        self._replay_left -= len(data)
        if self._replay_left < 0:
            self._replay = None
        elif self._replay is not None:
            self._replay.append(data)

    def rewind(self) -> None:
        """What was sent of the content is to be sent again, by the next attempt."""
        self.attempt = None
        if not self.request_complete:
            self._read_paused = False
            self.down.resume_request()
        replay = self._replay
        if replay:
            self._held = [*replay, *(self._held or ())]
            self._held_bytes = sum(map(len, self._held))
            self._replay_left += sum(map(len, replay))
            replay.clear()

    def on_request_data(self, data: bytes) -> None:
        """Content from the client. ``fail`` answers 413 when it passes the route's limit."""
        self.bytes_in += len(data)
        limit = self.plan.max_body_bytes
        if limit is not None and self.bytes_in > limit:
            self._abandon_attempt()
            self.fail(Cause.BODY_TOO_LARGE, f"the limit is {limit} bytes")
            return
        attempt = self.attempt
        if attempt is not None:
            if self._replay is not None:
                self._keep(data)
            attempt.send_body(data)
            return
        if self.response is not None and self.response_complete:
            return  # answered early: nobody wants it
        if self._held is None:
            self._held = []
        self._held.append(data)
        self._held_bytes += len(data)
        if self._collector is not None and self.response is None:
            if self._held_bytes > self.plan.max_buffered_body_bytes:
                self._settle_collector(error=BodyTooLarge(self.plan.max_buffered_body_bytes))
        elif self._collecting:
            if self._held_bytes >= self._collecting:
                self._collected()
        elif self._held_bytes > HELD_BYTES and not self._read_paused:
            self._read_paused = True
            self.down.pause_request()

    def on_request_end(self, trailers: list[Field]) -> None:
        self.request_complete = True
        self.request_trailers = trailers
        attempt = self.attempt
        if attempt is not None:
            attempt.send_end(trailers)
        elif self._collecting:
            self._collected()
        elif self._collector is not None and self.response is None:
            self._settle_collector(self._held)

    def attempt_ready(self, attempt: Attempt) -> None:
        """The attempt has sent the head: give it what was held, then the rest as it comes."""
        self.attempt = attempt
        if self._read_paused and not self.request_complete:
            # First: what is sent now may fill the attempt, and then pauses reading again.
            self._read_paused = False
            self.down.resume_request()
        held = self._held
        if held is not None:
            self._held = None
            self._held_bytes = 0
            for data in held:
                if self._replay is not None:
                    self._keep(data)
                attempt.send_body(data)
        if self.request_complete:
            if self.head.has_body:
                attempt.send_end(self.request_trailers)

    async def collect_request(self) -> bytes:
        if self.attempt is not None:
            raise RuntimeError("the request has been forwarded: its body is gone")
        if self._held_bytes > self.plan.max_buffered_body_bytes:
            raise BodyTooLarge(self.plan.max_buffered_body_bytes)
        if self.request_complete:
            return b"".join(self._held or ())
        if self._collector is None:
            self._collector = self.down.loop.create_future()
            self._want_content()
        return await asyncio.shield(self._collector)

    def replace_request_body(self, body: bytes) -> None:
        if self.attempt is not None:
            raise RuntimeError("the request has been forwarded")
        if not self.request_complete:
            raise RuntimeError("await request.body() before replacing it")
        self._held = [body] if body else None
        self._held_bytes = len(body)
        self.own_fields()
        self.head = self.head.changed(content_length=len(body))

    def _want_content(self) -> None:
        """It is us who want the content, before any service does."""
        if self.head.expects_continue and self._held is None:
            self.head = self.head.changed()
            self.down.send_interim(100, [])
        if self._read_paused:
            self._read_paused = False
            self.down.resume_request()

    def _settle_collector(
        self, content: list[bytes] | None = None, error: Exception | None = None
    ) -> None:
        """Tell the filter that awaits a body; it may have been cancelled meanwhile."""
        collector = self._collector
        self._collector = None
        if collector is None or collector.done():
            return
        if error is not None:
            collector.set_exception(error)
            collector.exception()  # seen, even if nobody awaits it any more
        else:
            collector.set_result(b"".join(content or ()))

    # ---------------------------------------------------------------- the other half's

    def fail(self, cause: Cause, detail: str = "", retry_after: float | None = None) -> None:
        raise NotImplementedError

    def _collected(self) -> None:
        raise NotImplementedError

    def _abandon_attempt(self) -> None:
        raise NotImplementedError
