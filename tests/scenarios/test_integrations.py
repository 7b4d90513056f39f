"""The toolkit under a real server: requests, WebSockets, clients that go, the end by SIGTERM."""

from __future__ import annotations

import asyncio
import re
import signal
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import httpx
import pytest
from tests.scenarios.support import ROOT, Process
from websockets.asyncio.client import connect

from nexgate.testing import wait_until

pytest.importorskip("prometheus_client")
FRAMEWORKS = ["nexios", "starlette", "fastapi", "litestar"]


@asynccontextmanager
async def uvicorn(name: str, folder: str, *options: str) -> AsyncIterator[tuple[Process, str]]:
    argv = ["-W", "ignore", "-m", "uvicorn", name, "--app-dir", str(ROOT / folder), "--port", "0"]
    async with Process(*argv, *options) as process:
        await wait_until(lambda: "running on http" in process.said, timeout=30)
        found = re.search(r"http://(127\.0\.0\.1:\d+)", process.said)
        assert found
        yield process, found[1]


def said(process: Process) -> list[str]:
    """Its lines so far, without what the server tells of requests."""
    lines = (line.rstrip() for line in process.lines)
    return [line for line in lines if line.startswith(("pool ", "session ", "never"))]


@pytest.mark.parametrize("framework", FRAMEWORKS)
async def test_requests_and_websockets_have_scopes_and_sigterm_tears_down(framework: str) -> None:
    pytest.importorskip(framework)
    name = f"integrations_app:{framework}"
    async with uvicorn(name, "tests/scenarios", "--factory") as (process, address):
        async with httpx.AsyncClient(base_url=f"http://{address}") as http:
            answer = await http.get("/")
            assert answer.status_code == 200
            assert len(answer.headers["x-request-id"]) == 32
            await wait_until(lambda: "session closed" in said(process))  # after the answer
            assert said(process) == ["pool opened", "session opened", "session closed"]
            async with connect(f"ws://{address}/ws") as socket:
                assert socket.response is not None
                assert len(socket.response.headers["x-request-id"]) == 32
                await socket.send("hello")
                assert await socket.recv() == "hello"
            await wait_until(lambda: said(process)[-1] == "session closed")

            async def is_counted() -> bool:  # which it is after the answer
                return 'status="2xx"' in (await http.get("/metrics")).text

            await wait_until(is_counted)
        process.process.send_signal(signal.SIGTERM)
        await asyncio.wait_for(process.process.wait(), 20)
        await wait_until(lambda: said(process)[-1] == "pool closed")
    assert said(process).count("session opened") == 2


async def test_a_client_that_goes_while_it_is_answered_ends_the_scope() -> None:
    async with uvicorn("integrations_app:starlette", "tests/scenarios", "--factory") as served:
        process, address = served
        host, _, port = address.partition(":")
        reader, writer = await asyncio.open_connection(host, int(port))
        writer.write(b"GET /endless HTTP/1.1\r\nHost: a\r\n\r\n")
        await reader.readexactly(1000)
        assert "session closed" not in said(process)
        writer.transport.abort()
        await wait_until(
            lambda: any(line.startswith(("session closed", "session f")) for line in said(process))
        )


async def test_a_part_that_cannot_start_keeps_the_server_from_serving(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("BROKEN", "yes")
    argv = ["-m", "uvicorn", "integrations_app:starlette", "--factory", "--port", "0"]
    async with Process(*argv, "--app-dir", str(ROOT / "tests/scenarios")) as process:
        assert await asyncio.wait_for(process.process.wait(), 30) == 3
        await wait_until(lambda: "the broker is away" in process.said)
    assert "never" not in process.said


@pytest.mark.parametrize("framework", FRAMEWORKS)
async def test_the_examples_answer(framework: str) -> None:
    pytest.importorskip(framework)
    name = f"{framework}_app:app"
    async with (
        uvicorn(name, "examples/integrations") as (_, address),
        httpx.AsyncClient(base_url=f"http://{address}") as http,
    ):
        answer = await http.get("/hello/ada")
        assert answer.json() == {"said": "hello ada", "path": "/hello/ada"}

        async def is_counted() -> bool:  # which it is after the answer
            return "/hello/{name" in (await http.get("/metrics")).text

        await wait_until(is_counted)
        if framework == "fastapi":
            described = (await http.get("/openapi.json")).json()["paths"]["/hello/{name}"]
            assert [each["name"] for each in described["get"]["parameters"]] == ["name"]
            assert "requestBody" not in described["get"]
