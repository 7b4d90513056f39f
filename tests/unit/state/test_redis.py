"""A server that is killed, restarted, hangs or says no; and state that goes on without it."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import time
from collections.abc import AsyncIterator

import pytest
from tests.unit.state.servers import Valkey

from nexgate.state import (
    Degrading,
    Lease,
    MemoryState,
    RedisState,
    StateError,
    StateFull,
    StateUnavailable,
)
from nexgate.testing import Fault, FaultProxy, ScriptedUpstream, wait_until


@pytest.fixture
def valkey() -> AsyncIterator[Valkey]:
    with Valkey() as server:
        yield server


@contextlib.asynccontextmanager
async def watching(state: RedisState | Degrading, prefix: str) -> AsyncIterator[list[object]]:
    """What a watch yields, and last what it raised."""
    items: list[object] = []

    async def run() -> None:
        try:
            async with contextlib.aclosing(state.watch(prefix)) as changes:
                async for changed in changes:
                    items.append(changed)
        except StateError as error:
            items.append(error)

    task = asyncio.create_task(run())
    yield items
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)


async def test_a_server_that_is_not_there_is_unavailable_at_once() -> None:
    state = RedisState("redis://user:hunter2@127.0.0.1:1")
    for operation in (state.get("a"), state.set("a", b""), state.scan(""), state.delete("a")):
        with pytest.raises(StateUnavailable) as caught:
            await operation
        assert "hunter2" not in str(caught.value)
        assert "127.0.0.1:1" in str(caught.value)
    with pytest.raises(StateUnavailable):
        await anext(state.watch(""))
    assert state.statistics().outages == 1  # one, however often it is met
    assert state.statistics().failures == 5
    await state.aclose()


async def test_a_server_that_hangs_costs_the_timeout_and_no_more(valkey: Valkey) -> None:
    state = RedisState(valkey.url, timeout=0.3)
    await state.set("a", b"1")
    valkey.freeze()
    try:
        began = time.perf_counter()
        answers = await asyncio.gather(*(state.get("a") for _ in range(40)), return_exceptions=True)
        assert time.perf_counter() - began < 1.0
        assert all(isinstance(answer, StateUnavailable) for answer in answers)
    finally:
        valkey.thaw()

    async def answers_again() -> bool:
        with contextlib.suppress(StateUnavailable):
            return await state.get("a") == b"1"
        return False

    await wait_until(answers_again)
    await state.aclose()


async def test_a_hung_server_is_noticed_by_a_watch_that_is_only_waiting(
    valkey: Valkey, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("nexgate.state._redis._ASK_ALIVE_EVERY", 0.2)
    state = RedisState(valkey.url, timeout=0.3)
    async with watching(state, "w/") as items:
        await wait_until(lambda: items)
        await asyncio.sleep(0.6)  # asked, and answered: still alive
        assert len(items) == 1
        valkey.freeze()
        try:
            await wait_until(lambda: len(items) == 2)
            assert isinstance(items[1], StateUnavailable)
        finally:
            valkey.thaw()
    await state.aclose()


async def test_a_killed_server_ends_the_watch_and_a_restarted_one_is_used_again(
    valkey: Valkey,
) -> None:
    state = RedisState(valkey.url)
    await state.set("w/1", b"1")
    async with watching(state, "w/") as items:
        await wait_until(lambda: items)
        valkey.kill()
        await wait_until(lambda: len(items) == 2, 2)
        assert isinstance(items[1], StateUnavailable)
    valkey.start()
    assert await state.get("w/1") is None  # without persistence it forgot
    await state.set("w/2", b"2")
    async with watching(state, "w/") as items:
        await wait_until(lambda: items == [frozenset({"w/2"})])
    assert state.statistics().outages >= 1
    await state.aclose()


async def test_a_change_that_was_not_published_is_found_by_looking(valkey: Valkey) -> None:
    state, other = RedisState(valkey.url, rescan=0.2), RedisState(valkey.url)
    await other.get("anything")
    async with watching(state, "w/") as items:
        await wait_until(lambda: items)
        await other._client.set("nexgate:w/1", b"by hand")
        await wait_until(lambda: items[-1] == {"w/1"})
        await other._client.flushall()
        await wait_until(lambda: len(items) == 3)
    await state.aclose()
    await other.aclose()


async def test_keys_of_others_are_left_alone(valkey: Valkey) -> None:
    state = RedisState(valkey.url, "mine*:")
    await state.set("a", b"1")
    await state._client.set("mineX:b", b"theirs")
    await state._client.lpush("mine*:list", b"x")
    assert await state.scan("") == {"a": b"1"}
    with pytest.raises(StateError, match="WRONGTYPE"):
        await state.get("list")
    with pytest.raises(StateError):
        await state.set("list", b"")
    await state.aclose()


async def test_a_full_server_and_a_wrong_password_say_what_they_are(valkey: Valkey) -> None:
    state = RedisState(valkey.url)
    await state.get("a")
    await state._client.config_set("maxmemory", "1")
    with pytest.raises(StateFull):
        await state.set("a", b"1")
    await state._client.config_set("maxmemory", "0")
    await state._client.config_set("requirepass", "hunter2")
    wrong = RedisState(valkey.url.replace("//", "//:nothunter@"))
    with pytest.raises(StateError) as caught:
        await wrong.get("a")
    assert "nothunter" not in str(caught.value)
    right = RedisState(valkey.url.replace("//", "//:hunter2@"))
    assert await right.get("a") is None
    for each in (state, wrong, right):
        await each.aclose()


async def test_a_server_that_speaks_nonsense_is_an_error_and_no_hang() -> None:
    async with ScriptedUpstream.replying(b"HTTP/1.1 400 Bad Request\r\n\r\n") as server:
        state = RedisState(f"redis://127.0.0.1:{server.port}", timeout=0.3)
        with pytest.raises(StateError):
            await state.get("a")
        await state.aclose()


async def test_cancelling_an_operation_spoils_no_connection(valkey: Valkey) -> None:
    async with FaultProxy(("127.0.0.1", valkey.port), to_client=Fault(latency=0.02)) as wire:
        state = RedisState(f"redis://127.0.0.1:{wire.port}", max_connections=4)
        for number in range(20):
            await state.set(f"k/{number}", str(number).encode())
        tasks = [asyncio.create_task(state.get(f"k/{n % 20}")) for n in range(60)]
        await asyncio.sleep(0.03)
        for task in tasks[::2]:
            task.cancel()
        answers = await asyncio.gather(*tasks, return_exceptions=True)
        for number, answer in enumerate(answers):
            assert isinstance(answer, asyncio.CancelledError) or answer == b"%d" % (number % 20)
        for number in range(20):
            assert await state.get(f"k/{number}") == str(number).encode()
        await state.aclose()


# --- Degrading ------------------------------------------------------------------------------------


@pytest.fixture
async def degrading(valkey: Valkey) -> AsyncIterator[Degrading]:
    state = Degrading(RedisState(valkey.url, timeout=0.3), pause=0.05, longest_pause=0.2)
    yield state
    await state.aclose()


async def test_a_lost_server_is_said_once_and_the_memory_answers(
    degrading: Degrading, valkey: Valkey, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    await degrading.set("a", b"remote")
    assert not degrading.is_degraded
    valkey.kill()
    for _ in range(20):
        assert await degrading.get("a") is None
    assert degrading.is_degraded
    assert await degrading.add("a", b"local", ttl=60)
    assert not await degrading.add("a", b"again", ttl=60)
    assert await degrading.get("a") == b"local"
    assert await degrading.scan("") == {"a": b"local"}
    assert caplog.text.count("shared state is away") == 1
    assert degrading.statistics().outages == 1
    assert degrading.statistics().is_degraded
    valkey.start()
    await wait_until(lambda: not degrading.is_degraded)
    assert caplog.text.count("shared state is back") == 1
    assert await degrading.get("a") is None  # what was local is gone
    await degrading.set("a", b"2")
    valkey.kill()
    assert await degrading.get("a") is None
    assert caplog.text.count("shared state is away") == 2


async def test_a_watch_survives_going_and_coming_back(degrading: Degrading, valkey: Valkey) -> None:
    await degrading.set("w/1", b"1")
    async with watching(degrading, "w/") as items:
        await wait_until(lambda: items)
        valkey.kill()
        await wait_until(lambda: degrading.is_degraded)
        await wait_until(lambda: len(items) == 2)
        await degrading.set("w/local", b"1")
        await wait_until(lambda: items[-1] == {"w/local"})
        valkey.start()
        await wait_until(lambda: not degrading.is_degraded)
        await degrading.set("w/2", b"1")
        await wait_until(lambda: items[-1] == {"w/2"})
        assert not any(isinstance(item, Exception) for item in items)
    assert degrading.statistics().watchers == 0


async def test_a_watch_begun_without_a_server_sees_it_come(valkey: Valkey) -> None:
    valkey.kill()
    state = Degrading(RedisState(valkey.url, timeout=0.3), pause=0.05)
    async with watching(state, "w/") as items:
        await wait_until(lambda: items == [frozenset()])
        valkey.start()
        other = RedisState(valkey.url)
        await other.set("w/1", b"")
        await wait_until(lambda: items[-1] == {"w/1"})
        await other.aclose()
    await state.aclose()


async def test_a_hung_server_costs_one_timeout(degrading: Degrading, valkey: Valkey) -> None:
    await degrading.set("a", b"1")
    valkey.freeze()
    try:
        await degrading.get("a")
        began = time.perf_counter()
        for _ in range(100):
            await degrading.get("a")
        assert time.perf_counter() - began < 0.1
    finally:
        valkey.thaw()
    await wait_until(lambda: not degrading.is_degraded)
    assert await degrading.get("a") == b"1"


async def test_leases_go_on_without_a_server(degrading: Degrading, valkey: Valkey) -> None:
    lease = await Lease.acquire(degrading, "l", "me", 0.6)
    assert lease is not None
    async with lease:
        valkey.kill()
        await wait_until(lambda: degrading.is_degraded)
        await asyncio.sleep(0.7)
        assert lease.is_held
        valkey.start()
        await wait_until(lambda: not degrading.is_degraded)
        await asyncio.sleep(0.7)
        assert lease.is_held
        assert await degrading.get("l") == b"me"


async def test_a_refusal_is_no_outage(degrading: Degrading) -> None:
    await degrading.get("a")
    await degrading._remote._client.lpush("nexgate:list", b"x")  # type: ignore[attr-defined]
    with pytest.raises(StateError, match="WRONGTYPE"):
        await degrading.get("list")
    assert not degrading.is_degraded


async def test_closing_while_it_is_away_ends_everything(
    degrading: Degrading, valkey: Valkey
) -> None:
    async with watching(degrading, "") as items:
        await wait_until(lambda: items)
        valkey.kill()
        await wait_until(lambda: degrading.is_degraded)
        await degrading.aclose()
    await wait_until(lambda: len(asyncio.all_tasks()) == 1)


async def test_two_at_once_degrade_once() -> None:
    class Away(MemoryState):
        __slots__ = ()

        async def get(self, key: str) -> bytes | None:
            await asyncio.sleep(0.01)
            raise StateUnavailable("away")

    state = Degrading(Away(), pause=10)
    tasks = [asyncio.create_task(state.get("a")) for _ in range(5)]
    await asyncio.sleep(0)
    tasks[0].cancel()
    answers = await asyncio.gather(*tasks, return_exceptions=True)
    assert [a for a in answers[1:] if a is not None] == []
    assert state.statistics().outages == 1
    await state.aclose()


async def test_a_child_after_a_fork_has_connections_of_its_own(
    valkey: Valkey, monkeypatch: pytest.MonkeyPatch
) -> None:
    state = RedisState(valkey.url)
    await state.set("a", b"1")
    before = state._client
    pid = os.getpid()
    monkeypatch.setattr(os, "getpid", lambda: pid + 1)  # as after a fork, without one
    assert await state.get("a") == b"1"
    assert state._client is not before
    await before.aclose(close_connection_pool=True)
    await state.aclose()
