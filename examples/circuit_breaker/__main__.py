"""A circuit breaker between two Nexios applications, each a process of its own.

``python examples/circuit_breaker`` starts both, makes the bank fail and heal, and shows what the
shop's customers get meanwhile.
"""

from __future__ import annotations

import asyncio
import os
import sys
from contextlib import AsyncExitStack
from pathlib import Path

import httpx2

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE.parent))

from processes import free_port, serving  # noqa: E402


async def main() -> None:
    bank_port, shop_port = free_port(), free_port()
    bank_url = f"http://127.0.0.1:{bank_port}"
    env = {**os.environ, "BANK_URL": bank_url, "PYTHONUNBUFFERED": "1"}
    async with AsyncExitStack() as stack:
        await stack.enter_async_context(serving(HERE / "bank.py", bank_port, env))
        await stack.enter_async_context(serving(HERE / "shop.py", shop_port, env))
        shop = await stack.enter_async_context(
            httpx2.AsyncClient(base_url=f"http://127.0.0.1:{shop_port}")
        )
        bank = await stack.enter_async_context(httpx2.AsyncClient(base_url=bank_url))

        async def customers(count: int) -> None:
            for _ in range(count):
                answer = await shop.get("/price/EUR")
                print(f"customer: {answer.status_code} {answer.json()}")

        await customers(1)
        print("the bank fails")
        await bank.post("/mood/ill")
        await customers(4)
        print("the bank is well, but nobody asks it yet")
        await bank.post("/mood/well")
        await customers(1)
        await asyncio.sleep(1.1)
        print("the pause is over: two trials, and the circuit closes")
        await customers(3)


if __name__ == "__main__":
    asyncio.run(main())
