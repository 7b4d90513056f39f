"""A client of one service, on the gateway's own upstream side."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import json as jsonlib
import re
import secrets
from collections.abc import AsyncGenerator, AsyncIterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, Literal, Self, get_args
from urllib.parse import quote, urlencode

from pydantic import ValidationError

from nexgate.client._errors import ServiceTimeout
from nexgate.client._propagation import carried
from nexgate.client._response import ServiceResponse, StreamedResponse
from nexgate.client._waiting import Waiting
from nexgate.clock import Wheel, wheel_of
from nexgate.config import InvalidConfig, import_object, parse_duration, problems_of
from nexgate.discovery import (
    Followed,
    FollowStatus,
    Provider,
    RegistryProvider,
    ServiceRegistry,
    follow,
)
from nexgate.errors import Cause, ConfigError, NexgateError
from nexgate.exchange import Exchange, Plan
from nexgate.http import (
    Field,
    Headers,
    Kind,
    RequestHead,
    make_field,
    register_request_id_field,
)
from nexgate.resilience import current_deadline, format_timeout_header
from nexgate.upstream import (
    AsgiInstance,
    Forward,
    InstanceState,
    Membership,
    ServiceState,
    client_context,
)
from nexgate.upstream.balancer import LeastRequests
from nexgate.upstream.config import ServiceConfig

__all__ = ["ClientStatistics", "InstanceStatistics", "ServiceClient"]

_BARE: Final = frozenset(("GET", "HEAD", "DELETE", "OPTIONS"))
"""Methods of which nobody expects content."""
_AGENT: Final = make_field(b"User-Agent", b"nexgate")
_ID_NAME: Final = b"X-Request-Id"
_DROP: Final = Kind.HOP | Kind.REQUEST_ID
"""Fields that are written for each request. Not Forwarded and Via: those are the caller's own."""
_FIRST_ANSWER: Final = 2.0
_TICK: Final = 1.0
_TARGET: Final = re.compile(r"/[\x21\x22\x24-\x7e]*")
_METHOD: Final = re.compile(r"[!#$%&'*+\-.^_`|~0-9A-Za-z]+")

Importance = Literal["low", "normal", "high"]
Content = bytes | str | AsyncIterator[bytes]


@dataclass(frozen=True, slots=True)
class InstanceStatistics:
    """How one instance is, as this client sees it."""

    url: str
    active: int
    """Requests under way there."""
    idle: int
    """Connections that are kept and have nothing to do."""
    requests: int
    failures: int
    is_healthy: bool
    """What probes or the registry say; ``True`` when nobody asks."""
    is_ejected: bool
    """Left alone for a while, because it failed too often."""
    is_available: bool
    """Healthy, not ejected, and reachable lately."""


@dataclass(frozen=True, slots=True)
class ClientStatistics:
    """Counters since the client was opened, and how things are at this moment."""

    requests: int
    """Attempts included that were retries."""
    failures: int
    retries: int
    """Attempts beyond the first that the budget allowed, hedges included."""
    hedges: int
    circuit: str | None
    """State of the circuit; ``None`` without a breaker."""
    instances: int
    available: int
    active: int
    """Requests under way."""
    discovery: FollowStatus | None
    by_instance: tuple[InstanceStatistics, ...] = ()


