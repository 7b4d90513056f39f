"""``nexgate events``: what an operator sees, and mends."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from tests.scenarios.shell import nexgate
from tests.unit.events.servers import Nats
from tests.unit.state.servers import Valkey

from nexgate.events import DurableOptions, Event, EventBus, EventStore, event_store
from nexgate.resilience import Backoff
from nexgate.testing import wait_until

QUICK = DurableOptions(
    backoff=Backoff(base=0.0, cap=0.0), attempts=2, start="beginning", concurrency=4
)


async def filled(store: EventStore) -> None:
    """Two of five orders have no customer; nobody has looked at the last one yet."""
    handled: list[int] = []

    def bill(event: Event) -> None:
        if event.data["id"] % 2:
            raise LookupError("no customer")
        handled.append(event.data["id"])

    async with EventBus(store=store, errors="collect") as bus:
        bus.subscribe("order.*", bill, group="billing", durable=QUICK)
        for number in range(4):
            await bus.publish(Event("order.created", {"id": number}, id=f"o{number}", key="k"))
        await wait_until(lambda: handled == [0, 2] and len(bus.dead_letters) == 2, 20)
    await store.open()
    await store.append([Event("order.created", {"id": 4})])
    await store.aclose()


@pytest.mark.parametrize("kind", ["sqlite", "redis", "nats"])
async def test_dead_letters_are_counted_listed_retried_and_dropped(
    kind: str, tmp_path: Path
) -> None:
    server: Any = {"redis": Valkey, "nats": Nats}.get(kind)
    if server is None:
        await see(tmp_path, "shop.db", event_store(tmp_path / "shop.db"))
        return
    with server() as running:
        await see(tmp_path, running.url, event_store(running.url))


async def see(folder: Path, place: str, store: EventStore) -> None:
    await filled(store)
    groups = json.loads(nexgate(folder, "events", "groups", place, "--format", "json").stdout)
    assert groups == [{"name": "billing", "waiting": 1, "dead": 2}]
    table = nexgate(folder, "events", "groups", place).stdout
    assert "billing" in table
    table = nexgate(folder, "events", "dead", place, "billing").stdout
    assert table.count("order.created") == 2
    assert "LookupError: no customer" in table
    letters = json.loads(
        nexgate(folder, "events", "dead", place, "billing", "--format", "json").stdout
    )
    assert [letter["event"]["data"] for letter in letters] == [{"id": 1}, {"id": 3}]
    done = nexgate(folder, "events", "retry", place, "billing", "o1")
    assert (done.stdout, done.returncode) == ("1 of 1 letters wait again\n", 0)
    done = nexgate(folder, "events", "retry", place, "billing", "o1")
    assert (done.stdout, done.returncode) == ("0 of 1 letters wait again\n", 1)
    done = nexgate(folder, "events", "drop", place, "billing", "--all")
    assert (done.stdout, done.returncode) == ("1 of 1 letters are gone\n", 0)
    groups = json.loads(nexgate(folder, "events", "groups", place, "--format", "json").stdout)
    assert groups == [{"name": "billing", "waiting": 2, "dead": 0}]
    assert "has no dead letters" in nexgate(folder, "events", "dead", place, "billing").stdout


@pytest.mark.parametrize(
    ("words", "code", "why"),
    [
        (("groups", "typo.db"), 2, "there is no file typo.db"),
        (("groups", "shop:nothing"), 1, "has no nothing"),
        (("groups", "shop:number"), 1, "is int, not an EventBus with a store"),
        (("groups", "shop:plain"), 1, "is EventBus, not an EventBus with a store"),
        (("groups", "redis://127.0.0.1:1"), 3, "127.0.0.1:1"),
        (("retry", "shop:bus", "g"), 2, "name letters by their ids, or say --all"),
        (("groups", "shop:bus"), 0, "there are no groups"),
        (("groups", "shop:store"), 0, "there are no groups"),
    ],
)
def test_what_cannot_be_done_is_said_in_a_line(
    tmp_path: Path, words: tuple[str, ...], code: int, why: str
) -> None:
    (tmp_path / "shop.py").write_text(
        "from nexgate.events import EventBus, SqliteOutbox\n"
        "store = SqliteOutbox('other.db')\nbus = EventBus(store=store)\n"
        "plain = EventBus()\nnumber = 7\n"
    )
    done = nexgate(tmp_path, "events", *words)
    assert done.returncode == code, done.stderr
    said = done.stdout + done.stderr
    assert why in " ".join(said.replace("│", " ").split())
    assert "Traceback" not in said
