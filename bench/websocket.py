"""WebSocket echo with raw frames: cheap enough not to hide the proxy's own cost.

``python -m bench.websocket serve PORT`` and ``python -m bench.websocket load PORT CONNECTIONS
SECONDS``; the latter prints how many messages made the round trip, as JSON.
"""

from __future__ import annotations

import asyncio
import json
import sys
import time

PAYLOAD = b"x" * 64
ANSWER = bytes([0x82, len(PAYLOAD)]) + PAYLOAD
# A mask of four zeros is a legal mask, and leaves the payload as it is.
QUESTION = bytes([0x82, 0x80 | len(PAYLOAD)]) + bytes(4) + PAYLOAD
KEY = "dGhlIHNhbXBsZSBub25jZQ=="  # of RFC 6455 §1.3, with the answer that belongs to it
ACCEPT = "s3pPLMBiTxaQ9kYGzzhZRbK+xOo="


class Echo(asyncio.Protocol):
    """The upstream's side."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport: asyncio.Transport = transport  # type: ignore[assignment]
        self.pending = b""
        self.is_open = False

    def data_received(self, data: bytes) -> None:
        self.pending += data
        if not self.is_open:
            head, end, rest = self.pending.partition(b"\r\n\r\n")
            if not end:
                return
            self.pending = rest
            if b"upgrade: websocket" not in head.lower():
                self.transport.write(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")
                return
            self.is_open = True
            self.transport.write(
                b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\n"
                b"Connection: Upgrade\r\nSec-WebSocket-Accept: " + ACCEPT.encode() + b"\r\n\r\n"
            )
        count, rest_size = divmod(len(self.pending), len(QUESTION))
        if count:
            self.transport.write(ANSWER * count)
            self.pending = self.pending[len(self.pending) - rest_size :]


class Player(asyncio.Protocol):
    """A client that sends the next message when the answer has come."""

    def __init__(self, port: int) -> None:
        self.port = port
        self.messages = 0
        self.is_open = False
        self.pending = b""
        self.opened: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport: asyncio.Transport = transport  # type: ignore[assignment]
        self.transport.write(
            b"GET /ws HTTP/1.1\r\nHost: 127.0.0.1:%d\r\nUpgrade: websocket\r\n"
            b"Connection: Upgrade\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: %b\r\n\r\n"
            % (self.port, KEY.encode())
        )

    def data_received(self, data: bytes) -> None:
        self.pending += data
        if not self.is_open:
            head, end, rest = self.pending.partition(b"\r\n\r\n")
            if not end:
                return
            if b" 101 " not in head.partition(b"\r\n")[0]:
                self.opened.set_exception(RuntimeError(f"no upgrade: {head[:100]!r}"))
                return
            self.is_open = True
            self.pending = rest
            self.opened.set_result(None)
            return
        if len(self.pending) >= len(ANSWER):
            self.pending = self.pending[len(ANSWER) :]
            self.messages += 1
            self.transport.write(QUESTION)

    def connection_lost(self, exc: Exception | None) -> None:
        if not self.opened.done():
            self.opened.set_exception(RuntimeError(f"closed before the upgrade: {exc}"))


async def serve(port: int) -> None:
    server = await asyncio.get_running_loop().create_server(Echo, "127.0.0.1", port)
    await server.serve_forever()


async def load(port: int, connections: int, seconds: float) -> None:
    loop = asyncio.get_running_loop()
    players = [Player(port) for _ in range(connections)]
    for player in players:
        await loop.create_connection(lambda player=player: player, "127.0.0.1", port)  # type: ignore[misc]
        await asyncio.wait_for(player.opened, 5)
    begin = time.perf_counter()
    for player in players:
        player.transport.write(QUESTION)
    await asyncio.sleep(seconds)
    took = time.perf_counter() - begin
    messages = sum(player.messages for player in players)
    lost = sum(player.transport.is_closing() for player in players)
    print(json.dumps({"messages": messages, "seconds": took, "lost": lost}))
    for player in players:
        player.transport.abort()


def main() -> None:
    import uvloop

    if sys.argv[1] == "serve":
        uvloop.run(serve(int(sys.argv[2])))
    else:
        uvloop.run(load(int(sys.argv[2]), int(sys.argv[3]), float(sys.argv[4])))


if __name__ == "__main__":
    main()
