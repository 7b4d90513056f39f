"""Small services, as plain ASGI applications. ``python -m nexgate.demo.services NAME PORT [STATE]``
serves one; with a state, it registers itself there.

They are what a team's own services would be: each knows its data, none knows the gateway.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Awaitable, Callable
from typing import Any

__all__ = ["SERVICES", "orders", "products", "ratings", "users"]

Scope = dict[str, Any]
Receive = Callable[[], Awaitable[dict[str, Any]]]
Send = Callable[[dict[str, Any]], Awaitable[None]]

_USERS = {
    1: {"id": 1, "name": "Ada Lovelace", "email": "ada@example.com"},
    2: {"id": 2, "name": "Grace Hopper", "email": "grace@example.com"},
    3: {"id": 3, "name": "Barbara Liskov", "email": "barbara@example.com"},
}
_PRODUCTS = [
    {"sku": "tea", "name": "Tea", "price": 4.5},
    {"sku": "pot", "name": "Pot", "price": 29.0},
]
_ORDERS: list[dict[str, Any]] = []
_RATINGS = {"tea": 4.8, "pot": 4.1}
_mood = {"ratings": "well"}


async def _json(send: Send, status: int, content: object) -> None:
    body = json.dumps(content).encode()
    headers = [
        (b"content-type", b"application/json"),
        (b"content-length", str(len(body)).encode()),
        (b"x-served-by", f"pid {os.getpid()}".encode()),
    ]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body})


async def _body(receive: Receive) -> bytes:
    parts = []
    while True:
        message = await receive()
        if message["type"] != "http.request":
            break
        parts.append(message.get("body", b""))
        if not message.get("more_body"):
            break
    return b"".join(parts)


async def _lifespan(receive: Receive, send: Send) -> None:
    await receive()
    await send({"type": "lifespan.startup.complete"})
    await receive()
    await send({"type": "lifespan.shutdown.complete"})


async def users(scope: Scope, receive: Receive, send: Send) -> None:
    """``GET /users`` and ``GET /users/{id}``."""
    if scope["type"] == "lifespan":
        await _lifespan(receive, send)
        return
    path = scope["path"]
    if path in ("/users", "/health"):
        await _json(send, 200, list(_USERS.values()))
        return
    number = path.removeprefix("/users/")
    found = _USERS.get(int(number)) if number.isdecimal() else None
    await _json(send, 200 if found else 404, found or {"error": "no such user"})


async def products(scope: Scope, receive: Receive, send: Send) -> None:
    """``GET /products``."""
    if scope["type"] == "lifespan":
        await _lifespan(receive, send)
        return
    await _json(send, 200, _PRODUCTS)


async def orders(scope: Scope, receive: Receive, send: Send) -> None:
    """``GET /orders``, ``POST /orders``, and a WebSocket at ``/orders/live`` that echoes."""
    if scope["type"] == "lifespan":
        await _lifespan(receive, send)
    elif scope["type"] == "websocket":
        await _echo(receive, send)
    elif scope["method"] == "POST":
        try:
            items = json.loads(await _body(receive))["items"]
        except (ValueError, KeyError, TypeError):
            await _json(send, 422, {"error": 'expected {"items": [...]}'})
            return
        order = {"id": len(_ORDERS) + 1, "items": items}
        _ORDERS.append(order)
        await _json(send, 201, order)
    else:
        await _json(send, 200, _ORDERS)


async def ratings(scope: Scope, receive: Receive, send: Send) -> None:
    """``GET /ratings``; after ``POST /mood/ill`` every answer is 503, until ``POST /mood/well``."""
    if scope["type"] == "lifespan":
        await _lifespan(receive, send)
        return
    path = scope["path"]
    if path.startswith("/mood/"):
        _mood["ratings"] = path.removeprefix("/mood/")
    if _mood["ratings"] == "well" or path.startswith("/mood/"):
        await _json(send, 200, _RATINGS)
    else:
        await _json(send, 503, {"error": "the database is away"})


async def yesterday(scope: Scope, receive: Receive, send: Send) -> None:
    """``GET /ratings``, as they were yesterday."""
    if scope["type"] == "lifespan":
        await _lifespan(receive, send)
        return
    await _json(send, 200, {**_RATINGS, "as_of": "yesterday"})


async def _echo(receive: Receive, send: Send) -> None:
    await receive()
    await send({"type": "websocket.accept"})
    while True:
        message = await receive()
        if message["type"] != "websocket.receive":
            return
        await send({"type": "websocket.send", "text": message.get("text") or ""})


SERVICES = {
    "users": users,
    "products": products,
    "orders": orders,
    "ratings": ratings,
    "yesterday": yesterday,
}


def main() -> None:
    from nexgate import Gateway
    from nexgate.discovery import register_service

    name, port = sys.argv[1], sys.argv[2]
    app: Any = SERVICES[name]
    if len(sys.argv) > 3:
        url = f"http://127.0.0.1:{port}"
        app = register_service(app, name=name, url=url, registry=sys.argv[3], ttl=3.0)
    # A service needs a server; the gateway's own edge is one.
    gateway = Gateway(listen=f"127.0.0.1:{port}", log_level="error")
    gateway.mount("/", app)
    gateway.run()


if __name__ == "__main__":
    main()
