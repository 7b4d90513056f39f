"""What goes wrong on a bad day, all of it under load, and what the clients see of it: nothing."""

from __future__ import annotations

import contextlib
import http.client
import os
import signal
import subprocess
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path

from rich.console import Console

from nexgate.demo._processes import end, free_ports, start, wait_for

__all__ = ["run"]

_CLIENTS = 8
_PATHS = ("/users/1", "/ratings")
_FAILURES = (OSError, http.client.HTTPException)


class _Load:
    """Clients that ask for everything, again and again, and count what they get."""

    def __init__(self, port: int) -> None:
        self._port = port
        self._stop = threading.Event()
        self._lock = threading.Lock()
        self.answered: Counter[int] = Counter()
        self.failed: Counter[str] = Counter()
        self.served_by: Counter[str] = Counter()
        self.from_yesterday = 0
        self.told: list[str] = []
        """What the answers said that were not 200."""
        self._threads = [
            threading.Thread(target=self._client, args=(n,), daemon=True) for n in range(_CLIENTS)
        ]
        for thread in self._threads:
            thread.start()

    def _client(self, number: int) -> None:
        connection = http.client.HTTPConnection("127.0.0.1", self._port, timeout=10)
        path = _PATHS[number % len(_PATHS)]
        while not self._stop.is_set():
            try:
                connection.request("GET", path)
                response = connection.getresponse()
                body = response.read()
            except _FAILURES as error:
                connection.close()
                with self._lock:
                    self.failed[type(error).__name__] += 1
                continue
            with self._lock:
                self.answered[response.status] += 1
                if response.status != 200:
                    self.told.append(f"{path}: {body[:300].decode(errors='replace')}")
                if path.startswith("/users"):
                    self.served_by[response.getheader("x-served-by") or "?"] += 1
                elif b"yesterday" in body:
                    self.from_yesterday += 1
            time.sleep(0.01)

    def fresh(self) -> tuple[set[str], int]:
        """Who has served users, and how many ratings were old, since the last question."""
        with self._lock:
            found = set(self.served_by), self.from_yesterday
            self.served_by.clear()
            self.from_yesterday = 0
            return found

    def stop(self) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join(15)

    @property
    def failures(self) -> int:
        return sum(self.failed.values()) + sum(n for s, n in self.answered.items() if s != 200)


