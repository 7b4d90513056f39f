"""Balancers spread as they say, at a cost that does not depend on the number of instances."""

from __future__ import annotations

import random
from collections import Counter
from typing import Any

import pytest
from tests.conftest import gateway_to

from nexgate.testing import RawClient, RecordingUpstream, wait_until
from nexgate.upstream.balancer import (
    ConsistentHash,
    LeastRequests,
    PeakEwma,
    PeakLatency,
    RoundRobin,
    WeightedRandom,
)


class FakeInstance:
    def __init__(self, name: str, weight: float = 1.0, active: int = 0) -> None:
        self.url = name
        self.weight = weight
        self.active = active
        self.is_available = True
        self.latency: PeakLatency | None = None

    def __repr__(self) -> str:
        return self.url


class FakeExchange:
    def __init__(self, client: str) -> None:
        self.client = client


def rebuilt(balancer: Any, instances: list[FakeInstance]) -> Any:
    balancer.rebuild(instances, [i for i in instances if i.is_available])
    return balancer


def shares(balancer: Any, count: int = 20_000) -> Counter[str]:
    return Counter(balancer.pick(FakeExchange(str(n))).url for n in range(count))


@pytest.mark.parametrize("make", [LeastRequests, WeightedRandom, RoundRobin])
def test_equal_weights_are_equal_shares(make: Any) -> None:
    draw = random.Random(1).random
    counted = shares(rebuilt(make(draw), [FakeInstance(str(n)) for n in range(5)]))
    assert all(3600 < n < 4400 for n in counted.values())


@pytest.mark.parametrize("make", [LeastRequests, WeightedRandom, RoundRobin])
def test_weights_are_shares(make: Any) -> None:
    draw = random.Random(1).random
    balancer = rebuilt(make(draw), [FakeInstance("a", 1), FakeInstance("b", 3)])
    counted = shares(balancer)
    # Least requests compares load per weight on top of the draw, so the heavy one gets a bit more.
    assert 0.70 < counted["b"] / 20_000 < 0.95


def test_round_robin_interleaves_instead_of_bursting() -> None:
    balancer = rebuilt(
        RoundRobin(lambda: 0.0), [FakeInstance("a", 5), FakeInstance("b", 1), FakeInstance("c", 1)]
    )
    turns = "".join(balancer.pick(FakeExchange("")).url for _ in range(70))
    assert (turns.count("a"), turns.count("b"), turns.count("c")) == (50, 10, 10)
    assert "aaaaa" not in turns


def test_least_requests_avoids_the_busy() -> None:
    busy = FakeInstance("busy", active=100)
    balancer = rebuilt(LeastRequests(random.Random(1).random), [busy, FakeInstance("idle")])
    assert shares(balancer, 1000) == {"idle": 1000}


def test_ewma_prefers_the_quick_and_sends_one_probe_to_the_unknown() -> None:
    quick, slow, new = FakeInstance("quick"), FakeInstance("slow"), FakeInstance("new", active=1)
    for instance, seconds in ((quick, 0.01), (slow, 0.5)):
        instance.latency = PeakLatency(10.0)
        instance.latency.observe(200, seconds, 100.0)
    new.latency = PeakLatency(10.0)
    counted = shares(rebuilt(PeakEwma(random.Random(1).random), [quick, slow, new]), 3000)
    assert counted["quick"] > counted["slow"] > counted["new"] == 0


def test_quick_errors_do_not_look_quick() -> None:
    latency = PeakLatency(10.0)
    latency.observe(503, 0.001, 0.0)
    assert latency.seconds >= 1.0
    latency.observe(200, 0.001, 10.0)
    assert latency.seconds == pytest.approx(0.5, abs=0.01)


def test_consistent_hash_moves_only_the_keys_of_what_left() -> None:
    instances = [FakeInstance(f"http://10.0.0.{n}") for n in range(10)]
    balancer = rebuilt(ConsistentHash("client"), instances)
    keys = [FakeExchange(f"client-{n}") for n in range(5000)]
    before = [balancer.pick(k) for k in keys]
    counted = Counter(i.url for i in before)
    assert max(counted.values()) < 2 * min(counted.values())
    instances[3].is_available = False
    rebuilt(balancer, instances)
    after = [balancer.pick(k) for k in keys]
    moved = [b for b, a in zip(before, after, strict=True) if b is not a]
    assert set(moved) == {instances[3]}
    instances[3].is_available = True
    assert [balancer.pick(k) for k in keys] == before
    rebuilt(balancer, instances[:3] + instances[4:])
    gone = [balancer.pick(k) for k in keys]
    assert all(a is b for a, b in zip(gone, before, strict=True) if b is not instances[3])


async def test_a_sticky_cookie_keeps_a_client_where_it_was(upstream: RecordingUpstream) -> None:
    async with RecordingUpstream() as other:
        gateway = gateway_to(upstream.url, other.url, balancer="sticky-cookie")
        async with gateway.serving("127.0.0.1:0") as served, RawClient(served.url) as client:
            response = await client.request(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")
            cookie = response.value("set-cookie") or ""
            assert cookie.startswith("nexgate_affinity=")
            assert "HttpOnly" in cookie
            assert "127.0.0.1" not in cookie
            pair = cookie.partition(";")[0]
            for _ in range(20):
                again = await client.request(
                    f"GET / HTTP/1.1\r\nHost: a\r\nCookie: x=1; {pair}\r\n\r\n".encode()
                )
                assert again.value("set-cookie") is None
            assert {len(upstream.requests), len(other.requests)} == {21, 0}
            # Its instance is gone: another takes over, and says so.
            chosen = upstream if upstream.requests else other
            await chosen.stop()
            again = await client.request(
                f"GET / HTTP/1.1\r\nHost: a\r\nCookie: {pair}\r\n\r\n".encode()
            )
            assert again.status == 200
            assert again.value("set-cookie") is not None


async def test_a_probe_takes_an_instance_out_and_back(upstream: RecordingUpstream) -> None:
    from nexgate.testing import canned

    upstream.answer = lambda request: canned(200 if request.target != "/health" or healthy else 500)
    healthy = True
    health = {
        "path": "/health",
        "interval": "50ms",
        "timeout": "1s",
        "unhealthy_after": 2,
        "healthy_after": 2,
    }
    gateway = gateway_to(upstream.url, health=health)
    wire = b"GET / HTTP/1.1\r\nHost: a\r\n\r\n"
    async with gateway.serving("127.0.0.1:0") as served, RawClient(served.url) as client:
        assert (await client.request(wire)).status == 200  # healthy until proven otherwise
        instance = served.runtime.services["upstream"].instances[upstream.url]
        healthy = False
        await wait_until(lambda: not instance.is_healthy)
        response = await client.request(wire)
        assert response.status == 503
        assert b"no-instance" in response.body
        healthy = True
        await wait_until(lambda: instance.is_healthy)
        assert (await client.request(wire)).status == 200
