"""What retries do to a service that has become slow. ``python -m bench.brownout``.

A service that can do 250 requests a second is asked for 150. From the 6th second to the 14th it
can do only 50. It works off its queue in order, also what nobody waits for any more, as services
do. The same gateway stands in front of it three times: without any resilience, with the retries
that people write (try again at once, up to four times), and with a budget, a breaker, and a limit.
Clients wait for a second.

Prints a table and, with ``--update-docs``, rewrites the table and the picture of
``docs/explanation/resilience.md``.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import subprocess
import sys
import tempfile
import time
from collections import deque
from dataclasses import dataclass, field
from pathlib import Path
from typing import cast

from rich.console import Console
from rich.table import Table

from bench.machine import free_port, stop

SECONDS = 32
OFFERED = 150
CAPACITY = 250.0
BROWNOUT = (6, 14, 50.0)
"""From when to when, and what is left of the capacity."""
PATIENCE = 1.0

ROOT = Path(__file__).parents[1]
PAGE = ROOT / "docs" / "explanation" / "resilience.md"
PICTURE = ROOT / "docs" / "explanation" / "brownout.png"
BEGIN, END = "<!-- brownout: begin -->", "<!-- brownout: end -->"

SERVICE = {
    "no resilience": "outlier = false\nretry = { attempts = 1 }\n",
    "naive retries": (
        "outlier = false\nretry = { attempts = 4, budget = 1.0, min_per_second = 100_000, "
        'per_try = "250ms", backoff_base = "1ms", backoff_cap = "1ms", '
        "respect_retry_after = false }\n"
    ),
    "budget, breaker, limit": (
        'retry = { attempts = 3, budget = 0.2, per_try = "500ms" }\n'
        'breaker = { failure_ratio = 0.5, minimum_calls = 20, window = "2s", open_for = "1s", '
        'max_open_for = "2s" }\n'
        'bulkhead = { limit = 30, queue = 20, wait = "200ms" }\n'
    ),
}


# --- the service ----------------------------------------------------------------------------------


class Service:
    """One worker and a queue, in order, without an end."""

    def __init__(self) -> None:
        self.queue: deque[asyncio.Transport] = deque()
        self.came = asyncio.Event()
        self.arrived = 0
        self.began = 0.0
        self.per_second: dict[int, int] = {}

    def capacity(self) -> float:
        first, last, left = BROWNOUT
        return left if first <= time.monotonic() - self.began < last else CAPACITY

    def ask(self, transport: asyncio.Transport) -> None:
        second = int(time.monotonic() - self.began)
        self.per_second[second] = self.per_second.get(second, 0) + 1
        self.queue.append(transport)
        self.came.set()

    async def work(self) -> None:
        due = time.monotonic()
        while True:
            while not self.queue:
                self.came.clear()
                await self.came.wait()
                due = max(due, time.monotonic())
            due += 1.0 / self.capacity()
            await asyncio.sleep(max(0.0, due - time.monotonic()))
            transport = self.queue.popleft()
            if not transport.is_closing():
                transport.write(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")


class Connection(asyncio.Protocol):
    def __init__(self, service: Service) -> None:
        self.service = service

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast("asyncio.Transport", transport)

    def data_received(self, data: bytes) -> None:
        if data.startswith(b"POST /begin"):
            self.service.began = time.monotonic()
            self.service.per_second.clear()
            self.transport.write(b"HTTP/1.1 204 No Content\r\n\r\n")
        elif data.startswith(b"GET /report"):
            body = json.dumps(self.service.per_second).encode()
            self.transport.write(
                b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%b" % (len(body), body)
            )
        else:
            for _ in range(data.count(b"\r\n\r\n")):
                self.service.ask(self.transport)


async def serve(port: int) -> None:
    service = Service()
    server = await asyncio.get_running_loop().create_server(
        lambda: Connection(service), "127.0.0.1", port, backlog=4096
    )
    async with server:
        await service.work()


# --- the clients ----------------------------------------------------------------------------------


@dataclass
class Outcome:
    """Second by second."""

    name: str
    answered: dict[int, int] = field(default_factory=dict)
    at_the_service: dict[int, int] = field(default_factory=dict)

    def share(self, first: int, last: int) -> float:
        """Of the requests of these seconds, those that were answered in time."""
        return sum(self.answered.get(s, 0) for s in range(first, last)) / OFFERED / (last - first)

    @property
    def load(self) -> float:
        """Most requests at the service in one second, to those offered."""
        return max(self.at_the_service.values()) / OFFERED

    @property
    def recovered_after(self) -> int | None:
        """Seconds from the end of the brown-out until nearly everything is answered again."""
        for second in range(BROWNOUT[1], SECONDS - 1):
            if self.share(second, SECONDS - 1) >= 0.95 and self.share(second, second + 1) >= 0.95:
                return second - BROWNOUT[1]
        return None


async def ask(port: int, request: bytes) -> tuple[int, bytes]:
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    try:
        writer.write(request)
        head = await reader.readuntil(b"\r\n\r\n")
        length = head.lower().partition(b"content-length: ")[2].partition(b"\r\n")[0]
        body = await reader.readexactly(int(length)) if length else b""
        return int(head[9:12]), body
    finally:
        writer.transport.abort()


async def measure(name: str) -> Outcome:
    outcome = Outcome(name)
    with tempfile.TemporaryDirectory(prefix="brownout-") as folder:
        origin, gateway = free_port(), free_port()
        conf = Path(folder) / "gateway.toml"
        conf.write_text(
            f'[gateway]\nlisten = "127.0.0.1:{gateway}"\nreload = false\nlog_level = "error"\n'
            f'[services.slow]\ninstances = ["http://127.0.0.1:{origin}"]\n'
            f'timeout = {{ total = "{PATIENCE}s" }}\n'
            "pool = { max_connections = 4000, max_waiting = 4000 }\n"
            f'{SERVICE[name]}[[routes]]\npath = "/*"\nservice = "slow"\n'
        )
        quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
        processes = [
            subprocess.Popen([sys.executable, "-m", "bench.brownout", "--serve", str(origin)]),
            subprocess.Popen([sys.executable, "-m", "nexgate", "run", str(conf)], **quiet),  # type: ignore[call-overload]
        ]
        try:
            for port in (origin, gateway):
                await _wait_for(port)
            await ask(origin, b"POST /begin HTTP/1.1\r\nHost: x\r\n\r\n")
            began = time.monotonic()
            tasks = []
            for n in range(SECONDS * OFFERED):
                await asyncio.sleep(max(0.0, began + n / OFFERED - time.monotonic()))
                tasks.append(asyncio.create_task(_client(gateway, outcome, n // OFFERED)))
            await asyncio.gather(*tasks)
            _, body = await ask(origin, b"GET /report HTTP/1.1\r\nHost: x\r\n\r\n")
            outcome.at_the_service = {int(s): n for s, n in json.loads(body).items()}
        finally:
            for process in processes:
                stop(process)
    return outcome


async def _client(port: int, outcome: Outcome, second: int) -> None:
    try:
        async with asyncio.timeout(PATIENCE):
            status, _ = await ask(port, b"GET / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
    except (TimeoutError, OSError, asyncio.IncompleteReadError):
        return
    if status == 200:
        outcome.answered[second] = outcome.answered.get(second, 0) + 1


async def _wait_for(port: int) -> None:
    for _ in range(400):
        try:
            _, writer = await asyncio.open_connection("127.0.0.1", port)
        except OSError:
            await asyncio.sleep(0.05)
        else:
            writer.close()
            return
    raise RuntimeError("it does not listen")


# --- telling --------------------------------------------------------------------------------------

HEADS = ["", "answered in the brown-out", "after it", "most load at the service", "back to normal"]


def rows(outcomes: list[Outcome]) -> list[list[str]]:
    first, last, _ = BROWNOUT
    found = []
    for one in outcomes:
        after = one.recovered_after
        back = f"{after} s" if after is not None else f"not within {SECONDS - last} s"
        shares = [f"{one.share(first, last):.0%}", f"{one.share(last, SECONDS - 1):.0%}"]
        found.append([one.name, *shares, f"{one.load:.2f}x", back])
    return found


def draw(outcomes: list[Outcome]) -> None:
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot

    figure, (top, bottom) = pyplot.subplots(
        2, 1, figsize=(7.5, 5), sharex=True, layout="constrained"
    )
    colours = ["#8c959f", "#cf222e", "#1f6feb"]
    seconds = range(SECONDS - 1)
    for one, colour in zip(outcomes, colours, strict=True):
        top.plot(seconds, [one.answered.get(s, 0) for s in seconds], color=colour, label=one.name)
        bottom.plot(seconds, [one.at_the_service.get(s, 0) for s in seconds], color=colour)
    for axis in (top, bottom):
        axis.axvspan(BROWNOUT[0], BROWNOUT[1], color="#fff3cd")
        axis.axhline(OFFERED, color="#57606a", linewidth=0.7, linestyle=":")
        axis.spines[["top", "right"]].set_visible(False)
        axis.set_ylim(bottom=0)
    top.set_title("answered within a second, per second (dotted: offered)", fontsize=9)
    bottom.set_title("requests that reached the service, per second", fontsize=9)
    bottom.set_xlabel("seconds; yellow: the service can do a fifth of what it could", fontsize=9)
    top.legend(fontsize=8, frameon=False, loc="lower right")
    figure.savefig(PICTURE, dpi=130, metadata={"Software": None})


def update_page(outcomes: list[Outcome]) -> None:
    table = ["| " + " | ".join(HEADS) + " |", "|---|---:|---:|---:|---:|"]
    table += ["| " + " | ".join(row) + " |" for row in rows(outcomes)]
    page = PAGE.read_text(encoding="utf-8")
    before, _, rest = page.partition(BEGIN)
    text = "\n".join(table)
    PAGE.write_text(f"{before}{BEGIN}\n{text}\n{END}{rest.partition(END)[2]}", encoding="utf-8")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, prog="python -m bench.brownout")
    parser.add_argument("--serve", type=int, metavar="PORT", help=argparse.SUPPRESS)
    parser.add_argument("--update-docs", action="store_true")
    options = parser.parse_args()
    if options.serve:
        asyncio.run(serve(options.serve))
        return
    outcomes = [asyncio.run(measure(name)) for name in SERVICE]
    table = Table(title=f"Brown-out: {OFFERED} requests a second offered")
    for head in HEADS:
        table.add_column(head, justify="right" if head else "left")
    for row in rows(outcomes):
        table.add_row(*row)
    Console().print(table)
    if options.update_docs:
        update_page(outcomes)
        draw(outcomes)


if __name__ == "__main__":
    main()
