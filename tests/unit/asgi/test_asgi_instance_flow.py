"""Clients that leave, that are slow, and applications that are."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from tests.unit.asgi.serving import Edge, answer, edge_for, only_http

from nexgate.testing import wait_until

GET = b"GET / HTTP/1.1\r\nHost: example.com\r\n\r\n"
PIECE = b"x" * 16_384


async def until_settled(counter: Any) -> int:
    """The value at which ``counter()`` stops growing."""
    last = -1
    while (now := counter()) != last:
        last = now
        await asyncio.sleep(0.1)
    return last


async def leave_once(edge: Edge, started: asyncio.Event, data: bytes = GET) -> None:
    """A client that sends ``data`` and goes away when the application runs."""
    async with edge.client() as client:
        await client.send(data)
        async with asyncio.timeout(5):
            await started.wait()


async def test_an_application_that_waits_hears_of_the_end_of_the_client() -> None:
    started = asyncio.Event()
    heard: list[Any] = []

    @only_http
    async def app(scope: Any, receive: Any, send: Any) -> None:
        assert (await receive())["more_body"] is False
        started.set()
        heard.append(await receive())
        heard.append(await receive())
        await asyncio.sleep(0.4)  # longer than the grace: it was told, so it may clean up
        with pytest.raises(OSError):  # what ASGI promises, no more
            await answer(send)
        heard.append("cleaned up")

    async with edge_for(app) as edge:
        await leave_once(edge, started)
        await wait_until(lambda: len(heard) == 3)
        assert heard == [{"type": "http.disconnect"}] * 2 + ["cleaned up"]
        assert edge.instance.active == 0
        assert edge.log[0].status == 499


async def test_an_application_that_does_not_listen_is_cancelled() -> None:
    started = asyncio.Event()
    ends: list[type[BaseException]] = []

    @only_http
    async def app(scope: Any, receive: Any, send: Any) -> None:
        started.set()
        try:
            await asyncio.sleep(60)
        except BaseException as error:
            ends.append(type(error))
            raise

    async with edge_for(app) as edge:
        await leave_once(edge, started)
        await wait_until(lambda: ends)
    assert asyncio.CancelledError in ends


async def test_an_application_that_sends_gets_an_oserror() -> None:
    started = asyncio.Event()
    ends: list[BaseException] = []

    @only_http
    async def app(scope: Any, receive: Any, send: Any) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})
        try:
            while True:
                await send({"type": "http.response.body", "body": PIECE, "more_body": True})
                started.set()
                await asyncio.sleep(0)
        except OSError as error:
            ends.append(error)
            raise

    async with edge_for(app) as edge:
        await leave_once(edge, started)
        await wait_until(lambda: ends)
    assert not isinstance(ends[0], asyncio.CancelledError)


async def test_a_client_that_leaves_within_its_upload_is_no_failure(
    caplog: pytest.LogCaptureFixture,
) -> None:
    started = asyncio.Event()
    heard: list[str] = []

    @only_http
    async def app(scope: Any, receive: Any, send: Any) -> None:
        while True:
            message = await receive()
            heard.append(message["type"])
            started.set()
            if message["type"] == "http.disconnect":
                raise LookupError("what some frameworks raise then")

    async with edge_for(app) as edge:
        await leave_once(
            edge, started, b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 9\r\n\r\nabc"
        )
        await wait_until(lambda: "http.disconnect" in heard)
    assert not [r for r in caplog.records if r.levelname == "ERROR"]


async def test_a_slow_reader_holds_the_application_back() -> None:
    sent = 0

    @only_http
    async def app(scope: Any, receive: Any, send: Any) -> None:
        nonlocal sent
        await send({"type": "http.response.start", "status": 200, "headers": []})
        for _ in range(2000):
            await send({"type": "http.response.body", "body": PIECE, "more_body": True})
            sent += len(PIECE)
        await send({"type": "http.response.body"})

    async with (
        edge_for(app) as edge,
        edge.client(read_ahead_bytes=0, receive_buffer_bytes=4096, timeout=20) as client,
    ):
        await client.send(GET)
        await client.read_until(b"\r\n\r\n")
        held = await until_settled(lambda: sent)
        assert held < 8 * 1024 * 1024  # what the kernel takes, and no more
        response = await read_chunked(client)
        assert response == 2000 * len(PIECE)
        assert edge.log == [] or edge.log[0].response_complete


async def read_chunked(client: Any) -> int:
    total = 0
    while True:
        size = int((await client.read_until(b"\r\n")).strip(), 16)
        await client.read_exactly(size + 2)
        if not size:
            return total
        total += size


async def test_a_slow_application_holds_the_client_back() -> None:
    go_on = asyncio.Event()
    got = 0

    @only_http
    async def app(scope: Any, receive: Any, send: Any) -> None:
        nonlocal got
        await go_on.wait()
        while True:
            message = await receive()
            got += len(message["body"])
            assert len(message["body"]) < 1024 * 1024
            if not message["more_body"]:
                break
        await answer(send)

    size = 32 * 1024 * 1024
    async with edge_for(app) as edge, edge.client() as client:
        await client.send(f"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: {size}\r\n\r\n".encode())
        uploaded = 0

        async def upload() -> None:
            nonlocal uploaded
            while uploaded < size:
                await client.send(PIECE, timeout=20)
                uploaded += len(PIECE)

        task = asyncio.create_task(upload())
        held = await until_settled(lambda: uploaded)
        assert held < size // 2
        assert got == 0
        go_on.set()
        await task
        assert (await client.read_response()).status == 200
        assert got == size


async def test_an_upload_that_came_in_full_does_not_hide_the_end_of_the_client() -> None:
    """The queue is full and stays so: the client's connection must be read all the same."""
    started = asyncio.Event()
    ended = asyncio.Event()

    @only_http
    async def app(scope: Any, receive: Any, send: Any) -> None:
        started.set()
        try:
            await asyncio.sleep(60)
        finally:
            ended.set()

    body = b"x" * 70_000
    async with edge_for(app) as edge:
        async with edge.client() as client:
            head = f"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: {len(body)}\r\n\r\n"
            await client.send(head.encode() + body)
            await started.wait()
            await wait_until(lambda: edge_has_all(edge, len(body)))
        async with asyncio.timeout(5):
            await ended.wait()


