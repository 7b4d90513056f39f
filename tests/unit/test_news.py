"""What a gateway tells on its bus must never harm the gateway."""

from __future__ import annotations

import asyncio
import logging
from typing import Any

import pytest

from nexgate import news as news_module
from nexgate.events import Event, EventBus
from nexgate.news import News
from nexgate.plugins import Program
from nexgate.testing import wait_until


def telling(bus: EventBus | None) -> News:
    program = Program(None, bus)
    return News(asyncio.get_running_loop(), lambda: program, lambda: None)


async def test_handlers_hear_of_it_and_closing_waits_for_them() -> None:
    heard: list[tuple[str, Any]] = []

    async def hear(event: Event) -> None:
        await asyncio.sleep(0)
        heard.append((event.name, event.source))

    bus = EventBus()
    bus.subscribe("gateway.*", hear)
    news = telling(bus)
    news.tell("gateway.started", {})
    await news.aclose()
    assert heard == [("gateway.started", "nexgate")]


async def test_without_a_bus_nothing_happens() -> None:
    news = telling(None)
    news.tell("gateway.started", {})
    await news.aclose()


async def test_a_bus_that_is_closed_and_a_handler_that_raises_are_logged(
    caplog: pytest.LogCaptureFixture,
) -> None:
    bus = EventBus(errors="raise")

    def failing(event: Event) -> None:
        raise LookupError("mine")

    bus.subscribe("gateway.started", failing)
    news = telling(bus)
    with caplog.at_level(logging.ERROR, logger="nexgate"):
        news.tell("gateway.started", {})
        await news.aclose()
        await bus.aclose()
        news.tell("gateway.stopping", {})
        await news.aclose()
    told = [record.message for record in caplog.records if record.name == "nexgate"]
    assert told == [
        "gateway.started was not told to everybody",
        "gateway.stopping was not told to everybody",
    ]


async def test_a_handler_that_hangs_holds_neither_memory_nor_the_end(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(news_module, "_PATIENCE", 0.05)
    began: list[Event] = []

    async def hanging(event: Event) -> None:
        began.append(event)
        await asyncio.Event().wait()

    bus = EventBus()
    bus.subscribe("circuit.changed", hanging)
    news = telling(bus)
    for _ in range(1200):
        news.tell("circuit.changed", {})
    await wait_until(lambda: len(began) == 1000)
    assert [record.message for record in caplog.records] == [
        "handlers are slow: news of the gateway are dropped"
    ]
    await news.aclose()
    assert caplog.messages[-1] == "events were not handled within 0.05s of the end"
