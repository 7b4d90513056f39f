"""The toolkit in Nexios::

toolkit = install(app, container=container)

@app.get("/users")
async def users(request: Request, response: Response, users: Inject[Users]): ...
"""

from __future__ import annotations

import asyncio
import functools
import inspect
from collections.abc import AsyncIterator, MutableMapping
from contextlib import asynccontextmanager
from typing import Any, Final, Unpack

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

_ENTRY: Final = "nexgate.root_path"
_ROUTE: Final = "nexgate.route"
_PREPARED: Final = "__nexgate_prepared__"


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

    async def around(scope: Any, receive: Any, send: Any) -> None:
        await toolkit.serve(handle, scope, receive, send)

    app.handle_request = around  # type: ignore[method-assign]  # of this one application

    def within(inner: ASGIApp) -> ASGIApp:
        """Inside of what makes responses of exceptions, where they can be seen."""
        known: list[tuple[Any, int]] = []

        async def noting(scope: Any, receive: Any, send: Any) -> None:
            if not known or any(len(each.routes) != count for each, count in known):
                known[:] = _prepared(app.router)  # more were added since
            scope[_ENTRY] = len(scope.get("root_path") or "")
            try:
                await inner(scope, receive, send)
            except Exception as error:
                present_scope().failure = error
                raise

        return noting

    app.wrap_asgi(within)


def _prepared(router: Any) -> list[tuple[Any, int]]:
    """Fill the marked parameters of all handlers there are, and let routes be known by their
    templates; the routers, with how many routes each has.
    """
    found = [(router, len(router.routes))]
    for route in router.routes:
        handler = getattr(route, "handler", None)
        if handler is not None and not hasattr(route, _PREPARED):
            setattr(route, _PREPARED, True)
            route.handler = _filled(handler)
            route.handle = _named(route.handle, route.raw_path)
        if hasattr(route, "routes"):
            found += _prepared(route)
    return found


def _filled(handler: Any) -> Any:
    call = getattr(handler, "__call__", None)  # noqa: B004  # an object with an async __call__
    if inspect.iscoroutinefunction(handler) or inspect.iscoroutinefunction(call):
        return inject(handler)

    @functools.wraps(handler)
    async def in_thread(*args: Any, **given: Any) -> Any:
        # Nexios calls it in a thread, too, but one that knows nothing of the request.
        return await asyncio.to_thread(handler, *args, **given)

    return inject(in_thread)


def _named(handle: ASGIApp, template: str) -> ASGIApp:
    async def naming(scope: Any, receive: Any, send: Any) -> None:
        # Groups move their prefix from the path to the root path.
        scope[_ROUTE] = (scope.get("root_path") or "")[scope[_ENTRY] :] + template
        await handle(scope, receive, send)

    return naming


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
    found: str | None = scope.get(_ROUTE)
    return found
