"""A plugin system on Nexios. ``python examples/plugin_system`` starts the application, edits a
plugin while it serves, breaks it, adds another, and takes it away.
"""

from __future__ import annotations

import asyncio
import os
import shutil
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import httpx2

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE.parent))

from processes import free_port, serving  # noqa: E402


async def main() -> None:
    with tempfile.TemporaryDirectory(prefix="example-") as name:
        folder = Path(name) / "plugins"
        shutil.copytree(HERE / "plugins", folder, ignore=shutil.ignore_patterns("__pycache__"))
        port = free_port()
        env = {
            **os.environ,
            "PLUGINS": str(folder),
            "PLUGINS_CONFIG": str(HERE / "plugins.json"),
        }
        async with (
            serving(HERE / "app.py", port, env),
            httpx2.AsyncClient(base_url=f"http://127.0.0.1:{port}") as client,
        ):
            await show(client, folder)


async def show(client: httpx2.AsyncClient, folder: Path) -> None:
    async def get(path: str) -> Any:
        return (await client.get(path)).json()

    print("first:", await get("/greet/Ada"))
    greeter = folder / "greeter.py"
    first = greeter.read_text()
    began = time.monotonic()
    greeter.write_text(first.replace('"1.0.0"', '"1.1.0"').replace("}!", "}, welcome!"))
    await until(get, "greeter", "1.1.0 running")
    print("edited:", await get("/greet/Ada"))
    print("within a second:", time.monotonic() - began < 1.0)
    greeter.write_text("raise RuntimeError('a broken edit')\n")
    await asyncio.sleep(0.6)
    print("broken:", await get("/greet/Ada"))
    greeter.write_text(first)
    await until(get, "greeter", "1.0.0 running")
    (folder / "extra.py").write_text(
        "from nexgate.plugins import Plugin\n"
        "class Extra(Plugin):\n"
        "    version = '0.1.0'\n"
        "    def initialize(self, app): pass\n"
        "    def cleanup(self): pass\n"
    )
    await until(get, "extra", "0.1.0 running")
    print("one more:", await get("/plugins"))
    (folder / "extra.py").unlink()
    await until(get, "extra", None)
    print("and gone:", await get("/plugins"))


async def until(get: Any, name: str, wanted: str | None) -> None:
    async with asyncio.timeout(10):
        while (await get("/plugins")).get(name) != wanted:  # noqa: ASYNC110  # another process
            await asyncio.sleep(0.02)


if __name__ == "__main__":
    asyncio.run(main())
