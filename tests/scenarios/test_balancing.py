"""Who gets the next request, and who gets none."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator

import pytest
from tests.conftest import gateway_to
from tests.scenarios.support import GET, Origin

from nexgate.testing import RawClient, RecordingUpstream, canned, wait_until

Trio = tuple[RecordingUpstream, RecordingUpstream, RecordingUpstream]


@pytest.fixture
async def trio() -> AsyncIterator[Trio]:
    async with (
        RecordingUpstream(canned(body=b"a")) as one,
        RecordingUpstream(canned(body=b"b")) as two,
        RecordingUpstream(canned(body=b"c")) as three,
    ):
        yield one, two, three


async def ask(port: int, count: int, wire: bytes = GET) -> Counter[bytes]:
    found: Counter[bytes] = Counter()
    async with RawClient(("127.0.0.1", port)) as client:
        for _ in range(count):
            response = await client.request(wire)
            assert response.status == 200
            found[response.body] += 1
    return found


@pytest.mark.parametrize("kind", ["least-requests", "round-robin", "random", "ewma"])
async def test_every_balancer_spreads(trio: Trio, kind: str) -> None:
    gateway = gateway_to(*(u.url for u in trio), balancer=kind)
    async with gateway.serving("127.0.0.1:0") as served:
        found = await ask(served.port, 300)
    assert set(found) == {b"a", b"b", b"c"}
    if kind == "round-robin":
        assert set(found.values()) == {100}
    elif kind != "ewma":
        assert min(found.values()) > 50


@pytest.mark.parametrize("kind", ["least-requests", "round-robin", "random"])
async def test_weights_are_shares(trio: Trio, kind: str) -> None:
    gateway = gateway_to(balancer=kind)
    gateway.service(
        "upstream",
        *({"url": u.url, "weight": w} for u, w in zip(trio, (1, 2, 5), strict=True)),
        balancer=kind,
    )
    async with gateway.serving("127.0.0.1:0") as served:
        found = await ask(served.port, 800)
    if kind == "round-robin":
        assert found == {b"a": 100, b"b": 200, b"c": 500}
    else:
        assert found[b"a"] < found[b"b"] < found[b"c"]


@pytest.mark.parametrize("kind", ["least-requests", "ewma"])
async def test_a_slow_instance_gets_less(trio: Trio, kind: str) -> None:
    async with (
        Origin("slow", delay=0.05) as slow,
        gateway_to(slow.url, trio[1].url, balancer=kind).serving("127.0.0.1:0") as served,
    ):
        counts = await asyncio.gather(*(ask(served.port, 40) for _ in range(8)))
    total = sum(counts, Counter())
    assert total[b"b"] > 2 * total[b"slow"]


async def test_consistent_hash_sticks_and_moves_only_what_it_must(trio: Trio) -> None:
    def user(n: int) -> bytes:
        return f"GET / HTTP/1.1\r\nHost: a\r\nX-User: {n}\r\n\r\n".encode()

    balancer = {"kind": "consistent-hash", "key": "header:X-User"}
    gateway = gateway_to(*(u.url for u in trio), balancer=balancer)

    async def homes(port: int) -> dict[int, bytes]:
        found: dict[int, bytes] = {}
        for n in range(60):
            counted = await ask(port, 2, user(n))
            assert len(counted) == 1
            (found[n],) = counted
        return found

    async with gateway.serving("127.0.0.1:0") as served:
        before = await homes(served.port)
        assert set(before.values()) == {b"a", b"b", b"c"}
        await served.reload(gateway_to(*(u.url for u in trio[:2]), balancer=balancer))
        after = await homes(served.port)
        moved = [n for n in before if before[n] != after[n]]
        assert moved == [n for n in before if before[n] == b"c"]
    # Another process with the same file sends the same user to the same place.
    again = gateway_to(*(u.url for u in trio), balancer=balancer)
    async with again.serving("127.0.0.1:0") as served:
        assert await homes(served.port) == before


async def test_sticky_cookie_stays_until_the_instance_is_gone(trio: Trio) -> None:
    gateway = gateway_to(*(u.url for u in trio), balancer="sticky-cookie")
    async with gateway.serving("127.0.0.1:0") as served, RawClient(served.url) as client:
        response = await client.request(GET)
        cookie = (response.value("set-cookie") or "").partition(";")[0]
        assert cookie.startswith("nexgate_affinity=")
        home = response.body
        wire = GET.replace(b"\r\n\r\n", f"\r\nCookie: x=y; {cookie}\r\n\r\n".encode())
        for _ in range(10):
            response = await client.request(wire)
            assert response.body == home
            assert response.values("set-cookie") == []
        gone = next(u for u in trio if u.answer == canned(body=home))
        await gone.stop()
        response = await client.request(wire)
        assert response.status == 200
        assert response.body != home
        for _ in range(5):  # once it is known to be gone, the cookie is replaced
            response = await client.request(wire)
            assert response.body != home
        assert response.value("set-cookie")


async def test_a_probe_takes_an_instance_out_and_back(trio: Trio) -> None:
    health = {
        "path": "/health",
        "interval": "50ms",
        "timeout": "500ms",
        "healthy_after": 2,
        "unhealthy_after": 2,
    }
    gateway = gateway_to(trio[0].url, trio[1].url, balancer="round-robin", health=health)

    def healthy(name: bytes, status: int) -> object:
        return lambda request: canned(status) if request.target == "/health" else canned(body=name)

    trio[0].answer = healthy(b"a", 200)  # type: ignore[assignment]
    trio[1].answer = healthy(b"b", 200)  # type: ignore[assignment]
    async with gateway.serving("127.0.0.1:0") as served:
        service = served.runtime.services["upstream"]
        assert await ask(served.port, 20) == {b"a": 10, b"b": 10}
        trio[1].answer = healthy(b"b", 500)  # type: ignore[assignment]
        await wait_until(lambda: len(service.available) == 1)
        assert await ask(served.port, 20) == {b"a": 20}
        await trio[0].stop()
        await wait_until(lambda: not service.available)
        async with RawClient(served.url) as client:
            response = await client.request(GET)
            assert response.status == 503
            assert b"no-instance" in response.body
            assert response.value("retry-after") == "1"
        trio[1].answer = healthy(b"b", 204)  # type: ignore[assignment]
        await wait_until(lambda: len(service.available) == 1)
        assert await ask(served.port, 10) == {b"b": 10}
        await trio[0].start()
        await wait_until(lambda: len(service.available) == 2)
        assert await ask(served.port, 10) == {b"a": 5, b"b": 5}
    # Nobody is asked any more.
    asked = len(trio[1].requests)
    await asyncio.sleep(0.15)
    assert len(trio[1].requests) == asked


async def test_an_unreachable_instance_is_avoided_for_a_moment(trio: Trio) -> None:
    gateway = gateway_to(trio[0].url, trio[1].url, balancer="round-robin")
    await trio[0].stop()
    async with gateway.serving("127.0.0.1:0") as served:
        assert await ask(served.port, 50) == {b"b": 50}
        await trio[0].start()

        async def is_back() -> bool:
            return b"a" in await ask(served.port, 4)

        await wait_until(is_back, 5.0)


async def test_a_split_draws_by_weight(trio: Trio) -> None:
    gateway = gateway_to(trio[0].url)
    gateway.service("new", trio[1].url)
    gateway.route(
        "/canary",
        split=[{"service": "upstream", "weight": 9}, {"service": "new", "weight": 1}],
    )
    gateway.route(
        "/off", split=[{"service": "upstream", "weight": 1}, {"service": "new", "weight": 0}]
    )
    async with gateway.serving("127.0.0.1:0") as served:
        found = await ask(served.port, 500, GET.replace(b"/ ", b"/canary ", 1))
        assert 15 < found[b"b"] < 120
        assert await ask(served.port, 100, GET.replace(b"/ ", b"/off ", 1)) == {b"a": 100}
