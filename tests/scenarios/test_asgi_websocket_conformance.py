"""The 517 cases of the Autobahn suite against an application: not one fails."""

from __future__ import annotations

import asyncio
import json
import sys
from pathlib import Path
from typing import Any

import pytest
from tests.unit.asgi.serving import edge_for

CLIENT = Path(__file__).parents[1] / "spec/rfc6455/fuzzing_client.py"
SAMPLE = ["1.1.*", "2.*", "3.*", "4.*", "5.*", "6.*", "7.*", "9.1.1", "9.2.1", "10.*"]


async def echo(scope: Any, receive: Any, send: Any) -> None:
    assert scope["type"] == "websocket"
    await receive()
    await send({"type": "websocket.accept"})
    while (message := await receive())["type"] == "websocket.receive":
        await send({**message, "type": "websocket.send"})


async def failures(*cases: str) -> tuple[int, list[str]]:
    async with edge_for(echo) as edge:
        client = await asyncio.create_subprocess_exec(
            sys.executable,
            str(CLIENT),
            edge.url.replace("http", "ws"),
            *cases,
            stdout=asyncio.subprocess.PIPE,
        )
        out, _ = await client.communicate()
    result = json.loads(out)
    return result["count"], result["failed"]


async def test_a_sample_of_the_suite() -> None:
    count, failed = await failures(*SAMPLE)
    assert count > 200
    assert failed == []


@pytest.mark.slow
async def test_the_whole_suite() -> None:
    assert await failures() == (517, [])
