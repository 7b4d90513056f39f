"""A service that fails, seen by a coroutine that calls it: what is tried again, what is not, and
that the caller is told the truth about it. Real sockets; the service's own record is the witness.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from typing import Any

import pytest

from nexgate.client import (
    ServiceClient,
    ServiceConnectionError,
    ServiceError,
    ServiceUnavailable,
)
from nexgate.errors import Cause
from nexgate.testing import (
    Close,
    ExpectHead,
    Hang,
    RecordedRequest,
    RecordingUpstream,
    ScriptedConnection,
    ScriptedUpstream,
    Send,
    canned,
    wait_until,
)
from nexgate.testing._messages import read_request

OK = canned(body=b"ok")
BUSY = canned(503, b"busy")
LEAVING = canned(503, b"busy", [("Connection", "close")])
SOON = {"backoff_base": "1ms", "backoff_cap": "1ms"}
CHARGES = {"attempts": 3, "methods": ["POST"], "max_replay_bytes": "1KiB", **SOON}
"""Retries of what may do harm twice: the operator says that it does not."""


@contextlib.asynccontextmanager
async def client_of(*urls: str, **options: Any) -> AsyncIterator[ServiceClient]:
    async with ServiceClient(list(urls), "users", **options) as client:
        yield client
        await wait_until(lambda: client.statistics().active == 0)
        bulkhead = client._state.guard.bulkhead
        assert bulkhead is None or bulkhead.active == 0, "a place in the bulkhead was lost"


def answers(*statuses: int) -> Any:
    """Answers with these statuses in turn, and 200 from then on."""
    left = list(statuses)

    def answer(_: RecordedRequest) -> bytes:
        return canned(left.pop(0), b"no") if left else OK

    return answer


async def resets(connection: ScriptedConnection) -> None:
    await read_request(connection)
    connection.reset()


# -------------------------------------------------------------------- what is tried again


async def test_an_answer_says_how_often_the_service_was_asked() -> None:
    async with (
        RecordingUpstream(answers(503, 502)) as upstream,
        client_of(upstream.url, retry={"attempts": 3, **SOON}) as client,
    ):
        assert [(await client.get("/")).attempts for _ in range(2)] == [3, 1]
        upstream.answer = answers(503)
        async with client.stream("GET", "/") as answer:
            assert answer.attempts == 2


async def test_one_that_refuses_is_stepped_over_and_was_not_asked() -> None:
    async with (
        RecordingUpstream(OK) as upstream,
        client_of("http://127.0.0.1:1", upstream.url, balancer="round-robin") as client,
    ):
        answers = [await client.post("/", json=1) for _ in range(6)]
        assert {answer.attempts for answer in answers} == {1}


# -------------------------------------------------------------------- the truth about it


async def test_what_was_sent_once_is_not_safe_to_repeat_when_the_circuit_refuses_the_retry() -> (
    None
):
    async with (
        ScriptedUpstream(resets) as upstream,
        client_of(upstream.url, retry=CHARGES, breaker={"failures": 1}) as client,
    ):
        with pytest.raises(ServiceUnavailable) as caught:
            await client.post("/charge", json=1)
        assert caught.value.cause is Cause.CIRCUIT_OPEN
        assert len(upstream.connections) == 1, "it may have been charged"
        assert (caught.value.attempts, caught.value.retry_safe) == (1, False)
        with pytest.raises(ServiceUnavailable) as caught:
            await client.post("/charge", json=1)
        assert (caught.value.attempts, caught.value.retry_safe) == (0, True)


async def test_what_was_sent_once_is_not_safe_to_repeat_when_nobody_is_there_any_more() -> None:
    async def dies(connection: ScriptedConnection) -> None:
        await read_request(connection)
        await upstream.stop_listening()
        connection.reset()

    async with ScriptedUpstream(dies) as upstream, client_of(upstream.url, retry=CHARGES) as client:
        with pytest.raises(ServiceConnectionError) as caught:
            await client.post("/charge", json=1)
        assert caught.value.cause is Cause.UPSTREAM_UNREACHABLE
        assert (caught.value.attempts, caught.value.retry_safe) == (1, False)


async def test_a_refused_connection_is_safe_to_repeat() -> None:
    async with client_of("http://127.0.0.1:1", retry=CHARGES) as client:
        with pytest.raises(ServiceConnectionError) as caught:
            await client.post("/charge", json=1)
        assert caught.value.cause is Cause.UPSTREAM_UNREACHABLE
        assert (caught.value.attempts, caught.value.retry_safe) == (0, True)


# -------------------------------------------------------------------- streamed content


@pytest.mark.parametrize(
    "script", [resets, [ExpectHead(), Send(LEAVING), Close()]], ids=["dies", "refuses"]
)
async def test_streamed_content_is_never_sent_twice_whatever_may_be_repeated(script: Any) -> None:
    asked = 0

    async def pieces() -> AsyncIterator[bytes]:
        nonlocal asked
        asked += 1
        yield b"a"
        yield b"b"

    async with ScriptedUpstream(script) as upstream, client_of(upstream.url, retry=CHARGES) as c:
        with contextlib.suppress(ServiceConnectionError):
            assert (await c.post("/charge", content=pieces())).status == 503
        assert len(upstream.connections) == asked == 1
        with contextlib.suppress(ServiceConnectionError):
            assert (await c.post("/charge", content=b"ab")).status == 503
        assert len(upstream.connections) == 4, "content that is there as a whole may be"


async def test_streamed_content_goes_elsewhere_while_nothing_of_it_has_left() -> None:
    async def pieces() -> AsyncIterator[bytes]:
        for _ in range(100):
            yield b"x" * 10_000

    async with RecordingUpstream(OK) as upstream:
        urls = ("http://127.0.0.1:1", upstream.url)
        async with client_of(*urls, balancer="round-robin") as client:
            for _ in range(4):
                answer = await client.post("/", content=pieces())
                assert answer.status == 200
                assert len(upstream.last.body) == 1_000_000


async def test_whoever_makes_the_content_cleans_up_before_the_call_is_over() -> None:
    closed = asyncio.Event()

    async def pieces() -> AsyncIterator[bytes]:
        try:
            while True:
                yield b"x" * 65536
        finally:
            closed.set()

    async def reads_nothing(connection: ScriptedConnection) -> None:
        await asyncio.sleep(60)

    async with ScriptedUpstream(reads_nothing) as upstream, client_of(upstream.url) as client:
        call = asyncio.create_task(client.post("/", content=pieces()))
        await wait_until(lambda: upstream.connections)
        await asyncio.sleep(0.1)  # until nothing more fits on the way
        call.cancel()
        with pytest.raises(asyncio.CancelledError):
            await call
        assert closed.is_set()


# -------------------------------------------------------------------- limits


async def test_a_circuit_opens_asks_nobody_and_closes_when_the_service_is_well() -> None:
    breaker = {"failures": 2, "open_for": "100ms", "half_open_calls": 1}
    async with RecordingUpstream(BUSY) as upstream, client_of(upstream.url, breaker=breaker) as c:
        for _ in range(2):
            assert (await c.get("/")).status == 503
        for _ in range(5):
            with pytest.raises(ServiceUnavailable) as caught:
                await c.get("/")
            assert caught.value.retry_safe
        assert len(upstream.requests) == 2
        upstream.answer = OK

        async def is_answered() -> bool:
            try:
                return (await c.get("/")).status == 200
            except ServiceUnavailable:
                return False

        await wait_until(is_answered)
        await c.get("/")
        assert c.statistics().circuit == "closed"


async def test_retries_stay_within_their_budget_when_everything_fails() -> None:
    retry = {"attempts": 3, "budget": 0.1, "min_per_second": 0.0, **SOON}
    async with RecordingUpstream(BUSY) as upstream, client_of(upstream.url, retry=retry) as client:
        for _ in range(3):
            await asyncio.gather(*(client.get("/") for _ in range(100)))
            client._state.tick(asyncio.get_running_loop().time())
        statistics = client.statistics()
        assert 0 < statistics.retries <= 30
        assert len(upstream.requests) == 300 + statistics.retries == statistics.requests


async def test_a_second_attempt_joins_a_slow_one_and_is_counted() -> None:
    async with (
        ScriptedUpstream([ExpectHead(), Hang()]) as slow,
        RecordingUpstream(OK) as quick,
        client_of(slow.url, quick.url, balancer="round-robin", hedge="50ms") as client,
    ):
        for _ in range(4):
            answer = await client.get("/", timeout=5.0)
            assert (answer.status, answer.instance) == (200, quick.url)
        assert client.statistics().hedges >= 1
        await wait_until(lambda: slow.open_connections == 0)


async def test_more_important_calls_get_the_place_first() -> None:
    order: list[str] = []
    bulkhead = {"limit": 1, "queue": 10, "wait": "5s"}
    async with RecordingUpstream(OK) as upstream, client_of(upstream.url, bulkhead=bulkhead) as c:

        async def ask(name: Any) -> None:
            await c.get("/", importance=name)
            order.append(name)

        await c.get("/")
        await asyncio.gather(ask("normal"), ask("low"), ask("normal"), ask("high"))
        assert order == ["normal", "high", "normal", "low"]


# -------------------------------------------------------------------- cancelling


@pytest.mark.parametrize("limit", ["pool", "bulkhead"])
async def test_two_who_wait_are_cancelled_at_once_and_the_third_gets_the_place(limit: str) -> None:
    go = asyncio.Event()

    async def waits(connection: ScriptedConnection) -> None:
        while True:
            await read_request(connection)
            await go.wait()
            await connection.send(OK)

    options: dict[str, Any] = {"bulkhead": {"limit": 1, "queue": 9, "wait": "9s"}}
    if limit == "pool":
        options = {"pool": {"max_connections": 1, "wait": "9s"}}
    breaker = {"failures": 1}
    async with (
        ScriptedUpstream(waits) as upstream,
        client_of(upstream.url, breaker=breaker, **options) as client,
    ):
        calls = [asyncio.create_task(client.get(f"/{n}")) for n in range(4)]
        await wait_until(lambda: upstream.connections)
        calls[1].cancel()
        calls[2].cancel()
        go.set()
        outcomes = await asyncio.gather(*calls, return_exceptions=True)
        assert [getattr(o, "status", type(o)) for o in outcomes] == [
            200,
            asyncio.CancelledError,
            asyncio.CancelledError,
            200,
        ]
        assert client.statistics().circuit == "closed"


async def test_a_cancelled_trial_gives_its_permit_back() -> None:
    """Half-open lets one call through. If its place were lost, the circuit would stay shut."""

    async def hangs(connection: ScriptedConnection) -> None:
        await read_request(connection)
        if is_well:
            await connection.send(OK)
        await asyncio.sleep(60)

    is_well = False
    breaker = {"failures": 1, "open_for": "50ms", "half_open_calls": 1}
    limits: dict[str, Any] = {"breaker": breaker, "timeout": {"first_byte": "100ms"}}
    async with ScriptedUpstream(hangs) as upstream, client_of(upstream.url, **limits) as client:
        with pytest.raises(ServiceError):
            await client.get("/")
        assert client.statistics().circuit == "open"
        seen = len(upstream.connections)
        while len(upstream.connections) == seen:  # until one call is let through
            trial = asyncio.create_task(client.get("/"))
            await asyncio.wait([trial], timeout=0.03)
            trial.cancel()
            await asyncio.gather(trial, return_exceptions=True)
        is_well = True
        assert client.statistics().active == 0

        async def is_answered() -> bool:
            with contextlib.suppress(ServiceUnavailable):
                return (await client.get("/")).status == 200
            return False

        await wait_until(is_answered)
