"""The same program in the four frameworks: what is installed works in each."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import httpx
import pytest
from tests.unit.integrations.parts import (
    Failure,
    Part,
    PluginPart,
    Session,
    Told,
    Users,
    container,
)

from nexgate.di import Inject, current_scope, inject
from nexgate.errors import ConfigError
from nexgate.integrations import Toolkit, current_request_id

Made = tuple[Any, Toolkit]


def nexios_app(told: Told, **options: Any) -> Made:
    pytest.importorskip("nexios")
    from nexios import NexiosApp
    from nexios.dependencies import Depend
    from nexios.exceptions import HTTPException

    from nexgate.integrations.nexios import install, provided

    app = NexiosApp()
    toolkit = install(app, container=container(told), **options)

    @app.get("/users/{number:int}")
    async def users(
        request: Any, response: Any, number: int, users: Inject[Users], session: Inject[Session]
    ) -> Any:
        return response.json(
            {"names": users.names(), "path": session.path, "id": current_request_id.get()}
        )

    of_its_own = Depend(provided(Users))

    @app.get("/own")
    async def own(request: Any, response: Any, users: Any = of_its_own) -> Any:
        return response.json({"names": users.names()})

    @app.get("/fails")
    async def fails(request: Any, response: Any, session: Inject[Session]) -> Any:
        raise Failure

    @app.get("/refused")
    async def refused(request: Any, response: Any, session: Inject[Session]) -> Any:
        raise HTTPException(status_code=409, detail="no")

    @app.get("/slow")
    async def slow(request: Any, response: Any, session: Inject[Session]) -> Any:
        told.append("waiting")
        await asyncio.Event().wait()

    @app.on_startup
    async def begin() -> None:
        told.append("+app")

    @app.on_shutdown
    async def end() -> None:
        told.append("-app")

    return app, toolkit


def starlette_routes(told: Told) -> list[Any]:
    from starlette.exceptions import HTTPException
    from starlette.requests import Request
    from starlette.responses import JSONResponse, Response
    from starlette.routing import Route

    @inject
    async def users(request: Request, users: Inject[Users], session: Inject[Session]) -> Response:
        return JSONResponse(
            {"names": users.names(), "path": session.path, "id": current_request_id.get()}
        )

    @inject
    def own(request: Request, users: Inject[Users]) -> Response:  # in a thread
        return JSONResponse({"names": users.names()})

    @inject
    async def fails(request: Request, session: Inject[Session]) -> Response:
        raise Failure

    @inject
    async def refused(request: Request, session: Inject[Session]) -> Response:
        raise HTTPException(409, "no")

    @inject
    async def slow(request: Request, session: Inject[Session]) -> Response:
        told.append("waiting")
        await asyncio.Event().wait()
        return Response()

    return [
        Route("/users/{number:int}", users),
        Route("/own", own),
        Route("/fails", fails),
        Route("/refused", refused),
        Route("/slow", slow),
    ]


def telling(told: Told) -> Callable[[Any], Any]:
    @asynccontextmanager
    async def lifespan(app: Any) -> AsyncIterator[None]:
        told.append("+app")
        yield
        told.append("-app")

    return lifespan


def starlette_app(told: Told, **options: Any) -> Made:
    pytest.importorskip("starlette")
    from starlette.applications import Starlette

    from nexgate.integrations.starlette import install

    app = Starlette(routes=starlette_routes(told), lifespan=telling(told))
    return app, install(app, container=container(told), **options)


def wrapped_app(told: Told, **options: Any) -> Made:
    pytest.importorskip("starlette")
    from starlette.applications import Starlette

    toolkit = Toolkit(
        Starlette(routes=starlette_routes(told), lifespan=telling(told)),
        container=container(told),
        **options,
    )
    return toolkit, toolkit


def fastapi_app(told: Told, **options: Any) -> Made:
    pytest.importorskip("fastapi")
    from fastapi import FastAPI, HTTPException

    from nexgate.integrations import fastapi as ours

    app = FastAPI(lifespan=telling(told))
    toolkit = ours.install(app, container=container(told), **options)

    async def users(number: int, users: Any, session: Any) -> Any:
        return {"names": users.names(), "path": session.path, "id": current_request_id.get()}

    users.__annotations__.update(users=ours.Inject[Users], session=ours.Inject[Session])
    app.get("/users/{number}")(users)

    @app.get("/own")
    @inject
    def own(users: Inject[Users]) -> Any:  # in a thread
        return {"names": users.names()}

    async def fails(session: Any) -> Any:
        raise Failure

    async def refused(session: Any) -> Any:
        raise HTTPException(409, "no")

    async def slow(session: Any) -> Any:
        told.append("waiting")
        await asyncio.Event().wait()

    for each in (fails, refused, slow):
        each.__annotations__["session"] = ours.Inject[Session]
        app.get(f"/{each.__name__}")(each)
    return app, toolkit


def litestar_app(told: Told, **options: Any) -> Made:
    pytest.importorskip("litestar")
    from litestar import Litestar, get
    from litestar.di import NamedDependency, Provide
    from litestar.exceptions import HTTPException
    from litestar.params import FromPath

    from nexgate.integrations.litestar import install, provided

    async def users(
        number: Any, users: Inject[Users], session: Inject[Session]
    ) -> dict[str, object]:
        return {"names": users.names(), "path": session.path, "id": current_request_id.get()}

    users.__annotations__["number"] = FromPath[int]

    async def own(users: Any) -> dict[str, object]:
        return {"names": users.names()}

    own.__annotations__["users"] = NamedDependency[Any]
    own = get("/own", dependencies={"users": Provide(provided(Users))})(own)

    @get("/fails")
    @inject
    async def fails(session: Inject[Session]) -> None:
        raise Failure

    @get("/refused")
    @inject
    async def refused(session: Inject[Session]) -> None:
        raise HTTPException("no", status_code=409)

    @get("/slow")
    @inject
    async def slow(session: Inject[Session]) -> None:
        told.append("waiting")
        await asyncio.Event().wait()

    app = Litestar(
        [get("/users/{number:int}")(inject(users)), own, fails, refused, slow],
        lifespan=[telling(told)],
        openapi_config=None,
    )
    return app, install(app, container=container(told), **options)


MAKERS = [nexios_app, starlette_app, wrapped_app, fastapi_app, litestar_app]


@pytest.fixture(params=MAKERS, ids=[each.__name__.removesuffix("_app") for each in MAKERS])
def make(request: pytest.FixtureRequest) -> Callable[..., Made]:
    found: Callable[..., Made] = request.param
    return found


@pytest.fixture
def told() -> Told:
    return Told()


def client(app: Any) -> httpx.AsyncClient:
    transport = httpx.ASGITransport(app, raise_app_exceptions=False)
    return httpx.AsyncClient(transport=transport, base_url="http://app")


async def lifespan(app: Any) -> tuple[Callable[[], Any], Any]:
    """Start an application as servers do; returns how to stop it, and what it said."""
    told: asyncio.Queue[Any] = asyncio.Queue()
    asked: asyncio.Queue[Any] = asyncio.Queue()
    scope = {"type": "lifespan", "asgi": {"version": "3.0"}, "state": {}}
    running = asyncio.create_task(app(scope, asked.get, told.put))
    await asked.put({"type": "lifespan.startup"})
    answer = await asyncio.wait_for(told.get(), 10)

    async def stop() -> Any:
        await asked.put({"type": "lifespan.shutdown"})
        said = await asyncio.wait_for(told.get(), 10)
        await asyncio.wait([running], timeout=10)
        return said

    if answer["type"] == "lifespan.startup.failed":
        await asyncio.wait([running], timeout=10)
        running.exception()
    return stop, answer


# --- requests -------------------------------------------------------------------------------------


async def test_handlers_get_their_dependencies(make: Callable[..., Made], told: Told) -> None:
    app, _ = make(told)
    async with client(app) as http:
        answer = await http.get("/users/7", headers={"X-Request-ID": "abc-1"})
        assert answer.json() == {"names": ["ada", "grace"], "path": "/users/7", "id": "abc-1"}
        assert answer.headers["x-request-id"] == "abc-1"
        assert (await http.get("/own")).json() == {"names": ["ada", "grace"]}
    assert told == ["session", "committed"]
    assert current_scope.get() is None


@pytest.mark.parametrize("given", [None, "", "a b", "x" * 200, "ü", "a,b\x00"])
async def test_a_request_id_is_made_where_none_came_that_can_be_repeated(
    make: Callable[..., Made], told: Told, given: str | None
) -> None:
    app, _ = make(told)
    headers = {} if given is None else {"X-Request-ID": given.encode("latin-1")}
    async with client(app) as http:
        one = await http.get("/own", headers=headers)  # type: ignore[arg-type]  # bytes, too
        other = await http.get("/own")
    assert len(one.headers["x-request-id"]) == 32
    assert one.headers["x-request-id"] != other.headers["x-request-id"]


async def test_generators_see_what_a_handler_raises(make: Callable[..., Made], told: Told) -> None:
    app, _ = make(told)
    async with client(app) as http:
        answer = await http.get("/fails")
        assert answer.status_code == 500
        assert told == ["session", "rolled back: Failure"]
        if make not in (wrapped_app,):
            assert len(answer.headers["x-request-id"]) == 32
        told.clear()
        assert (await http.get("/refused")).status_code == 409
    assert told == ["session", "rolled back: HTTPException"]


async def test_a_request_that_is_cancelled_is_torn_down(
    make: Callable[..., Made], told: Told
) -> None:
    app, _ = make(told)
    async with client(app) as http:
        asking = asyncio.create_task(http.get("/slow"))
        async with asyncio.timeout(10):
            while "waiting" not in told:
                await asyncio.sleep(0)
        asking.cancel()
        with pytest.raises(asyncio.CancelledError):
            await asking
    assert told[-1] == "rolled back: CancelledError"


async def test_two_requests_at_once_have_scopes_of_their_own(
    make: Callable[..., Made], told: Told
) -> None:
    app, _ = make(told)
    async with client(app) as http:
        answers = await asyncio.gather(*(http.get(f"/users/{n}") for n in range(20)))
    assert [each.json()["path"] for each in answers] == [f"/users/{n}" for n in range(20)]
    assert len({each.headers["x-request-id"] for each in answers}) == 20
    assert told.count("committed") == 20


async def test_metrics_count_by_method_route_and_class_of_status(
    make: Callable[..., Made], told: Told
) -> None:
    pytest.importorskip("prometheus_client")
    app, _ = make(told, metrics=True)
    async with client(app) as http:
        for number in range(3):
            await http.get(f"/users/{number}")
            await http.get(f"/nowhere/{number}")
        await http.request("BREW", "/nowhere")
        await http.get("/refused")
        text = (await http.get("/metrics")).text
    counts = {
        line.partition(" ")[0]: float(line.partition(" ")[2])
        for line in text.splitlines()
        if line.startswith("http_requests_total")
    }
    routes = {label.partition('route="')[2].partition('"')[0]: n for label, n in counts.items()}
    users = next(route for route in routes if route.startswith("/users/"))
    assert "{number" in users
    assert routes[users] == 3
    assert not any("/nowhere" in label for label in counts)
    assert any('method="GET",route="unmatched",status="4xx"' in label for label in counts)
    assert any('method="other"' in label for label in counts)
    assert any('status="4xx"' in label and "/refused" in label for label in counts)
    assert "http_requests_in_flight 0.0" in text
    assert "http_request_duration_seconds_bucket" in text


# --- start and stop -------------------------------------------------------------------------------


def parts(told: Told, **fails: str) -> dict[str, Any]:
    return {
        "bus": Part("bus", told, fails.get("bus", "")),
        "tasks": Part("tasks", told, fails.get("tasks", "")),
        "plugins": PluginPart("plugins", told, fails.get("plugins", "")),
    }


async def test_parts_start_in_order_before_the_app_and_stop_in_reverse_after_it(
    make: Callable[..., Made], told: Told
) -> None:
    app, toolkit = make(told, **parts(told))
    for _ in range(2):  # an application can be started again
        told.clear()
        stop, answer = await lifespan(app)
        assert answer["type"] == "lifespan.startup.complete", answer
        first = toolkit.container.resolve(Users)
        assert (await stop())["type"] == "lifespan.shutdown.complete"
        begun = ["+bus", "+tasks", "+plugins", "+app"]
        if make is litestar_app:  # its lifespan managers are entered before its hooks
            begun = ["+app", "+bus", "+tasks", "+plugins"]
        assert told == [*begun, *(f"-{each[1:]}" for each in begun[::-1])] or make is litestar_app
        assert sorted(told) == sorted([*begun, *(f"-{each[1:]}" for each in begun)])
        assert toolkit.container.resolve(Users) is not first


@pytest.mark.parametrize("which", ["bus", "tasks", "plugins"])
async def test_a_start_that_fails_stops_what_had_started(
    make: Callable[..., Made], told: Told, which: str
) -> None:
    app, _ = make(told, **parts(told, **{which: "start"}))
    _, answer = await lifespan(app)
    assert answer["type"] == "lifespan.startup.failed"
    order = ["bus", "tasks", "plugins"]
    before = order[: order.index(which) + (which == "plugins")]
    assert [each for each in told if each[0] == "-" and each != "-app"] == [
        f"-{each}" for each in reversed(before)
    ]


async def test_a_broken_container_keeps_the_app_from_starting(
    make: Callable[..., Made], told: Told
) -> None:
    app, toolkit = make(told)

    class Needs:
        def __init__(self, missing: bytes) -> None: ...

    Needs.__init__.__annotations__["missing"] = bytes
    toolkit.container.register_factory(Needs, Needs)
    _, answer = await lifespan(app)
    assert answer["type"] == "lifespan.startup.failed"
    assert "Needs → bytes ✗ is not registered" in answer["message"]


async def test_every_part_is_stopped_when_one_cannot_be(
    make: Callable[..., Made], told: Told
) -> None:
    app, _ = make(told, **parts(told, tasks="aclose"))
    stop, _ = await lifespan(app)
    assert (await stop())["type"] == "lifespan.shutdown.failed"
    assert {"-bus", "-tasks", "-plugins"} <= set(told)


def test_it_is_installed_once(make: Callable[..., Made], told: Told) -> None:
    if make is wrapped_app:
        pytest.skip("nothing is installed")
    app, _ = make(told)
    import importlib

    module = importlib.import_module(f"nexgate.integrations.{make.__name__.removesuffix('_app')}")
    with pytest.raises(ConfigError, match="already"):
        module.install(app)


# --- imports --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("module", "allowed"),
    [
        ("nexgate.di", ()),
        ("nexgate.integrations", ()),
        ("nexgate.integrations.starlette", ("starlette",)),
        ("nexgate.integrations.fastapi", ("starlette", "fastapi")),
        ("nexgate.integrations.litestar", ("litestar",)),
        ("nexgate.integrations.nexios", ("nexios",)),
    ],
)
def test_nothing_imports_a_framework_that_is_not_used(
    module: str, allowed: tuple[str, ...]
) -> None:
    for name in allowed:
        pytest.importorskip(name)
    words = {"nexios", "starlette", "fastapi", "litestar", "prometheus_client"} - set(allowed)
    code = f"import sys, {module}; print(*({words!r} & set(sys.modules)))"
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", code], capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == ""
