"""An API that asks the auth service, wherever its instances are."""

from __future__ import annotations

import os
from typing import Any

from nexios import NexiosApp

from nexgate.client import Propagation, ServiceClient, ServiceError
from nexgate.discovery import register_service

service = NexiosApp()
auth = ServiceClient(os.environ["REGISTRY"], "auth", retry={"attempts": 3, "methods": ["POST"]})


@service.get("/protected")
async def protected(request: Any, response: Any) -> Any:
    token = request.headers.get("authorization", "")
    try:
        answer = await auth.request("POST", "/verify", json={"token": token}, timeout=2.0)
    except ServiceError as error:
        return response.json({"error": str(error)}, status_code=503)
    return response.json(answer.json(), status_code=answer.status)


@service.on_shutdown
async def close() -> None:
    await auth.aclose()


app = register_service(
    Propagation(service),
    name="api",
    url=os.environ["OWN_URL"],
    registry=os.environ["REGISTRY"],
    ttl=3.0,
)
