"""What only FastAPI has: a mark that is a dependency of its own."""

from typing import Annotated, Any

import httpx
import pytest

from nexgate.di import Container, Named

pytest.importorskip("fastapi")

from fastapi import FastAPI

from nexgate.integrations.fastapi import Inject, install


class A:
    """There is one by name, and two to be collected."""


class Missing:
    """Nobody registers it."""


async def test_the_mark_takes_names_collections_and_what_may_be_missing() -> None:
    container = Container()
    container.register(A, A(), name="hot")
    for _ in range(2):
        container.register_factory(A, A, collect=True)
    app = FastAPI()
    install(app, container=container)

    @app.get("/")
    async def handler(
        hot: Inject[Annotated[A, Named("hot")]],
        every: Inject[list[A]],
        missing: Inject[Missing | None],
    ) -> Any:
        return [type(hot).__name__, len(every), missing]

    transport = httpx.ASGITransport(app)
    async with httpx.AsyncClient(transport=transport, base_url="http://app") as http:
        assert (await http.get("/")).json() == ["A", 2, None]
