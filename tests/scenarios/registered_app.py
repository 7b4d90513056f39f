"""A service that registers itself: ``registered_app.py PORT NAME STATE FRAMEWORK [TTL]``."""

from __future__ import annotations

import os
import sys
from typing import Any

import uvicorn

from nexgate.discovery import register_service


def starlette() -> Any:
    from starlette.applications import Starlette
    from starlette.responses import PlainTextResponse
    from starlette.routing import Route

    def who(_: Any) -> PlainTextResponse:
        return PlainTextResponse(str(os.getpid()))

    return Starlette(routes=[Route("/", who), Route("/health", who)])


def nexios() -> Any:
    from nexios import NexiosApp

    app = NexiosApp()

    @app.get("/")
    async def who(request: Any, response: Any) -> Any:
        return response.text(str(os.getpid()))

    @app.get("/health")
    async def health(request: Any, response: Any) -> Any:
        return response.text("ok")

    return app


def main() -> None:
    port, name, state, framework = int(sys.argv[1]), sys.argv[2], sys.argv[3], sys.argv[4]
    ttl = float(sys.argv[5]) if len(sys.argv) > 5 else 15.0
    app = nexios() if framework == "nexios" else starlette()
    app = register_service(app, name=name, url=f"http://127.0.0.1:{port}", registry=state, ttl=ttl)
    print("ready", flush=True)
    uvicorn.run(app, host="127.0.0.1", port=port, log_level="warning")


if __name__ == "__main__":
    main()
