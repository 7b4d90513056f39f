"""Startup and shutdown of applications."""

from __future__ import annotations

import asyncio
import logging
from typing import Any

import pytest
from tests.unit.asgi.serving import answer, edge_for, nothing_left, take_part_in_lifespan

from nexgate.errors import NexgateError
from nexgate.testing import wait_until
from nexgate.upstream import AsgiInstance
from nexgate.upstream._asgi import AsgiStartupError


def instance_of(app: Any, **options: Any) -> AsgiInstance:
    loop = asyncio.get_running_loop()
    return AsgiInstance(app, "asgi:shop.app:app", loop, service="shop", **options)


async def test_startup_comes_before_requests_and_shutdown_after() -> None:
    order: list[str] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] == "lifespan":
            assert scope["asgi"] == {"version": "3.0", "spec_version": "2.0"}
            order.append("start")
            scope["state"]["pool"] = [1]
            await take_part_in_lifespan(scope, receive, send)
            order.append("stop")
            return
        scope["state"]["pool"].append(2)
        scope["state"]["mine"] = True
        order.append(str(sorted(scope["state"])))
        await answer(send)

    async with edge_for(app) as edge:
        await edge.get()
        await edge.get()
        assert edge.instance.state == {"pool": [1, 2, 2]}
    assert order == ["start", "['mine', 'pool']", "['mine', 'pool']", "stop"]


async def raises(scope: Any, receive: Any, send: Any) -> None:
    assert scope["type"] == "http"


async def returns(scope: Any, receive: Any, send: Any) -> None:
    pass


async def raises_after_receiving(scope: Any, receive: Any, send: Any) -> None:
    await receive()
    raise ValueError


@pytest.mark.parametrize("app", [raises, returns, raises_after_receiving])
async def test_an_application_without_lifespan_is_fine(app: Any) -> None:
    async with nothing_left():
        instance = instance_of(app)
        await instance.startup()
        await instance.aclose()


async def test_a_failed_startup_names_the_application_and_its_reason() -> None:
    async def app(scope: Any, receive: Any, send: Any) -> None:
        await receive()
        await send({"type": "lifespan.startup.failed", "message": "no database"})
        raise ConnectionError("no database")  # as Starlette does

    async with nothing_left():
        instance = instance_of(app)
        with pytest.raises(AsgiStartupError) as caught:
            await instance.startup()
        await instance.aclose()
    assert isinstance(caught.value, NexgateError)
    assert str(caught.value) == ("the application asgi:shop.app:app failed to start: no database")
    assert (caught.value.app, caught.value.reason) == ("asgi:shop.app:app", "no database")


async def test_a_cancelled_startup_cancels_the_application() -> None:
    cancelled = asyncio.Event()

    async def app(scope: Any, receive: Any, send: Any) -> None:
        try:
            await asyncio.sleep(60)
        except asyncio.CancelledError:
            cancelled.set()
            raise

    async with nothing_left():
        instance = instance_of(app)
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.05):
                await instance.startup()
        assert cancelled.is_set()
        await instance.aclose()


async def test_a_shutdown_that_takes_too_long_is_cut_short(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async def app(scope: Any, receive: Any, send: Any) -> None:
        await receive()
        await send({"type": "lifespan.startup.complete"})
        await receive()
        await asyncio.sleep(60)

    async with nothing_left():
        instance = instance_of(app, shutdown_timeout=0.05)
        await instance.startup()
        async with asyncio.timeout(2):
            await instance.shutdown()
    assert "asgi:shop.app:app did not shut down within 0.05 s" in caplog.text


async def test_a_cancelled_shutdown_cancels_the_application() -> None:
    async def app(scope: Any, receive: Any, send: Any) -> None:
        await receive()
        await send({"type": "lifespan.startup.complete"})
        await receive()
        await asyncio.sleep(60)

    async with nothing_left():
        instance = instance_of(app)
        await instance.startup()
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.05):
                await instance.shutdown()


@pytest.mark.parametrize("says_so", [True, False])
async def test_a_failed_shutdown_is_logged_and_does_not_raise(
    says_so: bool, caplog: pytest.LogCaptureFixture
) -> None:
    async def app(scope: Any, receive: Any, send: Any) -> None:
        await receive()
        await send({"type": "lifespan.startup.complete"})
        await receive()
        if says_so:
            await send({"type": "lifespan.shutdown.failed", "message": "pool is stuck"})
        raise RuntimeError("pool is stuck")

    async with nothing_left():
        instance = instance_of(app)
        await instance.startup()
        await instance.shutdown()
        await instance.shutdown()
    assert len([r for r in caplog.records if r.levelno >= logging.ERROR]) == 1
    assert "pool is stuck" in caplog.text


async def test_a_lifespan_that_dies_early_is_reported_when_it_happens(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async def app(scope: Any, receive: Any, send: Any) -> None:
        await receive()
        await send({"type": "lifespan.startup.complete"})
        raise RuntimeError("the background task died")

    async with nothing_left():
        instance = instance_of(app)
        await instance.startup()
        await wait_until(lambda: "the background task died" in caplog.text)
        await instance.shutdown()


async def test_two_instances_have_lives_of_their_own() -> None:
    states: list[int] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        states.append(id(scope["state"]))
        await take_part_in_lifespan(scope, receive, send)

    async with nothing_left():
        one, two = instance_of(app), instance_of(app)
        await asyncio.gather(one.startup(), two.startup())
        assert one.state is not two.state
        await asyncio.gather(one.aclose(), two.aclose())
    assert len(set(states)) == 2
