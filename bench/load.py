"""Load: wrk as fast as it goes, a fixed rate for latency."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path

from bench.machine import CORES, LOAD_CORE

CONNECTIONS = 32

FIELDS = {
    "Host": "api.example.test",
    "User-Agent": "Mozilla/5.0 (X11; Linux x86_64; rv:140.0) Gecko/20100101 Firefox/140.0",
    "Accept": "application/json, text/plain, */*",
    "Accept-Encoding": "gzip, deflate, br, zstd",
    "Accept-Language": "en-GB,en;q=0.9,de;q=0.7",
    "Authorization": "Bearer 4f6c1e0a9b7d4c2f8e3a5b6c7d8e9f00",
    "Cookie": "session=0f1e2d3c4b5a69788796a5b4c3d2e1f0; theme=dark; consent=yes",
    "X-Request-Id": "7f1d9b52-3c64-4f0e-9a53-0e6f7a1b2c3d",
    "Cache-Control": "no-cache",
}


@dataclass(frozen=True, slots=True)
class Load:
    """What is asked for, again and again."""

    targets: list[str]
    method: str = "GET"
    body_bytes: int = 0
    fields: dict[str, str] = field(default_factory=lambda: FIELDS)


@dataclass(frozen=True, slots=True)
class LoadResult:
    """What came of it."""

    requests: int
    seconds: float
    errors: int
    p50: float
    """Seconds."""
    p99: float


def missing_tools() -> str | None:
    """Return the command that installs what a benchmark cannot do without, if anything."""
    if shutil.which("wrk"):
        return None
    return "wrk is not on the PATH. On Debian or Ubuntu: apt-get install wrk"


def run_wrk(port: int, load: Load, seconds: float) -> LoadResult:
    """Load with ``CONNECTIONS`` connections, each sending when its answer has come."""
    command = [
        *_pinned(),
        *("wrk", "-t1", f"-c{CONNECTIONS}", f"-d{max(1, round(seconds))}s", "--timeout", "10s"),
        *("-s", str(Path(__file__).with_name("request.lua")), f"http://127.0.0.1:{port}/"),
    ]
    orders = {
        "BENCH_TARGETS": "\n".join(load.targets),
        "BENCH_METHOD": load.method,
        "BENCH_BODY_BYTES": str(load.body_bytes),
        "BENCH_FIELDS": "\n".join(f"{name}: {value}" for name, value in load.fields.items()),
    }
    done = subprocess.run(
        command,
        capture_output=True,
        text=True,
        timeout=seconds + 30,
        env={**os.environ, **orders},
        check=False,
    )
    for line in done.stdout.splitlines():
        if line.startswith("BENCH "):
            found = json.loads(line.removeprefix("BENCH "))
            return LoadResult(
                requests=found["requests"],
                seconds=found["microseconds"] / 1e6,
                errors=found["errors"],
                p50=found["p50"] / 1e6,
                p99=found["p99"] / 1e6,
            )
    raise RuntimeError(f"wrk said: {done.stdout[-500:]}{done.stderr[-500:]}")


def run_at_rate(port: int, target: str, rate: float, seconds: float) -> LoadResult:
    """Load at ``rate`` requests per second in all; see ``bench.steady``."""
    command = [sys.executable, "-m", "bench.steady", str(port), target, str(rate), str(seconds)]
    done = subprocess.run(
        [*_pinned(), *command], capture_output=True, text=True, timeout=seconds + 30, check=False
    )
    if done.returncode:
        raise RuntimeError(done.stderr.strip().rpartition("\n")[2])
    return LoadResult(**json.loads(done.stdout))


def _pinned() -> list[str]:
    return ["taskset", "-c", str(LOAD_CORE)] if shutil.which("taskset") and len(CORES) > 1 else []
