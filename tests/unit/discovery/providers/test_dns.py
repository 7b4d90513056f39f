"""A DNS server that answers, is empty, lies, truncates and is silent."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest
from tests.unit.discovery.providers.servers import DnsServer

from nexgate.discovery import DnsProvider, Followed, follow
from nexgate.testing import free_port, wait_until

REFUSED, SERVFAIL = 5, 2


@pytest.fixture
async def server() -> AsyncIterator[DnsServer]:
    async with DnsServer() as made:
        made.zone = {("api.test.", "A"): ["10.0.0.1", "10.0.0.2"]}
        yield made


@pytest.fixture
async def following(server: DnsServer) -> AsyncIterator[Callable[..., Followed]]:
    made: list[Followed] = []

    def start(host: str = "api.test.", **options: Any) -> Followed:
        options = {
            "nameserver": server.address,
            "min_ttl": 0.05,
            "timeout": 0.5,
            "grace": 0.3,
            **options,
        }
        if options.get("records") != "srv":
            options.setdefault("port", 80)
        made.append(follow(DnsProvider("api", host, **options), pause=0.05, longest_pause=0.1))
        return made[-1]

    yield start
    for followed in made:
        await followed.aclose()


def urls(followed: Followed) -> list[str]:
    return [i.url for i in followed.instances]


async def test_addresses_of_both_families_are_instances(
    server: DnsServer, following: Callable[..., Followed]
) -> None:
    server.zone["api.test.", "AAAA"] = ["fd00::1"]
    followed = following()
    await followed.wait_answered(2)
    assert urls(followed) == ["http://10.0.0.1:80", "http://10.0.0.2:80", "http://[fd00::1]:80"]
    six = following(family="ipv6", scheme="https", port=8443)
    await six.wait_answered(2)
    assert urls(six) == ["https://[fd00::1]:8443"]


async def test_a_ttl_of_zero_is_no_flood_and_changes_are_seen(
    server: DnsServer, following: Callable[..., Followed]
) -> None:
    followed = following(min_ttl=0.1, family="ipv4")
    await followed.wait_answered(2)
    server.zone["api.test.", "A"] = ["10.0.0.3"]
    await wait_until(lambda: urls(followed) == ["http://10.0.0.3:80"])
    before = len(server.asked)
    await asyncio.sleep(0.5)
    assert len(server.asked) - before <= 6


async def test_a_ttl_of_a_day_is_not_believed(
    server: DnsServer, following: Callable[..., Followed]
) -> None:
    server.ttl = 86400
    followed = following(max_ttl=0.1)
    await followed.wait_answered(2)
    server.zone["api.test.", "A"] = ["10.0.0.3"]
    await wait_until(lambda: urls(followed) == ["http://10.0.0.3:80"])


async def test_the_ttl_is_kept(server: DnsServer, following: Callable[..., Followed]) -> None:
    server.ttl = 30
    followed = following()
    await followed.wait_answered(2)
    await asyncio.sleep(0.3)
    assert len(server.asked) == 2


@pytest.mark.parametrize("gone", [{}, {("api.test.", "TXT"): ["x"]}], ids=["nxdomain", "empty"])
async def test_a_name_that_is_gone_is_believed_after_the_grace_only(
    server: DnsServer,
    following: Callable[..., Followed],
    gone: dict[Any, Any],
    caplog: pytest.LogCaptureFixture,
) -> None:
    followed = following(grace=0.4)
    await followed.wait_answered(2)
    server.zone = gone
    await wait_until(lambda: followed.status.state == "stale")
    assert len(followed.instances) == 2
    assert "no records" in (followed.status.error or "")
    await wait_until(lambda: followed.instances == ())
    assert followed.status.state == "connected"
    assert caplog.text.count("are kept") == 1


async def test_a_name_that_comes_back_in_time_was_never_gone(
    server: DnsServer, following: Callable[..., Followed]
) -> None:
    followed = following(grace=None)
    await followed.wait_answered(2)
    kept, server.zone = server.zone, {}
    await wait_until(lambda: followed.status.state == "stale")
    await asyncio.sleep(0.3)
    assert len(followed.instances) == 2
    server.zone = kept
    await wait_until(lambda: followed.status.state == "connected")
    assert followed.status.sets == 1


async def test_a_name_that_never_was_is_nobody_at_once(
    following: Callable[..., Followed],
) -> None:
    followed = following("other.test.")
    assert await followed.wait_answered(2)
    assert followed.instances == ()


@pytest.mark.parametrize(
    "spoil",
    [
        lambda data, over: None,
        lambda data, over: data[:2] + b"\xff" * 30,
        lambda data, over: data[:20],
        lambda data, over: b"",
        lambda data, over: bytes([data[0] ^ 1]) + data[1:],
        lambda data, over: random.Random(1).randbytes(200),
    ],
    ids=["silence", "garbage", "short", "nothing", "another-id", "noise"],
)
async def test_no_answer_and_a_lie_are_never_an_empty_set(
    server: DnsServer, following: Callable[..., Followed], spoil: Any
) -> None:
    followed = following(timeout=0.2)
    await followed.wait_answered(2)
    honest, server.spoil = server.spoil, spoil
    await wait_until(lambda: followed.status.state == "stale")
    await asyncio.sleep(0.5)
    assert len(followed.instances) == 2
    server.spoil = honest
    await wait_until(lambda: followed.status.state == "connected")


@pytest.mark.parametrize("code", [REFUSED, SERVFAIL])
async def test_a_refusal_is_not_an_empty_set(
    server: DnsServer, following: Callable[..., Followed], code: int
) -> None:
    followed = following(family="ipv4", timeout=0.2)
    await followed.wait_answered(2)
    server.zone["api.test.", "A"] = code
    await wait_until(lambda: followed.status.state == "stale")
    assert len(followed.instances) == 2


async def test_a_server_without_aaaa_hides_nothing_and_takes_nothing_away(
    server: DnsServer, following: Callable[..., Followed]
) -> None:
    server.zone["api.test.", "AAAA"] = SERVFAIL
    followed = following(timeout=0.2)
    await followed.wait_answered(2)
    assert len(followed.instances) == 2
    server.zone["api.test.", "AAAA"] = ["fd00::1"]
    await wait_until(lambda: len(followed.instances) == 3)
    server.zone["api.test.", "AAAA"] = SERVFAIL
    await wait_until(lambda: followed.status.state == "stale")
    assert len(followed.instances) == 3


async def test_a_truncated_answer_is_asked_for_again_over_tcp(
    server: DnsServer, following: Callable[..., Followed]
) -> None:
    server.truncate_udp = True
    server.zone["api.test.", "A"] = [f"10.0.{n // 250}.{n % 250 + 1}" for n in range(900)]
    followed = following(family="ipv4", timeout=2.0)
    await followed.wait_answered(3)
    assert len(followed.instances) == 900
    assert ("api.test.", "A", "tcp") in server.asked


async def test_srv_records_have_ports_and_weights_and_one_priority(
    server: DnsServer, following: Callable[..., Followed]
) -> None:
    server.zone = {
        ("_http._tcp.api.test.", "SRV"): [
            "10 5 8001 one.test.",
            "10 0 8002 two.test.",
            "10 7 0 two.test.",
            "20 9 8003 three.test.",
        ],
        ("one.test.", "A"): ["10.0.0.1", "10.0.0.2"],
        ("two.test.", "AAAA"): ["fd00::2"],
        ("three.test.", "A"): ["10.0.0.3"],
    }
    followed = following("_http._tcp.api.test.", records="srv")
    await followed.wait_answered(2)
    assert {(i.url, i.weight) for i in followed.instances} == {
        ("http://10.0.0.1:8001", 5),
        ("http://10.0.0.2:8001", 5),
        ("http://[fd00::2]:8002", 1),
    }
    server.zone["_http._tcp.api.test.", "SRV"] = ["20 9 8003 three.test."]
    await wait_until(lambda: urls(followed) == ["http://10.0.0.3:8003"])
    server.zone["_http._tcp.api.test.", "SRV"] = ["0 0 0 ."]  # decidedly not available
    await wait_until(lambda: followed.status.state == "stale")
    await wait_until(lambda: followed.instances == ())


async def test_a_nameserver_that_is_not_there_is_connecting_with_a_reason(
    following: Callable[..., Followed],
) -> None:
    followed = following(nameserver=f"127.0.0.1:{free_port()}", timeout=0.2)
    await wait_until(lambda: followed.status.restarts > 0)
    assert followed.status.state == "connecting"
    assert "api.test." in (followed.status.error or "")


async def test_cancelling_while_it_waits_for_an_answer_ends_it(
    server: DnsServer, following: Callable[..., Followed]
) -> None:
    server.spoil = lambda data, over: None
    first, second = following(timeout=30.0), following(timeout=30.0)
    await wait_until(lambda: len(server.asked) >= 4)
    await first.aclose()
    assert second.status.state == "connecting"


@pytest.mark.parametrize("bad", ["", "ns.test", "10.0.0.1:x", "10.0.0.1:0", "[::1", "1.2.3"])
def test_a_nameserver_is_an_address(bad: str) -> None:
    with pytest.raises(ValueError):
        DnsProvider("api", "h", port=1, nameserver=bad)


def test_addresses_need_a_port() -> None:
    with pytest.raises(ValueError, match="port"):
        DnsProvider("api", "h")
