"""Moments after which an answer is of no use, passed on without loss."""

from __future__ import annotations

import asyncio
import math
from collections.abc import AsyncIterator

import pytest

from nexgate.errors import NexgateError
from nexgate.resilience import Deadline, DeadlineExceeded, current_deadline
from nexgate.resilience._deadline import _entered


def test_a_moment_knows_what_remains() -> None:
    deadline = Deadline.after(5.0, now=100.0)
    assert deadline == Deadline(105.0)
    assert deadline.remaining(101.0) == 4.0
    assert deadline.remaining(200.0) == 0.0
    assert not deadline.is_over(104.9)
    assert deadline.is_over(105.0)
    assert Deadline.after(60.0).remaining() == pytest.approx(60.0, abs=5.0)
    assert not Deadline(math.inf).is_over()


def test_the_earlier_of_two() -> None:
    one, two = Deadline(1.0), Deadline(2.0)
    assert one.earlier(two) is two.earlier(one) is one.earlier(None) is one


async def test_the_block_is_cancelled_when_the_moment_comes() -> None:
    with pytest.raises(DeadlineExceeded) as caught:
        async with Deadline.after(0.005):
            await asyncio.Event().wait()
    assert isinstance(caught.value, NexgateError)
    assert isinstance(caught.value, TimeoutError)
    assert "deadline is over" in str(caught.value)
    assert isinstance(caught.value.__cause__, asyncio.CancelledError)
    assert current_deadline() is None
    assert len(_entered) == 0


async def test_what_has_no_time_left_does_not_begin() -> None:
    with pytest.raises(DeadlineExceeded):
        async with Deadline.after(0.0):
            raise AssertionError
    assert current_deadline() is None
    assert len(_entered) == 0


async def test_a_block_that_is_in_time_raises_what_it_raises() -> None:
    async with Deadline.after(60.0):
        pass
    with pytest.raises(LookupError):
        async with Deadline.after(60.0):
            raise LookupError
    with pytest.raises(TimeoutError) as caught:
        async with Deadline.after(60.0):
            raise TimeoutError("of something else")
    assert not isinstance(caught.value, DeadlineExceeded)


async def test_nested_blocks_see_the_earliest() -> None:
    outer, later, sooner = Deadline.after(60.0), Deadline.after(90.0), Deadline.after(30.0)
    async with outer:
        assert current_deadline() is outer
        async with later as earliest:
            assert current_deadline() is earliest is outer
            async with sooner:
                assert current_deadline() is sooner
                seen = await asyncio.create_task(asyncio.to_thread(current_deadline))
                assert seen is sooner  # what it starts sees it too
        assert current_deadline() is outer
    assert current_deadline() is None
    with pytest.raises(DeadlineExceeded):
        async with Deadline.after(0.005), Deadline.after(60.0):
            await asyncio.Event().wait()


async def test_one_deadline_is_entered_by_many_at_once() -> None:
    deadline, order = Deadline.after(0.01), []

    async def work(name: str, seconds: float) -> None:
        async with deadline, deadline:
            await asyncio.sleep(seconds)
        order.append(name)

    results = await asyncio.gather(
        work("a", 0.0), work("b", 60.0), work("c", 0.001), return_exceptions=True
    )
    assert order == ["a", "c"]
    assert [type(r) for r in results] == [type(None), DeadlineExceeded, type(None)]
    assert len(_entered) == 0


async def test_a_cancelled_block_is_cancelled_not_late() -> None:
    async def work() -> None:
        async with Deadline.after(60.0):
            await asyncio.Event().wait()

    task = asyncio.create_task(work())
    await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert len(_entered) == 0


async def test_a_generator_closed_elsewhere_leaves_its_block() -> None:
    async def stream() -> AsyncIterator[int]:
        async with Deadline.after(60.0):
            yield 1

    generator = stream()

    async def first() -> int:
        return await anext(generator)

    assert await asyncio.create_task(first()) == 1
    await generator.aclose()
    assert current_deadline() is None
    assert len(_entered) == 0
