"""Runs contestants side by side, in interleaved rounds."""

from __future__ import annotations

import statistics
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from bench import machine
from bench.load import Load, LoadResult, run_wrk
from bench.peers import Peer, Site, UnsupportedError

START_TIMEOUT = 60.0  # ten thousand routes take a moment
WARM_UP = 1.0

Metrics = dict[str, float]


@dataclass(slots=True)
class Measurement:
    """What one contestant did in one scenario: the median of its rounds, or why there is none."""

    scenario: str
    peer: str
    variant: str = ""
    metrics: Metrics = field(default_factory=dict)
    rounds: list[Metrics] = field(default_factory=list)
    failure: str | None = None


@dataclass(frozen=True, slots=True)
class Entry:
    """A peer, and what it is configured to be in this scenario."""

    peer: type[Peer]
    routes: int = 0
    is_caching: bool = False
    is_policing: bool = False
    variant: str = ""


@dataclass(frozen=True, slots=True)
class Contestant:
    """A proxy that runs."""

    entry: Entry
    process: subprocess.Popen[bytes]
    port: int

    @property
    def usage(self) -> machine.Usage:
        return machine.usage_of(self.process.pid)


@dataclass(slots=True)
class Arena:
    """The settings of this run."""

    folder: Path
    origin: int
    peers: list[type[Peer]]
    seconds: float
    rounds: int
    say: Callable[[str], None]

    def plain(self) -> list[Entry]:
        """Every peer with one route."""
        return [Entry(peer) for peer in self.peers]

    @contextmanager
    def running(self, entry: Entry, origin: int | None = None) -> Iterator[Contestant]:
        """Start a contestant and stop it. Raises ``RuntimeError`` or ``UnsupportedError``."""
        folder = Path(tempfile.mkdtemp(prefix=f"{entry.peer.name}-", dir=self.folder))
        folder.chmod(0o755)
        site = Site(
            listen=machine.free_port(),
            origin=origin or self.origin,
            routes=entry.routes,
            is_caching=entry.is_caching,
            is_policing=entry.is_policing,
        )
        log = folder / "output.log"
        command = entry.peer.command(site, folder)
        environment = entry.peer.environment(folder)
        process = machine.start(command, core=machine.PROXY_CORE, log=log, env=environment)
        try:
            try:
                machine.wait_until_serving(site.listen, process, START_TIMEOUT)
            except RuntimeError as error:
                said = log.read_text(errors="replace").strip().rpartition("\n")[2]
                said = said.replace(str(self.folder), "")[-300:]
                raise RuntimeError(f"{error}; the last it said: {said}") from error
            yield Contestant(entry, process, site.listen)
        finally:
            machine.stop(process)

    def compete(
        self,
        scenario: str,
        entries: Sequence[Entry],
        measure: Callable[[Contestant], Metrics],
        *,
        origin: int | None = None,
        rounds: int | None = None,
        is_fresh: bool = False,
    ) -> list[Measurement]:
        """Let ``entries`` take turns and return the medians.

        All run at once, idle but for the one that is measured, so that a disturbance of the machine
        hits neighbours in time alike. ``is_fresh``: each round has a process of its own, for
        measurements that the process remembers.
        """
        results = {
            id(entry): Measurement(scenario, entry.peer.name, entry.variant) for entry in entries
        }
        with ExitStack() as stack:
            contestants: list[Entry | Contestant] = []
            for entry in entries:
                if is_fresh:
                    contestants.append(entry)
                    continue
                try:
                    contestants.append(stack.enter_context(self.running(entry, origin)))
                except (RuntimeError, UnsupportedError) as error:
                    results[id(entry)].failure = str(error)
            total = rounds or self.rounds
            for number in range(total):
                # The order turns, so that nobody is always the first.
                turn = number % max(1, len(contestants))
                for contestant in contestants[turn:] + contestants[:turn]:
                    entry = contestant if isinstance(contestant, Entry) else contestant.entry
                    result = results[id(entry)]
                    if result.failure is not None:
                        continue
                    self.say(f"{scenario} {entry.variant} {entry.peer.name} {number + 1}/{total}")
                    try:
                        if isinstance(contestant, Entry):
                            with self.running(contestant, origin) as fresh:
                                result.rounds.append(measure(fresh))
                        else:
                            result.rounds.append(measure(contestant))
                    except (
                        RuntimeError,
                        UnsupportedError,
                        OSError,
                        subprocess.SubprocessError,
                    ) as error:
                        is_late = isinstance(error, subprocess.TimeoutExpired)
                        result.failure = "its load did not end" if is_late else str(error)
        for result in results.values():
            for name in result.rounds[0] if result.rounds else ():
                result.metrics[name] = statistics.median(r[name] for r in result.rounds)
        return list(results.values())

    def drive(self, contestant: Contestant, load: Load) -> Metrics:
        """Warm up, load, and return CPU per request, rate, latency and memory."""
        run_wrk(contestant.port, load, WARM_UP)
        before = contestant.usage
        result = run_wrk(contestant.port, load, self.seconds)
        after = contestant.usage
        return load_metrics(result, after.cpu - before.cpu, after.rss_bytes)


def load_metrics(result: LoadResult, cpu: float, rss_bytes: int) -> Metrics:
    """Name what was measured. Errors fail the measurement: a fast refusal is not fast proxying."""
    if result.requests == 0 or result.errors > result.requests / 1000:
        raise RuntimeError(f"{result.errors} errors in {result.requests} requests")
    return {
        "cpu_us": cpu / result.requests * 1e6,
        "rps": result.requests / result.seconds,
        "core_percent": cpu / result.seconds * 100,
        "p50_ms": result.p50 * 1e3,
        "p99_ms": result.p99 * 1e3,
        "rss_mib": rss_bytes / (1 << 20),
        "errors": result.errors,
    }


class PeakMemory:
    """The largest resident size of a process tree while a block runs."""

    def __init__(self, pid: int) -> None:
        self._pid = pid
        self._next = 0.0
        self.first_bytes = machine.usage_of(pid).rss_bytes
        self.bytes = self.first_bytes

    def look(self) -> None:
        """Look again, at most a hundred times a second."""
        now = time.monotonic()
        if now >= self._next:
            self._next = now + 0.01
            self.bytes = max(self.bytes, machine.usage_of(self._pid).rss_bytes)
