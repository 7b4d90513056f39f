"""The toolkit in Litestar::

toolkit = install(app, container=container)

@get("/users")
@inject
async def users(users: Inject[Users]) -> list[str]: ...
"""

from __future__ import annotations

from typing import Any, Unpack

try:
    from litestar import Litestar, Request, WebSocket
except ImportError as error:
    raise ImportError("nexgate.integrations.litestar needs: pip install litestar") from error

from nexgate.di import Inject, inject

from ._connection import Connection
from ._install import Options, toolkit_for
from ._provided import provided
from ._toolkit import Toolkit

__all__ = ["Inject", "inject", "install", "provided"]


def install(app: Litestar, **options: Unpack[Options]) -> Toolkit:
    """Put the toolkit around everything that ``app`` does. Options as of ``Toolkit``. Factories
    may ask for Litestar's ``Request`` and ``WebSocket``.
    """
    toolkit = toolkit_for(app, Toolkit(app, **options))
    handler: Any = app.asgi_handler

    async def around(scope: Any, receive: Any, send: Any) -> None:
        await toolkit.serve(handler, scope, receive, send)

    app.asgi_handler = around

    # Litestar answers the lifespan by itself. Ours begins before its hooks and ends after them; if
    # one of its hooks fails, its exit stack runs the ends of all.
    app.on_startup.insert(0, toolkit.start)
    app.on_shutdown.append(toolkit.aclose)

    def request(connection: Connection) -> Request[Any, Any, Any]:
        scope: Any = connection.scope
        receive: Any = connection.receive
        return Request(scope, receive)

    def websocket(connection: Connection) -> WebSocket[Any, Any, Any]:
        scope: Any = connection.scope
        receive: Any = connection.receive
        send: Any = connection.send
        return WebSocket(scope, receive, send)

    container = toolkit.container
    for type_, factory in ((Request, request), (WebSocket, websocket)):
        if type_ not in container:
            container.register_factory(type_, factory, lifetime="scoped")
    return toolkit
