"""What the installed toolkit costs a request, beside the same application without it.

``python -m bench.integrations`` calls each application as a server would, without sockets, and
prints microseconds per request and the ratio to the bare application in the same run. The least of
nine rounds counts; in each, everything is measured once, so a noisy moment hits all alike.
Frameworks that are not installed are named as such.

``installed``: a scope and a request id. ``and a dependency``: a handler that asks for something of
the request, a generator. ``and metrics``: counted, too.
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import io
import sys
import time
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from rich.console import Console
from rich.table import Table

from nexgate.di import Container, Inject, inject
from nexgate.integrations import Toolkit

_ROUNDS = 9
_CALLS = 1000


class Session:
    pass


def session() -> Iterator[Session]:
    yield Session()


def container() -> Container:
    made = Container()
    made.register_factory(Session, session, lifetime="scoped")
    return made


# --- applications: /bare, and /asks for one that asks for a session -------------------------------


def plain_asgi() -> tuple[Any, Callable[..., Any]]:
    async def answer(send: Any) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b"ok"})

    @inject
    async def asks(send: Any, session: Inject[Session]) -> None:
        await answer(send)

    call: Any = asks

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await (call(send) if scope["path"] == "/asks" else answer(send))

    return app, Toolkit


def starlette_app() -> tuple[Any, Callable[..., Any]]:
    from starlette.applications import Starlette
    from starlette.requests import Request
    from starlette.responses import PlainTextResponse
    from starlette.routing import Route

    from nexgate.integrations.starlette import install

    async def bare(request: Request) -> Any:
        return PlainTextResponse("ok")

    @inject
    async def asks(request: Request, session: Inject[Session]) -> Any:
        return PlainTextResponse("ok")

    return Starlette(routes=[Route("/bare", bare), Route("/asks", asks)]), install


def fastapi_app() -> tuple[Any, Callable[..., Any]]:
    from fastapi import FastAPI
    from fastapi.responses import PlainTextResponse

    from nexgate.integrations import fastapi as ours

    app = FastAPI()

    async def bare() -> Any:
        return PlainTextResponse("ok")

    async def asks(session: Any) -> Any:
        return PlainTextResponse("ok")

    asks.__annotations__["session"] = ours.Inject[Session]
    app.get("/bare")(bare)
    app.get("/asks")(asks)
    return app, ours.install


def litestar_app() -> tuple[Any, Callable[..., Any]]:
    from litestar import Litestar, get

    from nexgate.integrations.litestar import install

    @get("/bare")
    async def bare() -> str:
        return "ok"

    @get("/asks")
    @inject
    async def asks(session: Inject[Session]) -> str:
        return "ok"

    return Litestar([bare, asks], openapi_config=None), install


def nexios_app() -> tuple[Any, Callable[..., Any]]:
    from nexios import NexiosApp

    from nexgate.integrations.nexios import install

    app = NexiosApp()

    async def bare(request: Any, response: Any) -> Any:
        return response.text("ok")

    async def asks(request: Any, response: Any, session: Inject[Session]) -> Any:
        return response.text("ok")

    app.get("/bare")(bare)
    app.get("/asks")(asks)
    return app, install


@dataclass
class Entry:
    """One line of the table."""

    framework: str
    name: str
    make: Callable[[], tuple[Any, Callable[..., Any]]]
    path: str = "/bare"
    is_installed: bool = True
    has_metrics: bool = False

    def application(self) -> Any:
        app, install = self.make()
        if not self.is_installed:
            return app
        installed = install(app, container=container(), metrics=self.has_metrics)
        return installed if install is Toolkit else app


ENTRIES = [
    entry
    for name, make in (
        ("ASGI", plain_asgi),
        ("Starlette", starlette_app),
        ("FastAPI", fastapi_app),
        ("Litestar", litestar_app),
        ("Nexios", nexios_app),
    )
    for entry in (
        Entry(name, "bare", make, is_installed=False),
        Entry(name, "installed", make),
        Entry(name, "and a dependency", make, "/asks"),
        Entry(name, "and metrics", make, "/asks", has_metrics=True),
    )
]


async def requests(app: Any, path: str, count: int) -> None:
    async def receive() -> Any:
        return {"type": "http.request", "body": b"", "more_body": False}

    async def send(message: Any) -> None:
        if message["type"] == "http.response.start":
            assert message["status"] == 200, message

    for _ in range(count):
        scope = {
            "type": "http",
            "asgi": {"version": "3.0", "spec_version": "2.3"},
            "http_version": "1.1",
            "method": "GET",
            "scheme": "http",
            "path": path,
            "raw_path": path.encode(),
            "root_path": "",
            "query_string": b"",
            "headers": [(b"host", b"example.com"), (b"accept", b"*/*")],
            "client": ("127.0.0.1", 1),
            "server": ("127.0.0.1", 8000),
        }
        await app(scope, receive, send)


async def measure() -> list[float | None]:
    """Microseconds per request of each entry; ``None`` where the framework is missing."""
    apps: list[Any] = []
    for entry in ENTRIES:
        try:
            apps.append(entry.application())
        except ImportError:
            apps.append(None)
    best: list[float | None] = [None] * len(apps)
    gc.disable()
    for _ in range(_ROUNDS):
        for index, (entry, app) in enumerate(zip(ENTRIES, apps, strict=True)):
            if app is None:
                continue
            await requests(app, entry.path, 10)
            started = time.perf_counter_ns()
            await requests(app, entry.path, _CALLS)
            micros = (time.perf_counter_ns() - started) / _CALLS / 1000
            known = best[index]
            best[index] = micros if known is None else min(known, micros)
            gc.collect()
    gc.enable()
    return best


def main() -> int:
    warnings.simplefilter("ignore")
    with contextlib.redirect_stdout(io.StringIO()):  # Nexios prints when it resolves
        results = asyncio.run(measure())
    table = Table("framework", "what", "µs", "ratio", "added µs", title="per request, no sockets")
    for column in table.columns[2:]:
        column.justify = "right"
    bare = 0.0
    for entry, micros in zip(ENTRIES, results, strict=True):
        if not entry.is_installed:
            table.add_section()
            bare = micros or 0.0
        shown = entry.framework if not entry.is_installed else ""
        if micros is None:
            table.add_row(shown, entry.name, "not installed", "", "")
            continue
        table.add_row(
            shown, entry.name, f"{micros:.1f}", f"{micros / bare:.2f}", f"{micros - bare:.1f}"
        )
    Console().print(table)
    return 0


if __name__ == "__main__":
    sys.exit(main())
