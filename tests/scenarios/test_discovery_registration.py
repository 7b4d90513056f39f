"""Applications in real processes register, stop, die, and lose their store."""

from __future__ import annotations

import asyncio
import contextlib
import signal
import time
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from tests.scenarios.support import HERE, Process, get
from tests.unit.state.servers import Valkey

from nexgate.discovery import Followed, RegistryProvider, ServiceInstance, ServiceRegistry, follow
from nexgate.testing import RecordingUpstream, free_port, wait_until


class App(Process):
    """``discovery_app.py``; entered once it serves."""

    def __init__(self, kind: str, spec: str, *more: str, ttl: float = 2.0) -> None:
        self.port = free_port()
        super().__init__(
            str(HERE / "discovery_app.py"), kind, str(self.port), spec, str(ttl), *more
        )

    async def up(self) -> None:
        while await self.line() != "up\n":
            pass


@pytest.fixture(params=["lmdb", "valkey"])
def spec(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[str]:
    if request.param == "lmdb":
        yield f"lmdb:{tmp_path / 'state'}"
        return
    with Valkey() as server:
        yield server.url


@contextlib.asynccontextmanager
async def watching(spec: str, hold: float = 2.0) -> AsyncIterator[Followed]:
    async with (
        ServiceRegistry(spec, ttl=2.0, hold=hold) as registry,
        follow(RegistryProvider(registry, "api")) as followed,
    ):
        await followed.wait_answered(2.0)
        yield followed


@pytest.mark.parametrize("kind", ["nexios", "starlette", "bare"])
async def test_an_app_is_seen_within_a_second_and_gone_at_once_after_a_graceful_stop(
    spec: str, kind: str
) -> None:
    async with watching(spec) as followed, App(kind, spec) as app:
        await app.up()
        await wait_until(lambda: followed.instances, 1.0)
        (found,) = followed.instances
        assert found.url == f"http://127.0.0.1:{app.port}"
        assert found.metadata["kind"] == kind
        assert (await get(app.port, "/health")).status == 200
        await asyncio.sleep(2.5)  # more than its lease: somebody renews it
        assert followed.instances
        app.signal(signal.SIGTERM)
        began = time.perf_counter()
        await wait_until(lambda: not followed.instances, 5.0)
        took = time.perf_counter() - began
        assert await app.wait() in (0, -signal.SIGTERM)
        assert took < 1.0, took
        if kind != "bare":
            assert f"{kind} stopped\n" in app.lines, app.said


async def test_an_app_that_was_killed_is_gone_with_its_lease(spec: str) -> None:
    async with watching(spec) as followed, App("starlette", spec, ttl=1.0) as app:
        await app.up()
        await wait_until(lambda: followed.instances, 1.0)
        app.signal(signal.SIGKILL)
        began = time.perf_counter()
        await wait_until(lambda: not followed.instances, 5.0)
        assert time.perf_counter() - began < 1.3


async def test_a_start_up_that_failed_registers_nothing(spec: str) -> None:
    async with watching(spec) as followed, App("failing", spec) as app:
        await app.wait()
        await app.says("no database")
        assert followed.status.sets == 1
        assert not followed.instances


async def test_a_server_without_lifespan_registers_with_the_first_request(spec: str) -> None:
    async with (
        watching(spec) as followed,
        App("starlette", spec, "no-lifespan", ttl=1.0) as app,
    ):
        await app.up()
        assert not followed.instances
        await get(app.port, "/health")
        await wait_until(lambda: followed.instances, 1.0)
        app.signal(signal.SIGTERM)
        await app.wait()
        await wait_until(lambda: not followed.instances, 2.0)


async def test_two_programs_that_know_only_the_machine_find_each_other(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))
    async with watching("local") as followed, App("nexios", "local") as app:
        await app.up()
        await wait_until(lambda: followed.instances, 1.0)


# --- a store that goes ----------------------------------------------------------------------------


async def test_an_app_starts_without_its_store_and_registers_when_it_comes() -> None:
    with Valkey() as valkey:
        valkey.kill()
        async with App("nexios", valkey.url) as app:
            await app.up()
            assert (await get(app.port, "/health")).status == 200
            valkey.start()
            async with watching(valkey.url) as followed:
                await wait_until(lambda: followed.instances, 8.0)


