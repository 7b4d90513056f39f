"""Plugins on Nexios. ``python examples/plugins`` starts the application and looks at products."""

from __future__ import annotations

import asyncio
import os
import sys
from pathlib import Path

import httpx2

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE.parent))

from processes import free_port, serving  # noqa: E402


async def main() -> None:
    port = free_port()
    async with (
        serving(HERE / "app.py", port, os.environ),
        httpx2.AsyncClient(base_url=f"http://127.0.0.1:{port}") as client,
    ):
        for number in (1, 1, 2, 3, 1):
            await client.get(f"/products/{number}")
        said = (await client.get("/plugins")).json()
        print("plugins:", ", ".join(said["plugins"]))
        print("audit:", ", ".join(said["audit"]))


if __name__ == "__main__":
    asyncio.run(main())
