"""A WebSocket echo server in a process of its own: ``python echo_server.py``; prints its port."""

from __future__ import annotations

import asyncio

import websockets


async def echo(connection: websockets.ServerConnection) -> None:
    try:
        async for message in connection:
            await connection.send(message)
    except websockets.ConnectionClosed:
        pass  # the suite breaks the protocol on purpose


async def main() -> None:
    async with websockets.serve(echo, "127.0.0.1", 0, max_size=2**25, ping_interval=None) as server:
        print(next(iter(server.sockets)).getsockname()[1], flush=True)
        await server.serve_forever()


if __name__ == "__main__":
    asyncio.run(main())
