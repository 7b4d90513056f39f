"""A service that others depend on, and that has bad days: ``POST /mood/ill`` and ``/mood/well``."""

from __future__ import annotations

from typing import Any

from nexios import NexiosApp

app = NexiosApp()
mood = {"is": "well"}


@app.get("/rates/{currency}")
async def rates(request: Any, response: Any, currency: str) -> Any:
    if mood["is"] != "well":
        return response.json({"error": "the mainframe is away"}, status_code=503)
    return response.json({"currency": currency, "rate": 1.08})


@app.post("/mood/{word}")
async def change(request: Any, response: Any, word: str) -> Any:
    mood["is"] = word
    return response.json(mood)
