"""Workers that are killed at any moment, and what their common log says they did.

A worker appends a line to the log when it begins something and when it ends it; a line is one
write, so that lines of several processes do not mix.
"""

from __future__ import annotations

import asyncio
import os
import random
import signal
import sys
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path


class Log:
    """What workers did, in order."""

    def __init__(self, path: Path) -> None:
        self._file = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)

    def write(self, sign: str, name: str) -> None:
        """``+`` for a beginning, ``-`` for an end."""
        os.write(self._file, f"{sign} {os.getpid()} {name}\n".encode())


@dataclass(frozen=True, slots=True)
class Line:
    sign: str
    pid: int
    name: str


def lines(path: Path) -> Iterator[Line]:
    """Every line of the log."""
    for text in path.read_text().splitlines():
        sign, pid, name = text.split(" ", 2)
        yield Line(sign, int(pid), name)


class Herd:
    """So many processes of one program; some are killed, and replaced."""

    def __init__(self, size: int, seed: int, *argv: str) -> None:
        self.argv = argv
        self.size = size
        self.killed: set[int] = set()
        self._random = random.Random(seed)
        self._processes: list[asyncio.subprocess.Process] = []

    async def _start(self) -> None:
        self._processes.append(
            await asyncio.create_subprocess_exec(
                sys.executable,
                *self.argv,
                stdout=asyncio.subprocess.DEVNULL,
                stderr=asyncio.subprocess.DEVNULL,
            )
        )

    async def __aenter__(self) -> Herd:
        for _ in range(self.size):
            await self._start()
        return self

    async def __aexit__(self, *exc: object) -> None:
        for process in self._processes:
            if process.returncode is None:
                process.kill()
            await process.wait()

    async def hunt(self, seconds: float, pause: tuple[float, float]) -> None:
        """Kill one at a time, at random moments, and replace it."""
        loop = asyncio.get_running_loop()
        end = loop.time() + seconds
        while loop.time() < end:
            await asyncio.sleep(self._random.uniform(*pause))
            victim = self._random.choice(self._processes)
            self._processes.remove(victim)
            assert victim.returncode is None, "a worker ended by itself"
            victim.send_signal(signal.SIGKILL)
            self.killed.add(victim.pid)
            await victim.wait()
            await self._start()


def check(path: Path, wanted: set[str], killed: set[int]) -> dict[str, int]:
    """Everything that was wanted was ended at least once, and nothing was begun twice but where
    whoever had begun it before was killed. Returns figures.
    """
    runs: dict[str, list[Line]] = defaultdict(list)
    ended: set[str] = set()
    for line in lines(path):
        if line.sign == "+":
            runs[line.name].append(line)
        else:
            ended.add(line.name)
    assert wanted - ended == set(), f"{len(wanted - ended)} were never ended"
    assert ended - wanted == set()
    twice = {name: found for name, found in runs.items() if len(found) > 1}
    for name, found in twice.items():
        for earlier in found[:-1]:
            assert earlier.pid in killed, f"{name} was begun again, though nobody had died of it"
    return {
        "handled": len(wanted),
        "killed": len(killed),
        "repeated": sum(len(found) - 1 for found in twice.values()),
    }
