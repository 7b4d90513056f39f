"""A service in a process of its own, so that it can be killed. Prints its address, then serves.

====================  =======================================================
``/slow/MS``          answers after so many milliseconds
``/bytes/N``          N bytes of content, as fast as they are taken
``/drip/N/MS``        N chunks, one every MS milliseconds
an ``Upgrade``        101, then every byte comes back
anything else         200 with the name of the instance, after ``--delay``
====================  =======================================================
"""

from __future__ import annotations

import argparse
import asyncio
import base64
import hashlib
from typing import cast

import uvloop

PIECE = b"x" * 65536


class Service(asyncio.Protocol):
    """One connection. Requests come one after the other: a gateway does not pipeline."""

    def __init__(self, name: bytes, delay: float) -> None:
        self.delay = delay
        self.answer = b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\nServer: origin\r\n\r\n%b" % (
            len(name),
            name,
        )
        self.buffer = b""
        self.is_busy = False
        self.is_tunnel = False
        self.can_write = asyncio.Event()
        self.can_write.set()
        self.task: asyncio.Task[None] | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast("asyncio.Transport", transport)

    def connection_lost(self, exc: Exception | None) -> None:
        if self.task is not None:
            self.task.cancel()

    def pause_writing(self) -> None:
        self.can_write.clear()
        if self.is_tunnel:
            self.transport.pause_reading()

    def resume_writing(self) -> None:
        self.can_write.set()
        if self.is_tunnel:
            self.transport.resume_reading()

    def data_received(self, data: bytes) -> None:
        if self.is_tunnel:
            self.transport.write(data)
            return
        self.buffer = self.buffer + data if self.buffer else data
        while self.buffer and not self.is_busy:
            head, end, rest = self.buffer.partition(b"\r\n\r\n")
            if not end:
                return
            size = body_size(head, rest)
            if size is None or len(rest) < size:
                return
            self.buffer = rest[size:]
            self.serve(head)

    def serve(self, head: bytes) -> None:
        parts = head.split(b" ", 2)[1].split(b"?")[0].split(b"/")
        kind = parts[1] if len(parts) > 1 else b""
        loop = asyncio.get_running_loop()
        if b"\r\nupgrade:" in head.lower():
            self.switch(head)
        elif kind == b"slow" or (self.delay and kind not in (b"bytes", b"drip")):
            self.is_busy = True
            loop.call_later(int(parts[2]) / 1000 if kind == b"slow" else self.delay, self.late)
        elif kind == b"bytes":
            self.is_busy = True
            self.task = loop.create_task(self.stream(int(parts[2])))
        elif kind == b"drip":
            self.is_busy = True
            self.task = loop.create_task(self.drip(int(parts[2]), int(parts[3]) / 1000))
        else:
            self.transport.write(self.answer)

    def late(self) -> None:
        self.is_busy = False
        self.transport.write(self.answer)
        self.data_received(b"")

    async def stream(self, count: int) -> None:
        self.transport.write(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % count)
        while count > 0:
            await self.can_write.wait()
            self.transport.write(PIECE[:count])
            count -= len(PIECE)
        self.is_busy = False
        self.data_received(b"")

    async def drip(self, count: int, pause: float) -> None:
        self.transport.write(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
        for _ in range(count):
            await asyncio.sleep(pause)
            self.transport.write(b"5\r\nhello\r\n")
        self.transport.write(b"0\r\n\r\n")
        self.is_busy = False
        self.data_received(b"")

    def switch(self, head: bytes) -> None:
        fields = dict(line.lower().split(b": ", 1) for line in head.split(b"\r\n")[1:])
        key = next(
            (v for v in head.split(b"\r\n") if v.lower().startswith(b"sec-websocket-key:")), b":"
        )
        guid = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11"
        accept = base64.b64encode(hashlib.sha1(key.split(b":", 1)[1].strip() + guid).digest())
        self.is_tunnel = True
        self.transport.write(
            b"HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: %b\r\n"
            b"Sec-WebSocket-Accept: %b\r\n\r\n" % (fields[b"upgrade"], accept)
        )


def body_size(head: bytes, rest: bytes) -> int | None:
    """How long the body is, framing included; None while that cannot be told."""
    lower = head.lower()
    if b"transfer-encoding: chunked" in lower:
        # Nothing follows the request, so its end is the end of what has arrived.
        is_whole = b"\r\n0\r\n" in b"\r\n" + rest and rest.endswith(b"\r\n\r\n")
        return len(rest) if is_whole else None
    at = lower.find(b"\r\ncontent-length: ")
    return int(lower[at + 18 :].split(b"\r\n")[0]) if at >= 0 else 0


async def main() -> None:
    """Serve until killed."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--name", default="origin")
    parser.add_argument("--delay", type=float, default=0.0)
    parser.add_argument("--port", type=int, default=0)
    options = parser.parse_args()
    server = await asyncio.get_running_loop().create_server(
        lambda: Service(options.name.encode(), options.delay),
        "127.0.0.1",
        options.port,
        backlog=4096,
    )
    print(server.sockets[0].getsockname()[1], flush=True)
    await server.serve_forever()


if __name__ == "__main__":
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(main())
