"""Products behind a cache: the plugin system of the tutorial, on Nexios."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

from nexios import NexiosApp

from nexgate.di import Container, Inject
from nexgate.events import Event, EventBus
from nexgate.integrations.nexios import install
from nexgate.plugins import PluginManager

sys.path.insert(0, str(Path(__file__).parent))

container, bus = Container(), EventBus()
container.register(EventBus, bus)

plugins = PluginManager(container, bus)
plugins.discover("my_plugins", config={"cache": {"size": 2}})

app = NexiosApp()
install(app, container=container, bus=bus, plugins=plugins)


@app.get("/products/{number:int}")
async def product(request: Any, response: Any, number: int, events: Inject[EventBus]) -> Any:
    cache = app.state["cache"]
    found = cache.get(str(number))
    if found is None:
        found = {"id": number, "name": f"Product {number}"}
        cache.put(str(number), found)
        await events.publish(Event("product.loaded", found))
    else:
        await events.publish(Event("product.cached", found))
    return response.json(found)


@app.get("/plugins")
async def status(request: Any, response: Any) -> Any:
    return response.json(
        {
            "plugins": [f"{each.name} {each.version} {each.state}" for each in plugins.status()],
            "audit": app.state["audit"].lines,
        }
    )