class _Drill:
    def __init__(self, console: Console, port: int, state: str) -> None:
        self.console = console
        ports = free_ports(6)
        self.port = port or ports[0]
        self.users_ports = ports[1:4]
        self.ratings_port = ports[4]
        self.env = dict(
            os.environ,
            PORT_GATEWAY=str(self.port),
            PORT_RATINGS=str(ports[4]),
            PORT_YESTERDAY=str(ports[5]),
            STATE=state,
        )
        self.state = state
        self.log = Path(state.removeprefix("lmdb:")).with_name("gateway.log")
        self.children: list[subprocess.Popen[bytes]] = []
        self.load: _Load | None = None

    def start_users(self, number: int) -> subprocess.Popen[bytes]:
        port = str(self.users_ports[number])
        child = start("nexgate.demo.services", "users", port, self.state, env=self.env)
        self.children.append(child)
        return child

    def start_all(self) -> bool:
        self.start_users(0)
        for name in ("ratings", "yesterday"):
            port = self.env[f"PORT_{name.upper()}"]
            self.children.append(start("nexgate.demo.services", name, port, env=self.env))
        file = Path(__file__).with_name("drill.toml")
        with self.log.open("wb") as log:
            gateway = start("nexgate", "run", str(file), "--no-reload", env=self.env, stderr=log)
        self.children.append(gateway)
        listening = [self.users_ports[0], self.ratings_port, int(self.env["PORT_YESTERDAY"])]
        return all(wait_for(p, self.children) for p in [*listening, self.port]) and self.is_found()

    def is_found(self, seconds: float = 15.0) -> bool:
        """Whether the gateway has heard of users: until it has, it says 503, as it should."""
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=5)
            with contextlib.closing(connection), contextlib.suppress(*_FAILURES):
                connection.request("GET", _PATHS[0])
                if connection.getresponse().status == 200:
                    return True
            time.sleep(0.05)
        return False

    def mood(self, word: str) -> None:
        connection = http.client.HTTPConnection("127.0.0.1", self.ratings_port, timeout=5)
        connection.request("POST", f"/mood/{word}")
        connection.getresponse().read()
        connection.close()

    def until(self, fact: Callable[[set[str], int], bool], seconds: float = 15.0) -> bool:
        """Look at what clients get, once every half second, until it is so."""
        assert self.load is not None
        deadline = time.monotonic() + seconds
        self.load.fresh()
        while time.monotonic() < deadline:
            time.sleep(0.5)
            if fact(*self.load.fresh()):
                return True
        return False

    def step(self, words: str, fact: Callable[[set[str], int], bool]) -> bool:
        assert self.load is not None
        before = time.monotonic()
        held = self.until(fact)
        answered = sum(self.load.answered.values())
        mark = "[green]✓[/green]" if held else "[red]✗[/red]"
        self.console.print(
            f"  {mark} {words:<44} {time.monotonic() - before:4.1f}s {answered:>7}"
            f" {self.load.failures:>7}"
        )
        return held

    def says(self, words: str) -> Callable[[set[str], int], bool]:
        """Whether the gateway has said so of the circuit."""
        return lambda *_: f"the circuit of ratings {words}" in self.log.read_text()

    def run(self) -> bool:
        self.load = _Load(self.port)
        self.console.print(f"[bold]    {'':<44} after answered  failed[/bold]")
        held = self.step("one instance of users, by its own word", _served_by(1))
        second, third = self.start_users(1), self.start_users(2)
        held &= self.step("two more are started, and get their share", _served_by(3))
        os.kill(second.pid, signal.SIGKILL)
        held &= self.step(f"kill -9 {second.pid}: the others answer", _served_by(2))
        third.terminate()
        held &= self.step("another leaves in order: back to one", _served_by(1))
        self.mood("ill")
        held &= self.step("ratings fails: yesterday's are served", lambda _, old: old > 0)
        held &= self.step("its circuit is open: it gets a pause", self.says("is open"))
        self.mood("well")
        held &= self.step("it is well: the circuit is closed again", self.says("is closed"))
        held &= self.step("and today's ratings are served", lambda _, old: not old)
        self.load.stop()
        return held and not self.load.failures


def _served_by(number: int) -> Callable[[set[str], int], bool]:
    return lambda found, _: len(found) == number


def run(port: int = 8000) -> int:
    """The drill; 0 when every step came true and no request failed."""
    console = Console(highlight=False)
    with tempfile.TemporaryDirectory(prefix="nexgate-drill-") as folder:
        drill = _Drill(console, port, f"lmdb:{folder}/state")
        try:
            if not drill.start_all():
                console.print(
                    "[red]The drill could not start.[/red] Is the port in use? Try --port 0."
                )
                return 3
            console.print(
                f"\n[bold]Eight clients ask http://localhost:{drill.port} all the time.[/bold]\n"
            )
            held = drill.run()
        except KeyboardInterrupt:
            return 130
        finally:
            if drill.load is not None:
                drill.load.stop()
            # The killed one is dead already.
            with contextlib.suppress(ProcessLookupError):
                end(drill.children)
        assert drill.load is not None
        total = sum(drill.load.answered.values())
        verdict = "[green]no request failed" if not drill.load.failures else "[red]some failed"
        console.print(f"\n{total} requests, {drill.load.failures} failed: {verdict}[/]\n")
        if drill.load.failures:
            console.print(dict(drill.load.answered), dict(drill.load.failed))
            for words in sorted(set(drill.load.told))[:5]:
                console.print(words, markup=False)
        return 0 if held else 1
