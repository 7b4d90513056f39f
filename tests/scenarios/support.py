"""What the scenarios share: real processes that tests start, watch and end."""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import json
import os
import re
import resource
import signal
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any, Self

from nexgate.testing import RawClient, RawResponse, wait_until

HERE = Path(__file__).parent
ROOT = HERE.parent.parent
GET = b"GET / HTTP/1.1\r\nHost: example.com\r\n\r\n"


class Process:
    """A child of the test. Leaving the block kills it; everything it says is kept."""

    def __init__(self, *argv: str, **options: Any) -> None:
        self.argv = argv
        self.options = options
        self.said = ""
        self.lines: list[str] = []

    async def __aenter__(self) -> Self:
        self.process = await asyncio.create_subprocess_exec(
            sys.executable,
            *self.argv,
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
            limit=2**24,
            cwd=ROOT,
            env={**os.environ, "PYTHONUNBUFFERED": "1", "NO_COLOR": "1", "COLUMNS": "200"},
            **self.options,
        )
        self._readers = [
            asyncio.create_task(self._keep_stdout()),
            asyncio.create_task(self._keep_stderr()),
        ]
        return self

    async def __aexit__(self, *_: object) -> None:
        with contextlib.suppress(ProcessLookupError):
            self.process.kill()
        await self.process.wait()
        # Orphans hold the pipes; the tests that make them end them.
        _, late = await asyncio.wait(self._readers, timeout=1.0)
        for reader in late:
            reader.cancel()
        await asyncio.gather(*late, return_exceptions=True)

    async def _keep_stdout(self) -> None:
        assert self.process.stdout is not None
        while line := await self.process.stdout.readline():
            self.lines.append(line.decode())

    async def _keep_stderr(self) -> None:
        assert self.process.stderr is not None
        while piece := await self.process.stderr.read(65536):
            self.said += piece.decode("utf-8", "replace")

    @property
    def pid(self) -> int:
        return self.process.pid

    def signal(self, number: int) -> None:
        self.process.send_signal(number)

    async def wait(self, timeout: float = 10.0) -> int:
        """The exit code."""
        async with asyncio.timeout(timeout):
            return await self.process.wait()

    async def line(self, timeout: float = 60.0) -> str:
        """The next line of its standard output."""
        await wait_until(lambda: self.lines or self.process.returncode is not None, timeout)
        if not self.lines:
            await asyncio.sleep(0.1)
        assert self.lines, f"it ended without a word: {self.said}"
        return self.lines.pop(0)

    async def says(self, text: str, count: int = 1, timeout: float = 10.0) -> None:
        """Wait until its standard error has said ``text`` so often."""
        try:
            await wait_until(lambda: self.said.count(text) >= count, timeout)
        except TimeoutError:
            raise AssertionError(f"it never said {text!r}, but:\n{self.said}") from None


class Origin(Process):
    """An instance in a process of its own: ``origin.py``."""

    def __init__(self, name: str = "origin", *, delay: float = 0.0, port: int = 0) -> None:
        super().__init__(
            str(HERE / "origin.py"), "--name", name, "--delay", str(delay), "--port", str(port)
        )
        self.name = name

    async def __aenter__(self) -> Self:
        await super().__aenter__()
        self.port = int(await self.line())
        return self

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"


class Load(Process):
    """``load.py``: begins when the block is entered; ``report`` waits for its end."""

    def __init__(self, port: int, mode: str = "closed", **plan: Any) -> None:
        self.plan = {"port": port, "mode": mode, **plan}
        super().__init__(str(HERE / "load.py"), json.dumps(self.plan))

    async def __aenter__(self) -> Self:
        await super().__aenter__()
        assert await self.line() == "begun\n"
        return self

    async def stop(self) -> None:
        """End a closed loop after the requests that are under way."""
        assert self.process.stdin is not None
        with contextlib.suppress(ConnectionError):
            self.process.stdin.write(b"stop\n")
            await self.process.stdin.drain()

    async def report(self, timeout: float = 120.0) -> dict[str, Any]:
        found: dict[str, Any] = json.loads(await self.line(timeout))
        return found


