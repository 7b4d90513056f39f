"""The toolkit in Starlette::

toolkit = install(app, container=container)

@inject
async def endpoint(request: Request, users: Inject[Users]) -> Response: ...
"""

from __future__ import annotations

from typing import Any, Unpack

try:
    from starlette.applications import Starlette
    from starlette.requests import HTTPConnection, Request
    from starlette.websockets import WebSocket
except ImportError as error:
    raise ImportError("nexgate.integrations.starlette needs: pip install starlette") from error

from nexgate.di import Container, Inject, inject

from ._connection import Connection
from ._install import Options, toolkit_for
from ._provided import provided
from ._toolkit import Toolkit

__all__ = ["Inject", "inject", "install", "provided"]


def install(app: Starlette, **options: Unpack[Options]) -> Toolkit:
    """Put the toolkit around everything that ``app`` does; call it before the first request.
    Options as of ``Toolkit``. Factories may ask for Starlette's ``Request`` and ``WebSocket``.
    """
    return install_around(app, **options)


def install_around(app: Starlette, **options: Unpack[Options]) -> Toolkit:
    """The same, for what is a Starlette application, too."""
    if app.middleware_stack is not None:
        raise RuntimeError("install the toolkit before the application answers its first request")
    toolkit = toolkit_for(app, Toolkit(app, **options))
    register_requests(toolkit.container)
    build = app.build_middleware_stack

    def around() -> Any:
        # Outside of the middleware that answers 500, so that this answer has a request id, too.
        toolkit.app = build()
        return toolkit

    app.build_middleware_stack = around  # type: ignore[method-assign]  # of this one application
    return toolkit


def register_requests(container: Container) -> None:
    """Starlette's words for a connection, made when they are asked for."""

    def http_connection(connection: Connection) -> HTTPConnection:
        return HTTPConnection(connection.scope, connection.receive)

    def request(connection: Connection) -> Request:
        return Request(connection.scope, connection.receive, connection.send)

    def websocket(connection: Connection) -> WebSocket:
        return WebSocket(connection.scope, connection.receive, connection.send)

    made: dict[type[Any], Any] = {
        HTTPConnection: http_connection,
        Request: request,
        WebSocket: websocket,
    }
    for type_, factory in made.items():
        if type_ not in container:
            container.register_factory(type_, factory, lifetime="scoped")
