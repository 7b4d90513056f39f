"""A gateway in Python with a bus, a container and plugins of its own."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from nexgate import ConfigError, Gateway, Request, Response
from nexgate.di import Container, Inject
from nexgate.events import Event, EventBus
from nexgate.plugins import Plugin, PluginConfig, PluginConfigError, on
from nexgate.testing import RawClient, wait_until

GET = b"GET /x HTTP/1.1\r\nHost: a\r\n\r\n"


class Names:
    """Something that a filter needs."""

    def __init__(self) -> None:
        self.seen: list[str] = []


class Session:
    """Something of one request."""

    def __init__(self, names: Names) -> None:
        self.names = names


class Stamp(Plugin):
    """Stamps."""

    class Config(PluginConfig):
        word: str
        """What."""

    config: Config

    def initialize(self, app: Any) -> None:
        self.app = app

    def cleanup(self) -> None:
        self.app = None

    def stamp(self, request: Request, response: Response) -> None:
        response.headers["X-Stamp"] = f"{self.config.word} {len(self.app.services)}"


async def test_filters_are_given_what_they_are_annotated_with() -> None:
    container = Container()
    container.register_factory(Names, Names)
    container.register_factory(Session, Session, lifetime="scoped")
    gateway = Gateway(container=container)
    gateway.route("/*", respond=204)
    sessions: list[Session] = []

    @gateway.filter()
    def before(request: Request, names: Inject[Names]) -> None:
        names.seen.append(request.path)

    @gateway.filter()
    async def around(request: Request, call_next: Any, *, session: Inject[Session]) -> Response:
        sessions.append(session)
        response: Response = await call_next(request)
        return response

    async with gateway.serving("127.0.0.1:0") as served, RawClient(served.url) as client:
        for _ in range(2):
            assert (await client.request(GET)).status == 204
    assert container.resolve(Names).seen == ["/x", "/x"]
    assert sessions[0] is not sessions[1]
    assert sessions[0].names is container.resolve(Names)


NamesOfHere = Inject[Names]


@dataclass
class Seen:
    """A typed event."""

    name: str


async def test_filters_and_event_handlers_are_given_what_they_ask_for_under_another_name() -> None:
    gateway = Gateway()
    gateway.container.register_factory(Names, Names)
    gateway.route("/*", respond=204)

    class Hearing(Plugin):
        def initialize(self, app: Any) -> None: ...

        def cleanup(self) -> None: ...

        @on(Seen)
        def heard(self, event: Seen, names: NamesOfHere) -> None:
            names.seen.append(event.name)

    @gateway.filter()
    def before(request: Request, *, names: NamesOfHere) -> None:
        names.seen.append(request.path)

    gateway.plugin("hearing", Hearing())
    async with gateway.serving("127.0.0.1:0") as served, RawClient(served.url) as client:
        assert (await client.request(GET)).status == 204
        await gateway.bus.publish(Seen("event"))
    assert gateway.container.resolve(Names).seen == ["/x", "event"]


def test_two_plugins_of_one_name_in_a_folder_are_a_mistake(
    folder: Path, write: Callable[[str, str], Path]
) -> None:
    write("geo.py", "")
    write("geo/__init__.py", "")
    with pytest.raises(PluginConfigError, match=r"have two plugins named geo: .*geo and .*geo\.py"):
        Gateway(plugin_folders=[str(folder)]).build()


async def test_the_bus_hears_of_the_gateway_its_circuits_and_its_instances() -> None:
    bus = EventBus()
    heard: list[Event] = []
    bus.subscribe("**", heard.append)

    def configured(extra: str) -> Gateway:
        gateway = Gateway(bus=bus)
        gateway.service(
            "s",
            "http://127.0.0.1:1",  # where nobody listens
            breaker={"failure_ratio": 0.5, "minimum_calls": 2},
        )
        gateway.route("/*", "s")
        gateway.route(extra, respond=200)
        return gateway

    async with configured("/a").serving("127.0.0.1:0") as served, RawClient(served.url) as client:
        await served.reload(configured("/b"))
        for _ in range(4):
            await client.request(GET)
        await wait_until(lambda: any(event.name == "circuit.changed" for event in heard))
    assert heard[-1].name == "gateway.stopping"
    names = [event.name for event in heard]
    assert names[:2] == ["gateway.started", "gateway.reloaded"]
    assert heard[0].data == {"services": 1, "routes": 2}
    changed = next(event for event in heard if event.name == "circuit.changed")
    assert changed.data["service"] == "s"
    assert (changed.data["before"], changed.data["after"]) == ("closed", "open")


async def test_those_who_hear_of_a_gateway_and_do_not_end_do_not_keep_it_from_ending(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("nexgate.news._PATIENCE", 0.05)
    bus = EventBus(errors="raise")
    hearing = asyncio.Event()

    @bus.on("gateway.started")
    async def never(event: Event) -> None:
        hearing.set()
        await asyncio.Event().wait()

    @bus.on("gateway.stopping")
    async def broken(event: Event) -> None:
        raise LookupError("not mine")

    gateway = Gateway(bus=bus)
    gateway.route("/*", respond=204)
    async with asyncio.timeout(5), gateway.serving("127.0.0.1:0"):
        await hearing.wait()
    assert "gateway.stopping was not told to everybody" in caplog.text
    assert "were not handled" in caplog.text


async def test_a_plugin_that_is_there_as_an_object_extends_the_gateway() -> None:
    gateway = Gateway()
    gateway.plugin("stamp", Stamp(), config={"word": "w"})
    gateway.service("s", "http://127.0.0.1:1")
    gateway.route("/s", "s")
    gateway.route("/*", respond=200, filters=["stamp:stamp"])
    async with gateway.serving("127.0.0.1:0") as served, RawClient(served.url) as client:
        assert (await client.request(GET)).value("x-stamp") == "w 1"


async def test_a_plugin_ends_after_those_who_use_what_it_has() -> None:
    told: list[str] = []

    class Serving(Plugin):
        def initialize(self, app: Any) -> None:
            told.append("+plugin")

        def cleanup(self) -> None:
            told.append("-plugin")

        async def app(self, scope: Any, receive: Any, send: Any) -> None:
            for sign, event in ("+", "startup"), ("-", "shutdown"):
                assert (await receive())["type"] == f"lifespan.{event}"
                told.append(f"{sign}app")
                await send({"type": f"lifespan.{event}.complete"})

        def source(self, service: str) -> Any:
            class Source:
                name = "source"

                async def watch(self) -> AsyncIterator[tuple[Any, ...]]:
                    told.append("+source")
                    yield ()
                    try:
                        await asyncio.Event().wait()
                    finally:
                        told.append("-source")

            return Source()

    gateway = Gateway()
    gateway.service("app", "asgi:serving:app")
    gateway.service("found", discover=[{"kind": "custom", "use": "serving:source"}])
    gateway.route("/app", "app")
    gateway.route("/*", "found")
    gateway.plugin("serving", Serving())
    async with asyncio.timeout(10), gateway.serving("127.0.0.1:0"):
        pass
    assert told[0] == "+plugin"
    assert told[-1] == "-plugin"
    assert sorted(told[1:-1]) == ["+app", "+source", "-app", "-source"]


async def test_a_plugin_that_fails_keeps_the_gateway_from_starting() -> None:
    class Failing(Stamp):
        def initialize(self, app: Any) -> None:
            raise LookupError("no database")

    gateway = Gateway()
    gateway.plugin("stamp", Failing(), config={"word": "w"})
    with pytest.raises(ConfigError, match="no database"):
        async with gateway.serving("127.0.0.1:0"):
            pass


async def test_an_optional_plugin_that_fails_is_done_without_unless_it_is_used() -> None:
    class Failing(Stamp):
        def initialize(self, app: Any) -> None:
            raise LookupError("no database")

    gateway = Gateway()
    gateway.plugin("stamp", Failing(), config={"word": "w"}, required=False)
    gateway.route("/*", respond=200)
    async with gateway.serving("127.0.0.1:0") as served, RawClient(served.url) as client:
        assert (await client.request(GET)).status == 200
    gateway.route("/x", respond=200, filters=["stamp:stamp"])
    with pytest.raises(ConfigError, match="no database"):
        async with gateway.serving("127.0.0.1:0"):
            pass