@pytest.mark.slow
async def test_a_store_that_is_killed_and_restarted_empty_loses_nobody() -> None:
    with Valkey() as valkey:
        async with watching(valkey.url, 9.0) as followed, App("starlette", valkey.url) as app:
            await app.up()
            await wait_until(lambda: followed.instances, 1.0)
            before = followed.status.sets
            for _ in range(2):
                valkey.kill()
                await wait_until(lambda: followed.status.state == "stale")
                await asyncio.sleep(2.5)  # more than the lease
                assert len(followed.instances) == 1
                valkey.start()
                await wait_until(lambda: followed.status.state == "connected", 8.0)
            async with ServiceRegistry(valkey.url) as fresh:  # really there, not only remembered

                async def is_registered() -> bool:
                    return await fresh.names() == ("api",)

                await wait_until(is_registered, 9.0)
            await asyncio.sleep(9.5)  # more than what is kept for its own sake
            assert len(followed.instances) == 1
            assert followed.status.sets == before
            app.signal(signal.SIGTERM)
            await wait_until(lambda: not followed.instances, 1.0)


async def test_one_who_left_while_the_store_was_away_is_gone_a_lease_later() -> None:
    with Valkey() as valkey:
        async with watching(valkey.url) as followed, App("starlette", valkey.url) as app:
            await app.up()
            await wait_until(lambda: followed.instances, 1.0)
            valkey.kill()
            await wait_until(lambda: followed.status.state == "stale")
            app.signal(signal.SIGTERM)
            await app.wait()
            valkey.start()
            await wait_until(lambda: followed.status.state == "connected", 8.0)
            await wait_until(lambda: not followed.instances, 4.0)


@pytest.mark.slow
async def test_a_hung_store_changes_nothing() -> None:
    with Valkey() as valkey:
        async with watching(valkey.url, 9.0) as followed, App("starlette", valkey.url) as app:
            await app.up()
            await wait_until(lambda: followed.instances, 1.0)
            sets = followed.status.sets
            valkey.freeze()
            try:
                await asyncio.sleep(6.0)
                assert len(followed.instances) == 1
                assert (await get(app.port, "/health")).status == 200
                assert followed.status.state == "stale"
            finally:
                valkey.thaw()
            await wait_until(lambda: followed.status.state == "connected", 12.0)
            await asyncio.sleep(9.5)
            assert followed.status.sets == sets


# --- probing --------------------------------------------------------------------------------------


async def test_of_two_processes_exactly_one_probes_and_the_other_takes_over(spec: str) -> None:
    interval = 0.4
    argv = (str(HERE / "discovery_prober.py"), spec, str(interval))
    async with (
        contextlib.AsyncExitStack() as processes,
        RecordingUpstream() as server,
        ServiceRegistry(spec) as registry,
        Process(*argv) as one,
    ):
        await registry.register("api", ServiceInstance("1", "api", server.url))
        await wait_until(lambda: len(server.requests) >= 2, 10.0)
        two = await processes.enter_async_context(Process(*argv))
        assert await two.line() == "probing\n"
        before, began = len(server.requests), time.perf_counter()
        await asyncio.sleep(10 * interval)
        count = len(server.requests) - before
        expected = (time.perf_counter() - began) / interval
        assert 0.6 * expected <= count <= 1.25 * expected, (count, expected)
        one.signal(signal.SIGKILL)
        await one.wait()
        before, began = len(server.requests), time.perf_counter()
        await wait_until(lambda: len(server.requests) > before)
        assert time.perf_counter() - began < 2 * interval + 0.5
        assert (await registry.get_instances("api"))[0].health == "healthy"


async def test_the_date_is_changed_and_nobody_is_lost(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    spec = f"lmdb:{tmp_path / 'state'}"
    async with watching(spec) as followed, ServiceRegistry(spec, ttl=1.0) as registry:
        await registry.register("api", ServiceInstance("1", "api", "http://127.0.0.1:1"))
        await wait_until(lambda: followed.instances, 1.0)
        for jump in (-86400.0, 86400.0):
            now = time.time() + jump
            monkeypatch.setattr(time, "time", lambda now=now: now)
            await asyncio.sleep(1.5)
            assert len(followed.instances) == 1
        assert followed.status.sets == 2
