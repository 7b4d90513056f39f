"""Providers that fail, end, lie and come back."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import AsyncIterator, Callable

import pytest

from nexgate.discovery import (
    DiscoveryError,
    Instances,
    ServiceInstance,
    StaticProvider,
    United,
    follow,
)
from nexgate.testing import wait_until


def some(*numbers: int, **more: object) -> Instances:
    return tuple(
        ServiceInstance(str(n), "api", f"http://127.0.0.1:{9000 + n}", **more)  # type: ignore[arg-type]
        for n in numbers
    )


class Scripted:
    """Each ``watch`` does the next thing: a list of sets, then an error, or nothing more."""

    name = "scripted"

    def __init__(self, *runs: tuple[list[Instances], Exception | str | None]) -> None:
        self.runs = list(runs)
        self.begun = 0
        self.closed = 0

    async def watch(self) -> AsyncIterator[Instances]:
        self.begun += 1
        sets, end = self.runs.pop(0) if self.runs else ([], "wait")
        try:
            for found in sets:
                yield found
            if isinstance(end, Exception):
                raise end
            if end == "wait":
                await asyncio.Event().wait()
        finally:
            self.closed += 1


async def test_every_new_set_is_told_once() -> None:
    told: list[Instances] = []
    provider = Scripted(([some(1), some(1), some(1, 2), some(1, last_check=3.0), ()], "wait"))
    async with follow(provider, told.append) as followed:
        await wait_until(lambda: len(told) == 4)
        assert told == [some(1), some(1, 2), some(1), ()]
        assert followed.status.state == "connected"
        assert followed.status.sets == 4
    assert provider.closed == 1


@pytest.mark.parametrize(
    "end", [DiscoveryError("it broke"), ZeroDivisionError("x"), OSError("y"), None]
)
async def test_a_provider_that_fails_is_begun_again_and_its_set_is_kept(
    end: Exception | None, caplog: pytest.LogCaptureFixture
) -> None:
    told: list[Instances] = []
    provider = Scripted(([some(1)], end), ([], end), ([], end), ([some(2)], "wait"))
    async with follow(provider, told.append, pause=0.02) as followed:
        await wait_until(lambda: followed.status.state == "stale")
        assert followed.instances == some(1)
        assert followed.status.error is not None
        await wait_until(lambda: followed.instances == some(2))
        assert followed.status.state == "connected"
        assert followed.status.restarts == 3
    assert told == [some(1), some(2)]
    assert caplog.text.count("its 1 instances are kept") == 1
    assert caplog.text.count("answers again") == 1
    assert provider.begun == provider.closed == 4


async def test_pauses_grow_and_a_set_makes_them_short_again() -> None:
    fails = ([], DiscoveryError("no"))
    provider = Scripted(*[fails] * 5, ([some(1)], DiscoveryError("no")), *[fails] * 2)
    loop = asyncio.get_running_loop()
    moments: list[float] = []

    class Timed(Scripted):
        def watch(self) -> AsyncIterator[Instances]:
            moments.append(loop.time())
            return provider.watch()

    async with follow(Timed(), pause=0.02, longest_pause=0.1, draw=lambda: 0.5):
        await wait_until(lambda: len(moments) >= 8)
    gaps = [b - a for a, b in itertools.pairwise(moments)]
    assert gaps[0] < 0.06 < gaps[4]
    assert gaps[5] < 0.06


async def test_connecting_is_not_stale_and_says_why() -> None:
    async with follow(Scripted(([], DiscoveryError("no such host"))), pause=10) as followed:
        assert followed.status.state == "connecting"
        assert not await followed.wait_answered(0.05)
        assert followed.status.error == "no such host"
        assert followed.status.stale_for is None


async def test_what_a_listener_raises_does_not_end_it(caplog: pytest.LogCaptureFixture) -> None:
    told: list[Instances] = []

    def listen(found: Instances) -> None:
        told.append(found)
        raise KeyError("mine")

    async with follow(Scripted(([some(1), some(2)], "wait")), listen):
        await wait_until(lambda: len(told) == 2)
    assert caplog.text.count("could not be applied") == 2


async def test_one_url_counts_once() -> None:
    twice = (
        ServiceInstance("b", "api", "http://h:1"),
        ServiceInstance("a", "api", "http://h:1"),
        ServiceInstance("c", "api", "http://h:2"),
        ServiceInstance("c", "api", "http://h:3"),
    )
    async with follow(Scripted(([twice], "wait"))) as followed:
        await followed.wait_answered(1)
        assert [(i.id, i.url) for i in followed.instances] == [
            ("b", "http://h:1"),
            ("c", "http://h:2"),
        ]


async def test_a_provider_that_cancels_itself_is_a_failure_and_ours_is_the_end() -> None:
    class Odd(Scripted):
        async def watch(self) -> AsyncIterator[Instances]:
            self.begun += 1
            yield some(1)
            raise asyncio.CancelledError

    provider = Odd()
    followed = follow(provider, pause=0.01)
    await wait_until(lambda: provider.begun >= 3)
    await followed.aclose()
    begun = provider.begun
    await asyncio.sleep(0.05)
    assert provider.begun == begun


class Pushed:
    """A provider that a test pushes sets into."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.queue: asyncio.Queue[Instances | Exception] = asyncio.Queue()
        self.problem: str | None = None

    async def watch(self) -> AsyncIterator[Instances]:
        while True:
            found = await self.queue.get()
            if isinstance(found, Exception):
                raise found
            yield found


