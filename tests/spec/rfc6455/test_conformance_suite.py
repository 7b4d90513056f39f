"""The Autobahn suite: through the gateway not one case fails more than without it.

Here everything but the cases that measure speed and compression, which take a pure-Python echo
server many minutes. All 517, with a quicker one, are in ``python -m bench.websocket_suite``.
"""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.conftest import in_front_of

SAMPLE = ["1.1.*", "2.*", "3.*", "4.*", "5.*", "6.*", "7.*", "9.1.1", "9.2.1", "10.*", "12.1.1"]


@pytest.fixture(scope="module")
def echo_port() -> Iterator[int]:
    server = subprocess.Popen(
        [sys.executable, str(Path(__file__).with_name("echo_server.py"))],
        stdout=subprocess.PIPE,
        text=True,
    )
    assert server.stdout is not None
    try:
        yield int(server.stdout.readline())
    finally:
        server.terminate()
        server.wait()
        server.stdout.close()


async def failures(url: str, cases: list[str] | None) -> tuple[int, set[str]]:
    client = await asyncio.create_subprocess_exec(
        sys.executable,
        str(Path(__file__).with_name("fuzzing_client.py")),
        url,
        *(cases or ()),
        stdout=asyncio.subprocess.PIPE,
    )
    out, _ = await client.communicate()
    result = json.loads(out)
    return result["count"], set(result["failed"])


async def compare(port: int, cases: list[str] | None) -> None:
    direct_count, direct = await failures(f"ws://127.0.0.1:{port}", cases)
    section = {"limits": {"max_body_bytes": "unlimited"}}
    async with in_front_of(f"http://127.0.0.1:{port}", section) as served:
        gateway_url = served.url.replace("http", "ws")
        count, through = await failures(gateway_url, cases)
        print(f"{count} cases: {len(direct)} fail without the gateway, {len(through)} with it")
    assert count == direct_count
    assert through <= direct


async def test_no_case_fails_more_through_the_gateway(echo_port: int) -> None:
    await compare(echo_port, SAMPLE)
