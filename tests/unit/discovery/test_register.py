"""An application that is registered while it serves, spoken to as a server would."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from nexgate.discovery import ServiceRegistry, register_service
from nexgate.state import MemoryState, StateUnavailable
from nexgate.testing import RecordingUpstream, free_port, wait_until

URL = "http://127.0.0.1:8000"


class Server:
    """Speaks lifespan to an application."""

    def __init__(self, app: Any) -> None:
        self.app = app
        self.to_app: asyncio.Queue[dict[str, Any]] = asyncio.Queue()
        self.said: list[str] = []
        self.task = asyncio.create_task(self._run())
        self.to_app.put_nowait({"type": "lifespan.startup"})

    async def _run(self) -> None:
        await self.app({"type": "lifespan", "state": {}}, self.to_app.get, self._send)

    async def _send(self, message: dict[str, Any]) -> None:
        self.said.append(message["type"].removeprefix("lifespan."))

    async def says(self, what: str) -> None:
        await wait_until(lambda: what in self.said or self.task.done())
        assert what in self.said

    async def stop(self) -> None:
        self.to_app.put_nowait({"type": "lifespan.shutdown"})
        await self.says("shutdown.complete")
        await self.task


class App:
    """Notes what was registered at each moment of its life."""

    def __init__(self, state: MemoryState) -> None:
        self.state = state
        self.seen: dict[str, int] = {}
        self.fails = ""

    def _note(self, moment: str) -> None:
        self.seen[moment] = len(self.state.scan_now("services/"))
        if self.fails == moment:
            raise RuntimeError(moment)

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] != "lifespan":
            self._note("request")
            return
        assert (await receive())["type"] == "lifespan.startup"
        self._note("starting")
        await send({"type": "lifespan.startup.complete"})
        self._note("started")
        assert (await receive())["type"] == "lifespan.shutdown"
        self._note("stopping")
        await send({"type": "lifespan.shutdown.complete"})


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("nexgate.discovery._register._PATIENCE", 0.05)  # nobody listens at URL


@pytest.fixture
def state() -> MemoryState:
    return MemoryState()


async def test_it_is_there_exactly_while_the_app_serves(state: MemoryState) -> None:
    app = App(state)
    server = Server(register_service(app, name="api", url=URL, registry=state, weight=3))
    await server.says("startup.complete")
    await wait_until(lambda: state.scan_now("services/"))
    assert app.seen == {"starting": 0, "started": 0}
    async with ServiceRegistry(state) as registry:
        (found,) = await registry.get_instances("api")
        assert (found.url, found.weight, found.health_path) == (URL, 3, "/health")
    await server.stop()
    assert app.seen["stopping"] == 0
    assert server.said == ["startup.complete", "shutdown.complete"]


async def test_a_registry_that_was_given_stays_open(state: MemoryState) -> None:
    async with ServiceRegistry(state) as registry:
        wrapped = register_service(App(state), name="api", url=URL, registry=registry, id="one")
        for _ in range(2):  # an application may be started again
            server = Server(wrapped)
            await server.says("startup.complete")
            await wait_until(lambda: state.scan_now("services/"))
            assert [i.id for i in await registry.get_instances("api")] == ["one"]
            await server.stop()
            assert await registry.get_instances("api") == ()


async def test_every_process_has_an_id_of_its_own(state: MemoryState) -> None:
    servers = [
        Server(register_service(App(state), name="api", url=URL, registry=state)) for _ in range(3)
    ]
    for server in servers:
        await server.says("startup.complete")
    await wait_until(lambda: len(state.scan_now("services/")) == 3)
    for server in servers:
        await server.stop()
    assert state.scan_now("services/") == {}


async def raises(scope: Any, receive: Any, send: Any) -> None:
    assert scope["type"] == "http"


async def returns(scope: Any, receive: Any, send: Any) -> None:
    return


async def takes_and_raises(scope: Any, receive: Any, send: Any) -> None:
    await receive()
    raise TypeError("what is lifespan?")


async def test_a_start_up_that_raises_is_the_servers_to_judge(state: MemoryState) -> None:
    async with ServiceRegistry(state) as registry:
        wrapped = register_service(takes_and_raises, name="api", url=URL, registry=registry)
        server = Server(wrapped)
        with pytest.raises(TypeError):
            await server.task
        assert server.said == []
        # It goes on, as uvicorn does by default.
        server.to_app.put_nowait({"type": "http.request"})
        with pytest.raises(TypeError):
            await wrapped({"type": "http"}, server.to_app.get, server._send)
        await wait_until(lambda: len(state.scan_now("services/")) == 1)


@pytest.mark.parametrize("app", [raises, returns])
async def test_an_app_without_lifespan_is_registered_all_the_same(
    app: Any, state: MemoryState, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    server = Server(register_service(app, name="api", url=URL, registry=state))
    await server.says("startup.complete")
    await wait_until(lambda: len(state.scan_now("services/")) == 1)
    assert "has no lifespan" in caplog.text
    await server.stop()
    assert state.scan_now("services/") == {}


async def test_a_start_up_that_fails_is_the_servers_to_see(state: MemoryState) -> None:
    async def fails(scope: Any, receive: Any, send: Any) -> None:
        await receive()
        await send({"type": "lifespan.startup.failed", "message": "x"})
        raise RuntimeError("after it said so")

    server = Server(register_service(fails, name="api", url=URL, registry=state))
    with pytest.raises(RuntimeError):
        await server.task
    assert server.said == ["startup.failed"]
    assert state.scan_now("services/") == {}


@pytest.mark.parametrize("moment", ["started", "stopping"])
async def test_an_app_that_breaks_while_it_lives_is_unregistered(
    moment: str, state: MemoryState
) -> None:
    app = App(state)
    app.fails = moment
    server = Server(register_service(app, name="api", url=URL, registry=state))
    server.to_app.put_nowait({"type": "lifespan.shutdown"})
    with pytest.raises(RuntimeError):
        await server.task
    assert state.scan_now("services/") == {}


async def test_it_is_registered_when_its_address_accepts_and_not_before(
    state: MemoryState, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("nexgate.discovery._register._PATIENCE", 30.0)
    late = RecordingUpstream(port=free_port())
    url = f"http://127.0.0.1:{late.port}"
    server = Server(register_service(App(state), name="api", url=url, registry=state))
    await server.says("startup.complete")
    await asyncio.sleep(0.1)
    assert state.scan_now("services/") == {}
    async with late:
        await wait_until(lambda: state.scan_now("services/"))
        await server.stop()


async def test_a_lifespan_that_is_cancelled_unregisters(state: MemoryState) -> None:
    server = Server(register_service(App(state), name="api", url=URL, registry=state))
    await server.says("startup.complete")
    await wait_until(lambda: state.scan_now("services/"))
    server.task.cancel()
    await asyncio.gather(server.task, return_exceptions=True)
    await wait_until(lambda: state.scan_now("services/") == {})


async def test_without_lifespan_the_first_requests_register_once(state: MemoryState) -> None:
    app = App(state)
    async with ServiceRegistry(state) as registry:
        wrapped = register_service(app, name="api", url=URL, registry=registry)

        async def nothing(*_: object) -> Any:
            return {"type": "http.disconnect"}

        await asyncio.gather(*(wrapped({"type": "http"}, nothing, nothing) for _ in range(5)))
        await wait_until(lambda: len(state.scan_now("services/")) == 1)
        assert app.seen == {"request": 0}  # it did not wait


async def test_a_store_that_is_away_or_breaks_does_not_keep_an_app_from_starting() -> None:
    class Away(MemoryState):
        __slots__ = ()
        error: Exception = StateUnavailable("away")

        async def set(self, key: str, value: bytes, *, ttl: float | None = None) -> None:
            raise self.error

    for error in (StateUnavailable("away"), ZeroDivisionError("a defect")):
        state = Away()
        Away.error = error
        server = Server(register_service(App(state), name="api", url=URL, registry=state))
        await server.says("startup.complete")
        await server.stop()


async def test_a_store_that_hangs_delays_no_start_and_no_stop() -> None:
    class Hung(MemoryState):
        __slots__ = ()

        async def set(self, key: str, value: bytes, *, ttl: float | None = None) -> None:
            await asyncio.Event().wait()

    state = Hung()
    server = Server(register_service(App(state), name="api", url=URL, registry=state))
    await server.says("startup.complete")
    await server.stop()


def test_what_is_wrong_is_said_when_it_is_wrapped() -> None:
    for bad in ({"url": "h:1"}, {"name": "a/b"}, {"health": "up"}, {"weight": 0}):
        with pytest.raises(ValueError):
            register_service(returns, **{"name": "api", "url": URL, **bad})


def test_the_application_is_still_an_application() -> None:
    class Framework:
        def get(self, path: str) -> str:
            return path

        async def __call__(self, scope: Any, receive: Any, send: Any) -> None: ...

    wrapped: Any = register_service(Framework(), name="api", url=URL)
    assert wrapped.get("/x") == "/x"
