"""Real servers for the tests of ASGI: our edge in front of an application, uvicorn around us.

Leaving each of them checks that nothing was left running.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from typing import Any

import uvicorn

from nexgate.edge import EdgeLimits, EdgeState, EdgeTimeouts, Listener, Server
from nexgate.edge._asgi import AsgiEntry
from nexgate.edge._server import bind
from nexgate.exchange import Exchange, Hook, Plan
from nexgate.routing import PathRules, Route, RouteTable, Template
from nexgate.snapshot import Snapshot
from nexgate.testing import RawClient, wait_until
from nexgate.upstream import Address, AsgiInstance, Forward, InstanceState, ServiceState
from nexgate.upstream.balancer import LeastRequests


@dataclass
class Edge:
    state: EdgeState
    service: ServiceState
    instance: Any
    log: list[Exchange]
    """Exchanges that have ended."""
    url: str = ""

    @property
    def port(self) -> int:
        return int(self.url.rpartition(":")[2])

    def client(self, **options: Any) -> RawClient:
        return RawClient(self.url, **options)

    async def get(self, path: str = "/", *lines: str) -> Any:
        """One request on a connection of its own."""
        async with self.client() as client:
            head = "\r\n".join([f"GET {path} HTTP/1.1", "Host: example.com", *lines, "", ""])
            return await client.request(head.encode())


def make_edge(
    target: Any,
    *,
    hooks: tuple[Hook, ...] = (),
    plan: dict[str, Any] | None = None,
    prepare: Callable[[Exchange], None] | None = None,
    timeouts: EdgeTimeouts | None = None,
    **instance_options: Any,
) -> Edge:
    """``target``: an application, or the URL of an upstream. Everything goes there."""
    loop = asyncio.get_running_loop()
    service = ServiceState("app", LeastRequests())
    instance: Any
    if isinstance(target, str):
        instance = InstanceState(
            Address.parse(target), loop, service="app", on_change=service.refresh
        )
    else:
        instance = AsgiInstance(
            target,
            "asgi:tests:app",
            loop,
            service="app",
            on_change=service.refresh,
            **instance_options,
        )
        instance.disconnect_grace = 0.1
    service.set_instances([instance])
    handler = Forward(service, prepare)
    table = RouteTable(
        [Route(Template.parse("/{rest:path}"), Plan("all", handler, hooks, **(plan or {})), "all")],
        PathRules(),
    )
    state = EdgeState(
        loop,
        Snapshot(table),
        limits=EdgeLimits(),
        timeouts=timeouts or EdgeTimeouts(half_close=0.1),
    )
    log: list[Exchange] = []
    state.exchange_log = log.append
    return Edge(state, service, instance, log)


@contextlib.asynccontextmanager
async def nothing_left() -> AsyncIterator[None]:
    """No task that began inside is there when the block has ended.

    A scripted upstream's own are not counted: it may serve a connection until it is stopped.
    """
    before = asyncio.all_tasks()
    yield

    def is_ours(task: asyncio.Task[Any]) -> bool:
        coroutine = task.get_coro()
        return getattr(coroutine, "__qualname__", "") != "ScriptedUpstream._serve"

    await wait_until(lambda: not [t for t in asyncio.all_tasks() - before if is_ours(t)])


@contextlib.asynccontextmanager
async def edge_for(target: Any, **options: Any) -> AsyncIterator[Edge]:
    """Our own edge, listening, in front of ``target``."""
    async with nothing_left():
        edge = make_edge(target, **options)
        server = Server(edge.state, [Listener(bind("127.0.0.1", 0, ""))])
        if isinstance(edge.instance, AsgiInstance):
            await edge.instance.startup()
        await server.start()
        edge.url = server.urls[0]
        try:
            yield edge
        finally:
            await server.stop(0.2)
            await edge.service.aclose()
        await wait_until(lambda: edge.instance.active == 0)


@contextlib.asynccontextmanager
async def uvicorn_with(app: Any, **options: Any) -> AsyncIterator[str]:
    """A real uvicorn in this loop; yields its URL."""
    async with nothing_left():
        sock = socket.create_server(("127.0.0.1", 0))
        config = uvicorn.Config(
            app, log_config=None, lifespan="off", timeout_graceful_shutdown=1, **options
        )
        server = uvicorn.Server(config)
        # Signals are pytest's: the server would take them over.
        server.capture_signals = contextlib.nullcontext  # type: ignore[method-assign]
        task = asyncio.create_task(server.serve([sock]))
        try:
            await wait_until(lambda: server.started)
            yield f"http://127.0.0.1:{sock.getsockname()[1]}"
        finally:
            server.should_exit = True
            await task
            sock.close()


@contextlib.asynccontextmanager
async def entry_for(target: Any, **options: Any) -> AsyncIterator[tuple[AsgiEntry, Edge]]:
    """The gateway as an ASGI application in front of ``target``, without a server around it."""
    async with nothing_left():
        edge = make_edge(target, **options)
        if isinstance(edge.instance, AsgiInstance):
            await edge.instance.startup()
        try:
            yield AsgiEntry(edge.state), edge
        finally:
            await edge.service.aclose()
        await wait_until(lambda: edge.instance.active == 0)


def only_http(app: Any) -> Any:
    """An application that has no lifespan, as many small ones."""

    async def wrapped(scope: Any, receive: Any, send: Any) -> None:
        assert scope["type"] == "http"
        await app(scope, receive, send)

    return wrapped


async def read_body(receive: Any) -> bytes:
    """All the content of a request."""
    body = b""
    while True:
        message = await receive()
        assert message["type"] == "http.request", message
        body += message["body"]
        if not message["more_body"]:
            return body


async def answer(
    send: Any, body: bytes = b"", status: int = 200, headers: Any = (), **start: Any
) -> None:
    await send({"type": "http.response.start", "status": status, "headers": list(headers), **start})
    await send({"type": "http.response.body", "body": body})


async def take_part_in_lifespan(scope: Any, receive: Any, send: Any) -> None:
    """The lifespan of an application that has nothing to do."""
    assert (await receive())["type"] == "lifespan.startup"
    await send({"type": "lifespan.startup.complete"})
    assert (await receive())["type"] == "lifespan.shutdown"
    await send({"type": "lifespan.shutdown.complete"})