class ServiceClient:
    """Calls one service, wherever its instances are, through balancing and resilience.

    ::

        registry = ServiceRegistry("local")
        async with ServiceClient(registry, "auth", retry=3) as auth:
            answer = await auth.request("POST", "/verify", json={"token": token})
            user = answer.raise_for_status().json()

    ``registry`` is a ``ServiceRegistry``, any discovery ``Provider``, the name of a state
    (``"local"``, ``"redis://…"``) or a list of URLs. ``options`` are the keys of
    ``[services.NAME]`` in the gateway's configuration, with the same meaning: ``retry``,
    ``breaker``, ``bulkhead``, ``hedge``, ``outlier``, ``timeout``, ``balancer``, ``health``,
    ``pool``, ``tls``, …; ``InvalidConfig`` says what is wrong with them. Unlike the gateway,
    which passes on what clients said, the ``Host`` that instances see is their own.

    Opened at first use, in the event loop of that moment, and to be closed there (``aclose``, or
    ``async with``). Any number of coroutines may use it at once.
    """

    def __init__(
        self,
        registry: ServiceRegistry | Provider | str | Sequence[str],
        service: str,
        *,
        max_body_bytes: int = 64 * 1024 * 1024,
        deadline_header: str | None = "X-Request-Timeout",
        **options: Any,
    ) -> None:
        """``max_body_bytes``: of an answer that is not streamed. ``deadline_header``: the field
        that tells the service how much time is left, where there is a limit; ``None`` does not.
        """
        self.service = service
        self.max_body_bytes = max_body_bytes
        said: dict[str, Any] = {"host": "instance", **options}
        self._owned: ServiceRegistry | None = None
        self._provider: Provider | None = None
        if isinstance(registry, str):
            registry = self._owned = ServiceRegistry(registry)
        if isinstance(registry, ServiceRegistry):
            self._provider = RegistryProvider(registry, service)
        elif isinstance(registry, Sequence):
            said["instances"] = list(registry)
        else:
            self._provider = registry
        if self._provider is not None:
            said["discover"] = ["registry"]  # where from is decided here
        try:
            self._config = ServiceConfig.model_validate(said)
        except ValidationError as error:
            raise InvalidConfig(problems_of(error)) from None
        register_request_id_field(_ID_NAME)
        self._state = ServiceState(service, LeastRequests())
        self._forward = Forward(self._state)
        self._deadline_name = deadline_header.encode("latin-1") if deadline_header else None
        self._plans = {
            name: Plan(
                f"client of {service}",
                self._forward,
                total_timeout=self._config.timeout.total,
                importance=number,
            )
            for number, name in enumerate(get_args(Importance))
        }
        self._normal = self._plans["normal"]
        self._bare = _head((), None)
        self._prefix = secrets.token_hex(5).encode() + b"-"
        self._counter = itertools.count(1)
        self._loop: asyncio.AbstractEventLoop | None = None
        self._wheel: Wheel | None = None
        self._members: Membership | None = None
        self._followed: Followed | None = None
        self._ticker: asyncio.TimerHandle | None = None
        self._opening: asyncio.Task[None] | None = None
        self._is_open = False
        self._is_closed = False
        self._under_way: set[Waiting] = set()
        self._requests_gone = self._failures_gone = 0  # of instances that have left

    # ---------------------------------------------------------------- asking

    async def request(
        self,
        method: str,
        path: str,
        *,
        json: Any = None,
        content: Content | None = None,
        params: Mapping[str, Any] | Sequence[tuple[str, Any]] | None = None,
        headers: Mapping[str, str] | None = None,
        timeout: float | str | None = None,
        importance: Importance = "normal",
    ) -> ServiceResponse:
        """Ask, and return the whole answer, whatever its status. Raises ``ServiceError``.

        ``path`` begins with a slash; ``params`` are added to its query. ``json`` or ``content`` is
        the body; an async iterator is streamed, and never sent twice. ``timeout`` is for all of it,
        in seconds or as ``"500ms"``; an earlier deadline around the call counts as well.
        Cancelling the coroutine cancels what is under way.
        """
        waiting = Waiting(*self._loop_of_ours(), self.service, self.max_body_bytes, keeps_all=True)
        sending: asyncio.Task[None] | None = None
        try:
            sending = await self._begin(
                waiting, method, path, json, content, params, headers, timeout, importance
            )
            await waiting.answered()
        finally:
            self._under_way.discard(waiting)
            await self._end(waiting, sending)
        response = waiting.response
        assert response is not None
        body = waiting.whole_body
        if body is None:
            body = await waiting.whole()
        exchange = waiting.exchange
        waiting.let_go()
        # A copy: the head may be remembered, and be the next answer's as well.
        fields = Headers(list(response.fields))
        served_by = exchange.served_by[1]
        return ServiceResponse(
            self.service, response.status, fields, body, served_by, waiting.attempts
        )

    async def get(self, path: str, **options: Any) -> ServiceResponse:
        """``request("GET", …)``."""
        return await self.request("GET", path, **options)

    async def head(self, path: str, **options: Any) -> ServiceResponse:
        """``request("HEAD", …)``."""
        return await self.request("HEAD", path, **options)

    async def post(self, path: str, **options: Any) -> ServiceResponse:
        """``request("POST", …)``."""
        return await self.request("POST", path, **options)

    async def put(self, path: str, **options: Any) -> ServiceResponse:
        """``request("PUT", …)``."""
        return await self.request("PUT", path, **options)

    async def patch(self, path: str, **options: Any) -> ServiceResponse:
        """``request("PATCH", …)``."""
        return await self.request("PATCH", path, **options)

    async def delete(self, path: str, **options: Any) -> ServiceResponse:
        """``request("DELETE", …)``."""
        return await self.request("DELETE", path, **options)

    def stream(
        self,
        method: str,
        path: str,
        *,
        json: Any = None,
        content: Content | None = None,
        params: Mapping[str, Any] | Sequence[tuple[str, Any]] | None = None,
        headers: Mapping[str, str] | None = None,
        timeout: float | str | None = None,
        importance: Importance = "normal",
    ) -> contextlib.AbstractAsyncContextManager[StreamedResponse]:
        """Ask, and read the answer as it comes. Leaving the block gives up the rest.

        A body that is an async iterator is sent while the answer is read.
        """
        asked = method, path, json, content, params, headers, timeout, importance
        return self.stream_by(self.waiting_for_pieces(), *asked)

    def waiting_for_pieces(self) -> Waiting:
        """For ``stream_by``."""
        return Waiting(*self._loop_of_ours(), self.service, self.max_body_bytes, keeps_all=False)

    @contextlib.asynccontextmanager
    async def stream_by(self, waiting: Waiting, *asked: Any) -> AsyncIterator[StreamedResponse]:
        """``stream``, for whoever has more to say about how it is waited for."""
        sending: asyncio.Task[None] | None = None
        try:
            sending = await self._begin(waiting, *asked)
            await waiting.answered()
            yield StreamedResponse(self.service, waiting)
        finally:
            self._under_way.discard(waiting)
            await self._end(waiting, sending)

    async def _end(self, waiting: Waiting, sending: asyncio.Task[None] | None) -> None:
        """Give up what is still under way."""
        waiting.give_up()
        if sending is not None:
            sending.cancel()
            done = await asyncio.gather(sending, return_exceptions=True)
            if isinstance(done[0], Exception):
                raise done[0]  # of the caller's iterator: it must not be lost

    async def _begin(
        self,
        waiting: Waiting,
        method: str,
        path: str,
        json: Any,
        content: Content | None,
        params: Mapping[str, Any] | Sequence[tuple[str, Any]] | None,
        headers: Mapping[str, str] | None,
        timeout: float | str | None,
        importance: Importance,
    ) -> asyncio.Task[None] | None:
        """Send what is known of the request; returns who sends a streamed body, if there is one."""
        loop = waiting.loop
        now = loop.time()
        plan = self._plans.get(importance)
        if plan is None:
            raise ValueError(f"importance is one of {', '.join(self._plans)}, not {importance!r}")
        target, query = _target(path, params)
        if not _METHOD.fullmatch(method):
            raise ValueError(f"{method!r} is not a method")
        until = self._until(now, timeout)
        if not self._is_open:
            await self._open_until(until)
            now = loop.time()
        extra = carried()
        pieces: AsyncIterator[bytes] | None = None
        body: bytes | None = None
        fields: list[Field] = []
        if (
            method in _BARE
            and json is None
            and content is None
            and headers is None
            and not (until is not None or extra)
        ):
            head = self._bare
        else:
            body, pieces, kind = _body(json, content)
            if body is None and pieces is None and method not in _BARE:
                body = b""  # RFC 9110 §8.6: say that there is none
            fields = _fields(headers, kind if body or pieces is not None else None)
            if extra:  # what the caller says counts; twice would be no trace at all
                said = {f.name for f in fields}
                fields += [f for f in extra if f.name not in said]
            if until is not None and self._deadline_name is not None:
                left = format_timeout_header(max(0.001, until - now))
                fields.append(make_field(self._deadline_name, left))
            head = _head(fields, body, is_streamed=pieces is not None, length=waiting.length)
        request_id = next((f.value for f in fields if f.kind & Kind.REQUEST_ID), b"")
        if not request_id:
            request_id = b"%b%x" % (self._prefix, next(self._counter))
        exchange = Exchange(
            waiting,
            method.encode(),
            target,
            query,
            head,
            "",
            "http",
            b"",
            request_id,
            _ID_NAME,
            now,
        )
        waiting.exchange = exchange
        self._under_way.add(waiting)
        if body:
            exchange.take_whole(body)
        if until is not None:
            if until <= now:
                raise ServiceTimeout(self.service, Cause.TOTAL_TIMEOUT, "there was no time left")
            waiting.until = until
            waiting.wheel.set(exchange, until)
        if waiting.head_timeout is not None:
            waiting.go_on_waiting()
        exchange.plan = plan
        plan.handler.start(exchange)
        if pieces is None:
            return None
        exchange.keep_nothing()  # its pieces come one by one, and the first has not come yet
        return loop.create_task(self._feed(waiting, pieces))

    def _until(self, now: float, timeout: float | str | None) -> float | None:
        """When it must be over, on the loop's clock."""
        total = self._normal.total_timeout
        limits = [] if total is None else [now + total]
        if timeout is not None:
            limits.append(now + parse_duration(timeout))
        around = current_deadline()
        if around is not None:
            limits.append(now + around.remaining())
        return min(limits) if limits else None

    async def _feed(self, waiting: Waiting, pieces: AsyncIterator[bytes]) -> None:
        """Send a streamed body at the pace of whoever is slower."""
        exchange = waiting.exchange
        try:
            async with _closing(pieces):
                async for piece in pieces:
                    if exchange.ended:
                        return
                    if piece:
                        exchange.on_request_data(bytes(piece))
                    await waiting.wait_room()
        except BaseException:
            waiting.give_up()  # half a request is none
            raise
        if not exchange.ended:
            exchange.on_request_end([])

    # ---------------------------------------------------------------- life

    def _loop_of_ours(self) -> tuple[asyncio.AbstractEventLoop, Wheel]:
        loop = asyncio.get_running_loop()
        if self._loop is not loop:
            if self._loop is not None:
                raise NexgateError(f"the client of {self.service} belongs to another event loop")
            self._loop = loop
            self._wheel = wheel_of(loop)
        assert self._wheel is not None
        return loop, self._wheel

    async def _open(self) -> None:
        if self._is_closed:
            raise NexgateError(f"the client of {self.service} is closed")
        if self._opening is None:
            assert self._loop is not None
            self._opening = self._loop.create_task(self._open_once())
        opening = self._opening
        try:
            # Shielded: of many who wait for it, one may leave.
            await asyncio.shield(opening)
        except BaseException as error:
            if self._opening is opening and opening.done():
                self._opening = None  # the next one tries again
            task = asyncio.current_task()
            if opening.cancelled() and task is not None and not task.cancelling():
                # By ``aclose``: whoever waits here has not been cancelled.
                raise NexgateError(f"the client of {self.service} is closed") from error
            raise

    async def _open_until(self, until: float | None) -> None:
        """Opening is part of the first call: its limit counts."""
        limit = asyncio.timeout_at(until)
        try:
            async with limit:
                await self._open()
        except TimeoutError as error:
            if not limit.expired():
                raise
            detail = "nothing is known of its instances yet"
            raise ServiceTimeout(self.service, Cause.TOTAL_TIMEOUT, detail) from error
        if self._is_closed:  # in the moment between
            raise NexgateError(f"the client of {self.service} is closed")

    async def _open_once(self) -> None:
        loop, config = self._loop, self._config
        assert loop is not None
        self._members = members = Membership(self._state, loop, self._retire)
        balancer = members.balancer_for(config)
        listed, apps = members.instances_for(config, _import)
        try:
            for app in apps:
                await app.startup()
        except BaseException:
            await asyncio.gather(*(app.aclose() for app in apps))  # no second try finds them
            raise
        self._state.guard.take(config)
        has_tls = any(each.scheme == "https" for each in config.instances)
        needs_tls = has_tls or config.tls is not None or self._provider is not None
        context = client_context(config) if needs_tls else None
        members.configure(
            config, listed, drop=_DROP, context=context, state=None, balancer=balancer
        )
        self._ticker = loop.call_later(_TICK, self._tick)
        if self._provider is not None:
            self._followed = follow(self._provider, members.found)
            await self._followed.wait_answered(_FIRST_ANSWER)
        self._is_open = True

    def _tick(self) -> None:
        loop = self._loop
        assert loop is not None
        self._ticker = loop.call_later(_TICK, self._tick)
        self._state.tick(loop.time())

    def _retire(self, instance: Any) -> None:
        self._requests_gone += instance.total_requests
        self._failures_gone += instance.total_failures
        instance.remove()

    async def aclose(self) -> None:
        """Cancel what is under way and release everything. Twice is allowed."""
        if self._is_closed:
            return
        self._is_closed = True
        self._is_open = False
        if self._opening is not None:
            self._opening.cancel()
            await asyncio.gather(self._opening, return_exceptions=True)
        if self._ticker is not None:
            self._ticker.cancel()
        for waiting in list(self._under_way):
            waiting.client_closed()
        if self._followed is not None:
            await self._followed.aclose()
        await self._state.aclose()
        if self._owned is not None:
            await self._owned.aclose()

    async def __aenter__(self) -> Self:
        self._loop_of_ours()
        await self._open()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.aclose()

    def statistics(self) -> ClientStatistics:
        """Counters, and how things are."""
        state = self._state
        instances = state.instances.values()
        breaker = state.guard.breaker
        return ClientStatistics(
            requests=self._requests_gone + sum(i.total_requests for i in instances),
            failures=self._failures_gone + sum(i.total_failures for i in instances),
            retries=state.retries,
            hedges=state.hedges,
            circuit=breaker.state.value if breaker is not None else None,
            instances=len(state.instances),
            available=sum(i.is_available for i in instances),
            active=sum(i.active for i in instances),
            discovery=self._followed.status if self._followed is not None else None,
            by_instance=tuple(map(_statistics_of, instances)),
        )

    def __repr__(self) -> str:
        state = "closed" if self._is_closed else "open" if self._is_open else "not open yet"
        return f"<ServiceClient {self.service} {state}>"


