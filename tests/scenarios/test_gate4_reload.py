"""Gate 4: configurations come and go under load, and no request notices."""

from __future__ import annotations

import asyncio
import os
import signal
import time
from pathlib import Path

import pytest
from tests.scenarios.support import (
    Load,
    Origin,
    Running,
    echo,
    get,
    is_alive,
    machine_to_itself,
    show,
    toml,
    websocket,
)

from nexgate.testing import wait_until


def version(number: int, *urls: str, **options: object) -> str:
    """A configuration that differs visibly from the one before."""
    return toml(
        *urls,
        route=f'response_headers = {{ set = {{ "X-Version" = "{number}" }} }}\n'
        f'[[routes]]\npath = "/only/{number}"\nrespond = 200',
        **options,  # type: ignore[arg-type]
    )


async def reloads_under_load(tmp_path: Path, *, reloads: int, pause: float) -> dict[str, object]:
    """As many requests as sixteen connections carry, from before the first to after the last."""
    async with (
        Origin("a") as one,
        Origin("b") as two,
        Running(tmp_path / "gateway.toml", version(0, one.url, two.url, workers=2)) as gateway,
        Load(gateway.port, connections=16, requests=10**9) as load,
    ):
        before = gateway.workers()
        for number in range(1, reloads + 1):
            # Instances come and go as well: now both, now either.
            urls = ([one.url, two.url], [one.url], [two.url])[number % 3]
            await gateway.reload(version(number, *urls, workers=2))
            await asyncio.sleep(pause)
        await asyncio.sleep(0.1)
        assert gateway.workers() == before
        # Both workers answer with the last version.
        for _ in range(10):
            assert (await get(gateway.port, f"/only/{reloads}")).status == 200
        await load.stop()
        report = await load.report()
        show(reloads=reloads, answered=report["statuses"], failures=report["kinds"])
        assert report["kinds"] == {}
        assert set(report["statuses"]) == {"200"}
        return report


async def test_gate4_reloads_under_load_lose_nothing(tmp_path: Path) -> None:
    await reloads_under_load(tmp_path, reloads=10, pause=0.1)


@pytest.mark.slow
async def test_gate4_20_reloads_in_100_000_requests_lose_nothing(tmp_path: Path) -> None:
    with machine_to_itself():
        report = await reloads_under_load(tmp_path, reloads=20, pause=1.0)
    assert report["asked"] >= 100_000  # type: ignore[operator]


@pytest.mark.slow
async def test_gate4_1000_reloads_under_load_lose_nothing(tmp_path: Path) -> None:
    with machine_to_itself():
        await reloads_under_load(tmp_path, reloads=1000, pause=0.0)


async def test_gate4_a_bad_file_keeps_the_old_configuration(tmp_path: Path) -> None:
    async with (
        Origin() as origin,
        Running(tmp_path / "gateway.toml", version(1, origin.url, workers=2)) as gateway,
    ):
        for bad in ("[gateway", "[[routes]]\npath = 1", toml(origin.url, gateway="nonsense = 1")):
            await gateway.reload(bad)
            assert (await get(gateway.port)).value("x-version") == "1"
        # Also for a worker that is made after it.
        victim = gateway.workers()[0]
        os.kill(victim, signal.SIGKILL)
        await wait_until(lambda: victim not in gateway.workers() and len(gateway.workers()) == 2)
        for _ in range(10):
            assert (await get(gateway.port)).value("x-version") == "1"
        assert gateway.outcomes()[1:] == ["stays as it was"] * 3
        await gateway.reload(version(2, origin.url, workers=2))
        await wait_until(lambda: version_of(gateway.port, 2), 5.0)


async def version_of(port: int, number: int) -> bool:
    return (await get(port)).value("x-version") == str(number)


async def test_gate4_an_address_in_use_keeps_the_old_configuration(tmp_path: Path) -> None:
    async with (
        Origin() as origin,
        Running(tmp_path / "gateway.toml", version(1, origin.url)) as gateway,
    ):
        text = version(2, origin.url).replace("127.0.0.1:0", f"127.0.0.1:{origin.port}")
        await gateway.reload(text)
        assert gateway.outcomes()[1:] == ["stays as it was"]
        victim = gateway.workers()[0]
        os.kill(victim, signal.SIGKILL)
        await wait_until(lambda: gateway.workers() and gateway.workers() != [victim])
        assert (await get(gateway.port)).value("x-version") == "1"


BROKEN_START = """
from nexgate import Gateway

gateway = Gateway(listen="127.0.0.1:0", reload=False, workers={workers})

async def app(scope, receive, send):
    if scope["type"] == "lifespan":
        await receive()
        await send({{"type": "lifespan.startup.{outcome}"}})
        await receive()
        await send({{"type": "lifespan.shutdown.complete"}})
        return
    fields = [(b"x-version", b"{n}")]
    await send({{"type": "http.response.start", "status": 200, "headers": fields}})
    await send({{"type": "http.response.body"}})

gateway.mount("/", app, name="app{n}")
"""


@pytest.mark.parametrize("workers", [1, 2], ids=["a reload", "a new generation of workers"])
async def test_gate4_what_fails_only_in_the_workers_keeps_the_old_configuration(
    tmp_path: Path, workers: int
) -> None:
    def text(n: int, outcome: str, workers: int) -> str:
        return BROKEN_START.format(n=n, outcome=outcome, workers=workers)

    async with Running(tmp_path / "gateway.py", text(1, "complete", 1)) as gateway:
        assert (await get(gateway.port)).value("x-version") == "1"
        await gateway.reload(text(2, "failed", workers))
        await wait_until(lambda: "stays as it was" in gateway.said)
        assert (await get(gateway.port)).value("x-version") == "1"
        # The worker that comes after the next death does not take the version that failed.
        victim = gateway.workers()[0]
        os.kill(victim, signal.SIGKILL)
        await wait_until(lambda: gateway.workers() and gateway.workers() != [victim])
        assert (await get(gateway.port)).value("x-version") == "1"
        await gateway.reload(text(3, "complete", workers))
        await wait_until(lambda: version_of(gateway.port, 3), 10.0)
        await wait_until(lambda: len(gateway.workers()) == workers)


async def test_gate4_a_websocket_stays_open_across_reloads(tmp_path: Path) -> None:
    async with (
        Origin() as origin,
        Running(tmp_path / "gateway.toml", version(1, origin.url)) as gateway,
        websocket(gateway.port) as client,
    ):
        for number in range(2, 6):
            await gateway.reload(version(number, origin.url))
            await wait_until(lambda number=number: version_of(gateway.port, number))
            await echo(client)


async def test_gate4_drain_is_bounded_and_tunnels_get_1001_at_the_limit(tmp_path: Path) -> None:
    text = toml(origin_url := "http://127.0.0.1:1", gateway='timeouts = { drain = "1s" }')
    async with Origin() as origin:
        text = text.replace(origin_url, origin.url)
        async with (
            Running(tmp_path / "gateway.toml", text) as gateway,
            websocket(gateway.port) as client,
        ):
            workers = gateway.workers()
            began = time.monotonic()
            gateway.signal(signal.SIGTERM)
            await gateway.says("stopping: finishing")
            await echo(client)  # until the limit, it goes on
            goodbye = await client.read_eof()
            assert await gateway.wait() == 0
            took = time.monotonic() - began
            show(drained_in=took)
            assert goodbye == b"\x88\x02\x03\xe9"
            assert 0.9 < took < 2.5
            assert not any(map(is_alive, workers))
