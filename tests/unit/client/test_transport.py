"""The transport under a real httpx-like client: one line changes, the rest stays as it was."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx
import httpx2
import pytest

from nexgate.client import ServiceError, ServiceTransport
from nexgate.config import InvalidConfig
from nexgate.discovery import ServiceInstance, ServiceRegistry
from nexgate.errors import NexgateError
from nexgate.testing import (
    Close,
    ExpectHead,
    Hang,
    RecordingUpstream,
    Reset,
    ScriptedConnection,
    ScriptedUpstream,
    Send,
    canned,
    wait_until,
)
from nexgate.testing._messages import read_request

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


# -------------------------------------------------------------------- as the libraries do it


async def test_a_download_may_take_longer_than_its_timeouts_as_long_as_it_goes_on(
    registry: ServiceRegistry, library: Any
) -> None:
    """They are for phases. Added up to one for the whole they cut every long download."""

    async def drips(connection: ScriptedConnection) -> None:
        await read_request(connection)
        await connection.send(b"HTTP/1.1 200 OK\r\nContent-Length: 20\r\n\r\n")
        for _ in range(20):
            await asyncio.sleep(0.08)
            await connection.send(b"x")

    async with ScriptedUpstream(drips) as upstream, through(registry, library, phases=0.3) as c:
        await registry.register("files", ServiceInstance("1", "files", upstream.url))
        assert (await c.get("http://files/")).content == b"x" * 20  # 1.6 s; all phases have 1.2 s


async def test_a_download_that_stops_is_a_read_timeout(
    registry: ServiceRegistry, library: Any
) -> None:
    part = Send(b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nabc")
    async with (
        ScriptedUpstream([ExpectHead(), part, Hang()]) as upstream,
        through(registry, library, phases=0.1) as client,
    ):
        await registry.register("files", ServiceInstance("1", "files", upstream.url))
        with pytest.raises(library.ReadTimeout, match=r"nothing more came for 0\.1s"):
            await client.get("http://files/")
        await wait_until(lambda: upstream.open_connections == 0)


async def test_an_upload_may_take_longer_than_its_timeouts_as_long_as_it_goes_on(
    registry: ServiceRegistry, library: Any
) -> None:
    async def slowly() -> AsyncIterator[bytes]:
        for _ in range(20):
            await asyncio.sleep(0.08)
            yield b"x"

    async with RecordingUpstream(OK) as upstream, through(registry, library, phases=0.3) as client:
        await registry.register("files", ServiceInstance("1", "files", upstream.url))
        assert (await client.post("http://files/", content=slowly())).status_code == 200
        assert upstream.last.body == b"x" * 20


async def test_a_large_upload_of_a_known_length_is_streamed_under_that_length(
    registry: ServiceRegistry, library: Any
) -> None:
    made = 0

    async def pieces() -> AsyncIterator[bytes]:
        nonlocal made
        for _ in range(1000):
            made += 65536
            yield b"x" * 65536

    size = {"Content-Length": str(1000 * 65536)}
    begin = asyncio.Event()

    async def reads_late(connection: ScriptedConnection) -> None:
        await begin.wait()
        request = await read_request(connection)
        heads.append(request.head)
        await connection.send(OK)

    heads: list[bytes] = []
    async with (
        ScriptedUpstream(reads_late, max_recorded_bytes=0) as upstream,
        through(registry, library) as client,
    ):
        await registry.register("files", ServiceInstance("1", "files", upstream.url))
        call = asyncio.create_task(client.post("http://files/", content=pieces(), headers=size))
        await wait_until(lambda: made)
        await asyncio.sleep(0.3)
        assert made < 30_000_000, "more than the kernel's buffers hold was taken into memory"
        begin.set()
        assert (await call).status_code == 200
        assert b"content-length: 65536000" in heads[0].lower()
        assert b"chunked" not in heads[0].lower()


@pytest.mark.parametrize("said", [100_000, 120_000, 300_000, "-1", "1_0"])
async def test_content_that_is_not_as_long_as_it_says_never_becomes_another_request(
    registry: ServiceRegistry, library: Any, said: object
) -> None:
    async def pieces() -> AsyncIterator[bytes]:
        for _ in range(4):
            yield b"x" * 50_000

    async with RecordingUpstream(OK) as upstream, through(registry, library) as client:
        await registry.register("files", ServiceInstance("1", "files", upstream.url))
        for _ in range(2):
            with pytest.raises(library.LocalProtocolError):
                headers = {"Content-Length": str(said)}
                await client.post("http://files/", content=pieces(), headers=headers)
        # With 100,000 the surplus is noticed when the request is complete already.
        assert all(len(r.body) == said == 100_000 for r in upstream.requests)
        assert (await client.get("http://files/")).status_code == 200


async def test_files_are_uploaded(registry: ServiceRegistry, library: Any) -> None:
    async with RecordingUpstream(OK) as upstream, through(registry, library) as client:
        await registry.register("files", ServiceInstance("1", "files", upstream.url))
        for size in (10, 1_000_000):
            file = {"file": ("a.bin", b"z" * size)}
            assert (await client.post("http://files/", files=file)).status_code == 200
            assert upstream.last.body.count(b"z") >= size
            assert upstream.last.values("content-length") == [str(len(upstream.last.body))]


async def test_whatever_cannot_be_a_service_goes_its_own_way_too(
    registry: ServiceRegistry, library: Any
) -> None:
    async with through(registry, library, unknown="direct") as client:
        with pytest.raises(library.ConnectError) as caught:
            await client.get("http://[::1]:1/")
        assert "the name of a service" not in str(caught.value)


async def test_a_registry_that_is_away_is_a_connect_error(library: Any) -> None:
    async with ServiceRegistry("redis://127.0.0.1:1") as away, through(away, library) as client:
        with pytest.raises(library.ConnectError) as caught:
            await client.get("http://users/")
        assert isinstance(caught.value.__cause__, NexgateError)


async def test_mistakes_in_the_options_are_explained_at_once(
    registry: ServiceRegistry, library: Any
) -> None:
    with pytest.raises(InvalidConfig, match="did you mean"):
        ServiceTransport(registry, library=library, retyr=3)
