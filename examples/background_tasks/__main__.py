"""Background tasks on Nexios. ``python examples/background_tasks`` starts the application and a
worker, orders a report, kills the worker in the middle of it, and starts another.
"""

from __future__ import annotations

import asyncio
import os
import sys
import tempfile
from pathlib import Path
from typing import Any

import httpx2

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE.parent))

from processes import free_port, serving  # noqa: E402


async def worker(env: dict[str, str]) -> asyncio.subprocess.Process:
    return await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "nexgate", "worker", "jobs:tasks", "--log-level", "error"),
        cwd=HERE,
        env=env,
    )


async def main() -> None:
    with tempfile.TemporaryDirectory(prefix="example-") as folder:
        port = free_port()
        env = {**os.environ, "TASKS_DB": f"{folder}/tasks.db"}
        async with (
            serving(HERE / "app.py", port, env),
            httpx2.AsyncClient(base_url=f"http://127.0.0.1:{port}") as client,
        ):
            created = (await client.post("/users/Ada")).json()
            print("created:", created)
            await until(client, "/mails", lambda said: said == ["Welcome, Ada!"])
            print("mail sent after the response")
            job = (await client.post("/reports/50")).json()["job"]
            first = await worker(env)
            await until(client, f"/reports/{job}", lambda said: said["progress"] is not None)
            print("under way: state", (await client.get(f"/reports/{job}")).json()["state"])
            first.terminate()  # the report is not finished, and is given back
            await asyncio.sleep(0.1)
            first.kill()
            await first.wait()
            second = await worker(env)
            try:
                said = await until(client, f"/reports/{job}", lambda s: s["state"] == "done")
                print("by another worker:", said["result"])
            finally:
                second.terminate()
                await second.wait()


async def until(client: httpx2.AsyncClient, path: str, is_so: Any) -> Any:
    async with asyncio.timeout(60):
        while True:
            said = (await client.get(path)).json()
            if is_so(said):
                return said
            await asyncio.sleep(0.05)


if __name__ == "__main__":
    asyncio.run(main())
