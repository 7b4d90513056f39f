"""Events on Nexios. ``python examples/events`` starts the application, creates two users, kills it,
and starts it again: what billing had not handled is handled then.
"""

from __future__ import annotations

import asyncio
import os
import sys
import tempfile
from pathlib import Path

import httpx2

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE.parent))

from processes import free_port, serving  # noqa: E402


async def main() -> None:
    with tempfile.TemporaryDirectory(prefix="example-") as folder:
        port = free_port()
        env = {**os.environ, "EVENTS_DB": f"{folder}/events.db"}
        url = f"http://127.0.0.1:{port}"
        async with httpx2.AsyncClient(base_url=url) as client:
            async with serving(HERE / "app.py", port, env) as process:
                for name in ("Ada", "Grace"):
                    answer = await client.post("/users", json={"name": name})
                    print("created:", answer.json())
                happened = (await client.get("/what-happened")).json()
                print("mails:", ", ".join(happened["mails"]))
                print("users:", happened["statistics"]["users"])
                print("log:", len(happened["log"]), "events")
                await accounts(client, 2)
                # Killed with the answer hardly out: what was stored is there.
                await client.post("/users", json={"name": "Edsger"})
                process.kill()
                await process.wait()
            async with serving(HERE / "app.py", port, env):
                print("after kill -9:", await accounts(client, 1))


async def accounts(client: httpx2.AsyncClient, at_least: int) -> str:
    """Until billing has handled what it was told."""
    async with asyncio.timeout(45):
        while True:
            found = (await client.get("/what-happened")).json()["accounts"]
            if len(found) >= at_least:
                return ", ".join(found)
            await asyncio.sleep(0.1)


if __name__ == "__main__":
    asyncio.run(main())
