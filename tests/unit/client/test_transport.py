"""The transport under a real httpx-like client: one line changes, the rest stays as it was."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx
import httpx2
import pytest

from nexgate.client import ServiceError, ServiceTransport
from nexgate.discovery import ServiceInstance, ServiceRegistry
from nexgate.testing import (
    Close,
    ExpectHead,
    Hang,
    RecordingUpstream,
    Reset,
    ScriptedUpstream,
    Send,
    canned,
)

OK = canned(200, b'{"id": 42}', [("Content-Type", "application/json"), ("Set-Cookie", "a=b")])


@pytest.fixture(params=[httpx2, httpx], ids=["httpx2", "httpx"])
def library(request: pytest.FixtureRequest) -> Any:
    return request.param


@pytest.fixture
async def registry(tmp_path: Path) -> AsyncIterator[ServiceRegistry]:
    async with ServiceRegistry() as registry:
        yield registry


def through(registry: ServiceRegistry, library: Any, *, phases: float = 5.0, **options: Any) -> Any:
    """A client of the library, through the transport."""
    transport = ServiceTransport(registry, library=library, **options)
    return library.AsyncClient(transport=transport, timeout=phases)


async def test_the_host_is_the_service_and_everything_else_is_as_ever(
    registry: ServiceRegistry, library: Any
) -> None:
    async with (
        RecordingUpstream(OK) as upstream,
        through(registry, library) as client,
    ):
        await registry.register("users", ServiceInstance("1", "users", upstream.url))
        answer = await client.get("http://users/42", params={"a": "b c"}, headers={"X-Key": "k"})
        assert answer.status_code == 200
        assert answer.json() == {"id": 42}
        assert answer.cookies["a"] == "b"
        assert answer.extensions["nexgate_instance"] == upstream.url
        assert upstream.last.target == "/42?a=b+c"
        assert upstream.last.values("x-key") == ["k"]
        await client.post("http://users/", json={"x": 1})
        assert upstream.last.body == b'{"x":1}'
        assert upstream.last.values("content-type") == ["application/json"]

        async def pieces() -> AsyncIterator[bytes]:
            yield b"abc"
            yield b"def"

        await client.post("http://users/", content=pieces())
        assert upstream.last.body == b"abcdef"
        assert (await client.head("http://users/")).status_code == 200


async def test_answers_are_streamed(registry: ServiceRegistry, library: Any) -> None:
    async with (
        RecordingUpstream(canned(body=b"z" * 3_000_000)) as upstream,
        through(registry, library) as client,
    ):
        await registry.register("files", ServiceInstance("1", "files", upstream.url))
        total = 0
        async with client.stream("GET", "http://files/big") as answer:
            async for piece in answer.aiter_bytes():
                total += len(piece)
        assert total == 3_000_000
        async with client.stream("GET", "http://files/big"):
            pass  # given up half-way
        assert (await client.get("http://files/big")).status_code == 200


async def test_resilience_comes_with_it(registry: ServiceRegistry, library: Any) -> None:
    turn = 0

    def every_other(_: object) -> bytes:
        nonlocal turn
        turn += 1
        return canned(503) if turn % 2 else OK

    retry = {"attempts": 3, "backoff_base": "1ms"}
    async with (
        RecordingUpstream(every_other) as upstream,
        through(registry, library, retry=retry) as client,
    ):
        await registry.register("users", ServiceInstance("1", "users", upstream.url))
        for _ in range(5):
            assert (await client.get("http://users/")).status_code == 200


@pytest.mark.parametrize(
    ("script", "expected"),
    [
        ([ExpectHead(), Reset()], "ReadError"),
        ([ExpectHead(), Send(b"nonsense\r\n\r\n"), Close()], "RemoteProtocolError"),
        ([ExpectHead(), Hang()], "ReadTimeout"),
    ],
)
async def test_failures_are_the_librarys_own(
    registry: ServiceRegistry, library: Any, script: list[object], expected: str
) -> None:
    async with (
        ScriptedUpstream(script) as upstream,  # type: ignore[arg-type]
        through(registry, library, timeout={"first_byte": "200ms"}) as client,
    ):
        await registry.register("users", ServiceInstance("1", "users", upstream.url))
        with pytest.raises(getattr(library, expected)) as caught:
            await client.post("http://users/", json=1)
        assert isinstance(caught.value.__cause__, ServiceError)


async def test_an_answer_that_is_cut_is_a_protocol_error(
    registry: ServiceRegistry, library: Any
) -> None:
    script = [ExpectHead(), Send(b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nabc"), Close()]
    async with (
        ScriptedUpstream(script) as upstream,
        through(registry, library) as client,
    ):
        await registry.register("users", ServiceInstance("1", "users", upstream.url))
        with pytest.raises(library.RemoteProtocolError):
            await client.get("http://users/")


async def test_a_stranger_is_an_error_or_goes_its_own_way(
    registry: ServiceRegistry, library: Any
) -> None:
    async with RecordingUpstream(OK) as elsewhere:
        async with library.AsyncClient(
            transport=ServiceTransport(registry, library=library)
        ) as client:
            with pytest.raises(library.ConnectError, match="no instance"):
                await client.get("http://nobody/")
            with pytest.raises(library.ConnectError):
                await client.get("http://not~a~name/")
        async with through(registry, library, unknown="direct") as client:
            assert (await client.get(elsewhere.url)).status_code == 200


async def test_its_timeouts_are_kept(registry: ServiceRegistry, library: Any) -> None:
    async with (
        ScriptedUpstream([ExpectHead(), Hang()]) as upstream,
        library.AsyncClient(
            transport=ServiceTransport(registry, library=library), timeout=0.1
        ) as client,
    ):
        await registry.register("users", ServiceInstance("1", "users", upstream.url))
        with pytest.raises(library.TimeoutException):
            await client.get("http://users/")


async def test_fields_that_are_not_for_sending_are_no_surprise(
    registry: ServiceRegistry, library: Any
) -> None:
    """They were a ``ValueError`` of ours; and nothing had the type of a file of bytes."""
    async with RecordingUpstream(OK) as upstream, through(registry, library) as client:
        await registry.register("users", ServiceInstance("1", "users", upstream.url))
        url = "http://users/"
        with pytest.raises(library.LocalProtocolError):
            await client.get(url, headers={"X-A": "a\r\nX-B: c"})
        upgrade = {"Connection": "Upgrade", "Upgrade": "h2c", "Proxy-Connection": "keep-alive"}
        assert (await client.post(url, headers=upgrade)).status_code == 200
        for name in ("connection", "upgrade", "proxy-connection", "content-type"):
            assert upstream.last.values(name) == []
        assert upstream.last.values("content-length") == ["0"]
