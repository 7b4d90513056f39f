"""A service that others find by its name: ``POST /verify`` says whose a token is."""

from __future__ import annotations

import os
from typing import Any

from nexios import NexiosApp

from nexgate.discovery import register_service

service = NexiosApp()


@service.post("/verify")
async def verify(request: Any, response: Any) -> Any:
    token = (await request.json).get("token", "")
    if not token.startswith("valid-"):
        return response.json({"error": "unknown token"}, status_code=401)
    return response.json({"user": token.removeprefix("valid-"), "checked_by": os.getpid()})


@service.get("/health")
async def health(request: Any, response: Any) -> Any:
    return response.json({"ok": True})


# Registered while it serves: gone at once when it leaves, and within three seconds when it dies.
app = register_service(
    service,
    name="auth",
    url=os.environ["OWN_URL"],
    registry=os.environ["REGISTRY"],
    ttl=3.0,
)
