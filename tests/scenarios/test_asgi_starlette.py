"""A Starlette application behind the gateway, the gateway in a Starlette application, and both."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import json
from collections.abc import AsyncIterator
from typing import Any

import pytest
from starlette.applications import Starlette
from starlette.background import BackgroundTask
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.middleware.base import BaseHTTPMiddleware
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, PlainTextResponse, Response, StreamingResponse
from starlette.routing import Mount, Route, WebSocketRoute
from starlette.websockets import WebSocket, WebSocketDisconnect
from tests.unit.asgi.serving import Edge, edge_for, entry_for, uvicorn_with
from websockets.asyncio.client import connect as connect_websocket

from nexgate.policies.rewrite import strip_prefix
from nexgate.testing import RawClient, wait_until


class Shop:
    """A small application with a bit of everything, and what happened in it."""

    def __init__(self) -> None:
        self.happened: list[str] = []
        self.app = Starlette(
            routes=[
                Route("/", self.home, name="home"),
                Route("/items/{item:int}", self.item, name="item"),
                Route("/digest", self.digest, methods=["POST"]),
                Route("/ticks", self.ticks),
                Route("/wait", self.wait),
                Route("/fail", self.fail),
                Route("/teapot", self.teapot),
                Route("/later", self.later),
                WebSocketRoute("/chat/{room}", self.chat),
            ],
            middleware=[Middleware(BaseHTTPMiddleware, dispatch=self.stamp)],
            lifespan=self.lifespan,
        )

    @contextlib.asynccontextmanager
    async def lifespan(self, app: Starlette) -> AsyncIterator[dict[str, Any]]:
        self.happened.append("open")
        yield {"greeting": "hello"}
        self.happened.append("closed")

    async def stamp(self, request: Request, call_next: Any) -> Response:
        response: Response = await call_next(request)
        response.headers["X-Stamp"] = "1"
        return response

    async def home(self, request: Request) -> Response:
        assert request.client is not None
        return JSONResponse(
            {
                "greeting": request.state.greeting,
                "item": str(request.url_for("item", item=7)),
                "client": request.client.host,
                "path": request.url.path,
                "root_path": request.scope["root_path"],
            }
        )

    async def item(self, request: Request) -> Response:
        return PlainTextResponse(f"item {request.path_params['item']}")

    async def digest(self, request: Request) -> Response:
        digest = hashlib.sha256()
        try:
            async for piece in request.stream():
                digest.update(piece)
        except ClientDisconnect:
            self.happened.append("upload broken off")
            raise
        return PlainTextResponse(digest.hexdigest())

    async def ticks(self, request: Request) -> Response:
        async def tick() -> AsyncIterator[str]:
            try:
                for n in range(1_000_000):
                    yield f"data: {n}\n\n"
                    await asyncio.sleep(0.01)
            finally:
                self.happened.append("ticks ended")

        return StreamingResponse(tick(), media_type="text/event-stream")

    async def wait(self, request: Request) -> Response:
        self.happened.append("waiting")
        try:
            await asyncio.sleep(60)
        finally:
            self.happened.append("waited")
        return Response()

    async def fail(self, request: Request) -> Response:
        raise LookupError("a secret")

    async def teapot(self, request: Request) -> Response:
        raise HTTPException(418, "short and stout")

    async def later(self, request: Request) -> Response:
        async def work() -> None:
            await asyncio.sleep(0.2)
            self.happened.append("worked")

        return PlainTextResponse("ok", background=BackgroundTask(work))

    async def chat(self, socket: WebSocket) -> None:
        await socket.accept(subprotocol=socket.scope["subprotocols"][0])
        try:
            while True:
                text = await socket.receive_text()
                await socket.send_json({"room": socket.path_params["room"], "text": text})
        except WebSocketDisconnect as end:
            self.happened.append(f"left with {end.code} {end.reason}".rstrip())


@contextlib.asynccontextmanager
async def shop_below(prefix: str) -> AsyncIterator[tuple[Shop, Edge]]:
    shop = Shop()
    prepare = strip_prefix(prefix) if prefix else None
    async with edge_for(shop.app, prepare=prepare) as edge:
        yield shop, edge
    assert shop.happened[-1] == "closed"


async def chat_with(url: str) -> None:
    url = url.replace("http", "ws")
    async with connect_websocket(f"{url}/chat/blue", subprotocols=["v1"], proxy=None) as client:  # type: ignore[list-item]
        assert client.subprotocol == "v1"
        for text in ("one", "two"):
            await client.send(text)
            assert json.loads(await client.recv()) == {"room": "blue", "text": text}
        await client.close(4001, "bye")


@pytest.mark.parametrize("prefix", ["", "/shop"])
async def test_a_day_in_the_life_of_an_application(prefix: str) -> None:
    async with shop_below(prefix) as (shop, edge):
        assert shop.happened == ["open"]
        home = await edge.get(f"{prefix}/")
        assert home.value("x-stamp") == "1"
        assert json.loads(home.body) == {
            "greeting": "hello",
            "item": f"http://example.com{prefix}/items/7",
            "client": "127.0.0.1",
            "path": f"{prefix}/",
            "root_path": prefix,
        }
        assert (await edge.get(f"{prefix}/items/7")).body == b"item 7"
        assert (await edge.get(f"{prefix}/items/x")).status == 404
        assert (await edge.get(f"{prefix}/digest")).status == 405
        teapot = await edge.get(f"{prefix}/teapot")
        assert (teapot.status, teapot.body) == (418, b"short and stout")
        await chat_with(edge.url + prefix)
        await wait_until(lambda: "left with 4001 bye" in shop.happened)


async def test_a_large_upload_and_its_digest() -> None:
    content = b"".join(b"%07d\n" % n for n in range(1_000_000))
    async with shop_below("") as (_, edge), edge.client(timeout=30) as client:
        head = f"POST /digest HTTP/1.1\r\nHost: a\r\nContent-Length: {len(content)}\r\n\r\n"
        response = await client.request(head.encode() + content)
        assert response.body.decode() == hashlib.sha256(content).hexdigest()


async def test_a_stream_of_events_ends_with_its_client() -> None:
    async with shop_below("") as (shop, edge):
        async with edge.client() as client:
            await client.send(b"GET /ticks HTTP/1.1\r\nHost: a\r\n\r\n")
            await client.read_until(b"data: 3\n\n")
        await wait_until(lambda: "ticks ended" in shop.happened)
        await wait_until(lambda: not edge.instance.calls)


async def test_an_endpoint_that_waits_ends_with_its_client() -> None:
    async with shop_below("") as (shop, edge):
        async with edge.client() as client:
            await client.send(b"GET /wait HTTP/1.1\r\nHost: a\r\n\r\n")
            await wait_until(lambda: "waiting" in shop.happened)
        await wait_until(lambda: "waited" in shop.happened)


async def test_an_upload_that_breaks_off_is_told_to_the_endpoint() -> None:
    async with shop_below("") as (shop, edge):
        async with edge.client() as client:
            await client.send(b"POST /digest HTTP/1.1\r\nHost: a\r\nContent-Length: 9\r\n\r\nabc")
            await wait_until(lambda: edge.instance.calls)
            await asyncio.sleep(0.05)
        await wait_until(lambda: "upload broken off" in shop.happened)


async def test_an_exception_is_starlettes_to_answer() -> None:
    async with shop_below("") as (_, edge):
        response = await edge.get("/fail")
        assert (response.status, response.body) == (500, b"Internal Server Error")
        assert (await edge.get("/items/1")).status == 200


async def test_background_tasks_outlive_the_answer() -> None:
    async with shop_below("") as (shop, edge):
        assert (await edge.get("/later")).body == b"ok"
        assert "worked" not in shop.happened
    assert "worked" in shop.happened


async def test_hundreds_at_once_of_every_kind() -> None:
    async with shop_below("") as (shop, edge):

        async def visit(n: int) -> None:
            if n % 10 == 0:
                await chat_with(edge.url)
            else:
                assert (await edge.get(f"/items/{n}")).body == f"item {n}".encode()

        await asyncio.gather(*(visit(n) for n in range(300)))
        await wait_until(lambda: edge.instance.active == 0)
        assert shop.happened.count("left with 4001 bye") == 30


async def test_starlette_in_the_gateway_in_starlette_in_uvicorn() -> None:
    """Two prefixes are taken off on the way, and the innermost link still leads from outside."""
    shop = Shop()
    async with (
        entry_for(shop.app, prepare=strip_prefix("/shop")) as (entry, edge),
        uvicorn_with(Starlette(routes=[Mount("/api", app=entry)])) as url,
    ):
        async with RawClient(url) as client:
            home = await client.request(b"GET /api/shop/ HTTP/1.1\r\nHost: example.com\r\n\r\n")
            said = json.loads(home.body)
            assert said["item"] == "http://example.com/api/shop/items/7"
            assert said["root_path"] == "/api/shop"
            again = await client.request(
                b"GET /api/shop/items/7 HTTP/1.1\r\nHost: example.com\r\n\r\n"
            )
            assert again.body == b"item 7"
        await chat_with(f"{url}/api/shop")
        await wait_until(lambda: edge.instance.active == 0)
