"""A load generator in a process of its own: raw keep-alive connections, bounded, on 127.0.0.1.

``closed``: so many connections; each sends its next request when the last was answered, until so
many requests are done. ``open``: requests arrive at a fixed rate whatever happens to those before
them, and latency counts from the moment at which a request was due. Reads its plan (JSON) from the
first argument, ends early when standard input says so, prints what happened (JSON).

What counts as a failure: a refused or broken connection, an answer cut short, no answer in time. An
answer with any status is an answer. A connection that the server announced to close, or closed
between two requests, is simply opened again, as every client does.
"""

from __future__ import annotations

import asyncio
import json
import random
import sys
import time
from collections import Counter
from typing import Any, cast

import uvloop


class Client(asyncio.Protocol):
    """One connection, at most one request under way."""

    def __init__(self, load: Load) -> None:
        self.load = load
        self.buffer = b""
        self.due = 0.0
        self.is_waiting = False
        self.is_lost = False
        self.answers = 0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast("asyncio.Transport", transport)

    def ask(self, due: float) -> None:
        self.due = due
        self.is_waiting = True
        self.transport.write(self.load.request)

    def data_received(self, data: bytes) -> None:
        data = self.buffer + data if self.buffer else data
        head, end, rest = data.partition(b"\r\n\r\n")
        lower = head.lower()
        at = lower.find(b"content-length: ")
        if not end or (at >= 0 and len(rest) < int(lower[at + 16 :].split(b"\r\n", 1)[0])):
            self.buffer = data
            return
        self.buffer = b""
        if not self.is_waiting:
            self.load.failed("an answer that nobody asked for", self)
            return
        self.is_waiting = False
        self.answers += 1
        if b"connection: close" in lower:
            self.is_lost = True
            self.transport.close()
        self.load.answered(self, int(head[9:12]), rest)

    def connection_lost(self, exc: Exception | None) -> None:
        self.is_lost = True
        if self.is_waiting:
            self.is_waiting = False
            kind = "reset" if isinstance(exc, ConnectionResetError) else "closed"
            if self.buffer:
                kind = "cut short"
            self.load.failed(kind, self)


