"""Slow clients by the thousand, in a process of their own. Prints what became of them.

``heads`` send a byte of a head every second, ``bodies`` a byte of a body, ``readers`` ask for much
and read nothing. Ends when standard input says so.
"""

from __future__ import annotations

import asyncio
import json
import resource
import socket
import sys
import time
from collections import Counter
from typing import cast

import uvloop

HEAD = b"GET / HTTP/1.1\r\nHost: a\r\nX: "
BODY = b"POST /slow/body HTTP/1.1\r\nHost: a\r\nContent-Length: 1000000\r\n\r\n"
READ = b"GET /slow/read HTTP/1.1\r\nHost: a\r\n\r\n"


class Slow(asyncio.Protocol):
    """One of them. Notes the first status it gets, and when."""

    def __init__(self, kind: str, outcomes: Counter[str], times: list[float]) -> None:
        self.kind = kind
        self.outcomes = outcomes
        self.times = times
        self.is_lost = False
        self.has_answer = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast("asyncio.Transport", transport)
        self.at = time.monotonic()
        self.transport.write({"heads": HEAD, "bodies": BODY}[self.kind])

    def data_received(self, data: bytes) -> None:
        if not self.has_answer:
            self.has_answer = True
            self.outcomes[f"{self.kind} {data[9:12].decode('latin-1')}"] += 1
            self.times.append(time.monotonic() - self.at)

    def connection_lost(self, exc: Exception | None) -> None:
        self.is_lost = True
        if not self.has_answer:
            self.outcomes[f"{self.kind} lost"] += 1


async def main() -> None:
    """Connect all of them, drip until told to stop."""
    port, heads, bodies, readers = map(int, sys.argv[1:])
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    loop = asyncio.get_running_loop()
    outcomes: Counter[str] = Counter()
    times: list[float] = []
    crowd: list[Slow] = []
    unread: list[socket.socket] = []
    stop = asyncio.Event()
    loop.add_reader(sys.stdin, stop.set)
    for kind, count in (("heads", heads), ("bodies", bodies), ("readers", readers)):
        for _ in range(count):
            sock = socket.socket()
            if kind == "readers":
                # No event loop sees this socket: what arrives stays in the kernel.
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
                sock.connect(("127.0.0.1", port))
                sock.sendall(READ)
                unread.append(sock)
                await asyncio.sleep(0)
                continue
            sock.setblocking(False)
            await loop.sock_connect(sock, ("127.0.0.1", port))
            _, slow = await loop.create_connection(
                lambda kind=kind: Slow(kind, outcomes, times), sock=sock
            )
            crowd.append(slow)
    print("there", flush=True)
    while not stop.is_set():
        # Everyone sends a byte every second, spread over the second.
        for part in range(20):
            for slow in crowd[part::20]:
                if not slow.is_lost:
                    slow.transport.write(b"a")
            await asyncio.sleep(0.05)
    open_still = Counter(slow.kind for slow in crowd if not slow.is_lost)
    for sock in unread:
        is_established = sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 1) == b"\x01"
        open_still["readers"] += is_established
    longest = max(times, default=0.0)
    print(json.dumps({"outcomes": outcomes, "open": open_still, "longest": longest}), flush=True)
    for slow in crowd:
        slow.transport.abort()
    await asyncio.sleep(0)


if __name__ == "__main__":
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(main())
