"""Every example loads, and those that answer by themselves answer."""

from __future__ import annotations

from pathlib import Path

import pytest

from nexgate.gateway import load
from nexgate.testing import RawClient

FOLDER = Path(__file__).parents[2] / "examples"
FILES = sorted(p for p in FOLDER.iterdir() if p.suffix in (".py", ".toml"))


@pytest.mark.parametrize("path", FILES, ids=[p.name for p in FILES])
def test_it_loads_and_compiles(path: Path) -> None:
    load(path).build()


async def test_the_filters_do_what_they_say() -> None:
    async with (
        load(FOLDER / "filters.py").serving("127.0.0.1:0") as served,
        RawClient(served.url) as client,
    ):
        response = await client.request(b"GET /hello HTTP/1.1\r\nHost: a\r\n\r\n")
        assert response.body == b"hello\n"
        assert response.value("x-content-type-options") == "nosniff"
        assert (response.value("server-timing") or "").startswith("gateway;dur=")
        response = await client.request(b"GET /admin/x HTTP/1.1\r\nHost: a\r\n\r\n")
        assert response.status == 401
        response = await client.request(
            b"GET /admin/x HTTP/1.1\r\nHost: a\r\nX-Key: letmein\r\n\r\n"
        )
        assert response.body == b"the engine room\n"


async def test_the_application_answers() -> None:
    async with (
        load(FOLDER / "asgi.py").serving("127.0.0.1:0") as served,
        RawClient(served.url) as client,
    ):
        response = await client.request(b"GET /app/x HTTP/1.1\r\nHost: a\r\n\r\n")
        assert response.body == b"GET /app/x from 127.0.0.1\n"
