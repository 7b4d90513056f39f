"""Gate 5: a worker dies. Only what it was doing fails; another takes its place."""

from __future__ import annotations

import asyncio
import os
import re
import signal
import time
from pathlib import Path

from tests.scenarios.support import Load, Origin, Running, get, is_alive, show, toml

from nexgate.testing import RawClient, wait_until


async def test_gate5_kill_9_of_a_worker_fails_only_its_requests(tmp_path: Path) -> None:
    async with (
        Origin() as origin,
        Running(tmp_path / "gateway.toml", toml(origin.url, workers=2)) as gateway,
        Load(gateway.port, connections=32, requests=10**9) as load,
    ):
        victim = gateway.workers()[0]
        before = set(gateway.workers())
        await asyncio.sleep(1.0)
        killed = time.time()
        os.kill(victim, signal.SIGKILL)
        await wait_until(lambda: len(set(gateway.workers()) - before) == 1, 5.0)
        replaced = time.time() - killed
        await gateway.says(f"worker {victim} died (signal SIGKILL)")
        await asyncio.sleep(1.0)  # load for the new worker too
        await load.stop()
        report = await load.report()
        late = [at - killed for at, _ in report["failures"]]
        show(replaced_after=replaced, failures=report["kinds"], answered=report["statuses"])
        assert replaced < 1.0
        assert set(report["statuses"]) == {"200"}
        # One request was under way on each of the victim's connections, at most.
        assert sum(report["kinds"].values()) <= 32
        assert all(-0.1 < at < 0.5 for at in late)


async def test_gate5_a_crash_loop_backs_off(tmp_path: Path) -> None:
    text = """
import os, threading
from nexgate import Gateway
gateway = Gateway(listen="127.0.0.1:0", reload=False)
gateway.route("/*", respond=200)

@gateway.filter()
def crash(request):
    os._exit(70)
"""
    async with Running(tmp_path / "gateway.py", text) as gateway:
        began = time.time()
        deaths = 0
        while time.time() - began < 4.0:
            async with RawClient(gateway.url) as client:
                try:
                    await client.request(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n", timeout=6.0)
                except (EOFError, ConnectionError, TimeoutError):
                    deaths += 1
        show(deaths_in_4_seconds=deaths)
        # 0, 0.25, 0.5, 1, 2 seconds: an eager supervisor would have forked hundreds of times.
        assert 3 <= deaths <= 8
        for wait in ("0s", "0.25s", "0.5s", "1s"):
            assert f"replacing it in {wait}" in gateway.said
        gateway.signal(signal.SIGTERM)
        assert await gateway.wait() == 0


async def test_gate5_without_a_supervisor_workers_drain_and_free_the_port(tmp_path: Path) -> None:
    async with (
        Origin() as origin,
        Running(
            tmp_path / "gateway.toml",
            toml(origin.url, workers=2, gateway='timeouts = { drain = "3s" }'),
        ) as gateway,
        RawClient(gateway.url) as client,
    ):
        workers = gateway.workers()
        await client.send(b"GET /slow/700 HTTP/1.1\r\nHost: a\r\n\r\n")
        assert (await get(gateway.port)).status == 200
        gateway.signal(signal.SIGKILL)
        await gateway.wait()
        response = await client.read_response()
        assert response.status == 200  # what was under way is finished
        await wait_until(lambda: not any(map(is_alive, workers)), 10.0)
        assert gateway.said.count("the supervisor is gone") == 2
        async with Running(
            tmp_path / "again.toml",
            toml(origin.url).replace("127.0.0.1:0", f"127.0.0.1:{gateway.port}"),
        ) as again:
            assert again.port == gateway.port
            assert (await get(again.port)).status == 200


async def test_a_first_worker_killed_before_it_is_ready_is_replaced(tmp_path: Path) -> None:
    """Whoever frees memory kills early ones, too."""
    count = tmp_path / "loads"
    text = f"""
import os, pathlib, signal
from nexgate import Gateway
loads = pathlib.Path({str(count)!r})
loads.touch()
with loads.open("a") as file:
    file.write("x")
if len(loads.read_text()) == 2:  # the checker was first, this is the worker
    os.kill(os.getpid(), signal.SIGKILL)
gateway = Gateway(listen="127.0.0.1:0", reload=False)
gateway.route("/*", respond=204)
"""
    async with Running(tmp_path / "gateway.py", text) as gateway:
        assert "died (signal SIGKILL)" in gateway.said
        assert (await get(gateway.port)).status == 204


async def test_a_worker_that_does_not_listen_to_its_supervisor_is_replaced(tmp_path: Path) -> None:
    """It may have heard half a sentence: the next would be misunderstood."""
    async with (
        Origin() as origin,
        Running(tmp_path / "gateway.toml", toml(origin.url)) as gateway,
    ):
        (deaf,) = gateway.workers()
        os.kill(deaf, signal.SIGSTOP)
        # More than the control socket holds, so that the supervisor cannot hand it over.
        gateway.path.write_text(toml(origin.url) + "#" * 2_000_000)
        gateway.signal(signal.SIGHUP)
        await gateway.says(f"worker {deaf} does not listen")
        os.kill(deaf, signal.SIGCONT)
        await wait_until(lambda: gateway.workers() not in ([], [deaf]), 20.0)
        assert (await get(gateway.port)).status == 200
        gateway.signal(signal.SIGTERM)
        assert await gateway.wait() == 0


async def test_two_listeners_on_any_port_have_a_port_each(tmp_path: Path) -> None:
    text = toml("http://127.0.0.1:1").replace(
        'listen = "127.0.0.1:0"', 'listen = ["127.0.0.1:0", "127.0.0.1:0"]'
    )
    text = text.replace('service = "origin"', "respond = 204")
    async with Running(tmp_path / "gateway.toml", text) as gateway:
        ports = {int(port) for port in re.findall(r"http://127.0.0.1:([0-9]+)", gateway.said)}
        assert len(ports) == 2
        for port in ports:
            assert (await get(port)).status == 204
