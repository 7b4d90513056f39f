"""What every store promises, asked of every store."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest
from tests.unit.state.servers import Valkey

from nexgate.state import (
    Degrading,
    LmdbState,
    LocalState,
    MemoryState,
    RedisState,
    State,
    StateError,
)
from nexgate.testing import wait_until


@pytest.fixture(scope="module")
def valkey() -> AsyncIterator[Valkey]:
    with Valkey() as server:
        yield server


@pytest.fixture(params=["memory", "lmdb", "valkey", "degrading"])
async def pair(
    request: pytest.FixtureRequest, tmp_path: Path, valkey: Valkey
) -> AsyncIterator[tuple[State, State]]:
    """Two views of one store, as two processes would have them."""
    kind = request.param
    if kind == "memory":
        one: State = MemoryState()
        two = one
    elif kind == "lmdb":
        one, two = LmdbState(tmp_path / "s"), LmdbState(tmp_path / "s")
    else:
        prefix = f"{request.node.name}:"
        one, two = RedisState(valkey.url, prefix), RedisState(valkey.url, prefix)
        if kind == "degrading":
            one, two = Degrading(one), Degrading(two)
    yield one, two
    await one.aclose()
    await two.aclose()


@pytest.fixture
def state(pair: tuple[State, State]) -> State:
    return pair[0]


async def test_a_value_that_was_set_is_there_and_one_that_was_not_is_none(
    pair: tuple[State, State],
) -> None:
    one, two = pair
    await one.set("a/1", b"\x00\xff binary")
    assert await two.get("a/1") == b"\x00\xff binary"
    assert await two.get("a/2") is None
    await one.set("a/1", b"")
    assert await two.get("a/1") == b""


async def test_add_stores_only_what_is_absent(state: State) -> None:
    assert await state.add("k", b"1", ttl=60)
    assert not await state.add("k", b"2", ttl=60)
    assert await state.get("k") == b"1"


async def test_replace_compares_and_never_creates(state: State) -> None:
    assert not await state.replace("k", b"", b"1")
    await state.set("k", b"1")
    assert not await state.replace("k", b"0", b"2")
    assert await state.replace("k", b"1", b"2", ttl=60)
    assert await state.get("k") == b"2"


async def test_delete_says_whether_and_can_compare(state: State) -> None:
    await state.set("k", b"1")
    assert not await state.delete("k", expected=b"2")
    assert await state.delete("k", expected=b"1")
    assert not await state.delete("k")
    await state.set("k", b"1")
    assert await state.delete("k")


async def test_scan_finds_what_is_under_the_prefix_in_order_and_nothing_else(
    state: State,
) -> None:
    for key in ("a/2", "a/1", "a/b/1", "a", "b/1", "a*", "a/[1]", "ä/1"):
        await state.set(key, key.encode())
    assert list(await state.scan("a/")) == ["a/1", "a/2", "a/[1]", "a/b/1"]
    assert list(await state.scan("a/[")) == ["a/[1]"]
    assert list(await state.scan("a*")) == ["a*"]
    assert list(await state.scan("a/b")) == ["a/b/1"]
    assert list(await state.scan("ä/")) == ["ä/1"]
    assert len(await state.scan("")) == 8
    assert await state.scan("zz") == {}


async def test_many_keys_are_all_scanned(state: State) -> None:
    await asyncio.gather(*(state.set(f"n/{i:04}", b"x", ttl=60) for i in range(1300)))
    assert len(await state.scan("n/")) == 1300


async def test_a_value_ends_with_its_time_to_live(pair: tuple[State, State]) -> None:
    one, two = pair
    await one.set("k", b"1", ttl=0.05)
    await one.set("kept", b"1")

    async def is_gone() -> bool:
        return await two.get("k") is None

    await wait_until(is_gone, 2)
    assert await two.scan("k") == {"kept": b"1"}
    assert await one.add("k", b"2")


async def test_replace_starts_the_time_anew(state: State) -> None:
    await state.set("k", b"1", ttl=0.2)
    for _ in range(6):
        await asyncio.sleep(0.08)
        assert await state.replace("k", b"1", b"1", ttl=0.2)


async def test_set_without_ttl_lets_a_value_stay(state: State) -> None:
    await state.set("k", b"1", ttl=0.05)
    await state.set("k", b"1")
    await asyncio.sleep(0.1)
    assert await state.get("k") == b"1"


async def test_of_many_who_add_at_once_one_succeeds(pair: tuple[State, State]) -> None:
    answers = await asyncio.gather(
        *(pair[i % 2].add("lock", str(i).encode(), ttl=5) for i in range(40))
    )
    assert answers.count(True) == 1


async def test_no_update_is_lost_between_two_who_compare_and_set(
    pair: tuple[State, State],
) -> None:
    await pair[0].set("n", b"0")

    async def count(state: State) -> None:
        done = 0
        while done < 20:
            seen = await state.get("n")
            assert seen is not None
            done += await state.replace("n", seen, str(int(seen) + 1).encode(), ttl=60)
            await asyncio.sleep(0)

    await asyncio.gather(*(count(state) for state in (*pair, *pair)))
    assert await pair[0].get("n") == b"80"


@pytest.mark.parametrize("key", ["", "x" * 481, "ä" * 241, "nul\0", "\udc80"])
async def test_a_key_beyond_the_limits_is_refused(state: State, key: str) -> None:
    for attempt in (state.set(key, b""), state.add(key, b""), state.replace(key, b"", b"")):
        with pytest.raises(ValueError):
            await attempt
    await state.set("x" * 480, b"1", ttl=60)
    assert await state.get("x" * 480) == b"1"


@pytest.mark.parametrize("ttl", [0, -1, float("inf"), float("nan")])
async def test_what_is_no_time_to_live_is_refused(state: State, ttl: float) -> None:
    with pytest.raises(ValueError):
        await state.set("k", b"", ttl=ttl)
    with pytest.raises(ValueError):
        await state.set("k", b"x" * (1024 * 1024 + 1))


class Watch:
    """Collects what a watch yields."""

    def __init__(self, state: State, prefix: str) -> None:
        self.items: list[frozenset[str]] = []
        self.error: Exception | None = None
        self.task = asyncio.create_task(self._run(state, prefix))

    async def _run(self, state: State, prefix: str) -> None:
        async with contextlib.aclosing(state.watch(prefix)) as changes:
            async for changed in changes:
                self.items.append(changed)

    async def sees(self, *keys: str, timeout: float = 2.0) -> None:
        """Wait until all of them were reported, then forget."""
        await wait_until(lambda: set(keys) <= set().union(*self.items), timeout)
        self.items.clear()

    async def close(self) -> None:
        self.task.cancel()
        await asyncio.gather(self.task, return_exceptions=True)


@pytest.fixture
async def watching() -> AsyncIterator[Callable[[State, str], Watch]]:
    made: list[Watch] = []

    def start(state: State, prefix: str) -> Watch:
        made.append(Watch(state, prefix))
        return made[-1]

    yield start
    for watch in made:
        await watch.close()


async def test_a_watch_begins_with_what_is_there(
    pair: tuple[State, State], watching: Callable[[State, str], Watch]
) -> None:
    one, two = pair
    await one.set("w/1", b"")
    full, empty = watching(two, "w/"), watching(two, "nothing/")
    await wait_until(lambda: full.items and empty.items)
    assert full.items == [frozenset({"w/1"})]
    assert empty.items == [frozenset()]


async def test_a_watch_sees_what_another_writes_and_what_expires(
    pair: tuple[State, State], watching: Callable[[State, str], Watch]
) -> None:
    one, two = pair
    watch = watching(two, "w/")
    await wait_until(lambda: watch.items)
    await one.set("w/1", b"1")
    await watch.sees("w/1")
    await one.replace("w/1", b"1", b"2")
    await watch.sees("w/1")
    await one.delete("w/1")
    await watch.sees("w/1")
    await one.add("w/2", b"", ttl=0.1)
    await watch.sees("w/2")
    await watch.sees("w/2", timeout=1.0)  # it expired
    assert await two.scan("w/") == {}


async def test_a_watch_is_quiet_about_renewals_and_other_prefixes(
    pair: tuple[State, State], watching: Callable[[State, str], Watch]
) -> None:
    one, two = pair
    await one.set("w/1", b"1", ttl=5)
    watch = watching(two, "w/")
    await wait_until(lambda: watch.items)
    watch.items.clear()
    for _ in range(5):
        assert await one.replace("w/1", b"1", b"1", ttl=5)
        await one.set("other", b"1", ttl=5)
    await one.set("w/2", b"")
    await wait_until(lambda: watch.items)
    assert watch.items == [frozenset({"w/2"})]


async def test_two_watches_see_the_same_and_one_that_is_cancelled_leaves_nothing(
    pair: tuple[State, State], watching: Callable[[State, str], Watch]
) -> None:
    one, two = pair
    first, second = watching(two, "w/"), watching(two, "w/")
    await wait_until(lambda: first.items and second.items)
    await first.close()
    assert two.statistics().watchers == 1
    await one.set("w/1", b"")
    await second.sees("w/1")
    await second.close()
    assert two.statistics().watchers == 0


async def test_closing_ends_the_watches(
    pair: tuple[State, State], watching: Callable[[State, str], Watch]
) -> None:
    state = pair[0]
    watch = watching(state, "w/")
    await wait_until(lambda: watch.items)
    await state.aclose()
    await wait_until(watch.task.done)
    assert watch.task.exception() is None
    await state.aclose()  # twice is allowed


async def test_who_may_answer_at_once_says_so(state: State) -> None:
    assert isinstance(state, LocalState) is hasattr(state, "get_now")
    assert state.is_shared is (state.scope != "process")
    if isinstance(state, LocalState):
        state.set_now("k", b"1", ttl=5)
        assert not state.add_now("k", b"2")
        assert state.replace_now("k", b"1", b"3")
        assert state.get_now("k") == b"3"
        assert state.scan_now("k") == {"k": b"3"}
        assert state.delete_now("k")


async def test_a_closed_store_says_so(tmp_path: Path) -> None:
    state = LmdbState(tmp_path / "s")
    await state.aclose()
    with pytest.raises(StateError, match="closed"):
        await state.get("k")
