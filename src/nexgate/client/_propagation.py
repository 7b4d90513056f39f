"""What a request carries on to the calls that are made for it: id, trace, deadline."""

from __future__ import annotations

import contextlib
from collections.abc import Awaitable, Callable, Iterator, Mapping, MutableMapping
from contextvars import ContextVar
from typing import Any, Final

from nexgate.http import Field, make_field
from nexgate.resilience import Deadline, DeadlineExceeded, parse_timeout_header

__all__ = ["Propagation", "carried", "propagating"]

_CARRIED: Final = (b"traceparent", b"tracestate", b"baggage", b"x-request-id")
_MOST_BYTES: Final = 8192

_carried: ContextVar[tuple[Field, ...]] = ContextVar("nexgate_carried", default=())

_Scope = MutableMapping[str, Any]
_App = Callable[[_Scope, Any, Any], Awaitable[None]]


def carried() -> tuple[Field, ...]:
    """The fields that calls made here send on."""
    return _carried.get()


@contextlib.contextmanager
def propagating(headers: Mapping[str, str]) -> Iterator[None]:
    """Within the block, calls send on the trace and the request id of ``headers``.

    ``traceparent``, ``tracestate``, ``baggage`` and ``x-request-id``, in any case; the rest is not
    for passing on. By hand; ``Propagation`` does it for every request of an application.
    """
    pairs = [(n.lower().encode("latin-1"), v.encode("latin-1")) for n, v in headers.items()]
    token = _carried.set(_kept(pairs))
    try:
        yield
    finally:
        _carried.reset(token)


def _kept(pairs: list[tuple[bytes, bytes]]) -> tuple[Field, ...]:
    fields = []
    for name, value in pairs:
        if name.lower() in _CARRIED and len(value) <= _MOST_BYTES:
            with contextlib.suppress(ValueError):  # not fit to be sent
                fields.append(make_field(name, value))
    return tuple(fields)


class Propagation:
    """An ASGI middleware: calls of services that are made while a request is served carry on its
    trace, its request id and its deadline.

    ``app = Propagation(app)`` around any ASGI application. The deadline comes from
    ``deadline_header`` (seconds, or with a unit); calls then have only what is left of it, and are
    cancelled with it. ``None`` leaves deadlines alone.
    """

    def __init__(self, app: _App, *, deadline_header: str | None = "X-Request-Timeout") -> None:
        self.app = app
        self._deadline = deadline_header.lower().encode("latin-1") if deadline_header else None

    async def __call__(self, scope: _Scope, receive: Any, send: Any) -> None:
        if scope["type"] not in ("http", "websocket"):
            await self.app(scope, receive, send)
            return
        pairs = [(bytes(name), bytes(value)) for name, value in scope["headers"]]
        token = _carried.set(_kept(pairs))
        try:
            seconds = self._seconds(pairs)
            if seconds is None or scope["type"] == "websocket":
                await self.app(scope, receive, send)
            else:
                await self._within(seconds, scope, receive, send)
        finally:
            _carried.reset(token)

    async def _within(self, seconds: float, scope: _Scope, receive: Any, send: Any) -> None:
        """Serve until the deadline; then answer 504, if nothing has been answered yet."""
        has_begun = False

        async def sending(message: MutableMapping[str, Any]) -> None:
            nonlocal has_begun
            has_begun = True
            await send(message)

        try:
            async with Deadline.after(seconds):
                await self.app(scope, receive, sending)
        except DeadlineExceeded:
            if has_begun:
                raise
            headers = [(b"content-type", b"text/plain"), (b"content-length", b"0")]
            await send({"type": "http.response.start", "status": 504, "headers": headers})
            await send({"type": "http.response.body", "body": b""})

    def _seconds(self, pairs: list[tuple[bytes, bytes]]) -> float | None:
        said = [value for name, value in pairs if name.lower() == self._deadline]
        return parse_timeout_header(said[-1]) if said else None