class Load:
    """What is to be done, and what was."""

    def __init__(self, plan: dict[str, Any]) -> None:
        self.plan = plan
        self.loop = asyncio.get_running_loop()
        fields = plan.get("fields", "")
        self.request = (
            f"{plan.get('method', 'GET')} {plan.get('path', '/')} HTTP/1.1\r\n"
            f"Host: example.com\r\nUser-Agent: load\r\nAccept: */*\r\n{fields}\r\n"
        ).encode() + plan.get("body", "").encode()
        self.statuses: Counter[int] = Counter()
        self.bodies: Counter[str] = Counter()
        self.kinds: Counter[str] = Counter()
        self.failures: list[tuple[float, str]] = []
        self.latencies: list[float] = []
        self.by_status: dict[int, list[float]] = {}
        self.done = 0
        self.begun = time.time()
        self.asked = 0
        self.is_over = False
        self.over = asyncio.Event()
        self.idle: list[Client] = []
        self.open = 0
        self.seconds: Counter[int] = Counter()

    def answered(self, client: Client, status: int, body: bytes) -> None:
        now = self.loop.time()
        self.statuses[status] += 1
        if len(body) < 32:
            self.bodies[body.decode("latin-1")] += 1
        self.latencies.append(now - client.due)
        self.by_status.setdefault(status, []).append(now - client.due)
        if status < 500:
            self.seconds[int(time.time() - self.begun)] += 1
        self.ended(client)

    def failed(self, kind: str, client: Client | None) -> None:
        self.kinds[kind] += 1
        if len(self.failures) < 100:
            self.failures.append((time.time(), kind))
        if client is not None:
            self.ended(client)

    def ended(self, client: Client) -> None:
        self.done += 1
        if self.plan["mode"] == "open":
            if not client.is_lost:
                self.idle.append(client)
            return
        if self.is_over or self.asked >= self.plan["requests"]:
            client.transport.close()
            self.open -= 1
            if not self.open:
                self.over.set()
        elif client.is_lost:
            self.loop.create_task(self.reconnect())
        else:
            self.asked += 1
            if self.plan.get("think"):
                self.loop.call_later(
                    self.plan["think"] * random.uniform(0.5, 1.5), self.next, client
                )
            else:
                client.ask(self.loop.time())

    def next(self, client: Client) -> None:
        if client.is_lost:
            self.asked -= 1
            self.loop.create_task(self.reconnect())
        else:
            client.ask(self.loop.time())

    async def connect(self) -> Client | None:
        try:
            _, client = await asyncio.wait_for(
                self.loop.create_connection(
                    lambda: Client(self), self.plan.get("host", "127.0.0.1"), self.plan["port"]
                ),
                10.0,
            )
        except (OSError, TimeoutError) as error:
            self.failed(f"connect: {type(error).__name__}", None)
            return None
        return client

    async def reconnect(self) -> None:
        while not self.is_over:
            client = await self.connect()
            if client is not None:
                self.asked += 1
                client.ask(self.loop.time())
                return
            await asyncio.sleep(0.01)
        self.open -= 1
        if not self.open:
            self.over.set()

    async def closed(self) -> None:
        for _ in range(self.plan["connections"]):
            self.open += 1
            self.loop.create_task(self.reconnect())
            await asyncio.sleep(0)
        await self.over.wait()

    async def at_rate(self) -> None:
        rate = self.plan["rate"]
        started = self.loop.time()
        total = int(rate * self.plan["duration"])
        tasks: set[asyncio.Task[None]] = set()
        while self.asked < total and not self.is_over:
            due = min(total, int((self.loop.time() - started) * rate))
            while self.asked < due:
                at = started + self.asked / rate
                self.asked += 1
                while self.idle and self.idle[-1].is_lost:
                    self.idle.pop()
                if self.idle:
                    self.idle.pop().ask(at)
                elif self.open < self.plan.get("connections", 2000):
                    self.open += 1
                    task = self.loop.create_task(self.first(at))
                    tasks.add(task)
                    task.add_done_callback(tasks.discard)
                else:
                    self.failed("no connection left", None)
                    self.done += 1
            await asyncio.sleep(0.001)
        limit = self.loop.time() + 10.0
        while self.done < self.asked and self.loop.time() < limit:
            await asyncio.sleep(0.01)
        if self.done < self.asked:
            self.kinds["no answer"] += self.asked - self.done

    async def first(self, due: float) -> None:
        client = await self.connect()
        if client is None:
            self.open -= 1
            self.done += 1
        else:
            client.ask(due)

    def listen(self) -> None:
        """``stop`` on standard input ends a closed loop; so does the end of the test."""
        sys.stdin.readline()
        self.is_over = True
        self.loop.remove_reader(sys.stdin)

    def report(self) -> dict[str, Any]:
        return {
            "asked": self.asked,
            "statuses": dict(self.statuses),
            "bodies": dict(self.bodies),
            "kinds": dict(self.kinds),
            "failures": self.failures,
            "begun": self.begun,
            "seconds": time.time() - self.begun,
            "latency": quantiles(self.latencies),
            "by_status": {s: quantiles(v) for s, v in self.by_status.items()},
            "per_second": dict(self.seconds),
        }


def quantiles(values: list[float]) -> dict[str, float]:
    """p50, p99 and the largest, in seconds."""
    ordered = sorted(values) or [0.0]
    last = len(ordered) - 1
    return {"p50": ordered[last // 2], "p99": ordered[int(last * 0.99)], "max": ordered[-1]}


async def main() -> None:
    """One plan, one report."""
    load = Load(json.loads(sys.argv[1]))
    load.loop.add_reader(sys.stdin, load.listen)
    print("begun", flush=True)
    if load.plan["mode"] == "open":
        await load.at_rate()
    else:
        await load.closed()
    print(json.dumps(load.report()), flush=True)


if __name__ == "__main__":
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(main())
