"""An upstream for machines without nginx, and for uploads: reads each body, then answers.

``python -m bench.asyncio_origin PORT``. It trusts its peer: every request has either no body or a
Content-Length or chunks that end with an empty one; that is all a proxy under test sends.
"""

from __future__ import annotations

import asyncio
import re
import sys

from bench.origin import GIB, JSON_BODY

LENGTH = re.compile(rb"\r\ncontent-length: *(\d+)", re.IGNORECASE)
CHUNKED = re.compile(rb"\r\ntransfer-encoding: *chunked", re.IGNORECASE)
BODIES = {b"/10k": 10 * 1024, b"/1m": 1 << 20, b"/1g": GIB}
BLOCK = bytes(256 * 1024)


class Origin(asyncio.Protocol):
    """One connection."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport: asyncio.Transport = transport  # type: ignore[assignment]
        self.pending = b""
        self.missing = 0
        self.is_chunked = False
        self.target = b""
        self.can_write = asyncio.Event()
        self.can_write.set()
        self.task: asyncio.Task[None] | None = None

    def pause_writing(self) -> None:
        self.can_write.clear()

    def resume_writing(self) -> None:
        self.can_write.set()

    def connection_lost(self, exc: Exception | None) -> None:
        if self.task is not None:
            self.task.cancel()

    def data_received(self, data: bytes) -> None:
        if self.missing:
            if len(data) < self.missing:
                self.missing -= len(data)
                return
            data = data[self.missing :]
            self.missing = 0
            self.answer()
        elif self.is_chunked:
            tail = self.pending + data
            if not tail.endswith(b"0\r\n\r\n"):
                self.pending = tail[-5:]
                return
            self.pending = data = b""
            self.is_chunked = False
            self.answer()
        self.pending += data
        while (end := self.pending.find(b"\r\n\r\n")) >= 0:
            head, self.pending = self.pending[:end], self.pending[end + 4 :]
            self.target = head.split(b" ", 2)[1]
            if CHUNKED.search(head):
                self.is_chunked = True
                rest, self.pending = self.pending, b""
                if rest:
                    self.data_received(rest)
                return
            length = LENGTH.search(head)
            self.missing = int(length[1]) if length else 0
            if self.missing > len(self.pending):
                self.missing -= len(self.pending)
                self.pending = b""
                return
            self.pending = self.pending[self.missing :]
            self.missing = 0
            self.answer()

    def answer(self) -> None:
        size = BODIES.get(self.target)
        if size is not None:
            self.task = asyncio.get_running_loop().create_task(self.stream(size))
            return
        public = b"Cache-Control: public, max-age=300\r\n" if self.target == b"/cached" else b""
        self.transport.write(
            b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n%bContent-Length: %d\r\n\r\n%b"
            % (public, len(JSON_BODY), JSON_BODY.encode())
        )

    async def stream(self, size: int) -> None:
        self.transport.write(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % size)
        while size > 0:
            self.transport.write(BLOCK[:size])
            size -= len(BLOCK)
            await self.can_write.wait()


async def main(port: int) -> None:
    loop = asyncio.get_running_loop()
    server = await loop.create_server(Origin, "127.0.0.1", port, backlog=1024)
    await server.serve_forever()


if __name__ == "__main__":
    try:
        import uvloop
    except ImportError:
        asyncio.run(main(int(sys.argv[1])))
    else:
        uvloop.run(main(int(sys.argv[1])))