@pytest.fixture
async def united() -> AsyncIterator[tuple[Pushed, Pushed, list[Instances], Callable[[], object]]]:
    one, two = Pushed("one"), Pushed("two")
    told: list[Instances] = []
    union = United([one, two], patience=0.1, pause=0.01)
    async with follow(union, told.append) as followed:
        yield one, two, told, lambda: followed.status


async def test_a_union_waits_for_all_then_has_everybody(united: tuple) -> None:  # type: ignore[type-arg]
    one, two, told, _ = united
    one.queue.put_nowait(some(1))
    await asyncio.sleep(0.02)
    assert told == []
    two.queue.put_nowait(some(2))
    await wait_until(lambda: told == [some(1, 2)])
    two.queue.put_nowait(())
    await wait_until(lambda: told[-1] == some(1))


async def test_a_union_does_not_wait_for_ever(united: tuple) -> None:  # type: ignore[type-arg]
    one, two, told, status = united
    one.queue.put_nowait(some(1))
    await wait_until(lambda: told == [some(1)])
    assert "two: it has not answered yet" in status().error
    two.queue.put_nowait(some(2))
    await wait_until(lambda: told[-1] == some(1, 2))
    assert status().state == "connected"


async def test_one_that_fails_keeps_its_part_and_says_so(united: tuple) -> None:  # type: ignore[type-arg]
    one, two, told, status = united
    one.queue.put_nowait(some(1))
    two.queue.put_nowait(some(2))
    await wait_until(lambda: told == [some(1, 2)])
    two.queue.put_nowait(DiscoveryError("it broke"))
    await wait_until(lambda: status().state == "stale")
    assert status().error == "two: it broke"
    one.queue.put_nowait(some(3))
    await wait_until(lambda: told[-1] == some(2, 3))
    one.problem = "it is old"
    assert "one: it is old" in status().error


async def test_the_earlier_word_counts_and_nothing_united_is_nobody() -> None:
    first = ServiceInstance("1", "api", "http://h:1", weight=5)
    static = [StaticProvider("api", [first]), StaticProvider("api", ["http://h:1", "http://h:2"])]
    async with follow(United(static)) as followed:
        await followed.wait_answered(1)
        assert [(i.id, i.weight) for i in followed.instances] == [("1", 5), ("http://h:2", 1)]
    async with follow(United([])) as followed:
        assert await followed.wait_answered(1)
        assert followed.instances == ()
        assert followed.status.restarts == 0
