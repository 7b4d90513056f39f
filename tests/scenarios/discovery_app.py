"""A registered application in a real uvicorn: ``discovery_app.py KIND PORT SPEC TTL [NAME]``.

``KIND`` is ``nexios``, ``starlette``, ``bare`` (no lifespan at all) or ``failing`` (its start-up
fails). Says ``up`` when it serves.
"""

from __future__ import annotations

import contextlib
import logging
import sys
from collections.abc import AsyncIterator
from typing import Any

import uvicorn

from nexgate.discovery import register_service


def nexios() -> Any:
    from nexios import NexiosApp

    app = NexiosApp()

    @app.get("/health")
    async def health(request: Any, response: Any) -> Any:
        return response.json({"ok": True})

    async def started() -> None:
        print("nexios started", flush=True)

    async def stopped() -> None:
        print("nexios stopped", flush=True)

    app.on_startup(started)
    app.on_shutdown(stopped)
    return app


def starlette() -> Any:
    from starlette.applications import Starlette
    from starlette.requests import Request
    from starlette.responses import PlainTextResponse
    from starlette.routing import Route

    async def health(request: Request) -> PlainTextResponse:
        return PlainTextResponse("ok")

    @contextlib.asynccontextmanager
    async def lifespan(app: Starlette) -> AsyncIterator[None]:
        print("starlette started", flush=True)
        yield
        print("starlette stopped", flush=True)

    return Starlette(routes=[Route("/health", health)], lifespan=lifespan)


async def bare(scope: Any, receive: Any, send: Any) -> None:
    assert scope["type"] == "http"
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": b"ok"})


async def failing(scope: Any, receive: Any, send: Any) -> None:
    await receive()
    await send({"type": "lifespan.startup.failed", "message": "no database"})


APPS = {
    "nexios": nexios,
    "starlette": starlette,
    "bare": lambda: bare,
    "failing": lambda: failing,
}


class Server(uvicorn.Server):
    async def startup(self, sockets: Any = None) -> None:
        await super().startup(sockets)
        print("up", flush=True)


if __name__ == "__main__":
    kind, port, spec, ttl = sys.argv[1:5]
    logging.basicConfig(level=logging.INFO)
    app = register_service(
        APPS[kind](),
        name="api",
        url=f"http://127.0.0.1:{port}",
        registry=spec,
        ttl=float(ttl),
        metadata={"kind": kind},
    )
    lifespan = "off" if "no-lifespan" in sys.argv else "auto"
    Server(
        uvicorn.Config(app, host="127.0.0.1", port=int(port), log_level="info", lifespan=lifespan)
    ).run()
