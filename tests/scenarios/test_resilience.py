"""What stands between a client and a service that fails: retries, breaker, bulkhead, hedge,
deadline, fallback, ejection. Real sockets; the upstream's own record is the witness.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from nexgate.gateway import Gateway, Served
from nexgate.testing import (
    ExpectHead,
    Hang,
    RawClient,
    RawResponse,
    RecordedRequest,
    RecordingUpstream,
    Reset,
    ScriptedConnection,
    ScriptedUpstream,
    Send,
    canned,
    wait_until,
)
from nexgate.testing._messages import read_request

OK = canned(body=b"ok")
BUSY = canned(503, b"busy")
GET = b"GET / HTTP/1.1\r\nHost: a\r\n\r\n"
POST = b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\nhello"
PUT = POST.replace(b"POST", b"PUT")
SOON = {"backoff_base": "1ms", "backoff_cap": "1ms"}


@contextlib.asynccontextmanager
async def gateway_before(
    *urls: str, route: dict[str, Any] | None = None, **service: Any
) -> AsyncIterator[Served]:
    gateway = Gateway()
    gateway.service("upstream", *urls, **service)
    gateway.route("/*", "upstream", **(route or {}))
    async with gateway.serving("127.0.0.1:0") as served:
        yield served
        state = served.runtime.services["upstream"]
        await wait_until(lambda: not any(i.active for i in state.instances.values()))
        for guard in (state.guard, *state.guards.values()):
            if guard.bulkhead is not None:
                assert guard.bulkhead.active == 0, "a place in the bulkhead was lost"


async def ask(served: Served, request: bytes = GET, **options: Any) -> RawResponse:
    async with RawClient(served.url) as client:
        return await client.request(request, **options)


def answers(*statuses: int) -> Any:
    """Answers with these statuses in turn, and 200 from then on."""
    left = list(statuses)

    def answer(_: RecordedRequest) -> bytes:
        return canned(left.pop(0), b"no") if left else OK

    return answer


async def resets(connection: ScriptedConnection) -> None:
    await read_request(connection)
    connection.reset()


# -------------------------------------------------------------------- retries


async def test_a_safe_request_is_repeated_until_it_is_answered() -> None:
    async with (
        RecordingUpstream(answers(503, 502)) as upstream,
        gateway_before(upstream.url, retry={"attempts": 3, **SOON}) as served,
    ):
        response = await ask(served)
        assert (response.status, response.body) == (200, b"ok")
        assert len(upstream.requests) == 3


async def test_the_last_answer_is_passed_on_as_it_is() -> None:
    async with (
        RecordingUpstream(BUSY) as upstream,
        gateway_before(upstream.url, retry={"attempts": 3, **SOON}) as served,
    ):
        response = await ask(served)
        assert (response.status, response.body) == (503, b"busy")
        assert len(upstream.requests) == 3


@pytest.mark.parametrize("request_", [POST, PUT], ids=["not idempotent", "with content"])
async def test_what_may_do_harm_is_sent_once(request_: bytes) -> None:
    async with (
        RecordingUpstream(BUSY) as upstream,
        gateway_before(upstream.url, retry={"attempts": 3, **SOON}) as served,
    ):
        assert (await ask(served, request_)).status == 503
        assert len(upstream.requests) == 1


async def test_content_is_sent_again_only_where_the_operator_says_so_and_whole() -> None:
    retry = {"attempts": 3, **SOON, "max_replay_bytes": "1KiB", "methods": ["POST"]}
    async with (
        RecordingUpstream(answers(503)) as upstream,
        gateway_before(upstream.url, retry=retry) as served,
    ):
        assert (await ask(served, POST)).status == 200
        assert [r.body for r in upstream.requests] == [b"hello", b"hello"]
        long = b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 2000\r\n\r\n" + b"x" * 2000
        upstream.answer = answers(503)
        assert (await ask(served, long)).status == 503, "longer than what is kept"
        chunks = b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n"
        upstream.answer = answers(503)
        assert (await ask(served, chunks + b"3\r\nhel\r\n2\r\nlo\r\n0\r\n\r\n")).status == 200
        assert [r.body for r in upstream.requests[-2:]] == [b"hello", b"hello"]


async def test_a_died_connection_is_noticed_by_nobody() -> None:
    async with (
        ScriptedUpstream(resets) as broken,
        RecordingUpstream(OK) as upstream,
        gateway_before(broken.url, upstream.url, balancer="round-robin") as served,
    ):
        for _ in range(6):
            assert (await ask(served)).status == 200
        assert broken.connections


async def test_retry_after_is_kept_and_a_long_one_ends_the_matter() -> None:
    retry = {"attempts": 2, **SOON, "max_retry_after": "2s"}
    busy = canned(503, b"busy", [("Retry-After", "1")])
    async with (
        RecordingUpstream(busy) as upstream,
        gateway_before(upstream.url, retry=retry) as served,
    ):
        loop = asyncio.get_running_loop()
        began = loop.time()
        await ask(served)
        assert len(upstream.requests) == 2
        assert loop.time() - began >= 1.0
        upstream.answer = canned(503, b"busy", [("Retry-After", "60")])
        assert (await ask(served)).status == 503
        assert len(upstream.requests) == 3


async def test_a_try_that_takes_too_long_is_tried_elsewhere() -> None:
    async with (
        ScriptedUpstream([ExpectHead(), Hang()]) as hung,
        RecordingUpstream(OK) as upstream,
        gateway_before(
            hung.url,
            upstream.url,
            balancer="round-robin",
            retry={"attempts": 2, "per_try": "200ms", **SOON},
        ) as served,
    ):
        for _ in range(4):
            assert (await ask(served)).status == 200


async def test_retries_stay_within_the_budget() -> None:
    retry = {"attempts": 3, **SOON, "budget": 0.2, "min_per_second": 1}
    async with (
        RecordingUpstream(BUSY) as upstream,
        gateway_before(upstream.url, retry=retry) as served,
    ):
        service = served.runtime.services["upstream"]
        async with RawClient(served.url) as client:
            for n in range(300):
                await client.request(GET)
                if not n % 50:
                    service.tick(asyncio.get_running_loop().time())
        # 20 % of 300, with a reserve of one a second for ten seconds.
        assert 300 < len(upstream.requests) <= 360
        assert service.retries == len(upstream.requests) - 300


async def test_a_client_that_leaves_while_a_retry_waits_ends_it() -> None:
    retry = {"attempts": 3, "backoff_base": "10s", "backoff_cap": "10s"}
    async with (
        RecordingUpstream(BUSY) as upstream,
        gateway_before(upstream.url, retry=retry) as served,
    ):
        client = RawClient(served.url)
        await client.connect()
        await client.send(GET)
        await upstream.wait_for_requests(1)
        (instance,) = served.runtime.services["upstream"].instances.values()
        await wait_until(lambda: instance.active == 0)
        client.reset()
        await wait_until(lambda: not served.runtime.edge.connections)
        await client.close()
        assert len(upstream.requests) == 1


# -------------------------------------------------------------------- breaker

BREAKER = {"failure_ratio": 0.5, "minimum_calls": 4, "open_for": "300ms", "half_open_calls": 2}


async def test_a_failing_service_gets_a_pause_and_the_clients_an_answer_at_once() -> None:
    async with (
        RecordingUpstream(canned(500)) as upstream,
        gateway_before(upstream.url, breaker=BREAKER) as served,
    ):
        for _ in range(4):
            assert (await ask(served)).status == 500
        refused = await ask(served)
        assert refused.status == 503
        assert b"circuit-open" in refused.body
        assert refused.values("retry-after") == ["1"]
        assert len(upstream.requests) == 4
        upstream.answer = OK
        guard = served.runtime.services["upstream"].guard
        assert guard.breaker is not None
        await wait_until(lambda: guard.breaker.retry_after(asyncio.get_running_loop().time()) <= 0)
        for _ in range(4):
            assert (await ask(served)).status == 200
        assert guard.breaker.state.value == "closed"


async def test_a_herd_at_a_half_open_circuit_gets_exactly_its_trials_through() -> None:
    release = asyncio.Event()
    arrived = 0

    async def service(connection: ScriptedConnection) -> None:
        nonlocal arrived
        while True:
            await read_request(connection)
            arrived += 1
            if arrived > 4:
                await release.wait()
                await connection.send(OK)
            else:
                await connection.send(canned(500))

    async with (
        ScriptedUpstream(service) as upstream,
        gateway_before(upstream.url, breaker=BREAKER) as served,
    ):
        for _ in range(4):
            await ask(served)
        guard = served.runtime.services["upstream"].guard
        await wait_until(lambda: guard.breaker.retry_after(asyncio.get_running_loop().time()) <= 0)
        herd = [asyncio.create_task(ask(served)) for _ in range(60)]
        await wait_until(lambda: sum(t.done() for t in herd) == 58)
        assert arrived == 4 + 2
        release.set()
        statuses = [t.result().status for t in await _all(herd)]
        assert (statuses.count(200), statuses.count(503)) == (2, 58)


async def _all(tasks: list[asyncio.Task[Any]]) -> list[asyncio.Task[Any]]:
    await asyncio.wait(tasks)
    return tasks


async def test_trials_whose_clients_leave_are_given_back() -> None:
    hold = True

    async def service(connection: ScriptedConnection) -> None:
        while True:
            await read_request(connection)
            if hold:
                await connection.read_to_end()
                return
            await connection.send(OK)

    async with (
        ScriptedUpstream(service) as upstream,
        gateway_before(upstream.url, breaker=BREAKER) as served,
    ):
        guard = served.runtime.services["upstream"].guard
        now = asyncio.get_running_loop().time()
        for _ in range(4):
            guard.breaker.record(guard.breaker.acquire(now), False, 0.0, now)
        await wait_until(lambda: guard.breaker.retry_after(asyncio.get_running_loop().time()) <= 0)
        for _ in range(5):  # more than there are trials
            client = RawClient(served.url)
            await client.connect()
            await client.send(GET)
            before = len(upstream.connections)
            await wait_until(lambda before=before: len(upstream.connections) >= before)
            client.reset()
            await client.close()
            await wait_until(lambda: not served.runtime.edge.connections)
        hold = False
        assert (await ask(served)).status == 200


async def test_an_open_circuit_stays_open_over_a_reload() -> None:
    async with (
        RecordingUpstream(canned(500)) as upstream,
        gateway_before(upstream.url, breaker={**BREAKER, "open_for": "1m"}) as served,
    ):
        for _ in range(4):
            await ask(served)
        again = Gateway()
        again.service("upstream", upstream.url, breaker={**BREAKER, "open_for": "50s"})
        again.route("/other", respond=204)
        again.route("/*", "upstream")
        await served.reload(again)
        assert (await ask(served)).status == 503
        assert len(upstream.requests) == 4


async def test_operators_force_a_circuit_open_and_turn_one_off() -> None:
    async with (
        RecordingUpstream(canned(500)) as upstream,
        gateway_before(upstream.url, breaker={**BREAKER, "state": "forced-open"}) as served,
    ):
        assert (await ask(served)).status == 503
        assert not upstream.requests
        again = Gateway()
        again.service("upstream", upstream.url, breaker={**BREAKER, "state": "disabled"})
        again.route("/*", "upstream")
        await served.reload(again)
        for _ in range(8):
            assert (await ask(served)).status == 500


async def test_a_route_with_a_breaker_of_its_own_leaves_the_others_alone() -> None:
    async with RecordingUpstream(lambda r: canned(500) if r.target == "/bad" else OK) as upstream:
        gateway = Gateway()
        gateway.service("upstream", upstream.url)
        gateway.route("/bad", "upstream", breaker=BREAKER)
        gateway.route("/*", "upstream")
        async with gateway.serving("127.0.0.1:0") as served:
            for _ in range(6):
                await ask(served, GET.replace(b"/ ", b"/bad "))
            assert (await ask(served, GET.replace(b"/ ", b"/bad "))).status == 503
            assert (await ask(served)).status == 200


async def test_an_unfinished_answer_is_not_taken_for_an_outcome_twice() -> None:
    """The circuit hears of the head; what becomes of the content is another matter."""
    cut = [ExpectHead(), Send(b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nabc"), Reset()]
    async with (
        ScriptedUpstream(cut) as upstream,
        gateway_before(upstream.url, breaker={**BREAKER, "minimum_calls": 2}) as served,
    ):
        for _ in range(4):
            async with RawClient(served.url) as client:
                await client.send(GET)
                with contextlib.suppress(EOFError, ConnectionError):
                    await client.read_response()
        guard = served.runtime.services["upstream"].guard
        assert guard.breaker.state.value == "closed"


async def test_an_application_in_the_gateways_process_has_a_breaker_too() -> None:
    calls = 0

    async def app(scope: Any, receive: Any, send: Any) -> None:
        nonlocal calls
        assert scope["type"] == "http"
        calls += 1
        raise ValueError("broken")

    gateway = Gateway()
    gateway.service("upstream", app, breaker=BREAKER)
    gateway.route("/*", "upstream")
    async with gateway.serving("127.0.0.1:0") as served:
        statuses = [(await ask(served)).status for _ in range(6)]
        assert statuses == [500, 500, 500, 500, 503, 503]
        assert calls == 4


# -------------------------------------------------------------------- bulkhead


async def test_beyond_the_limit_requests_queue_and_beyond_the_queue_they_are_refused() -> None:
    release = asyncio.Event()

    async def service(connection: ScriptedConnection) -> None:
        while True:
            await read_request(connection)
            await release.wait()
            await connection.send(OK)

    async with (
        ScriptedUpstream(service) as upstream,
        gateway_before(upstream.url, bulkhead={"limit": 2, "queue": 3, "wait": "5s"}) as served,
    ):
        tasks = [asyncio.create_task(ask(served)) for _ in range(9)]
        await wait_until(lambda: sum(t.done() for t in tasks) == 4)
        refused = [t.result() for t in tasks if t.done()]
        assert {r.status for r in refused} == {503}
        assert all(b"overloaded" in r.body and r.values("retry-after") for r in refused)
        (instance,) = served.runtime.services["upstream"].instances.values()
        assert instance.active == 2
        release.set()
        assert sorted(t.result().status for t in await _all(tasks)) == [200] * 5 + [503] * 4


async def test_who_waits_too_long_for_a_place_is_told_so_and_who_leaves_gives_it_up() -> None:
    async with (
        ScriptedUpstream([ExpectHead(), Hang()]) as upstream,
        gateway_before(upstream.url, bulkhead={"limit": 1, "queue": 5, "wait": "200ms"}) as served,
    ):
        first = RawClient(served.url)
        await first.connect()
        await first.send(GET)
        await wait_until(lambda: upstream.connections)
        leaver = RawClient(served.url)
        await leaver.connect()
        await leaver.send(GET)
        guard = served.runtime.services["upstream"].guard
        await wait_until(lambda: guard.bulkhead.waiting == 1)
        leaver.reset()
        await wait_until(lambda: guard.bulkhead.waiting == 0)
        assert (await ask(served)).status == 503
        first.reset()
        await first.close()
        await leaver.close()


async def test_important_requests_are_served_first() -> None:
    order: list[str] = []
    release = asyncio.Event()

    async def service(connection: ScriptedConnection) -> None:
        while True:
            message = await read_request(connection)
            order.append(message.start_line.split()[1])
            await release.wait()
            await connection.send(OK)

    async with ScriptedUpstream(service) as upstream:
        gateway = Gateway()
        gateway.service("upstream", upstream.url, bulkhead={"limit": 1, "queue": 10, "wait": "5s"})
        gateway.route("/low", "upstream", importance="low")
        gateway.route("/normal", "upstream")
        gateway.route("/high", "upstream", importance="high")
        async with gateway.serving("127.0.0.1:0") as served:
            guard = served.runtime.services["upstream"].guard
            tasks = []
            for n, path in enumerate((b"/normal", b"/low", b"/normal", b"/high")):
                tasks.append(asyncio.create_task(ask(served, GET.replace(b"/ ", path + b" "))))
                # The first one is with the service before another comes.
                await wait_until(lambda n=n: guard.bulkhead.waiting == n and len(order) == 1)
            release.set()
            await _all(tasks)
            assert order == ["/normal", "/high", "/normal", "/low"]


# -------------------------------------------------------------------- hedging


async def test_a_slow_answer_is_overtaken_by_a_second_attempt_and_given_up() -> None:
    async with (
        ScriptedUpstream([ExpectHead(), Hang()]) as slow,
        RecordingUpstream(OK) as upstream,
        gateway_before(slow.url, upstream.url, balancer="round-robin", hedge="50ms") as served,
    ):
        for _ in range(4):
            response = await ask(served)
            assert (response.status, response.body) == (200, b"ok")
        assert slow.connections
        await wait_until(lambda: slow.open_connections == 0)
        assert served.runtime.services["upstream"].hedges == len(slow.connections)


async def test_of_two_attempts_that_fail_the_failure_is_told() -> None:
    async with (
        ScriptedUpstream([ExpectHead(), Hang()]) as one,
        ScriptedUpstream([ExpectHead(), Hang()]) as other,
        gateway_before(one.url, other.url, hedge="50ms", timeout={"first_byte": "300ms"}) as served,
    ):
        assert (await ask(served)).status == 504
        assert len(one.connections) + len(other.connections) == 2


async def test_a_bad_answer_of_the_second_attempt_does_not_win() -> None:
    async def slow(connection: ScriptedConnection) -> None:
        await read_request(connection)
        await asyncio.sleep(0.3)
        await connection.send(OK)

    async with (
        ScriptedUpstream(slow) as good,
        RecordingUpstream(BUSY) as bad,
        gateway_before(good.url, bad.url, balancer="round-robin", hedge="50ms") as served,
    ):
        statuses = {(await ask(served)).status for _ in range(2)}
        assert 200 in statuses
        assert bad.requests


async def test_a_client_that_leaves_ends_both_attempts() -> None:
    async with (
        ScriptedUpstream([ExpectHead(), Hang()]) as one,
        ScriptedUpstream([ExpectHead(), Hang()]) as other,
        gateway_before(one.url, other.url, hedge="50ms") as served,
    ):
        client = RawClient(served.url)
        await client.connect()
        await client.send(GET)
        await wait_until(lambda: len(one.connections) + len(other.connections) == 2)
        client.reset()
        await wait_until(lambda: one.open_connections + other.open_connections == 0)
        await client.close()


async def test_only_what_is_harmless_is_hedged() -> None:
    async with (
        ScriptedUpstream([ExpectHead(), Hang()]) as one,
        ScriptedUpstream([ExpectHead(), Hang()]) as other,
        gateway_before(one.url, other.url, hedge="20ms", timeout={"first_byte": "300ms"}) as served,
    ):
        assert (await ask(served, POST)).status == 504
        assert len(one.connections) + len(other.connections) == 1


# -------------------------------------------------------------------- deadlines, fallback


async def test_the_time_that_a_client_waits_is_kept_and_what_is_left_is_passed_on() -> None:
    async with (
        RecordingUpstream(OK) as upstream,
        gateway_before(
            upstream.url, deadline="X-Request-Timeout", timeout={"total": "10s"}
        ) as served,
    ):
        await ask(served, GET[:-2] + b"X-Request-Timeout: 2.5\r\n\r\n")
        (left,) = upstream.last.values("x-request-timeout")
        assert 2.0 < float(left) <= 2.5
        await ask(served, GET[:-2] + b"X-Request-Timeout: 60\r\n\r\n")
        assert 9.0 < float(upstream.last.values("x-request-timeout")[0]) <= 10.0
        await ask(served)
        assert 9.0 < float(upstream.last.values("x-request-timeout")[0]) <= 10.0


async def test_a_service_is_not_asked_for_longer_than_the_client_waits() -> None:
    async with (
        ScriptedUpstream([ExpectHead(), Hang()]) as upstream,
        gateway_before(upstream.url, deadline="X-Request-Timeout") as served,
    ):
        loop = asyncio.get_running_loop()
        began = loop.time()
        response = await ask(served, GET[:-2] + b"X-Request-Timeout: 300ms\r\n\r\n")
        assert response.status == 504
        assert b"total-timeout" in response.body
        assert loop.time() - began < 1.0


async def test_a_fallback_answers_when_the_circuit_is_open_or_nobody_is_there() -> None:
    async with (
        RecordingUpstream(canned(500)) as upstream,
        RecordingUpstream(canned(body=b"old news")) as spare,
    ):
        gateway = Gateway()
        gateway.service("upstream", upstream.url, breaker={**BREAKER, "open_for": "1m"})
        gateway.service("gone", "http://127.0.0.1:1")
        gateway.service("spare", spare.url)
        gateway.route("/gone", "gone", fallback="spare")
        gateway.route("/*", "upstream", fallback="spare")
        async with gateway.serving("127.0.0.1:0") as served:
            statuses = [(await ask(served)).status for _ in range(6)]
            assert statuses == [500, 500, 500, 500, 200, 200]
            assert (await ask(served, POST)).body == b"old news"
            assert spare.last.body == b"hello"
            assert (await ask(served, GET.replace(b"/ ", b"/gone "))).body == b"old news"


async def test_a_fallback_answers_instead_of_a_service_that_says_it_cannot_work() -> None:
    async with (
        RecordingUpstream(BUSY) as upstream,
        RecordingUpstream(canned(body=b"old news")) as spare,
    ):
        gateway = Gateway()
        gateway.service("upstream", upstream.url)
        gateway.service("spare", spare.url)
        gateway.route("/*", "upstream", fallback="spare")
        async with gateway.serving("127.0.0.1:0") as served:
            assert (await ask(served)).body == b"old news"
            # What may have had an effect is not done again elsewhere.
            assert (await ask(served, POST)).status == 503
            assert len(spare.requests) == 1


# -------------------------------------------------------------------- ejection


async def test_an_instance_is_left_alone_after_five_failures_and_asked_again_later() -> None:
    fails = True

    async def service(connection: ScriptedConnection) -> None:
        while True:
            await read_request(connection)
            if fails:
                connection.reset()
                return
            await connection.send(OK)

    async with (
        ScriptedUpstream(service) as broken,
        RecordingUpstream(OK) as upstream,
        gateway_before(
            broken.url, upstream.url, balancer="round-robin", outlier={"eject_for": "500ms"}
        ) as served,
    ):
        for _ in range(30):
            assert (await ask(served)).status == 200
        assert len(broken.connections) == 5
        instance = served.runtime.services["upstream"].instances[broken.url]
        assert not instance.is_available
        fails = False
        await wait_until(lambda: instance.is_available, 5.0)
        for _ in range(4):
            assert (await ask(served)).status == 200
        assert len(broken.connections) > 5


async def test_a_five_hundred_is_an_answer_and_ejects_nobody() -> None:
    async with (
        RecordingUpstream(canned(500)) as one,
        RecordingUpstream(canned(500)) as other,
        gateway_before(one.url, other.url) as served,
    ):
        for _ in range(20):
            assert (await ask(served)).status == 500
        assert all(i.is_available for i in served.runtime.services["upstream"].instances.values())


async def test_the_last_instance_is_never_ejected() -> None:
    async with (
        RecordingUpstream(BUSY) as one,
        RecordingUpstream(BUSY) as other,
        gateway_before(one.url, other.url) as served,
    ):
        for _ in range(40):
            assert (await ask(served)).status == 503
        available = [i.is_available for i in served.runtime.services["upstream"].instances.values()]
        assert sorted(available) == [False, True]


async def test_outlier_ejection_can_be_turned_off() -> None:
    async with (
        RecordingUpstream(BUSY) as one,
        RecordingUpstream(OK) as other,
        gateway_before(one.url, other.url, balancer="round-robin", outlier=False) as served,
    ):
        statuses = [(await ask(served)).status for _ in range(20)]
        assert statuses.count(503) == 10


# -------------------------------------------------------------------- votes


async def test_what_one_gateway_finds_out_the_others_know_where_they_share(
    tmp_path: Path,
) -> None:
    state = f"lmdb:{tmp_path / 'state'}"
    async with (
        RecordingUpstream(BUSY) as bad,
        RecordingUpstream(OK) as good,
        RecordingUpstream(canned(500)) as failing,
    ):

        def gateway() -> Gateway:
            made = Gateway(state=state)
            made.service(
                "upstream", bad.url, good.url, balancer="round-robin", outlier={"share": True}
            )
            made.service(
                "failing", failing.url, breaker={**BREAKER, "open_for": "1m", "share": True}
            )
            made.service("alone", failing.url, breaker={**BREAKER, "open_for": "1m"})
            made.route("/failing", "failing")
            made.route("/alone", "alone")
            made.route("/*", "upstream")
            return made

        async with (
            gateway().serving("127.0.0.1:0") as one,
            gateway().serving("127.0.0.1:0") as other,
        ):
            for _ in range(12):
                await ask(one)
            for path in (b"/failing ", b"/alone "):
                for _ in range(5):
                    await ask(one, GET.replace(b"/ ", path))
            instance = other.runtime.services["upstream"].instances[bad.url]
            await wait_until(lambda: not instance.is_available)
            breaker = other.runtime.services["failing"].guard.breaker
            await wait_until(lambda: breaker.state.value == "open")
            assert (await ask(other, GET.replace(b"/ ", b"/failing "))).status == 503
            assert (await ask(other, GET.replace(b"/ ", b"/alone "))).status == 500


# -------------------------------------------------------------------- attacks on it


async def test_slow_clients_cannot_have_an_instance_ejected_or_a_circuit_opened() -> None:
    async with (
        RecordingUpstream(OK) as one,
        RecordingUpstream(OK) as other,
        gateway_before(
            one.url, other.url, breaker={"failures": 3}, timeout={"total": "300ms"}
        ) as served,
    ):
        slow = b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 100\r\n\r\nabc"
        responses = await asyncio.gather(*(ask(served, slow) for _ in range(12)))
        assert {r.status for r in responses} == {504}
        service = served.runtime.services["upstream"]
        assert all(i.is_available for i in service.instances.values())
        assert service.guard.breaker.state.value == "closed"
        assert (await ask(served)).status == 200


async def test_a_request_does_not_wander_through_a_thousand_dead_instances() -> None:
    dead = [f"http://127.0.0.1:{port}" for port in range(1, 200)]
    async with gateway_before(*dead) as served:
        assert (await ask(served)).status == 502
        service = served.runtime.services["upstream"]
        assert sum(i.total_requests for i in service.instances.values()) == 10


async def test_a_new_instance_gets_its_share_step_by_step() -> None:
    async with (
        RecordingUpstream(OK) as one,
        RecordingUpstream(OK) as other,
        gateway_before(one.url, balancer="random", outlier={"slow_start": "10s"}) as served,
    ):
        again = Gateway()
        again.service(
            "upstream", one.url, other.url, balancer="random", outlier={"slow_start": "10s"}
        )
        again.route("/*", "upstream")
        await served.reload(again)
        service = served.runtime.services["upstream"]
        loop = asyncio.get_running_loop()
        weights = []
        for seconds in (0, 5, 11):
            service.tick(loop.time() + seconds)
            weights.append(service.instances[other.url].weight)
        assert weights[0] == pytest.approx(0.1)
        assert weights[1] == pytest.approx(0.5, abs=0.1)
        assert weights[2] == 1.0
        assert service.instances[one.url].weight == 1.0


async def test_a_bad_instance_among_good_ones_is_ejected_by_its_share_of_failures() -> None:
    """Every second answer fails, so never five in a row."""
    turn = 0

    def every_other(_: RecordedRequest) -> bytes:
        nonlocal turn
        turn += 1
        return BUSY if turn % 2 else OK

    async with (
        RecordingUpstream(every_other) as bad,
        RecordingUpstream(OK) as good,
        gateway_before(bad.url, good.url, balancer="round-robin") as served,
    ):
        service = served.runtime.services["upstream"]
        loop = asyncio.get_running_loop()
        service.tick(loop.time())
        async with RawClient(served.url) as client:
            for _ in range(100):
                await client.request(GET)
        assert service.instances[bad.url].is_available
        service.tick(loop.time() + 11)
        assert not service.instances[bad.url].is_available
        assert service.instances[good.url].is_available
