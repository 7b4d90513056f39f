"""Every gateway among the examples loads and answers; every program runs and says what it says."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from nexgate.gateway import load
from nexgate.testing import RawClient

FOLDER = Path(__file__).parents[2] / "examples"
FILES = sorted(
    p
    for p in FOLDER.iterdir()
    if p.suffix == ".toml" or (p.suffix == ".py" and "\ngateway = " in p.read_text())
)


def what_it_says(*argv: str) -> list[str]:
    done = subprocess.run(
        [sys.executable, *argv], cwd=FOLDER.parent, capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout.splitlines()


def test_the_circuit_breaker_opens_answers_from_memory_and_closes() -> None:
    said = what_it_says("examples/circuit_breaker")
    customers = [line for line in said if line.startswith("customer: ")]
    assert all(line.startswith("customer: 200 ") for line in customers)
    shop = [line for line in said if line.startswith("shop: ")]
    assert shop == [f"shop: the circuit is {state}" for state in ("open", "half-open", "closed")]


def test_services_find_each_other_and_one_that_is_killed_is_not_missed() -> None:
    said = what_it_says("examples/service_discovery")
    assert said == [
        "registered: api, auth",
        "a stranger: 401",
        "ada: ada checked by 2 instances",
        "after kill -9 of one: {200}",
        "all by the other: True",
    ]


def test_events_reach_their_handlers_and_survive_kill_9() -> None:
    said = what_it_says("examples/events")
    assert said == [
        "created: {'id': 1, 'name': 'Ada'}",
        "created: {'id': 2, 'name': 'Grace'}",
        "mails: Welcome, Ada!, Welcome, Grace!",
        "users: 2",
        "log: 2 events",
        "after kill -9: Edsger",
    ]


def test_plugins_are_discovered_configured_and_hear_of_events() -> None:
    assert what_it_says("examples/plugins") == [
        "plugins: cache 1.2.0 running, audit 0.0.0 running",
        (
            "audit: product.loaded 1, product.cached 1, product.loaded 2, product.loaded 3,"
            " product.loaded 1"
        ),
    ]


def test_a_plugin_system_replaces_plugins_while_it_serves() -> None:
    assert what_it_says("examples/plugin_system") == [
        "first: {'text': 'Hello, Ada!', 'greeted': 1}",
        "edited: {'text': 'Hello, Ada, welcome!', 'greeted': 2}",
        "within a second: True",
        "broken: {'text': 'Hello, Ada, welcome!', 'greeted': 3}",
        "one more: {'extra': '0.1.0 running', 'greeter': '1.0.0 running'}",
        "and gone: {'greeter': '1.0.0 running'}",
    ]


def test_a_report_is_finished_by_another_worker() -> None:
    assert what_it_says("examples/background_tasks") == [
        "created: {'name': 'Ada', 'mails': 0}",
        "mail sent after the response",
        "under way: state running",
        "by another worker: {'pages': 50, 'words': 127500}",
    ]


def test_the_drill_loses_no_request() -> None:
    said = what_it_says("-m", "nexgate", "demo", "--drill", "--port", "0")
    assert sum("✓" in line for line in said) == 8
    assert any("requests, 0 failed" in line for line in said)


@pytest.mark.parametrize("path", FILES, ids=[p.name for p in FILES])
def test_it_loads_and_compiles(path: Path) -> None:
    load(path).build()


async def test_the_filters_do_what_they_say() -> None:
    async with (
        load(FOLDER / "filters.py").serving("127.0.0.1:0") as served,
        RawClient(served.url) as client,
    ):
        response = await client.request(b"GET /hello HTTP/1.1\r\nHost: a\r\n\r\n")
        assert response.body == b"hello\n"
        assert response.value("x-content-type-options") == "nosniff"
        assert (response.value("server-timing") or "").startswith("gateway;dur=")
        response = await client.request(b"GET /admin/x HTTP/1.1\r\nHost: a\r\n\r\n")
        assert response.status == 401
        response = await client.request(
            b"GET /admin/x HTTP/1.1\r\nHost: a\r\nX-Key: letmein\r\n\r\n"
        )
        assert response.body == b"the engine room\n"


async def test_the_application_answers() -> None:
    async with (
        load(FOLDER / "asgi.py").serving("127.0.0.1:0") as served,
        RawClient(served.url) as client,
    ):
        response = await client.request(b"GET /app/x HTTP/1.1\r\nHost: a\r\n\r\n")
        assert response.body == b"GET /app/x from 127.0.0.1\n"
