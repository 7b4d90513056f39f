"""Load at a fixed rate of arrivals, whatever the answers do: what latency has to be measured with.

``python -m bench.steady PORT TARGET RATE SECONDS`` prints the percentiles as JSON.

Why not a tool that exists: wrk waits for answers before it asks again, so a slow proxy is asked
less. h2load's ``--rps`` (1.52) lets all its connections fire in lockstep, so that it measures how
fast a burst of 32 is worked off, and sometimes it does not end. Here requests arrive at random
moments (exponential gaps, fixed seed), and the time of each runs from the moment at which it
*should* have been sent, so that a stall counts for everyone who had to wait.

One thread with ``select`` and its microsecond timeouts: asyncio's timers are a millisecond coarse,
and a busy loop would starve the upstream on the same core.
"""

from __future__ import annotations

import json
import random
import select
import socket
import statistics
import sys
import time
from collections import deque

from bench.load import CONNECTIONS, FIELDS

WARM_UP = 1.0
GIVE_UP_AFTER = 5.0  # seconds after the last arrival


def run(port: int, target: str, rate: float, seconds: float) -> dict[str, float]:
    """Load, and return what was measured. Times are in seconds."""
    fields = "".join(f"{name}: {value}\r\n" for name, value in FIELDS.items())
    wire = f"GET {target} HTTP/1.1\r\n{fields}\r\n".encode()
    sockets = [socket.create_connection(("127.0.0.1", port), 5) for _ in range(CONNECTIONS)]
    for sock in sockets:
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        sock.setblocking(False)
    answer_bytes = _answer_length(sockets[0], wire)

    rng = random.Random(1)
    free = deque(sockets)
    waiting: deque[float] = deque()  # arrivals for which no connection was free
    busy: dict[socket.socket, float] = {}  # since when the request on it should be under way
    received: dict[socket.socket, int] = {}
    times: list[float] = []
    errors = 0
    begin = time.perf_counter() + 0.05
    end = begin + WARM_UP + seconds
    arrival = begin
    now = time.perf_counter()
    while now < end + GIVE_UP_AFTER and (arrival < end or busy):
        while arrival <= now and arrival < end:
            waiting.append(arrival)
            arrival += rng.expovariate(rate)
        while waiting and free:
            sock = free.popleft()
            busy[sock] = waiting.popleft()
            received[sock] = 0
            sock.send(wire)
        pause = max(0.0, arrival - time.perf_counter()) if arrival < end else 0.05
        readable, _, _ = select.select(list(busy), [], [], pause)
        now = time.perf_counter()
        for sock in readable:
            data = sock.recv(65536)
            if received[sock] == 0 and not data.startswith(b"HTTP/1.1 200"):
                errors += 1
            received[sock] += len(data)
            if data and received[sock] < answer_bytes:
                continue
            since = busy.pop(sock)
            if since >= begin + WARM_UP:
                times.append(now - since)
            if data:
                free.append(sock)  # else it is closed: an error, counted above
    cuts = statistics.quantiles(times, n=1000)
    return {
        "requests": len(times),
        "seconds": seconds,
        "errors": errors + len(busy) + len(waiting),
        "p50": cuts[499],
        "p99": cuts[989],
    }


def _answer_length(sock: socket.socket, wire: bytes) -> int:
    """Ask once, and return the length that every answer will have: all are the same."""
    sock.settimeout(5)
    sock.sendall(wire)
    answer = b""
    while b"\r\n\r\n" not in answer or not answer.endswith(b"}"):
        piece = sock.recv(65536)
        if not piece:
            raise RuntimeError(f"closed after {answer[:80]!r}")
        answer += piece
    sock.setblocking(False)
    return len(answer)


if __name__ == "__main__":
    print(json.dumps(run(int(sys.argv[1]), sys.argv[2], float(sys.argv[3]), float(sys.argv[4]))))
