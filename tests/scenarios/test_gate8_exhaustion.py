"""Gate 8: the machine runs out of file descriptors, and its clock jumps."""

from __future__ import annotations

import asyncio
import contextlib
import resource
import time
from pathlib import Path

import pytest
from tests.conftest import in_front_of
from tests.scenarios.support import (
    GET,
    Origin,
    Running,
    cpu_seconds,
    file_limit,
    get,
    open_files,
    show,
    toml,
)

from nexgate.testing import ExpectHead, Hang, RawClient, ScriptedUpstream, wait_until


def few_files() -> None:
    resource.setrlimit(resource.RLIMIT_NOFILE, (256, 256))


@pytest.mark.parametrize("idle", [True, False], ids=["idle connections", "waiting requests"])
async def test_gate8_400_connections_with_256_files_do_no_harm(tmp_path: Path, idle: bool) -> None:
    with file_limit(2048):
        async with (
            Origin() as origin,
            Running(tmp_path / "gateway.toml", toml(origin.url), preexec_fn=few_files) as gateway,
            contextlib.AsyncExitStack() as visitors,
        ):
            (worker,) = gateway.workers()
            regular = await visitors.enter_async_context(RawClient(gateway.url))
            assert (await regular.request(GET)).status == 200
            before = open_files(worker)
            crowd: list[tuple[asyncio.StreamReader, asyncio.StreamWriter]] = []
            for _ in range(400):
                crowd.append(await asyncio.open_connection("127.0.0.1", gateway.port))
            if not idle:
                for _, writer in crowd:
                    writer.write(b"GET /slow/60000 HTTP/1.1\r\nHost: a\r\n\r\n")
            await asyncio.sleep(0.5)
            most = open_files(worker)
            begun = cpu_seconds(worker)
            at = time.monotonic()
            outcomes: list[str] = []
            while time.monotonic() - at < 2.0:
                try:
                    response = await get(gateway.port)
                except (EOFError, ConnectionError):
                    outcomes.append("turned away")
                else:
                    outcomes.append(str(response.status))
                    if response.status == 503:
                        assert response.value("retry-after") == "1"
                # Who was there before notices nothing.
                assert (await regular.request(GET)).status == 200
                await asyncio.sleep(0.1)
            share = (cpu_seconds(worker) - begun) / (time.monotonic() - at)
            for _, writer in crowd:
                writer.transport.abort()
            await wait_until(lambda: open_files(worker) <= before + 2, 10.0)
            show(
                open_files=most,
                cpu_while_exhausted=share,
                outcomes={kind: outcomes.count(kind) for kind in sorted(set(outcomes))},
            )
            assert share < 0.5
            assert most <= 256
            # Whoever gets in is told the truth: it is we who are full, not the service that is bad.
            assert set(outcomes) <= {"200", "503", "turned away"}
            for _ in range(20):
                assert (await get(gateway.port)).status == 200
            assert gateway.workers() == [worker]


async def test_gate8_a_step_of_the_wall_clock_leaves_timeouts_alone(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    real = time.time
    for step in (3600.0, -3600.0):
        async with (
            ScriptedUpstream([ExpectHead(), Hang()]) as upstream,
            in_front_of(
                upstream.url,
                {"timeouts": {"head": "600ms", "idle": "5s"}},
                timeout={"first_byte": "600ms"},
            ) as served,
            RawClient(served.url) as asking,
            RawClient(served.url) as slow,
        ):
            began = time.monotonic()
            await asking.send(GET)
            await slow.send(b"GET / HT")
            await asyncio.sleep(0.1)
            monkeypatch.setattr(time, "time", lambda step=step: real() + step)
            late = await slow.read_response()
            response = await asking.read_response()
            took = time.monotonic() - began
            show(step=step, timeouts_after=took)
            assert late.status == 408
            assert response.status == 504
            assert 0.55 < took < 1.2
