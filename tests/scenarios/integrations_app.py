"""An application of each framework that says what it does; run by uvicorn in a process."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator
from typing import Any

from nexgate.di import Container, Inject, inject
from nexgate.integrations import Connection


class Pool:
    pass


class Session:
    pass


async def pool() -> AsyncIterator[Pool]:
    print("pool opened", flush=True)
    yield Pool()
    await asyncio.sleep(0)
    print("pool closed", flush=True)


async def session(pool: Pool, connection: Connection) -> AsyncIterator[Session]:
    print("session opened", flush=True)
    try:
        yield Session()
    except BaseException as error:
        print(f"session failed: {type(error).__name__}", flush=True)
        raise
    else:
        print("session closed", flush=True)


container = Container()
container.register_context(Connection)
container.register_factory(Pool, pool)
container.register_factory(Session, session, lifetime="scoped")


class Broken:
    async def start(self) -> None:
        raise RuntimeError("the broker is away")

    async def aclose(self) -> None:
        print("never", flush=True)


options: dict[str, Any] = {"container": container, "metrics": True}
if os.environ.get("BROKEN"):
    options["bus"] = Broken()


def nexios() -> Any:
    from nexios import NexiosApp

    from nexgate.integrations.nexios import install

    app = NexiosApp()
    install(app, **options)

    @app.get("/")
    async def index(request: Any, response: Any, session: Inject[Session]) -> Any:
        return response.text("ok")

    @app.ws_route("/ws")
    async def ws(websocket: Any, session: Inject[Session]) -> None:
        await websocket.accept()
        await websocket.send_text(await websocket.receive_text())
        await websocket.close()

    return app


def starlette() -> Any:
    from starlette.applications import Starlette
    from starlette.requests import Request
    from starlette.responses import PlainTextResponse, StreamingResponse
    from starlette.routing import Route, WebSocketRoute
    from starlette.websockets import WebSocket

    from nexgate.integrations.starlette import install

    @inject
    async def index(request: Request, session: Inject[Session]) -> Any:
        return PlainTextResponse("ok")

    @inject
    async def endless(request: Request, session: Inject[Session]) -> Any:
        async def chunks() -> AsyncIterator[bytes]:
            while True:
                yield b"x" * 65536
                await asyncio.sleep(0)

        return StreamingResponse(chunks())

    @inject
    async def ws(websocket: WebSocket, session: Inject[Session]) -> None:
        await websocket.accept()
        await websocket.send_text(await websocket.receive_text())
        await websocket.close()

    app = Starlette(
        routes=[Route("/", index), Route("/endless", endless), WebSocketRoute("/ws", ws)]
    )
    install(app, **options)
    return app


def fastapi() -> Any:
    from fastapi import FastAPI, WebSocket

    from nexgate.integrations import fastapi as ours

    app = FastAPI()
    ours.install(app, **options)

    async def index(session: Any) -> str:
        return "ok"

    async def ws(websocket: WebSocket, session: Any) -> None:
        await websocket.accept()
        await websocket.send_text(await websocket.receive_text())
        await websocket.close()

    index.__annotations__["session"] = ours.Inject[Session]
    ws.__annotations__.update(session=ours.Inject[Session], websocket=WebSocket)
    app.get("/")(index)
    app.websocket("/ws")(ws)
    return app


def litestar() -> Any:
    from litestar import Litestar, WebSocket, get, websocket

    from nexgate.integrations.litestar import install

    @get("/")
    @inject
    async def index(session: Inject[Session]) -> str:
        return "ok"

    async def ws(socket: Any, session: Inject[Session]) -> None:
        await socket.accept()
        await socket.send_text(await socket.receive_text())
        await socket.close()

    ws.__annotations__["socket"] = WebSocket
    app = Litestar([index, websocket("/ws")(inject(ws))])
    install(app, **options)
    return app
