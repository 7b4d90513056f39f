"""A shop that asks the bank for a rate with every price, through a circuit breaker.

While the bank fails, the shop does not wait for it: it answers at once with the last rate it knows.
"""

from __future__ import annotations

import os
from typing import Any

import httpx2
from nexios import NexiosApp

from nexgate.resilience import CircuitBreaker, CircuitConfig, StateChanged

app = NexiosApp()
breaker = CircuitBreaker(
    CircuitConfig(failure_threshold=3, recovery_timeout=1.0, half_open_calls=2), "bank"
)
breaker.on_event(lambda event: print(f"shop: the circuit is {event.after.value}"), StateChanged)
last = {"EUR": 1.07}


async def rate_of(currency: str) -> float:
    """Ask the bank. Raises when it does not answer with a rate."""
    async with httpx2.AsyncClient(base_url=os.environ["BANK_URL"], timeout=1.0) as client:
        answer = await client.get(f"/rates/{currency}")
        answer.raise_for_status()
        last[currency] = answer.json()["rate"]
        return last[currency]


@app.get("/price/{currency}")
async def price(request: Any, response: Any, currency: str) -> Any:
    rate = await breaker.call(rate_of, currency, fallback=lambda *_: last[currency])
    return response.json(
        {"price": round(10 * rate, 2), "circuit": breaker.state.value, "failures": breaker.failures}
    )
