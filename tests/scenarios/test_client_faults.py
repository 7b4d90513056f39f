"""A client of a service behind a wire that misbehaves: every call ends, with its own answer or with
an error that says what happened, and afterwards everything works as before.
"""

from __future__ import annotations

import asyncio
import random
import ssl
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import trustme

from nexgate.client import (
    Propagation,
    ServiceClient,
    ServiceConnectionError,
    ServiceError,
    ServiceTimeout,
)
from nexgate.discovery import ServiceInstance, ServiceRegistry
from nexgate.errors import Cause
from nexgate.testing import (
    Fault,
    FaultProxy,
    RecordedRequest,
    RecordingUpstream,
    canned,
    wait_until,
)

OK = canned(body=b"ok")


def echo(request: RecordedRequest) -> bytes:
    """The target and the content, so that an answer shows whose it is; some of it long."""
    mine = request.target.encode() + b"|" + request.body
    return canned(body=mine * (1 + len(mine) % 3 * 2000))


def is_own(answer: Any, target: str, content: bytes) -> bool:
    mine = target.encode() + b"|" + content
    body: bytes = answer.body
    return len(body) % len(mine) == 0 and body == mine * (len(body) // len(mine))


async def drained(client: ServiceClient) -> None:
    await wait_until(lambda: client.statistics().active == 0)
    assert not client._under_way


# -------------------------------------------------------------------- a bad wire


@pytest.mark.parametrize(
    ("fault", "kind", "cause"),
    [
        (Fault(reset_after_bytes=0), ServiceConnectionError, Cause.UPSTREAM_CLOSED),
        (Fault(reset_after_bytes=100), ServiceConnectionError, Cause.UPSTREAM_CUT),
        (Fault(cut_after_bytes=0), ServiceConnectionError, Cause.UPSTREAM_CLOSED),
        (Fault(cut_after_bytes=20), ServiceConnectionError, Cause.UPSTREAM_MALFORMED),
        (Fault(cut_after_bytes=100), ServiceConnectionError, Cause.UPSTREAM_CUT),
        (Fault(hang_after_bytes=0), ServiceTimeout, Cause.UPSTREAM_FIRST_BYTE_TIMEOUT),
        (Fault(hang_after_bytes=100), ServiceTimeout, Cause.UPSTREAM_STALLED),
    ],
)
async def test_whatever_breaks_is_told_apart_and_the_next_call_is_well(
    fault: Fault, kind: type[ServiceError], cause: Cause
) -> None:
    timeout = {"first_byte": "200ms", "body": "200ms"}
    async with (
        RecordingUpstream(canned(body=b"x" * 5000)) as upstream,
        FaultProxy(upstream.url) as wire,
        ServiceClient([wire.url], "users", timeout=timeout) as client,
    ):
        wire.to_client = fault
        with pytest.raises(kind) as caught:
            await client.post("/", json=1)
        assert caught.value.cause is cause
        assert (caught.value.service, caught.value.instance) == ("users", wire.url)
        assert not caught.value.retry_safe
        assert "users" in str(caught.value)
        assert wire.url in str(caught.value)
        wire.to_client = Fault()
        assert len((await client.post("/", json=1)).body) == 5000
        await drained(client)


async def test_bytes_that_drip_are_an_answer_like_any_other() -> None:
    async with (
        RecordingUpstream(echo) as upstream,
        FaultProxy(upstream.url, to_client=Fault(drip=True), to_target=Fault(drip=True)) as wire,
        ServiceClient([wire.url], "users") as client,
    ):
        answers = await asyncio.gather(*(client.put(f"/{n}", content=b"c") for n in range(5)))
        assert all(is_own(a, f"/{n}", b"c") for n, a in enumerate(answers))


async def test_a_service_that_is_away_for_a_while_is_found_again() -> None:
    async with (
        RecordingUpstream(OK) as upstream,
        FaultProxy(upstream.url) as wire,
        ServiceClient([wire.url], "users") as client,
    ):
        assert (await client.get("/")).ok
        await wire.refuse()
        wire.fault = Fault(reset_after_bytes=0)
        with pytest.raises(ServiceConnectionError):
            await client.get("/")
        wire.fault = Fault()
        await wire.accept()
        assert (await client.get("/")).ok, "waiting would be no better than asking"


# -------------------------------------------------------------------- many at once


async def test_answers_stay_with_their_calls_while_others_are_cancelled_and_connections_break() -> (
    None
):
    """On kept connections an answer that nobody took would be the next caller's."""
    draw = random.Random(14)
    outcomes: Counter[str] = Counter()
    async with (
        RecordingUpstream(echo) as a,
        RecordingUpstream(echo) as b,
        FaultProxy(a.url, to_client=Fault(jitter=0.01), seed=1) as wire,
        ServiceClient(
            [wire.url, b.url],
            "users",
            retry={"attempts": 3, "backoff_base": "1ms"},
            bulkhead={"limit": 50, "queue": 2000, "wait": "20s"},
            pool={"max_connections": 20},
        ) as client,
    ):

        async def ask(n: int) -> None:
            content = b"%d" % n * draw.randrange(1, 50)
            call = asyncio.ensure_future(client.post(f"/{n}", content=content))
            if draw.random() < 0.3:
                await asyncio.sleep(draw.random() * 0.2)
                call.cancel()
            try:
                answer = await call
            except asyncio.CancelledError:
                outcomes["cancelled"] += 1
            except ServiceConnectionError:
                outcomes["failed"] += 1
            else:
                assert is_own(answer, f"/{n}", content), n
                outcomes["answered"] += 1

        async def disturb() -> None:
            while True:
                await asyncio.sleep(0.05)
                wire.to_client = Fault(reset_after_bytes=draw.randrange(50, 5000))
                await asyncio.sleep(0.02)
                wire.to_client = Fault(jitter=0.01)

        trouble = asyncio.create_task(disturb())
        await asyncio.gather(*(ask(n) for n in range(1500)))
        trouble.cancel()
        assert outcomes["answered"] > 700, outcomes
        assert outcomes["cancelled"] > 50, outcomes
        await drained(client)
        bulkhead = client._state.guard.bulkhead
        assert bulkhead is not None
        assert (bulkhead.active, bulkhead.waiting) == (0, 0)
        assert (await client.get("/after")).body.startswith(b"/after|")


async def test_a_client_that_is_closed_among_a_thousand_calls_ends_them_all() -> None:
    async with (
        RecordingUpstream(echo) as upstream,
        FaultProxy(upstream.url, to_client=Fault(latency=0.05)) as wire,
    ):
        client = ServiceClient([wire.url], "users", pool={"max_connections": 50})
        calls = [asyncio.ensure_future(client.get(f"/{n}")) for n in range(1000)]
        await wait_until(lambda: any(call.done() for call in calls))
        await client.aclose()
        outcomes = await asyncio.gather(*calls, return_exceptions=True)
        kinds = Counter(type(outcome).__name__ for outcome in outcomes)
        assert kinds.keys() == {"ServiceResponse", "ServiceConnectionError"}, kinds
        await wait_until(lambda: upstream.open_connections == 0)


# -------------------------------------------------------------------- instances


async def test_instances_come_and_go_and_no_call_is_lost(tmp_path: Path) -> None:
    async with (
        RecordingUpstream(echo) as a,
        RecordingUpstream(echo) as b,
        RecordingUpstream(echo) as c,
        ServiceRegistry(f"lmdb:{tmp_path}/state") as registry,
        ServiceRegistry(f"lmdb:{tmp_path}/state") as own,
        ServiceClient(own, "users", balancer="round-robin") as client,
    ):

        async def is_there(name: str, url: str) -> None:
            await registry.register("users", ServiceInstance(name, "users", url))

        await is_there("a", a.url)
        await wait_until(lambda: client.statistics().instances == 1)
        done = 0
        enough = asyncio.Event()

        async def keep_asking() -> None:
            nonlocal done
            while not enough.is_set():
                target = f"/{done}"
                assert is_own(await client.post(target, content=b"x"), target, b"x")
                done += 1

        callers = [asyncio.create_task(keep_asking()) for _ in range(10)]
        await is_there("b", b.url)
        await wait_until(lambda: b.requests)
        await registry.unregister("users", "a")
        await is_there("c", c.url)
        await wait_until(lambda: c.requests)
        await registry.unregister("users", "b")
        await wait_until(lambda: client.statistics().instances == 1)
        seen = len(c.requests)
        await wait_until(lambda: len(c.requests) > seen + 100)
        enough.set()
        await asyncio.gather(*callers)
        found = client.statistics()
        assert [each.url for each in found.by_instance] == [c.url]
        assert found.requests == len(a.requests) + len(b.requests) + len(c.requests)
        await drained(client)


async def test_an_instance_is_called_by_https_and_who_it_is_is_verified(tmp_path: Path) -> None:
    ours, other = trustme.CA(), trustme.CA()
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    ours.issue_cert("127.0.0.1").configure_cert(context)
    for authority, name in ((ours, "ours.pem"), (other, "other.pem")):
        authority.cert_pem.write_to_path(str(tmp_path / name))
    async with RecordingUpstream(echo, ssl=context) as upstream:
        assert upstream.url.startswith("https://")
        trust = {"ca": str(tmp_path / "ours.pem")}
        async with ServiceClient([upstream.url], "users", tls=trust) as client:
            answers = await asyncio.gather(*(client.get(f"/{n}") for n in range(50)))
            assert all(is_own(a, f"/{n}", b"") for n, a in enumerate(answers))
        distrust = {"ca": str(tmp_path / "other.pem")}
        async with ServiceClient([upstream.url], "users", tls=distrust) as client:
            with pytest.raises(ServiceConnectionError) as caught:
                await client.post("/", json=1)
            assert caught.value.cause is Cause.UPSTREAM_TLS
            assert caught.value.retry_safe
        assert len(upstream.requests) == 50


# -------------------------------------------------------------------- what a request carries


async def test_what_a_request_carries_stays_its_own_among_many() -> None:
    """Two hops, interleaved: a context that leaked would put one trace on the other's call."""
    async with RecordingUpstream(OK) as far, ServiceClient([far.url], "far") as client:

        async def app(scope: Any, receive: Any, send: Any) -> None:
            await asyncio.sleep(random.Random(scope["path"]).random() * 0.02)
            await client.get(scope["path"])

        middleware = Propagation(app)

        async def serve(n: int, kind: str) -> None:
            fields = [(b"Traceparent", b"00-%d" % n), (b"X-Request-ID", b"id-%d" % n)]
            scope = {"type": kind, "path": f"/{n}", "headers": fields}
            await middleware(scope, None, None)

        kinds = ("http", "websocket")
        await asyncio.gather(*(serve(n, kinds[n % 2]) for n in range(200)))
        assert len(far.requests) == 200
        for request in far.requests:
            n = request.target.removeprefix("/")
            assert request.values("traceparent") == [f"00-{n}"]
            assert request.values("x-request-id") == [f"id-{n}"]
