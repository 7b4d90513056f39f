"""Gate 10: the program itself is replaced, and nobody is turned away."""

from __future__ import annotations

import asyncio
import signal
from pathlib import Path

import pytest
from tests.scenarios.support import (
    Load,
    Origin,
    Running,
    echo,
    get,
    is_alive,
    show,
    toml,
    websocket,
)

from nexgate.testing import RawClient, wait_until


@pytest.mark.parametrize("think", [0.0, 0.05], ids=["busy clients", "clients that pause"])
async def test_gate10_sigusr2_replaces_the_program_without_a_failed_request(
    tmp_path: Path, think: float
) -> None:
    async with (
        Origin() as origin,
        Running(tmp_path / "gateway.toml", toml(origin.url, workers=2)) as gateway,
        Load(gateway.port, connections=32, requests=10**9, think=think) as load,
    ):
        for upgrades in range(2, 4):
            before = gateway.workers()
            gateway.signal(signal.SIGUSR2)
            await gateway.says("listening on", upgrades, timeout=20.0)
            await wait_until(lambda before=before: not set(before) & set(gateway.workers()), 20.0)
            assert len(gateway.workers()) == 2
        # New connections all the while, too: they meet the same listening socket.
        for _ in range(20):
            assert (await get(gateway.port)).status == 200
        await load.stop()
        report = await load.report()
        show(upgrades=2, answered=report["statuses"], failures=report["kinds"])
        assert report["kinds"] == {}
        assert set(report["statuses"]) == {"200"}


async def test_gate10_what_is_under_way_is_finished_by_the_old_workers(tmp_path: Path) -> None:
    async with (
        Origin() as origin,
        Running(tmp_path / "gateway.toml", toml(origin.url)) as gateway,
        RawClient(gateway.url) as client,
        websocket(gateway.port) as tunnel,
    ):
        old = gateway.workers()
        await client.send(b"GET /drip/40/50 HTTP/1.1\r\nHost: a\r\n\r\n")
        gateway.signal(signal.SIGUSR2)
        await gateway.says("listening on", 2)
        await echo(tunnel)
        response = await client.read_response()
        assert response.complete
        assert response.body == b"hello" * 40
        assert set(old) < set(gateway.workers())  # it waits for the tunnel
        await tunnel.close()
        await wait_until(lambda: not any(map(is_alive, old)))


async def test_gate10_a_configuration_that_is_bad_meanwhile_stops_the_upgrade(
    tmp_path: Path,
) -> None:
    async with (
        Origin() as origin,
        Running(tmp_path / "gateway.toml", toml(origin.url)) as gateway,
    ):
        before = gateway.workers()
        gateway.path.write_text("[gateway")
        gateway.signal(signal.SIGUSR2)
        await gateway.says("staying")
        assert gateway.workers() == before
        assert (await get(gateway.port)).status == 200


async def test_gate10_sigterm_finishes_what_is_under_way_and_closes_idle_connections(
    tmp_path: Path,
) -> None:
    async with (
        Origin() as origin,
        Running(tmp_path / "gateway.toml", toml(origin.url)) as gateway,
        RawClient(gateway.url) as busy,
        RawClient(gateway.url) as idle,
        RawClient(gateway.url) as late,
    ):
        for client in (idle, late):
            assert (await client.request(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")).status == 200
        await busy.send(b"GET /slow/1500 HTTP/1.1\r\nHost: a\r\n\r\n")
        await asyncio.sleep(0.1)
        gateway.signal(signal.SIGTERM)
        await gateway.says("stopping: finishing")
        await asyncio.sleep(0.1)
        # A request that was already on its way when we said nothing yet is answered, then closed.
        answer = await late.request(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")
        assert answer.status == 200
        assert answer.value("connection") == "close"
        assert await idle.read_eof() == b""
        response = await busy.read_response()
        assert response.status == 200
        assert response.value("connection") == "close"
        assert await gateway.wait() == 0
        with pytest.raises(OSError):
            await get(gateway.port)


async def test_gate10_a_restart_under_load_refuses_nobody_while_it_drains(tmp_path: Path) -> None:
    """SIGTERM to one, then the next on the same port: clients that try again lose nothing."""
    async with Origin() as origin:
        text = toml(origin.url, workers=2)
        async with Running(tmp_path / "gateway.toml", text) as first:
            port = first.port
            load = Load(port, connections=16, requests=10**9)
            async with load:
                await asyncio.sleep(0.5)
                first.signal(signal.SIGTERM)
                assert await first.wait() == 0
                same = text.replace("127.0.0.1:0", f"127.0.0.1:{port}")
                async with Running(tmp_path / "next.toml", same):
                    await asyncio.sleep(0.5)
                    await load.stop()
                    report = await load.report()
        show(answered=report["statuses"], failures=report["kinds"])
        # Between the two nobody listens: connecting fails, requests do not.
        assert set(report["statuses"]) == {"200"}
        assert all("connect" in kind or kind == "reset" for kind in report["kinds"])
