"""What only Nexios has: routers in routers, handlers in threads, routes without a template."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import httpx
import pytest

nexios = pytest.importorskip("nexios")

from nexios import NexiosApp  # noqa: E402
from nexios.routing import Router  # noqa: E402

from nexgate.di import Container, Inject  # noqa: E402
from nexgate.integrations import current_request_id  # noqa: E402
from nexgate.integrations.nexios import install  # noqa: E402


class A:
    """Made by an async factory."""


async def make_a() -> AsyncIterator[A]:
    yield A()


@pytest.fixture
def app() -> Any:
    container = Container()
    container.register_factory(A, make_a, lifetime="scoped")
    app = NexiosApp()
    install(app, container=container, metrics=True)
    return app


def client(app: Any) -> httpx.AsyncClient:
    transport = httpx.ASGITransport(app, raise_app_exceptions=False)
    return httpx.AsyncClient(transport=transport, base_url="http://app")


async def routes_of(http: httpx.AsyncClient) -> set[str]:
    text = (await http.get("/metrics")).text
    lines = [line for line in text.splitlines() if line.startswith("http_requests_total")]
    return {line.partition('route="')[2].partition('"')[0] for line in lines}


async def test_a_route_is_one_label_whatever_its_parameters_are(app: Any) -> None:
    pytest.importorskip("prometheus_client")

    @app.get("/users/{user:int}/posts/{post:int}")
    async def post(request: Any, response: Any, user: int, post: int) -> Any:
        return response.json({})

    @app.get("/prices/{price:float}")
    async def price(request: Any, response: Any, price: float) -> Any:
        return response.json({})

    router = Router(prefix="/api")

    @router.get("/users/{user}")
    async def user(request: Any, response: Any, user: str) -> Any:
        return response.json({})

    app.mount_router(router)
    async with client(app) as http:
        for path in (
            "/users/1/posts/1",
            "/users/1/posts/10",
            "/users/1/posts/12",
            "/users/0042/posts/7",
            "/prices/1.00",
            "/prices/1.50",
            "/api/users/users",
            "/api/users/a%20b",
        ):
            assert (await http.get(path)).status_code == 200
        assert await routes_of(http) == {
            "/users/{user:int}/posts/{post:int}",
            "/prices/{price:float}",
            "/api/users/{user}",
        }


async def test_a_route_that_a_router_gets_after_the_first_request_is_filled(app: Any) -> None:
    outer, inner = Router(prefix="/outer"), Router(prefix="/inner")
    outer.mount_router(inner)
    app.mount_router(outer)
    async with client(app) as http:
        assert (await http.get("/outer/inner/late")).status_code == 404

        @inner.get("/late")
        async def late(request: Any, response: Any, a: Inject[A]) -> Any:
            return response.json({"type": type(a).__name__})

        assert (await http.get("/outer/inner/late")).json() == {"type": "A"}


async def test_a_handler_in_a_thread_knows_its_request_and_gets_what_is_made_with_await(
    app: Any,
) -> None:
    @app.get("/thread")
    def thread(request: Any, response: Any, a: Inject[A]) -> Any:
        return response.json({"type": type(a).__name__, "id": current_request_id.get()})

    async with client(app) as http:
        answer = await http.get("/thread", headers={"X-Request-ID": "one"})
    assert answer.json() == {"type": "A", "id": "one"}
