"""Users, and what happens when one is created: the event system of the tutorial, on Nexios.

Welcome mails and statistics hear of it at once, in this process. Billing is a group of its own: the
event is stored before the answer is sent, and handled at least once, whatever dies in between.
"""

from __future__ import annotations

import asyncio
import os
from typing import Any

from nexios import NexiosApp

from nexgate.di import Container, Inject
from nexgate.events import DurableOptions, Event, EventBus, SqliteOutbox
from nexgate.integrations.nexios import install

bus = EventBus(store=SqliteOutbox(os.environ.get("EVENTS_DB", "events.db")))
log: list[str] = []
mails: list[str] = []
statistics = {"users": 0}
accounts: dict[int, str] = {}

BILLING = DurableOptions(start="beginning", lease=2.0)
"""What a process that died was working on is another's after two seconds."""


async def logging_middleware(event: Event) -> Event:
    log.append(f"{event.name} at {event.timestamp:%H:%M:%S}")
    return event


async def send_welcome_mail(event: Event) -> None:
    user = event.data["user"]
    mails.append(f"Welcome, {user['name']}!")


def count_user(event: Event) -> None:
    statistics["users"] += 1


async def open_account(event: Event) -> None:
    user = event.data["user"]
    await asyncio.sleep(0.3)  # the bank takes its time
    accounts[user["id"]] = user["name"]


bus.add_middleware(logging_middleware)
bus.subscribe("user.created", send_welcome_mail)
bus.subscribe("user.created", count_user)
bus.subscribe("user.*", open_account, group="billing", durable=BILLING)

container = Container()
container.register(EventBus, bus)

app = NexiosApp()
install(app, container=container, bus=bus)


@app.post("/users")
async def create_user(request: Any, response: Any, events: Inject[EventBus]) -> Any:
    data = await request.json
    user = {"id": statistics["users"] + 1, "name": data["name"]}
    await events.publish(Event("user.created", {"user": user}, key=str(user["id"])))
    return response.json(user, status_code=201)


@app.get("/what-happened")
async def what_happened(request: Any, response: Any) -> Any:
    return response.json(
        {
            "log": log,
            "mails": mails,
            "statistics": statistics,
            "accounts": sorted(accounts.values()),
        }
    )