def edge_has_all(edge: Edge, size: int) -> bool:
    (connection,) = edge.state.connections
    return connection.exchange is not None and connection.exchange.bytes_in == size


async def test_background_work_goes_on_after_the_answer_and_the_client() -> None:
    done: list[str] = []

    @only_http
    async def app(scope: Any, receive: Any, send: Any) -> None:
        await answer(send)
        await asyncio.sleep(0.3)
        done.append("work")

    async with edge_for(app) as edge:
        await edge.get()
        assert edge.instance.active == 0
    assert done == ["work"]  # closing the instance waits for it


async def test_background_work_that_fails_is_only_logged(
    caplog: pytest.LogCaptureFixture,
) -> None:
    @only_http
    async def app(scope: Any, receive: Any, send: Any) -> None:
        await answer(send)
        raise LookupError("too late")

    async with edge_for(app) as edge:
        assert (await edge.get()).complete
        await wait_until(lambda: not edge.instance.calls)
        assert edge.log[0].cause is None
    assert "too late" in caplog.text


async def test_closing_the_instance_fails_what_is_unanswered_and_bounds_the_rest() -> None:
    ends: list[str] = []

    @only_http
    async def app(scope: Any, receive: Any, send: Any) -> None:
        if scope["path"] == "/background":
            await answer(send)
        try:
            await asyncio.sleep(60)
        except asyncio.CancelledError:
            ends.append(scope["path"])
            raise

    async with edge_for(app, shutdown_timeout=0.2) as edge:
        await edge.get("/background")
        asking = asyncio.create_task(edge.get("/asking"))
        await wait_until(lambda: len(edge.instance.calls) == 2)
        await edge.instance.aclose()
        assert (await asking).status == 503
        assert not edge.instance.calls
        await edge.instance.aclose()  # twice is fine
    assert sorted(ends) == ["/asking", "/background"]


async def test_many_clients_leave_at_once_and_nothing_stays() -> None:
    running = 0

    @only_http
    async def app(scope: Any, receive: Any, send: Any) -> None:
        nonlocal running
        running += 1
        try:
            await asyncio.sleep(60)
        finally:
            running -= 1

    async with edge_for(app) as edge:

        async def visit() -> None:
            async with edge.client() as client:
                await client.send(GET)
                await asyncio.sleep(0.05)

        await asyncio.gather(*(visit() for _ in range(50)))
        await wait_until(lambda: not edge.instance.calls)
        assert (running, edge.instance.active, len(edge.log)) == (0, 0, 50)
