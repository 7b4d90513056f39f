"""This machine: its cores, and what a tree of processes costs on them."""

from __future__ import annotations

import os
import platform
import shutil
import signal
import socket
import subprocess
import time
from dataclasses import dataclass
from pathlib import Path

TICKS_PER_SECOND = os.sysconf("SC_CLK_TCK")
PAGE_BYTES = os.sysconf("SC_PAGE_SIZE")

CORES = sorted(os.sched_getaffinity(0))
PROXY_CORE = CORES[0]
LOAD_CORE = CORES[-1]


@dataclass(frozen=True, slots=True)
class Usage:
    """What a tree of processes has used up to now."""

    cpu: float
    """Seconds in user and kernel mode, of exited children too."""
    rss_bytes: int


def usage_of(pid: int) -> Usage:
    """Add up ``pid`` and all its living descendants."""
    cpu = 0.0
    rss = 0
    for member in _tree(pid):
        try:
            fields = Path(f"/proc/{member}/stat").read_text().rpartition(") ")[2].split()
            resident = int(Path(f"/proc/{member}/statm").read_text().split()[1])
        except (FileNotFoundError, ProcessLookupError):
            continue
        # utime stime cutime cstime are fields 14 to 17 of proc(5); the split starts at field 3.
        cpu += sum(map(int, fields[11:15])) / TICKS_PER_SECOND
        rss += resident * PAGE_BYTES
    return Usage(cpu, rss)


def _tree(root: int) -> list[int]:
    members = [root]
    for pid in members:  # grows while it is walked
        try:
            tasks = list(Path(f"/proc/{pid}/task").iterdir())
        except FileNotFoundError:
            continue
        for task in tasks:
            try:
                members += map(int, (task / "children").read_text().split())
            except (FileNotFoundError, ProcessLookupError):
                continue
    return members


def start(
    command: list[str], *, core: int, log: Path, env: dict[str, str] | None = None
) -> subprocess.Popen[bytes]:
    """Start ``command`` on ``core``, in a group of its own, its output in ``log``."""
    if shutil.which("taskset") and len(CORES) > 1:
        command = ["taskset", "-c", str(core), *command]
    with log.open("wb") as output:
        return subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
            env={**os.environ, **(env or {})},
        )


def stop(process: subprocess.Popen[bytes]) -> None:
    """End a process that ``start`` began, and its children."""
    if process.poll() is None:
        process.terminate()
        try:
            process.wait(5)
        except subprocess.TimeoutExpired:
            pass
    try:
        os.killpg(process.pid, signal.SIGKILL)
    except ProcessLookupError:
        pass
    process.wait()


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def describe() -> str:
    """Return the machine in one line, without its name."""
    model = platform.processor() or platform.machine()
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            model = line.partition(":")[2].strip()
            break
    load = os.getloadavg()[0]
    return (
        f"{model}, {len(CORES)} cores, Linux {platform.release().partition('-')[0]}, "
        f"Python {platform.python_version()}, load average at the start {load:.1f}"
    )


def revision(package: Path) -> str:
    """Return the commit that ``package`` was imported from, and say if files differ from it."""

    def git(*words: str) -> str:
        command = ["git", "-C", str(package), *words]
        return subprocess.run(command, capture_output=True, text=True, check=False).stdout.strip()

    commit = git("rev-parse", "--short", "HEAD")
    if not commit:
        return "not a checkout"
    is_changed = bool(git("status", "--porcelain", "--", ":/src", ":/bench"))
    return f"{commit} with uncommitted changes" if is_changed else commit


def wait_until_serving(port: int, process: subprocess.Popen[bytes], timeout: float) -> None:
    """Wait until ``GET /json`` on ``port`` is answered with 200. Raises ``RuntimeError``."""
    deadline = time.monotonic() + timeout
    answer = b""
    while time.monotonic() < deadline:
        if process.poll() is not None:
            raise RuntimeError(f"it ended with code {process.returncode}")
        try:
            with socket.create_connection(("127.0.0.1", port), 2) as client:
                client.settimeout(2)
                client.sendall(b"GET /json HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
                answer = client.recv(65536)
        except OSError:
            answer = b""
        if b" 200 " in answer.partition(b"\r\n")[0]:
            return
        time.sleep(0.05)
    raise RuntimeError(f"no 200 within {timeout:.0f} s; the last answer began {answer[:80]!r}")
