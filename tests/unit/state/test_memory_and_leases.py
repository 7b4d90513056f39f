"""The dictionary with expiry, and leases, on a clock of our own."""

from __future__ import annotations

import asyncio

import pytest

from nexgate.state import Lease, MemoryState, StateFull, StateUnavailable
from nexgate.testing import wait_until


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


async def test_expiry_follows_the_clock_it_was_given(clock: Clock) -> None:
    state = MemoryState(clock=clock)
    state.set_now("a", b"1", ttl=10)
    clock.now += 9.99
    assert state.get_now("a") == b"1"
    clock.now += 0.01
    assert state.get_now("a") is None
    assert not state.replace_now("a", b"1", b"2")
    assert not state.delete_now("a")


async def test_what_expired_leaves_by_itself_as_others_come(clock: Clock) -> None:
    state = MemoryState(clock=clock)
    for number in range(100):
        state.set_now(f"a/{number}", b"", ttl=1)
    clock.now += 2
    for number in range(20):
        state.set_now(f"b/{number}", b"", ttl=100)
    assert state.statistics().entries == 20
    assert set(state._folders) == {"b/"}


async def test_renewals_do_not_pile_up(clock: Clock) -> None:
    state = MemoryState(clock=clock)
    for _ in range(10_000):
        state.set_now("a", b"1", ttl=100)
    assert len(state._expiries) < 200


async def test_it_is_bounded_and_says_so(clock: Clock) -> None:
    state = MemoryState(max_entries=10, max_bytes=10_000, clock=clock)
    for number in range(10):
        state.set_now(str(number), b"", ttl=1 if number else None)
    with pytest.raises(StateFull, match="10 entries"):
        state.set_now("one more", b"")
    state.set_now("5", b"renewed", ttl=100)
    clock.now += 1
    state.set_now("one more", b"")  # nine had expired
    with pytest.raises(StateFull):
        state.set_now("large", b"x" * 10_000)
    assert state.get_now("one more") == b""
    assert state.statistics().failures == 2


async def test_the_count_of_bytes_stays_right(clock: Clock) -> None:
    state = MemoryState(clock=clock)
    for number in range(50):
        state.set_now(f"k{number % 7}", b"x" * number, ttl=1 + number % 3)
        if number % 5 == 0:
            state.delete_now(f"k{number % 7}")
        clock.now += 0.3
    clock.now += 100
    for key in list(state._entries):
        state.get_now(key)
    assert (state._bytes, state._entries, state._folders) == (0, {}, {})


async def test_a_lease_is_held_by_one_until_it_ends(clock: Clock) -> None:
    state = MemoryState(clock=clock)
    mine = await Lease.acquire(state, "l", "me", 10, clock=clock)
    assert mine is not None
    assert mine.is_held
    assert await Lease.acquire(state, "l", "you", 10, clock=clock) is None
    clock.now += 9
    assert await mine.renew()
    clock.now += 9
    assert mine.is_held
    assert mine.remaining == pytest.approx(1)
    clock.now += 1
    assert not mine.is_held
    yours = await Lease.acquire(state, "l", "you", 10, clock=clock)
    assert yours is not None
    assert not await mine.renew()
    await mine.release()  # of what it does not hold: changes nothing
    assert yours.is_held
    assert await yours.renew()
    await yours.release()
    assert await Lease.acquire(state, "l", "third", 10, clock=clock) is not None


async def test_the_holder_believes_that_it_ends_before_the_store_does(clock: Clock) -> None:
    class Slow(MemoryState):
        __slots__ = ()

        async def add(self, key: str, value: bytes, *, ttl: float | None = None) -> bool:
            clock.now += 3  # on the way there
            added = self.add_now(key, value, ttl=ttl)
            clock.now += 3  # and back
            return added

    state = Slow(clock=clock)
    lease = await Lease.acquire(state, "l", "me", 10, clock=clock)
    assert lease is not None
    assert lease.remaining == pytest.approx(4)
    clock.now += 4
    assert not lease.is_held
    assert state.get_now("l") == b"me"


async def test_an_answer_slower_than_the_lease_is_no_lease(clock: Clock) -> None:
    class Slow(MemoryState):
        __slots__ = ()

        async def add(self, key: str, value: bytes, *, ttl: float | None = None) -> bool:
            added = self.add_now(key, value, ttl=ttl)
            clock.now += 11
            return added

    assert await Lease.acquire(Slow(clock=clock), "l", "me", 10, clock=clock) is None


async def test_a_store_that_forgot_the_lease_is_told_again(clock: Clock) -> None:
    state = MemoryState(clock=clock)
    lease = await Lease.acquire(state, "l", "me", 10, clock=clock)
    assert lease is not None
    state.delete_now("l")
    assert await lease.renew()
    assert state.get_now("l") == b"me"
    state.set_now("l", b"you", ttl=10)
    assert not await lease.renew()
    assert not lease.is_held


async def test_one_who_lost_the_answer_finds_that_it_holds_the_lease(clock: Clock) -> None:
    state = MemoryState(clock=clock)
    state.set_now("l", b"me", ttl=10)
    assert await Lease.acquire(state, "l", "me", 10, clock=clock) is not None


async def test_the_keeper_renews_and_releasing_ends_it() -> None:
    state = MemoryState()
    lease = await Lease.acquire(state, "l", "me", 0.15)
    assert lease is not None
    async with lease:
        await asyncio.sleep(0.4)
        assert lease.is_held
    assert not lease.is_held
    assert state.get_now("l") is None


async def test_the_keeper_knows_when_it_has_lost_it() -> None:
    state = MemoryState()
    lease = await Lease.acquire(state, "l", "me", 0.3)
    assert lease is not None
    lease.keep()
    lost = asyncio.create_task(lease.wait_lost())
    state.set_now("l", b"thief", ttl=10)
    await asyncio.wait_for(lost, 1)
    assert not lease.is_held
    await lease.release()
    assert state.get_now("l") == b"thief"


async def test_a_store_that_is_away_for_less_than_the_lease_does_not_matter() -> None:
    class Away(MemoryState):
        __slots__ = ("away",)
        away: bool

        async def replace(
            self, key: str, expected: bytes, value: bytes, *, ttl: float | None = None
        ) -> bool:
            if self.away:
                raise StateUnavailable("away")
            return self.replace_now(key, expected, value, ttl=ttl)

    state = Away()
    state.away = False
    lease = await Lease.acquire(state, "l", "me", 0.4)
    assert lease is not None
    async with lease:
        state.away = True
        await asyncio.sleep(0.25)
        assert lease.is_held
        state.away = False
        await asyncio.sleep(0.4)
        assert lease.is_held
        state.away = True
        await asyncio.wait_for(lease.wait_lost(), 2)
        assert not lease.is_held


async def test_cancelling_who_waits_for_the_loss_changes_nothing() -> None:
    state = MemoryState()
    lease = await Lease.acquire(state, "l", "me", 5)
    assert lease is not None
    waiting = [asyncio.create_task(lease.wait_lost()) for _ in range(2)]
    await asyncio.sleep(0)
    waiting[0].cancel()
    await asyncio.gather(waiting[0], return_exceptions=True)
    assert lease.is_held
    await lease.release()
    await wait_until(waiting[1].done)
