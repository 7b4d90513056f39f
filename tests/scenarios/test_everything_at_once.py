"""A bad day: instances flap, hang and talk nonsense, the registry dies and comes back, the
configuration is reloaded, and in the middle of it the gateway is told to stop.
"""

from __future__ import annotations

import asyncio
import signal
import time
from pathlib import Path

import pytest
from tests.scenarios.support import Load, Origin, Running, get, show
from tests.scenarios.test_gateway_discovery import Registered, is_listening
from tests.unit.state.servers import Valkey

from nexgate.testing import (
    RawClient,
    RecordingUpstream,
    ScriptedConnection,
    ScriptedUpstream,
    canned,
    wait_until,
)
from nexgate.testing._messages import read_request


async def nonsense(connection: ScriptedConnection) -> None:
    while True:
        await read_request(connection)
        await connection.send(b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\nContent-Length: 6\r\n\r\n")


async def silence(connection: ScriptedConnection) -> None:
    await read_request(connection)
    await connection.read_to_end()


def configuration(state: str, good: str, bad: list[str]) -> str:
    listed = ", ".join(f'"{url}"' for url in [good, *bad])
    return (
        '[gateway]\nlisten = "127.0.0.1:0"\nworkers = 2\nreload = false\n'
        f'state = "{state}"\ntimeouts = {{ drain = "5s" }}\n'
        '[services.users]\ndiscover = ["registry"]\n'
        f"instances = [{listed}]\n"
        'retry = { attempts = 4, budget = 0.5, per_try = "300ms", backoff_base = "2ms" }\n'
        'timeout = { connect = "300ms" }\n'
        'outlier = { eject_for = "1s", max_ejected = 0.9, share = true }\n'
        'health = { path = "/", interval = "500ms", timeout = "300ms" }\n'
        'bulkhead = { limit = 500, queue = 500, wait = "1s" }\nhedge = "100ms"\n'
        '[[routes]]\npath = "/*"\nservice = "users"\n'
    )


@pytest.mark.slow
async def test_a_bad_day_costs_no_request_and_ends_in_order(tmp_path: Path) -> None:
    with Valkey() as valkey:
        async with (
            Origin("good") as good,
            Origin("flapping") as flapping,
            ScriptedUpstream(nonsense, max_recorded_bytes=0) as liar,
            ScriptedUpstream(silence, max_recorded_bytes=0) as hung,
            Registered("users", valkey.url, ttl=2) as registered,
        ):
            text = configuration(valkey.url, good.url, [flapping.url, liar.url, hung.url])
            await wait_until(lambda: is_listening(registered.port), 20.0)
            async with Running(tmp_path / "gateway.toml", text) as gateway:
                async with Load(
                    gateway.port, "open", rate=150.0, duration=14.0, connections=600
                ) as load:
                    for turn in range(4):
                        flapping.signal(signal.SIGSTOP)
                        await asyncio.sleep(0.8)
                        flapping.signal(signal.SIGCONT)
                        if turn == 1:
                            valkey.kill()
                        if turn == 2:
                            registered.signal(signal.SIGKILL)
                        await gateway.reload(text + f"# {turn}\n")
                        await asyncio.sleep(0.8)
                    valkey.start()
                    report = await load.report()
                show(answered=report["statuses"], failures=report["kinds"], **report["latency"])
                assert report["kinds"] == {}
                assert set(report["statuses"]) == {"200"}
                # In the middle of it all: a request is under way, and others wait for retries.
                async with RawClient(gateway.url) as client:
                    await client.send(b"GET /slow/1500 HTTP/1.1\r\nHost: a\r\n\r\n")
                    waiting = [asyncio.create_task(get(gateway.port)) for _ in range(20)]
                    await asyncio.sleep(0.1)
                    flapping.signal(signal.SIGKILL)
                    valkey.kill()
                    began = time.monotonic()
                    gateway.signal(signal.SIGTERM)
                    done = await asyncio.gather(*waiting, return_exceptions=True)
                    code = await gateway.wait(15.0)
                    show(exit_code=code, seconds=time.monotonic() - began)
                    assert code == 0
                    assert time.monotonic() - began < 8.0
                    assert sum(not isinstance(each, BaseException) for each in done) >= 15
                assert "Traceback" not in gateway.said


async def test_a_gateway_is_told_to_stop_while_its_registry_is_dead(tmp_path: Path) -> None:
    with Valkey() as valkey:
        text = (
            f'[gateway]\nlisten = "127.0.0.1:0"\nreload = false\nstate = "{valkey.url}"\n'
            '[services.users]\ndiscover = ["registry", { kind = "dns", host = "nowhere.invalid", '
            'port = 80, nameserver = "127.0.0.1:9", timeout = "1s" }]\n'
            'health = { path = "/", interval = "200ms" }\n'
            '[[routes]]\npath = "/*"\nservice = "users"\n'
        )
        async with Running(tmp_path / "gateway.toml", text) as gateway:
            assert (await get(gateway.port)).status == 503
            valkey.freeze()  # not even a refusal
            await asyncio.sleep(0.5)
            assert (await get(gateway.port)).status == 503
            began = time.monotonic()
            gateway.signal(signal.SIGTERM)
            assert await gateway.wait(15.0) == 0
            show(seconds=time.monotonic() - began)
            assert time.monotonic() - began < 5.0
            valkey.thaw()


async def test_a_gateway_starts_while_its_registry_is_dead(tmp_path: Path) -> None:
    async with RecordingUpstream(canned(body=b"ok")) as upstream:
        text = (
            '[gateway]\nlisten = "127.0.0.1:0"\nreload = false\nstate = "redis://127.0.0.1:1"\n'
            f'[services.users]\ninstances = ["{upstream.url}"]\ndiscover = ["registry"]\n'
            '[[routes]]\npath = "/*"\nservice = "users"\n'
        )
        async with Running(tmp_path / "gateway.toml", text) as gateway:
            assert (await get(gateway.port)).status == 200
            gateway.signal(signal.SIGTERM)
            assert await gateway.wait(15.0) == 0
