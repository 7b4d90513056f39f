"""The homework's plugin system, on Nexios: plugins are discovered in a folder, configured in a
file, handle events, and are replaced while the application serves.
"""

from __future__ import annotations

import asyncio
import json
import os
from pathlib import Path
from typing import Any

from nexios import NexiosApp

from nexgate.di import Container
from nexgate.events import Event, EventBus
from nexgate.integrations.nexios import install
from nexgate.plugins import PluginManager
from nexgate.tasks import Supervisor

HERE = Path(__file__).parent
FOLDER = Path(os.environ.get("PLUGINS", HERE / "plugins"))
CONFIG = Path(os.environ.get("PLUGINS_CONFIG", HERE / "plugins.json"))

container, bus = Container(), EventBus()
plugins = PluginManager(container, bus)
plugins.discover(FOLDER, config=json.loads(CONFIG.read_text()))
errors: list[str] = []


class Watching:
    """Replaces plugins whose files change, as long as the application runs."""

    def __init__(self) -> None:
        self.supervisor = Supervisor("plugins")

    async def start(self) -> None:
        self.supervisor.start(plugins.watch, restart="always")

    async def aclose(self) -> None:
        await self.supervisor.aclose()


app = NexiosApp()
install(app, container=container, bus=bus, tasks=Watching(), plugins=plugins)


@app.get("/greet/{name}")
async def greet(request: Any, response: Any, name: str) -> Any:
    await bus.publish(Event("visitor.came", {"name": name}))
    greeter: Any = plugins.get("greeter")
    await asyncio.sleep(0)
    return response.json({"text": greeter.greet(name), "greeted": greeter.count})


@app.get("/plugins")
async def status(request: Any, response: Any) -> Any:
    return response.json({each.name: f"{each.version} {each.state}" for each in plugins.status()})
