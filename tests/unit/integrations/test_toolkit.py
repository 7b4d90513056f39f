"""The toolkit around applications that are nothing but ASGI."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator
from typing import Any

import httpx
import pytest
from tests.unit.integrations.parts import Failure, Part, Session, Told, container
from tests.unit.integrations.test_frameworks import client, lifespan

from nexgate.di import Container, Inject, inject
from nexgate.integrations import Connection, RequestIdFilter, Toolkit, current_request_id
from nexgate.tasks import BackgroundTasks, Supervisor


async def answer(send: Any, status: int = 200, headers: Any = ()) -> None:
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": b"ok"})


async def test_what_is_left_for_later_runs_after_the_response_within_the_scope() -> None:
    told = Told()

    async def later(session: Session) -> None:
        told.append(f"later {session.path}")

    @inject
    async def app(
        scope: Any, receive: Any, send: Any, tasks: Inject[BackgroundTasks], s: Inject[Session]
    ) -> None:
        tasks.add(later, s)
        await answer(send)
        told.append("answered")

    async with client(Toolkit(app, container=container(told))) as http:
        assert (await http.get("/x")).text == "ok"
    assert told == ["session", "answered", "later /x", "committed"]


async def test_what_was_left_by_a_handler_that_failed_does_not_run() -> None:
    told = Told()

    @inject
    async def app(scope: Any, receive: Any, send: Any, tasks: Inject[BackgroundTasks]) -> None:
        tasks.add(told.append, "never")
        raise Failure

    async with client(Toolkit(app, container=container(told))) as http:
        assert (await http.get("/x")).status_code == 500
    assert told == []


async def test_an_application_without_lifespan_is_started_and_stopped() -> None:
    told = Told()

    async def app(scope: Any, receive: Any, send: Any) -> None:
        assert scope["type"] == "http"

    toolkit = Toolkit(app, bus=Part("bus", told))
    stop, said = await lifespan(toolkit)
    assert said["type"] == "lifespan.startup.complete"
    assert told == ["+bus"]
    assert (await stop())["type"] == "lifespan.shutdown.complete"
    assert told == ["+bus", "-bus"]


async def test_an_application_that_cannot_start_stops_the_parts() -> None:
    told = Told()

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await receive()
        await send({"type": "lifespan.startup.failed", "message": "no"})

    _, said = await lifespan(Toolkit(app, bus=Part("bus", told)))
    assert said == {"type": "lifespan.startup.failed", "message": "no"}
    assert told == ["+bus", "-bus"]


async def test_an_application_that_dies_stops_the_parts() -> None:
    told = Told()

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await receive()
        await send({"type": "lifespan.startup.complete"})
        raise Failure

    await lifespan(Toolkit(app, bus=Part("bus", told)))
    async with asyncio.timeout(5):
        while told != ["+bus", "-bus"]:
            await asyncio.sleep(0)


async def test_a_supervisor_is_closed_and_not_started() -> None:
    supervisor = Supervisor()
    toolkit = Toolkit(answer, tasks=supervisor)
    await toolkit.start()
    assert toolkit.container.resolve(Supervisor) is supervisor
    await toolkit.aclose()
    await toolkit.aclose()


async def test_the_request_id_of_the_application_is_kept_and_logs_have_it() -> None:
    seen: list[str] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        record = logging.makeLogRecord({})
        RequestIdFilter().filter(record)
        seen.append(record.request_id)  # type: ignore[attr-defined]  # the filter's
        await answer(send, headers=[(b"X-Request-Id", b"mine")])

    async with client(Toolkit(app)) as http:
        got = await http.get("/", headers={"X-Request-ID": "theirs"})
    assert got.headers.get_list("x-request-id") == ["mine"]
    assert seen == ["theirs"]
    assert current_request_id.get() is None
    record = logging.makeLogRecord({})
    RequestIdFilter().filter(record)
    assert record.request_id == "-"  # type: ignore[attr-defined]


async def test_a_teardown_that_fails_after_the_response_is_the_servers_to_log() -> None:
    made = Container()
    made.register_context(Connection)

    async def session() -> AsyncIterator[Session]:
        yield Session("")
        raise Failure

    made.register_factory(Session, session, lifetime="scoped")

    @inject
    async def app(scope: Any, receive: Any, send: Any, s: Inject[Session]) -> None:
        await answer(send)

    transport = httpx.ASGITransport(Toolkit(app, container=made))
    async with httpx.AsyncClient(transport=transport, base_url="http://app") as http:
        with pytest.raises(ExceptionGroup) as caught:
            await http.get("/")
    assert caught.group_contains(Failure)


async def test_without_prometheus_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    import sys

    from nexgate.errors import ConfigError

    monkeypatch.setitem(sys.modules, "prometheus_client", None)
    with pytest.raises(ConfigError, match=r"nexgate\[metrics\]"):
        Toolkit(answer, metrics=True)


async def test_routes_in_metrics_are_bounded() -> None:
    pytest.importorskip("prometheus_client")

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await answer(send)

    toolkit = Toolkit(app, metrics=True, route_of=lambda scope: scope["path"])
    async with client(toolkit) as http:
        for number in range(600):
            await http.get(f"/{number}")
    assert toolkit.metrics is not None
    text = toolkit.metrics.render().decode()
    assert text.count("http_requests_total{") == 501
    assert 'route="other",status="2xx"} 100.0' in text


async def test_an_application_mounted_in_another_works_for_the_same_request() -> None:
    seen: list[str | None] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        seen.append(current_request_id.get())
        await answer(send)

    inner = Toolkit(app)

    async def outer(scope: Any, receive: Any, send: Any) -> None:
        seen.append(current_request_id.get())
        await inner({**scope, "root_path": "/inner"}, receive, send)

    async with client(Toolkit(outer)) as http:
        got = await http.get("/", headers={"X-Request-ID": "hostile \x7f"})
    assert [got.headers["x-request-id"]] * 2 == seen
    assert len(got.headers["x-request-id"]) == 32


async def test_a_route_that_cannot_be_told_is_none_and_the_request_ends(
    caplog: pytest.LogCaptureFixture,
) -> None:
    pytest.importorskip("prometheus_client")

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await answer(send)

    async with client(Toolkit(app, metrics=True, route_of=lambda scope: scope["no"])) as http:
        assert (await http.get("/")).status_code == 200
        text = (await http.get("/metrics")).text
    assert 'route="unmatched"' in text
    assert "http_requests_in_flight 0.0" in text
    assert "route_of failed" in caplog.text
