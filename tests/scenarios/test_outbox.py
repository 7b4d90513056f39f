"""A shop that is killed while it takes orders: every order has its event, and no event is without
an order.
"""

from __future__ import annotations

import asyncio
import random
import sqlite3
import subprocess
import sys
from pathlib import Path

from nexgate.events import DurableOptions, EventBus, SqliteOutbox
from nexgate.testing import wait_until


def orders(path: Path) -> list[int]:
    connection = sqlite3.connect(path)
    try:
        return [row[0] for row in connection.execute("SELECT id FROM orders ORDER BY id")]
    except sqlite3.OperationalError:
        return []  # it was killed before its first
    finally:
        connection.close()


async def test_an_order_and_its_event_are_committed_together(tmp_path: Path) -> None:
    path, program = tmp_path / "shop.db", str(Path(__file__).with_name("outbox_writer.py"))
    chance = random.Random(3)
    for _ in range(8):
        before = len(orders(path)) if path.exists() else 0
        writer = subprocess.Popen([sys.executable, program, str(path)])
        try:
            await wait_until(
                lambda before=before: path.exists() and len(orders(path)) > before,  # type: ignore[misc]
                30,
            )
            await asyncio.sleep(chance.uniform(0, 0.1))
        finally:
            writer.kill()
            writer.wait()
    taken = orders(path)
    heard: list[int] = []
    async with EventBus(store=SqliteOutbox(path)) as bus:
        bus.subscribe(
            "order.*",
            lambda event: heard.append(event.data["id"]),
            group="accounting",
            durable=DurableOptions(start="beginning"),
        )
        await wait_until(lambda: len(heard) >= len(taken), 30)
        await asyncio.sleep(0.1)
    print(f"{len(taken)} orders over 8 deaths")
    assert sorted(heard) == taken
