"""The toolkit in Nexios::

toolkit = install(app, container=container)

@app.get("/users")
async def users(request: Request, response: Response, users: Inject[Users]): ...
"""

from __future__ import annotations

from collections.abc import AsyncIterator, MutableMapping
from contextlib import asynccontextmanager
from typing import Any, Unpack

try:
    from nexios import NexiosApp
    from nexios.http import Request
except ImportError as error:
    raise ImportError("nexgate.integrations.nexios needs: pip install nexios") from error

from nexgate.di import Inject, inject

from ._connection import ASGIApp, Connection
from ._install import Options, toolkit_for
from ._provided import present_scope, provided
from ._toolkit import Toolkit

__all__ = ["Inject", "inject", "install", "provided"]


def install(app: NexiosApp, **options: Unpack[Options]) -> Toolkit:
    """Put the toolkit around everything that ``app`` does. Options as of ``Toolkit``. Handlers,
    also those of WebSockets and of mounted routers, may have ``Inject[…]`` parameters; factories
    may ask for Nexios's ``Request``.
    """
    toolkit = toolkit_for(app, Toolkit(app, **options, route_of=_route_of))
    _around_requests(app, toolkit)
    _around_lifespan(app, toolkit)
    container = toolkit.container
    if Request not in container:

        def request(connection: Connection) -> Request:
            return Request(connection.scope, connection.receive)

        container.register_factory(Request, request, lifetime="scoped")
    return toolkit


def _around_requests(app: NexiosApp, toolkit: Toolkit) -> None:
    handle: Any = app.handle_request
    routes: Any = app.router

    async def around(scope: Any, receive: Any, send: Any) -> None:
        await toolkit.serve(handle, scope, receive, send)

    app.handle_request = around  # type: ignore[method-assign]  # of this one application

    def within(inner: ASGIApp) -> ASGIApp:
        """Inside of what makes responses of exceptions, where they can be seen."""
        known = -1

        async def noting(scope: Any, receive: Any, send: Any) -> None:
            nonlocal known
            if known != len(routes.routes):  # more were added since
                known = _inject_into(routes)
            try:
                await inner(scope, receive, send)
            except Exception as error:
                present_scope().failure = error
                raise

        return noting

    app.wrap_asgi(within)


def _inject_into(router: Any) -> int:
    """Fill the marked parameters of all handlers there are; how many routes ``router`` has."""
    for route in router.routes:
        handler = getattr(route, "handler", None)
        if handler is not None:
            route.handler = inject(handler)
        if hasattr(route, "routes"):
            _inject_into(route)
    return len(router.routes)


def _around_lifespan(app: NexiosApp, toolkit: Toolkit) -> None:
    theirs: Any = app.lifespan_context

    @asynccontextmanager
    async def lifespan(_: Any) -> AsyncIterator[Any]:
        await toolkit.start()
        try:
            if theirs is not None:
                async with theirs(app) as state:
                    yield state
                return
            # With a lifespan of its own Nexios runs no handlers of startup and shutdown: we do.
            await app._startup()
            try:
                yield None
            finally:
                await app._shutdown()
        finally:
            await toolkit.aclose()

    app.lifespan_context = lifespan


def _route_of(scope: MutableMapping[str, Any]) -> str | None:
    """The path with its parameters' names for their values: Nexios keeps no template in a scope."""
    params = scope.get("route_params")
    if params is None:
        return None
    path: str = scope["path"]
    for name in params:
        before, found, after = path.rpartition(f"/{params[name]}")
        if found:
            path = f"{before}/{{{name}}}{after}"
    return path
