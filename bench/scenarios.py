"""What is measured. Each scenario is a function of the arena that returns measurements."""

from __future__ import annotations

import json
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import replace

from bench import balancer, client, machine, resilience
from bench.arena import Arena, Contestant, Entry, Measurement, Metrics, PeakMemory, load_metrics
from bench.load import (
    CONNECTIONS,
    FIELDS,
    Load,
    run_at_rate,
    run_wrk,
)
from bench.origin import GIB, running_sink
from bench.peers import PEERS
from bench.tokens import bearer

FIRST_IDLE, MORE_IDLE = 1000, 2000
TARGETS_PER_TABLE = 64

Scenario = Callable[[Arena, Sequence[Measurement]], list[Measurement]]


def _simple(name: str, load: Load) -> Scenario:
    def run(arena: Arena, _: Sequence[Measurement]) -> list[Measurement]:
        return arena.compete(name, arena.plain(), lambda one: arena.drive(one, load))

    return run


def _routes(arena: Arena, _: Sequence[Measurement]) -> list[Measurement]:
    """The same requests per route, through tables of 10 and of 10,000 routes."""

    def measure(one: Contestant) -> Metrics:
        return arena.drive(one, Load(_spread(one.entry.routes)))

    entries = [
        Entry(peer, routes=routes, variant=f"{routes:,} routes")
        for peer in arena.peers
        for routes in (10, 10_000)
    ]
    return arena.compete("routes", entries, measure)


