"""A shop that takes orders until it is killed: ``outbox_writer.py DATABASE``."""

from __future__ import annotations

import asyncio
import sqlite3
import sys

from nexgate.events import Event, EventBus, SqliteOutbox


async def main() -> None:
    async with EventBus(store=SqliteOutbox(sys.argv[1])) as bus:
        shop = sqlite3.connect(sys.argv[1], timeout=10)
        shop.execute("CREATE TABLE IF NOT EXISTS orders (id INTEGER PRIMARY KEY)")
        shop.commit()
        while True:
            with shop:
                row = shop.execute("INSERT INTO orders DEFAULT VALUES")
                await bus.publish(Event("order.created", {"id": row.lastrowid}), within=shop)
            await asyncio.sleep(0)


if __name__ == "__main__":
    asyncio.run(main())
