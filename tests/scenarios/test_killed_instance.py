"""One of two instances is killed under load. Every GET is answered all the same."""

from __future__ import annotations

import asyncio
import signal
from pathlib import Path

from tests.scenarios.support import Load, Origin, Running, get, show, toml

from nexgate.testing import RawClient, wait_until


async def test_killing_an_instance_under_load_loses_no_get(tmp_path: Path) -> None:
    async with (
        Origin("a", delay=0.005) as one,
        Origin("b", delay=0.005) as two,
        Running(tmp_path / "gateway.toml", toml(one.url, two.url)) as gateway,
        Load(gateway.port, connections=32, requests=10**9) as load,
    ):
        await asyncio.sleep(1.0)
        one.signal(signal.SIGKILL)
        await one.wait()
        await asyncio.sleep(1.5)
        async with Origin("back", delay=0.005, port=one.port):
            await wait_until(lambda: answers(gateway.port, b"back"), 10.0)
            await asyncio.sleep(0.5)
            await load.stop()
            report = await load.report()
    show(answered=report["statuses"], failures=report["kinds"], by=report["bodies"])
    assert report["kinds"] == {}
    assert set(report["statuses"]) == {"200"}
    assert set(report["bodies"]) == {"a", "b", "back"}


async def answers(port: int, name: bytes) -> bool:
    return (await get(port)).body == name


async def test_a_request_with_a_body_is_not_repeated(tmp_path: Path) -> None:
    """The instance may have acted on it: that is for the client to know."""
    async with (
        Origin("a", delay=30.0) as one,
        Running(tmp_path / "gateway.toml", toml(one.url)) as gateway,
        RawClient(gateway.url) as client,
    ):
        await client.send(b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 2\r\n\r\nhi")
        await asyncio.sleep(0.2)
        one.signal(signal.SIGKILL)
        response = await client.read_response()
        assert response.status == 502
        assert b"upstream-closed" in response.body


async def test_all_instances_gone_is_502_at_once_and_over_when_one_is_back(tmp_path: Path) -> None:
    async with (
        Origin("a") as one,
        Running(tmp_path / "gateway.toml", toml(one.url)) as gateway,
    ):
        assert (await get(gateway.port)).status == 200
        one.signal(signal.SIGKILL)
        await one.wait()
        response = await get(gateway.port)
        assert response.status == 502
        assert b"upstream-unreachable" in response.body
        async with Origin("back", port=one.port):
            await wait_until(lambda: answers(gateway.port, b"back"), 10.0)
