"""The toolkit around an application: a scope for each request, its id, metrics, start and stop."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, MutableMapping
from typing import Any, Final

from nexgate.di import Container, Scope

from ._background import register_background
from ._connection import ASGIApp, Connection, Message, Send, current_request_id, header_of
from ._lifespan import lifespan
from ._metrics import Metrics
from ._parts import Part, Parts, Plugins
from ._request_id import HEADER, accepted, new_id

__all__ = ["Toolkit"]

_log = logging.getLogger("nexgate.integrations")

_ID: Final = "nexgate.request_id"


class Toolkit:
    """An ASGI application around ``app``.

    Each request and each WebSocket has a dependency scope, in which ``Connection`` and
    ``BackgroundTasks`` can be asked for. After the response the tasks run, unless the handler
    failed; then what generators made is torn down, and they see the exception of the handler.

    With ``request_id`` a valid ``X-Request-ID`` is taken over, or
    one is made; the response repeats it. With ``metrics`` (``True``, or ``Metrics``) requests are
    counted and ``GET metrics_path`` is answered here.

    ``start`` checks the container and starts bus, tasks and plugins, in this order; ``aclose``
    stops them in reverse and tears down singletons. As an application it does so with the lifespan
    of the server. A start that fails stops what had started, and the server does not serve.

    ``route_of`` gives the template of the route that a scope was matched with, for metrics.
    """

    def __init__(
        self,
        app: ASGIApp,
        *,
        container: Container | None = None,
        bus: Part | None = None,
        tasks: Part | None = None,
        plugins: Plugins | None = None,
        request_id: bool = True,
        metrics: bool | Metrics = False,
        metrics_path: str = "/metrics",
        route_of: Callable[[MutableMapping[str, Any]], str | None] | None = None,
    ) -> None:
        self.app = app
        self.container = container if container is not None else Container()
        self.metrics = Metrics() if metrics is True else metrics or None
        self._metrics_path = metrics_path
        self._has_request_id = request_id
        self._route_of = route_of or route_of_scope
        self._parts = Parts(self.container, bus, tasks, plugins)
        if Connection not in self.container:
            self.container.register_context(Connection)
        register_background(self.container)
        for part in (bus, tasks, plugins):
            if part is not None and type(part) not in self.container:
                self.container.register(type(part), part)

    async def start(self) -> None:
        """Start the parts. Raises what the first that fails raises; then nothing runs."""
        await self._parts.start(self.app)

    async def aclose(self) -> None:
        """Stop what ``start`` started. May be called twice."""
        await self._parts.aclose()

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        """ASGI."""
        if scope["type"] == "lifespan":
            await lifespan(self.app, scope, receive, send, self.start, self.aclose)
        else:
            await self.serve(self.app, scope, receive, send)

    async def serve(self, app: ASGIApp, scope: Any, receive: Any, send: Any) -> None:
        """Let ``app`` answer, within all that the toolkit has."""
        kind = scope["type"]
        if kind not in ("http", "websocket"):
            await app(scope, receive, send)
            return
        metrics = self.metrics if kind == "http" else None
        if metrics is not None and scope["path"] == self._metrics_path and scope["method"] == "GET":
            await metrics.answer(receive, send)
            return
        connection = Connection(scope, receive, send)
        if not self._has_request_id:
            await self._counted(metrics, app, connection, send)
            return
        # That of the toolkit around the application that this one is mounted in goes first.
        request_id = scope.get(_ID) or accepted(header_of(scope, HEADER)) or new_id()
        scope[_ID] = connection.request_id = request_id
        before = current_request_id.set(request_id)
        try:
            await self._counted(metrics, app, connection, _echoing(send, request_id))
        finally:
            current_request_id.reset(before)

    async def _counted(
        self, metrics: Metrics | None, app: ASGIApp, connection: Connection, send: Send
    ) -> None:
        if metrics is None:
            await self._scoped(app, connection, send)
            return
        status = 500  # what the server answers when nobody does

        async def noting(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)

        metrics.began()
        started = time.perf_counter()
        try:
            await self._scoped(app, connection, noting)
        finally:
            seconds = time.perf_counter() - started
            scope = connection.scope
            metrics.ended(scope["method"], self._route(scope), status, seconds)

    def _route(self, scope: MutableMapping[str, Any]) -> str | None:
        try:
            return self._route_of(scope)
        except Exception:
            _log.exception("route_of failed")
            return None

    async def _scoped(self, app: ASGIApp, connection: Connection, send: Send) -> None:
        dependencies: Scope = self.container.scope({Connection: connection})
        await dependencies.__aenter__()
        try:
            await app(connection.scope, connection.receive, send)
            if connection.background and dependencies.failure is None:
                for each in connection.background:
                    await each.run()
        except BaseException as error:
            await dependencies.__aexit__(type(error), error, error.__traceback__)
            raise
        # A framework that made a response of an exception has kept it from us; not from them.
        failure = dependencies.failure
        await dependencies.__aexit__(type(failure) if failure else None, failure, None)


def _echoing(send: Send, request_id: str) -> Send:
    value = request_id.encode("latin-1")

    async def echoing(message: Message) -> None:
        if message["type"] in ("http.response.start", "websocket.accept"):
            headers = list(message.get("headers") or ())
            if not any(bytes(name).lower() == HEADER for name, _ in headers):
                headers.append((HEADER, value))
                message = {**message, "headers": headers}
        await send(message)

    return echoing


def route_of_scope(scope: MutableMapping[str, Any]) -> str | None:
    """What Starlette, FastAPI and Litestar leave in a scope that they matched."""
    template = scope.get("path_template")
    if template is not None:
        return str(template)
    route = scope.get("route")
    found = getattr(route, "path_format", None) or getattr(route, "path", None)
    return str(found) if found is not None else None
