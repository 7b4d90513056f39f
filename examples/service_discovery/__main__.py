"""Service discovery between Nexios applications, each a process of its own.

``python examples/service_discovery`` starts an API, two instances of the auth service that it asks,
and a gateway in front, all of which find each other by name. Then one instance is killed.
"""

from __future__ import annotations

import asyncio
import os
import sys
import tempfile
from contextlib import AsyncExitStack
from pathlib import Path

import httpx2

from nexgate import Gateway
from nexgate.discovery import ServiceRegistry

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE.parent))

from processes import free_port, serving  # noqa: E402


async def main() -> None:
    async with AsyncExitStack() as stack:
        folder = stack.enter_context(tempfile.TemporaryDirectory(prefix="example-"))
        state = f"lmdb:{folder}/state"  # "redis://…" for many machines

        async def start(file: str) -> asyncio.subprocess.Process:
            port = free_port()
            env = {**os.environ, "REGISTRY": state, "OWN_URL": f"http://127.0.0.1:{port}"}
            return await stack.enter_async_context(serving(HERE / file, port, env))

        first, second, _ = [await start(file) for file in ("auth.py", "auth.py", "api.py")]
        registry = await stack.enter_async_context(ServiceRegistry(state))
        async for instances in registry.watch("api"):
            if instances:  # it is registered once it serves
                break
        print("registered:", ", ".join(await registry.names()))

        gateway = Gateway(state=state)
        gateway.service("api", discover=["registry"])
        gateway.route("/*", "api")
        served = await stack.enter_async_context(gateway.serving("127.0.0.1:0"))
        client = await stack.enter_async_context(httpx2.AsyncClient(base_url=served.url))

        async def ask(token: str) -> httpx2.Response:
            return await client.get("/protected", headers={"Authorization": token})

        print("a stranger:", (await ask("nonsense")).status_code)
        answers = [(await ask("valid-ada")).json() for _ in range(20)]
        checkers = {answer["checked_by"] for answer in answers}
        print("ada:", answers[0]["user"], "checked by", len(checkers), "instances")

        first.kill()
        await first.wait()
        answers = [await ask("valid-ada") for _ in range(20)]
        print("after kill -9 of one:", {answer.status_code for answer in answers})
        checkers = {answer.json()["checked_by"] for answer in answers}
        print("all by the other:", checkers == {second.pid})


if __name__ == "__main__":
    asyncio.run(main())