def _statistics_of(instance: InstanceState | AsgiInstance) -> InstanceStatistics:
    # An application in this process has no connections, and is not ejected.
    remote = instance if isinstance(instance, InstanceState) else None
    return InstanceStatistics(
        url=instance.url,
        active=instance.active,
        idle=remote.idle_connections if remote is not None else 0,
        requests=instance.total_requests,
        failures=instance.total_failures,
        is_healthy=instance.is_healthy,
        is_ejected=remote is not None and remote.ejected_until > 0.0,
        is_available=instance.is_available,
    )


# -------------------------------------------------------------------- what is sent


def _target(
    path: str, params: Mapping[str, Any] | Sequence[tuple[str, Any]] | None
) -> tuple[bytes, bytes | None]:
    """Path and query as they are sent. Raises ``ValueError``: nothing can inject a line."""
    if not path.isascii():
        path = quote(path, safe="/!$&'()*+,:;=@%?~")
    if not _TARGET.fullmatch(path):
        raise ValueError(f"{path!r} is not a path: begin with a slash, and percent-encode the rest")
    bare, mark, query = path.partition("?")
    if params:
        pairs = params.items() if isinstance(params, Mapping) else params
        more = urlencode([(n, v) for n, v in pairs if v is not None], doseq=True)
        query = f"{query}&{more}" if query else more
        mark = "?"
    return bare.encode(), query.encode() if mark else None


