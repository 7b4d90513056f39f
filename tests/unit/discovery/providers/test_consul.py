"""A stand-in for a Consul agent, written after its public API documentation."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest
from tests.unit.discovery.providers.servers import HttpServer, Request, answer

from nexgate.discovery import ConsulProvider, Followed, follow
from nexgate.testing import wait_until


def entry(number: int, **service: Any) -> dict[str, Any]:
    checks = service.pop("checks", ["passing"])
    node = service.pop("node", "n1")
    return {
        "Node": {"Node": node, "Address": "10.0.0.1", "Datacenter": "dc1"},
        "Service": {
            "ID": f"api-{number}",
            "Service": "api",
            "Address": f"10.0.0.{number}",
            "Port": 8000 + number,
            "Tags": ["a"],
            "Meta": {"k": "v"},
            "Weights": {"Passing": 3, "Warning": 1},
            **service,
        },
        "Checks": [{"Status": status} for status in checks],
    }


class Consul:
    """Blocks until the index moves on, as an agent does."""

    def __init__(self) -> None:
        self.index = 10
        self.entries: object = [entry(1)]
        self.status = 200
        self.changed = asyncio.Event()
        self.says_index: Callable[[], str | None] = lambda: str(self.index)

    def change(self, entries: object, index: int | None = None) -> None:
        self.entries = entries
        self.index = self.index + 1 if index is None else index
        self.wake()

    def wake(self) -> None:
        self.changed.set()
        self.changed = asyncio.Event()

    async def __call__(self, request: Request, writer: asyncio.StreamWriter) -> None:
        asked = int(request.query.get("index", "0"))
        wait = float(request.query.get("wait", "0ms").removesuffix("ms")) / 1000
        # An index that is ahead of ours blocks, too: that is the trap of going backwards.
        if asked and asked >= self.index and self.status == 200:
            try:
                async with asyncio.timeout(wait):
                    await self.changed.wait()
            except TimeoutError:
                pass
        said = self.says_index()
        fields = {} if said is None else {"X-Consul-Index": said}
        await answer(writer, self.entries, status=self.status, fields=fields)


@pytest.fixture
async def consul() -> AsyncIterator[tuple[Consul, HttpServer]]:
    agent = Consul()
    async with HttpServer(agent) as server:
        yield agent, server


@pytest.fixture
async def following(
    consul: tuple[Consul, HttpServer],
) -> AsyncIterator[Callable[..., Followed]]:
    made: list[Followed] = []

    def start(**options: Any) -> Followed:
        provider = ConsulProvider("api", url=consul[1].url, **{"wait": 30.0, **options})
        made.append(follow(provider, pause=0.02, longest_pause=0.05))
        return made[-1]

    yield start
    for followed in made:
        await followed.aclose()


Pair = tuple[Consul, HttpServer]


async def test_the_question_is_what_consul_documents(
    consul: Pair, following: Callable[..., Followed]
) -> None:
    followed = following(
        consul_service="api v2", token="secret", datacenter="dc2", namespace="ns", tags=["a", "b"]
    )
    await followed.wait_answered(2)
    await wait_until(lambda: len(consul[1].requests) == 2)
    first, second = consul[1].requests
    assert first.path == "/v1/health/service/api v2"
    assert first.fields["x-consul-token"] == "secret"
    assert "tag=a&tag=b&passing=1&dc=dc2&ns=ns" in first.target
    assert "index" not in first.query
    assert second.query["index"] == "10"
    assert second.query["wait"] == "30000ms"


async def test_entries_become_instances(consul: Pair, following: Callable[..., Followed]) -> None:
    consul[0].entries = [
        entry(1),
        entry(2, Address=""),
        entry(2, node="n2", Address="fd00::1", Weights=None, Meta=None, Tags=None),
    ]
    followed = following(scheme="https")
    await followed.wait_answered(2)
    one, two, three = followed.instances
    assert (one.id, one.url, one.weight, one.zone) == (
        "n1/api-1",
        "https://10.0.0.1:8001",
        3,
        "dc1",
    )
    assert (one.tags, dict(one.metadata), one.health) == ({"a"}, {"k": "v"}, "healthy")
    assert two.url == "https://10.0.0.1:8002"  # the node's address
    assert (three.id, three.url, three.weight) == ("n2/api-2", "https://[fd00::1]:8002", 1)


async def test_a_change_arrives_at_once_and_silence_costs_nothing(
    consul: Pair, following: Callable[..., Followed]
) -> None:
    agent, server = consul
    followed = following()
    await followed.wait_answered(2)
    await wait_until(lambda: len(server.requests) == 2)
    await asyncio.sleep(0.3)
    assert len(server.requests) == 2
    agent.change([entry(1), entry(2)])
    await wait_until(lambda: len(followed.instances) == 2, 0.5)
    agent.change([])
    await wait_until(lambda: followed.instances == (), 0.5)
    assert followed.status.state == "connected"


async def test_a_wait_that_ends_without_a_change_is_asked_again(
    consul: Pair, following: Callable[..., Followed]
) -> None:
    followed = following(wait=0.2)
    await wait_until(lambda: len(consul[1].requests) >= 4)
    assert followed.status.sets == 1
    assert followed.status.restarts == 0


async def test_an_index_that_goes_backwards_is_forgotten(
    consul: Pair, following: Callable[..., Followed]
) -> None:
    agent, server = consul
    followed = following()
    await wait_until(lambda: len(server.requests) == 2)
    agent.change([entry(3)], index=3)  # restored from an older snapshot
    await wait_until(lambda: [i.id for i in followed.instances] == ["n1/api-3"])
    await wait_until(lambda: len(server.requests) == 4)
    assert [r.query.get("index") for r in server.requests] == [None, "10", None, "3"]


@pytest.mark.parametrize("index", [None, "0", "-1", "x", "9" * 30, "1.5"])
async def test_an_index_that_is_none_makes_no_busy_loop(
    consul: Pair, following: Callable[..., Followed], index: str | None
) -> None:
    consul[0].says_index = lambda: index
    followed = following()
    await followed.wait_answered(2)
    await asyncio.sleep(0.3)
    assert len(consul[1].requests) == 1
    assert followed.status.state == "connected"


async def test_a_service_that_flaps_is_asked_ten_times_a_second(
    consul: Pair, following: Callable[..., Followed]
) -> None:
    agent, server = consul
    followed = following()
    await followed.wait_answered(2)
    agent.says_index = lambda: str(agent.index + len(server.requests))
    agent.index += 1000
    agent.wake()
    before = len(server.requests)
    await asyncio.sleep(0.5)
    assert len(server.requests) - before <= 8


async def test_critical_and_warning_instances_as_asked_for(
    consul: Pair, following: Callable[..., Followed]
) -> None:
    consul[0].entries = [
        entry(1, checks=["passing", "critical"]),
        entry(2, checks=["warning"]),
        entry(3, checks=[]),
    ]
    followed = following(passing=False)
    await followed.wait_answered(2)
    assert [(i.health, i.weight) for i in followed.instances] == [
        ("unhealthy", 3),
        ("healthy", 1),
        ("healthy", 3),
    ]
    assert "passing" not in consul[1].requests[0].query


async def test_a_refusal_keeps_the_set_and_shows_no_token(
    consul: Pair, following: Callable[..., Followed]
) -> None:
    agent, _ = consul
    followed = following(token="secret")
    await followed.wait_answered(2)
    agent.status, agent.entries = 403, b"ACL not found\n\x1b[31m"
    agent.wake()
    await wait_until(lambda: followed.status.state == "stale")
    error = followed.status.error or ""
    assert "403: ACL not found" in error
    assert "secret" not in error
    assert "\x1b" not in error
    assert len(followed.instances) == 1
    agent.status = 200
    agent.change([entry(5)])
    await wait_until(lambda: followed.status.state == "connected")


@pytest.mark.parametrize("document", [b"", b"{", {"a": 1}, b"[" * 100_000, None, "x"])
async def test_what_is_no_list_keeps_the_set(
    consul: Pair, following: Callable[..., Followed], document: Any
) -> None:
    followed = following()
    await followed.wait_answered(2)
    consul[0].change(document)
    await wait_until(lambda: followed.status.state == "stale")
    assert len(followed.instances) == 1


async def test_an_entry_that_is_wrong_is_skipped_alone_and_said_once(
    consul: Pair, following: Callable[..., Followed], caplog: pytest.LogCaptureFixture
) -> None:
    bad = [None, 3, {}, {"Service": {}, "Node": {}}, entry(2, Port=0), entry(3, Port="x"),
           entry(4, Address=7), entry(5, Weights=3), entry(6, Tags=3), entry(7, Meta={"a": 1}),
           {**entry(8), "Checks": 3}]  # fmt: skip
    consul[0].entries = [*bad, entry(1)]
    followed = following(wait=0.2)
    await wait_until(lambda: len(consul[1].requests) >= 3)
    assert [i.id for i in followed.instances] == ["n1/api-1"]
    assert 0 < caplog.text.count("is skipped") <= len(bad)


async def test_an_agent_that_goes_and_comes_back(
    following: Callable[..., Followed], consul: Pair
) -> None:
    _agent, server = consul
    followed = following()
    await followed.wait_answered(2)
    port = server.port
    await server.__aexit__()
    await wait_until(lambda: followed.status.state == "stale")
    assert len(followed.instances) == 1
    server._server = await asyncio.start_server(server._accept, "127.0.0.1", port)
    await wait_until(lambda: followed.status.state == "connected")


async def test_cancelling_while_it_blocks_ends_the_connection(
    consul: Pair, following: Callable[..., Followed]
) -> None:
    one, two = following(), following()
    await wait_until(lambda: len(consul[1].requests) == 4)
    await one.aclose()
    consul[0].change([entry(2)])
    await wait_until(lambda: [i.id for i in two.instances] == ["n1/api-2"])
    assert [i.id for i in one.instances] == ["n1/api-1"]
