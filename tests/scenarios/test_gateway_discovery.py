"""The gateway and services that come and go: registered, listed in files, killed, probed by one."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import socket
import time
from collections import Counter
from pathlib import Path

import pytest
from tests.scenarios.support import HERE, Load, Origin, Process, Running, get, show
from tests.unit.state.servers import Valkey

from nexgate.gateway import Gateway
from nexgate.testing import RawClient, RecordingUpstream, canned, free_port, wait_until


class Registered(Process):
    """``registered_app.py``."""

    def __init__(
        self, name: str, state: str, framework: str = "starlette", ttl: float = 15
    ) -> None:
        self.port = free_port()
        super().__init__(
            str(HERE / "registered_app.py"), str(self.port), name, state, framework, str(ttl)
        )

    async def __aenter__(self) -> Registered:
        await super().__aenter__()
        assert await self.line() == "ready\n"
        return self


def configuration(state: str, *, workers: int = 1, service: str = "", gateway: str = "") -> str:
    return (
        f'[gateway]\nlisten = "127.0.0.1:0"\nworkers = {workers}\nreload = false\n'
        f'state = "{state}"\n{gateway}\n'
        f'[services.users]\ndiscover = ["registry"]\n{service}\n'
        '[[routes]]\npath = "/*"\nservice = "users"\n'
    )


@pytest.mark.parametrize("framework", ["starlette", "nexios"])
async def test_a_service_that_registers_is_served_within_a_second_and_gone_when_it_leaves(
    tmp_path: Path, framework: str
) -> None:
    state = f"lmdb:{tmp_path / 'state'}"
    async with Running(tmp_path / "gateway.toml", configuration(state, workers=2)) as gateway:
        assert (await get(gateway.port)).status == 503
        async with Registered("users", state, framework) as app:

            async def is_served() -> bool:
                """By every worker, as far as ten requests can tell."""
                return all([(await get(gateway.port)).status == 200 for _ in range(10)])

            await wait_until(lambda: is_listening(app.port), 20.0)
            began = time.monotonic()
            await wait_until(is_served, 10.0)
            seconds = time.monotonic() - began
            show(framework=framework, served_after=seconds)
            assert seconds < 1.0
            assert (await get(gateway.port)).body == str(app.pid).encode()
            app.signal(signal.SIGTERM)
            await app.wait()

        async def is_gone() -> bool:
            return all([(await get(gateway.port)).status == 503 for _ in range(10)])

        await wait_until(is_gone, 2.0)


def is_listening(port: int) -> bool:
    with socket.socket() as sock:
        return sock.connect_ex(("127.0.0.1", port)) == 0


async def test_a_killed_service_is_gone_within_its_lease_and_nobody_notices(
    tmp_path: Path,
) -> None:
    state = f"lmdb:{tmp_path / 'state'}"
    async with (
        Registered("users", state, ttl=2) as one,
        Registered("users", state, ttl=2) as other,
        Running(tmp_path / "gateway.toml", configuration(state)) as gateway,
    ):
        await wait_until(lambda: is_listening(one.port) and is_listening(other.port), 20.0)

        async def who() -> set[bytes]:
            return {(await get(gateway.port)).body for _ in range(20)}

        async def both() -> bool:
            return len(await who()) == 2

        await wait_until(both, 10.0)
        async with Load(gateway.port, "open", rate=200.0, duration=5.0) as load:
            one.signal(signal.SIGKILL)
            report = await load.report()
        assert report["kinds"] == {}
        assert set(report["statuses"]) == {"200"}
        assert await who() == {str(other.pid).encode()}


async def test_from_one_to_three_and_back_without_a_failed_request(tmp_path: Path) -> None:
    state = f"lmdb:{tmp_path / 'state'}"
    async with (
        Registered("users", state) as first,
        Running(tmp_path / "gateway.toml", configuration(state, workers=2)) as gateway,
    ):
        await wait_until(lambda: is_listening(first.port), 20.0)

        async def seen() -> set[bytes]:
            return {(await get(gateway.port)).body for _ in range(30)}

        async def count_is(count: int) -> bool:
            return len(await seen()) == count

        await wait_until(lambda: count_is(1), 10.0)
        async with Load(gateway.port, "open", rate=100.0, duration=12.0) as load:
            async with Registered("users", state) as second, Registered("users", state) as third:
                await wait_until(lambda: count_is(3), 20.0)
                for leaving in (second, third):
                    leaving.signal(signal.SIGTERM)
                    await leaving.wait()
            await wait_until(lambda: count_is(1), 10.0)
            report = await load.report()
        show(answered=report["statuses"], failures=report["kinds"])
        assert report["kinds"] == {}
        assert set(report["statuses"]) == {"200"}


async def test_instances_from_a_file_follow_the_file_and_keep_their_pools(tmp_path: Path) -> None:
    listed = tmp_path / "instances.json"
    async with RecordingUpstream(canned(body=b"a")) as a, RecordingUpstream(canned(body=b"b")) as b:
        listed.write_text(json.dumps({"instances": [a.url]}))
        gateway = Gateway()
        discover = [{"kind": "file", "path": str(listed), "interval": "50ms"}]
        gateway.service("users", discover=discover, balancer="round-robin")
        gateway.route("/*", "users")
        async with gateway.serving("127.0.0.1:0") as served, RawClient(served.url) as client:

            async def answers() -> set[bytes]:
                request = b"GET / HTTP/1.1\r\nHost: x\r\n\r\n"
                return {(await client.request(request)).body for _ in range(20)}

            assert await answers() == {b"a"}
            (pool,) = served.runtime.services["users"].instances.values()
            put(listed, {"instances": [a.url, {"url": b.url, "weight": 2}]})

            async def has_both() -> bool:
                return await answers() == {b"a", b"b"}

            await wait_until(has_both)
            assert served.runtime.services["users"].instances[a.url] is pool
            put(listed, "{ not json")
            await wait_until(lambda: served.runtime.discovery_status("users").state == "stale", 5.0)
            assert await answers() == {b"a", b"b"}
            put(listed, {"instances": [b.url]})

            async def has_b() -> bool:
                return await answers() == {b"b"}

            await wait_until(has_b)


def put(path: Path, content: object) -> None:
    text = content if isinstance(content, str) else json.dumps(content)
    other = path.with_suffix(".new")
    other.write_text(text)
    other.replace(path)


async def test_of_all_workers_of_a_machine_one_probes_an_instance(tmp_path: Path) -> None:
    probes: list[float] = []

    def answer(request: object) -> bytes:
        probes.append(time.monotonic())
        return canned(200, b"ok")

    async with RecordingUpstream(answer) as upstream:
        text = (
            '[gateway]\nlisten = "127.0.0.1:0"\nworkers = 3\nreload = false\n'
            f'[services.users]\ninstances = ["{upstream.url}"]\n'
            'health = { path = "/health", interval = "200ms", jitter = 0.1 }\n'
            '[[routes]]\npath = "/*"\nservice = "users"\n'
        )
        async with Running(tmp_path / "gateway.toml", text) as gateway:
            await asyncio.sleep(0.5)
            first = len(probes)
            await asyncio.sleep(2.0)
            seen = len(probes) - first
            show(workers=3, probes_in_2_seconds=seen, expected=10)
            assert 7 <= seen <= 13
            # The prober dies: another goes on within two intervals of its lease.
            for pid in gateway.workers()[:2]:
                os.kill(pid, signal.SIGKILL)
            at = len(probes)
            await wait_until(lambda: len(probes) > at + 2, 5.0)


async def test_workers_share_what_the_prober_finds(tmp_path: Path) -> None:
    async with (
        Origin("one") as one,
        Origin("other") as other,
        Running(
            tmp_path / "gateway.toml",
            '[gateway]\nlisten = "127.0.0.1:0"\nworkers = 2\nreload = false\n'
            f'[services.users]\ninstances = ["{one.url}", "{other.url}"]\noutlier = false\n'
            'health = { path = "/", interval = "100ms", timeout = "100ms", unhealthy_after = 2 }\n'
            '[[routes]]\npath = "/*"\nservice = "users"\n',
        ) as gateway,
    ):
        await asyncio.sleep(0.5)
        one.signal(signal.SIGSTOP)
        await gateway.says("is unhealthy", count=2, timeout=10.0)
        found = Counter([(await get(gateway.port)).body for _ in range(20)])
        assert set(found) == {b"other"}
        one.signal(signal.SIGCONT)
        await gateway.says("is healthy again", count=2, timeout=10.0)


async def test_the_store_may_go_and_come_back_and_the_gateway_serves(tmp_path: Path) -> None:
    with Valkey() as valkey:
        state = valkey.url
        async with (
            Registered("users", state, ttl=3) as app,
            Running(tmp_path / "gateway.toml", configuration(state)) as gateway,
        ):
            await wait_until(lambda: is_listening(app.port), 20.0)

            async def is_served() -> bool:
                return (await get(gateway.port)).status == 200

            await wait_until(is_served, 10.0)
            valkey.kill()
            async with Load(gateway.port, "open", rate=100.0, duration=5.0) as load:
                report = await load.report()
            assert report["kinds"] == {}
            assert set(report["statuses"]) == {"200"}, "the last known instances are kept"
            valkey.start()
            async with Registered("users", state, ttl=3):

                async def has_both() -> bool:
                    return len({(await get(gateway.port)).body for _ in range(20)}) == 2

                await wait_until(has_both, 20.0)