def _body(
    json: Any, content: Content | None
) -> tuple[bytes | None, AsyncIterator[bytes] | None, bytes | None]:
    """Body, streamed body, and its type."""
    if json is not None:
        if content is not None:
            raise ValueError("a request has json or content, not both")
        text = jsonlib.dumps(json, separators=(",", ":"), ensure_ascii=False, allow_nan=False)
        return text.encode(), None, b"application/json"
    if content is None:
        return None, None, None
    if isinstance(content, str):
        return content.encode(), None, b"text/plain; charset=utf-8"
    if isinstance(content, (bytes, bytearray, memoryview)):
        return bytes(content), None, b"application/octet-stream"
    if not hasattr(content, "__aiter__"):
        kind = type(content).__name__
        raise TypeError(f"content is bytes, text or an async iterator of bytes, not {kind}")
    return None, content, b"application/octet-stream"


@contextlib.asynccontextmanager
async def _closing(pieces: AsyncIterator[bytes]) -> AsyncIterator[None]:
    """A generator that is left in the middle cleans up now, not when the collector finds it."""
    try:
        yield
    finally:
        if isinstance(pieces, AsyncGenerator):
            await pieces.aclose()


def _fields(headers: Mapping[str, str] | None, kind: bytes | None) -> list[Field]:
    fields = [
        make_field(name.encode("latin-1"), value.encode("latin-1"))
        for name, value in (headers or {}).items()
    ]
    for field in fields:
        if field.kind & Kind.HOP:
            raise ValueError(f"{field.name.decode()} is not for the caller to set")
    if kind is not None and not any(f.name == b"content-type" for f in fields):
        fields.append(make_field(b"Content-Type", kind))
    return fields


def _head(
    fields: Sequence[Field],
    body: bytes | None,
    *,
    is_streamed: bool = False,
    length: int | None = None,
) -> RequestHead:
    """``length``: of a body that is streamed, where it is known before."""
    fields = list(fields)
    if not any(f.name == b"user-agent" for f in fields):
        fields.append(_AGENT)
    head = RequestHead(fields, http10=False)
    for field in fields:
        head.flags |= field.kind
    if is_streamed:
        head.has_body = True
        head.content_length = length
        head.chunked = length is None
    elif body is not None:
        head.content_length = len(body)
        head.has_body = bool(body)
    return head


def _import(url: str) -> Any:
    try:
        return import_object(url.removeprefix("asgi:"))
    except Exception as error:  # whatever its module does when it is imported
        raise ConfigError(f"{url} cannot be imported: {error}") from error
