"""``python -m bench.websocket_suite``: all 517 Autobahn cases, without the gateway and through it.

The server is aiohttp's, with compression. Takes a few minutes. Exits with 1 when a case fails
through the gateway that passes without it.
"""

from __future__ import annotations

import asyncio
import json
import sys
from pathlib import Path

from aiohttp import WSMsgType, web

from nexgate import Gateway

CLIENT = Path(__file__).parents[1] / "tests/spec/rfc6455/fuzzing_client.py"


async def echo(request: web.Request) -> web.WebSocketResponse:
    socket = web.WebSocketResponse(max_msg_size=2**26, compress=True)
    await socket.prepare(request)
    async for message in socket:
        if message.type == WSMsgType.TEXT:
            await socket.send_str(message.data)
        elif message.type == WSMsgType.BINARY:
            await socket.send_bytes(message.data)
    return socket


async def failures(url: str) -> tuple[int, set[str]]:
    client = await asyncio.create_subprocess_exec(
        sys.executable, "-W", "ignore", str(CLIENT), url, stdout=asyncio.subprocess.PIPE
    )
    out, _ = await client.communicate()
    result = json.loads(out)
    return int(result["count"]), set(result["failed"])


async def main() -> int:
    app = web.Application()
    app.router.add_get("/", echo)
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    port = runner.addresses[0][1]
    gateway = Gateway()
    gateway.service("echo", f"http://127.0.0.1:{port}")
    gateway.route("/*", "echo")
    count, without = await failures(f"ws://127.0.0.1:{port}/")
    async with gateway.serving("127.0.0.1:0") as served:
        _, through = await failures(served.url.replace("http", "ws") + "/")
    await runner.cleanup()
    more = sorted(through - without)
    print(f"{count} cases: {len(without)} fail without the gateway, {len(through)} through it")
    print("more through the gateway:", ", ".join(more) or "none")
    return 1 if more else 0


if __name__ == "__main__":
    sys.exit(asyncio.run(main()))
