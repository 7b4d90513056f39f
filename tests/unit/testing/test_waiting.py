from __future__ import annotations

import asyncio

import pytest

from nexgate.testing import RawClient, free_port, wait_until


async def test_wait_until_returns_the_first_truthy_value() -> None:
    answers = iter([0, "", "here"])
    assert await wait_until(lambda: next(answers), interval=0) == "here"


async def test_wait_until_awaits_an_async_predicate() -> None:
    async def ready() -> int:
        await asyncio.sleep(0)
        return 7

    assert await wait_until(ready) == 7


async def test_wait_until_times_out_with_the_last_value() -> None:
    with pytest.raises(TimeoutError, match="still 0 after"):
        await wait_until(lambda: 0, 0.01)


async def test_wait_until_asks_once_even_without_time() -> None:
    assert await wait_until(lambda: "yes", 0) == "yes"


async def test_wait_until_lets_an_error_of_the_predicate_through() -> None:
    def broken() -> bool:
        raise LookupError("no such thing")

    with pytest.raises(LookupError, match="no such thing"):
        await wait_until(broken)


async def test_nobody_listens_on_a_free_port() -> None:
    with pytest.raises(ConnectionRefusedError):
        await RawClient(("127.0.0.1", free_port())).connect()