def _spread(routes: int) -> list[str]:
    step = max(1, routes // TARGETS_PER_TABLE)
    return [f"/svc{n}/items/42" for n in range(0, routes, step)][:TARGETS_PER_TABLE]


def _cache(arena: Arena, _: Sequence[Measurement]) -> list[Measurement]:
    """Hits. Without Authorization and Cache-Control, which keep a shared cache from answering."""
    fields = {n: v for n, v in FIELDS.items() if n not in {"Authorization", "Cache-Control"}}
    load = Load(["/cached"], fields=fields)
    entries = [replace(entry, is_caching=True) for entry in arena.plain()]
    return arena.compete("cache", entries, lambda one: arena.drive(one, load))


def _policies(arena: Arena, _: Sequence[Measurement]) -> list[Measurement]:
    """Nexgate with everything on, and the others bare, with the same requests."""
    load = Load(["/items/42"], fields={**FIELDS, "Authorization": bearer()})
    entries = [
        Entry(peer, is_policing=peer.name == "nexgate", variant=_policy_variant(peer.name))
        for peer in arena.peers
        if peer.name in {"nexgate", "nginx", "envoy"}
    ]
    return arena.compete("policies", entries, lambda one: arena.drive(one, load))


def _policy_variant(name: str) -> str:
    return "all policies" if name == "nexgate" else "bare"


def _idle(arena: Arena, _: Sequence[Measurement]) -> list[Measurement]:
    """Connections that were used once and are kept alive: what each adds to the resident size.

    The first thousand may fill memory that starting up left free, so the promise is about the slope
    after them; both are reported.
    """
    fields = "".join(f"{name}: {value}\r\n" for name, value in FIELDS.items())
    wire = f"GET /json HTTP/1.1\r\n{fields}\r\n".encode()

    def measure(one: Contestant) -> Metrics:
        run_wrk(one.port, Load(["/json"]), 1)  # what the first requests cost is not a connection's
        sizes: list[int] = []
        with ExitStack() as stack:
            for count in (0, FIRST_IDLE, MORE_IDLE):
                for _ in range(count):
                    client = socket.create_connection(("127.0.0.1", one.port), 10)
                    stack.enter_context(client)
                    _ask_once(client, wire)
                time.sleep(0.5)
                sizes.append(one.usage.rss_bytes)
        return {
            "first_kib": (sizes[1] - sizes[0]) / FIRST_IDLE / 1024,
            "idle_kib": (sizes[2] - sizes[1]) / MORE_IDLE / 1024,
            "rss_mib": sizes[2] / (1 << 20),
        }

    return arena.compete("idle", arena.plain(), measure, rounds=min(arena.rounds, 3), is_fresh=True)


def _ask_once(client: socket.socket, wire: bytes) -> None:
    client.sendall(wire)
    answer = client.recv(65536)
    while not answer.endswith(b"}"):
        piece = client.recv(65536)
        if not piece:
            raise RuntimeError(f"closed after {answer[:80]!r}")
        answer += piece


def _websocket(arena: Arena, _: Sequence[Measurement]) -> list[Measurement]:
    """64-byte messages, 32 connections, each sending when its echo has come."""
    origin = machine.free_port()
    command = [sys.executable, "-m", "bench.websocket"]
    log = arena.folder / "echo.log"
    echo = machine.start([*command, "serve", str(origin)], core=machine.LOAD_CORE, log=log)

    def measure(one: Contestant) -> Metrics:
        before = one.usage
        orders = ["load", str(one.port), str(CONNECTIONS), str(arena.seconds)]
        done = subprocess.run(
            [*command, *orders], capture_output=True, text=True, timeout=60, check=False
        )
        if done.returncode:
            raise RuntimeError(done.stderr.strip().rpartition("\n")[2])
        after = one.usage
        found = json.loads(done.stdout)
        if found["lost"]:
            raise RuntimeError(f"{found['lost']} connections were lost")
        cpu = after.cpu - before.cpu
        return {
            "cpu_us": cpu / found["messages"] * 1e6,
            "rps": found["messages"] / found["seconds"],
            "core_percent": cpu / found["seconds"] * 100,
            "rss_mib": after.rss_bytes / (1 << 20),
        }

    try:
        machine.wait_until_serving(origin, echo, 10)
        return arena.compete("websocket", arena.plain(), measure, origin=origin)
    finally:
        machine.stop(echo)


def _download(arena: Arena, _: Sequence[Measurement]) -> list[Measurement]:
    """1 GiB from the upstream to one client that reads as fast as it can."""
    buffer = bytearray(1 << 20)
    with socket.create_connection(("127.0.0.1", arena.origin), 10) as client:
        # Once without a proxy: the first to read the file would wait for the kernel to make it.
        client.sendall(b"GET /1g HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
        while client.recv_into(buffer):
            pass

    def measure(one: Contestant) -> Metrics:
        run_wrk(one.port, Load(["/json"]), 1)
        memory, before, begin = PeakMemory(one.process.pid), one.usage, time.perf_counter()
        with socket.create_connection(("127.0.0.1", one.port), 10) as client:
            client.sendall(b"GET /1g HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
            total = 0
            while count := client.recv_into(buffer):
                total += count
                memory.look()
        if total < GIB:
            raise RuntimeError(f"only {total} bytes came")
        return _stream_metrics(one, memory, before, time.perf_counter() - begin)

    return arena.compete("download", arena.plain(), measure, is_fresh=True)


def _upload(arena: Arena, _: Sequence[Measurement]) -> list[Measurement]:
    """1 GiB from one client to an upstream that reads it all before it answers."""
    block = bytes(1 << 20)

    def measure(one: Contestant) -> Metrics:
        run_wrk(one.port, Load(["/json"]), 1)
        memory, before, begin = PeakMemory(one.process.pid), one.usage, time.perf_counter()
        with socket.create_connection(("127.0.0.1", one.port), 30) as client:
            head = f"POST /up HTTP/1.1\r\nHost: x\r\nContent-Length: {GIB}\r\n\r\n"
            client.sendall(head.encode())
            for _ in range(GIB // len(block)):
                client.sendall(block)
                memory.look()
            answer = client.recv(65536)
        if b" 200 " not in answer[:20]:
            raise RuntimeError(f"answered {answer[:80]!r}")
        return _stream_metrics(one, memory, before, time.perf_counter() - begin)

    with running_sink(arena.folder / "sink") as sink:
        return arena.compete("upload", arena.plain(), measure, origin=sink, is_fresh=True)


def _stream_metrics(
    one: Contestant, memory: PeakMemory, before: machine.Usage, seconds: float
) -> Metrics:
    after = one.usage
    return {
        "growth_mib": (memory.bytes - memory.first_bytes) / (1 << 20),
        "rss_mib": memory.bytes / (1 << 20),
        "mib_per_s": 1024 / seconds,
        "cpu_s": after.cpu - before.cpu,
    }


def _half_load(arena: Arena, earlier: Sequence[Measurement]) -> list[Measurement]:
    """Latency at one rate for all: half of what the slower of Nexgate and Envoy can do.

    The promise is about these two. Half of the slowest proxy's peak would be a light load for
    them, and latency under a light load promises nothing; slower proxies may be past their half.
    """
    entries = arena.plain()
    peaks = {m.peer: m.metrics["rps"] for m in earlier if m.scenario == "small" and not m.failure}
    if not peaks:
        small = _simple("small", Load(["/json"]))(replace(arena, rounds=1), [])
        peaks = {m.peer: m.metrics["rps"] for m in small if not m.failure}
    if not peaks:
        return [Measurement("half-load", e.peer.name, failure="no peak known") for e in entries]
    judged = [peaks[name] for name in ("nexgate", "envoy") if name in peaks]
    rate = min(judged or peaks.values()) / 2

    def measure(one: Contestant) -> Metrics:
        before = one.usage
        result = run_at_rate(one.port, "/json", rate, arena.seconds)
        after = one.usage
        metrics = load_metrics(result, after.cpu - before.cpu, after.rss_bytes)
        # The usage covers the second that is not counted, too: no cost per request from here.
        del metrics["cpu_us"], metrics["core_percent"]
        return {**metrics, "rate": rate}

    return arena.compete("half-load", entries, measure)


def _pick(_: Arena, __: Sequence[Measurement]) -> list[Measurement]:
    """In this process: what choosing an instance costs, however many there are."""
    return [
        Measurement("pick", "nexgate", f"{kind}, {size:,} instances", {"pick_us": value})
        for kind, row in balancer.run().items()
        for size, value in row.items()
    ]


def _breaker(_: Arena, __: Sequence[Measurement]) -> list[Measurement]:
    """In this process: what a breaker adds to a call that goes well."""
    found = []
    for group in ("acquire + record", "breaker around an async call"):
        for name, nanos in resilience.run(group).items():
            peer, _, variant = name.partition(", ")
            where = ": ".join(filter(None, [group, variant]))
            found.append(Measurement("breaker", peer, where, {"extra_us": nanos / 1000}))
    return found


def _client(_: Arena, __: Sequence[Measurement]) -> list[Measurement]:
    """Small GETs by a client, in a process of its own."""
    found = []
    for kind, value in client.run().items():
        peer, _, variant = kind.partition(", ")
        found.append(Measurement("client", peer, variant, {"cpu_us": value}))
    return found


SCENARIOS: dict[str, tuple[str, Scenario]] = {
    "small": ("JSON, 179 bytes", _simple("small", Load(["/json"]))),
    "10k": ("body of 10 KiB", _simple("10k", Load(["/10k"]))),
    "1m": ("body of 1 MiB", _simple("1m", Load(["/1m"]))),
    "post": ("POST with 1 KiB", _simple("post", Load(["/json"], "POST", 1024))),
    "routes": ("10 and 10,000 routes", _routes),
    "cache": ("cache hit", _cache),
    "policies": ("all policies on", _policies),
    "websocket": ("WebSocket echo, 64 bytes", _websocket),
    "idle": ("idle keep-alive connections: the first 1,000, and each of 2,000 more", _idle),
    "download": ("1 GiB down", _download),
    "upload": ("1 GiB up", _upload),
    "half-load": ("half load", _half_load),
    "pick": ("picking an instance, in process", _pick),
    "client": ("calling a service: a small GET by a client", _client),
    "breaker": ("a circuit breaker around a call that goes well, in process", _breaker),
}

assert set(PEERS) >= {"nexgate", "nginx", "envoy"}