class Running(Process):
    """``nexgate run`` with supervisor and workers."""

    def __init__(self, path: Path, text: str, *options: str, **process: Any) -> None:
        self.path = path
        path.write_text(text)
        super().__init__("-m", "nexgate", "run", str(path), *options, **process)

    async def __aenter__(self) -> Self:
        await super().__aenter__()
        try:
            await self.says("listening on", timeout=20.0)
        except AssertionError:
            await super().__aexit__()
            raise
        found = re.search(r"listening on https?://[^:]+:([0-9]+)", self.said)
        self.port = int(found[1]) if found else 0
        return self

    async def __aexit__(self, *_: object) -> None:
        workers = self.workers() if self.process.returncode is None else []
        await super().__aexit__()
        for pid in workers:  # orphans now: they would drain, but the test is over
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def workers(self) -> list[int]:
        """The process ids of the supervisor's children, dead ones excluded."""
        text = Path(f"/proc/{self.pid}/task/{self.pid}/children").read_text()
        return [pid for pid in map(int, text.split()) if is_alive(pid)]

    async def reload(self, text: str) -> None:
        """SIGHUP with another text; returns when the supervisor has taken it or refused."""
        before = len(self.outcomes())
        self.path.write_text(text)
        self.signal(signal.SIGHUP)
        await wait_until(lambda: len(self.outcomes()) > before, 20.0)

    def outcomes(self) -> list[str]:
        return re.findall(r"reloaded \(|stays as it was|listening on", self.said)


@contextlib.contextmanager
def machine_to_itself() -> Iterator[None]:
    """One at a time, whatever the number of test processes: for runs that measure, and for runs
    that would disturb them.
    """
    with (Path(tempfile.gettempdir()) / f"nexgate-measures-{os.getuid()}").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def is_alive(pid: int) -> bool:
    """Whether the process exists and is not a zombie."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return False
    return stat.rpartition(")")[2].split()[0] not in ("Z", "X")


def cpu_seconds(pid: int) -> float:
    """Time on a processor so far, in the kernel too; to the microsecond, unlike ``stat``."""
    return int(Path(f"/proc/{pid}/schedstat").read_text().split()[0]) / 1e9


def rss_bytes(pid: int) -> int:
    """Resident memory of a process."""
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * resource.getpagesize()


def open_files(pid: int) -> int:
    """How many file descriptors a process has open."""
    return len(list(Path(f"/proc/{pid}/fd").iterdir()))


def toml(
    *urls: str, gateway: str = "", service: str = "", route: str = "", workers: int = 1
) -> str:
    """A configuration that sends everything to one service."""
    instances = ", ".join(f'"{url}"' for url in urls)
    return (
        f'[gateway]\nlisten = "127.0.0.1:0"\nworkers = {workers}\nreload = false\n{gateway}\n'
        f"[services.origin]\ninstances = [{instances}]\n{service}\n"
        f'[[routes]]\npath = "/*"\nservice = "origin"\n{route}\n'
    )


@contextlib.contextmanager
def file_limit(soft: int) -> Any:
    """Raise our own limit of open files to ``soft`` where that is allowed; yields what it is."""
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    limit = min(max(soft, before[0]), before[1])
    resource.setrlimit(resource.RLIMIT_NOFILE, (limit, before[1]))
    try:
        yield limit
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, before)


async def get(port: int, path: str = "/", fields: str = "") -> RawResponse:
    """One request on a connection of its own."""
    async with RawClient(("127.0.0.1", port)) as client:
        return await client.request(
            f"GET {path} HTTP/1.1\r\nHost: example.com\r\n{fields}\r\n".encode()
        )


WEBSOCKET = (
    b"GET /ws HTTP/1.1\r\nHost: example.com\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"
    b"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
)
FRAME = b"\x81\x05hello"


@contextlib.asynccontextmanager
async def websocket(port: int) -> AsyncIterator[RawClient]:
    """An open WebSocket; the service echoes."""
    async with RawClient(("127.0.0.1", port)) as client:
        response = await client.request(WEBSOCKET)
        assert response.status == 101
        await echo(client)
        yield client


async def echo(client: RawClient) -> None:
    """The tunnel is alive both ways."""
    await client.send(FRAME)
    assert await client.read_exactly(len(FRAME)) == FRAME


def show(**figures: object) -> None:
    """Figures of a gate, for ``pytest -s``."""
    parts = (
        f"{name}={value:.4g}" if isinstance(value, float) else f"{name}={value}"
        for name, value in figures.items()
    )
    print("  ".join(parts), flush=True)


def now() -> float:
    return time.time()
