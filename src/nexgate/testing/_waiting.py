"""Waiting for facts, and finding a free port."""

from __future__ import annotations

import asyncio
import inspect
import socket
from collections.abc import Awaitable, Callable
from typing import TypeVar

T = TypeVar("T")


async def wait_until(
    predicate: Callable[[], T | Awaitable[T]], timeout: float = 5.0, *, interval: float = 0.005
) -> T:
    """Return the first truthy value of ``predicate()``, asking again every ``interval`` seconds.

    ``predicate`` may be sync or async. The last question is asked after the deadline has passed,
    so a machine that stalls for ``timeout`` seconds does not fail a test whose fact has come true.

    Raises ``TimeoutError``, with the last value seen, after ``timeout`` seconds. An exception of
    the predicate passes through at once: hiding it would turn a bug into a slow timeout.
    """
    loop = asyncio.get_running_loop()
    deadline = loop.time() + timeout
    while True:
        is_last = loop.time() >= deadline
        answer = predicate()
        value: T = await answer if inspect.isawaitable(answer) else answer
        if value:
            return value
        if is_last:
            name = getattr(predicate, "__qualname__", repr(predicate))
            raise TimeoutError(f"{name} was still {value!r} after {timeout} s")
        await asyncio.sleep(interval)


def free_port(host: str = "127.0.0.1") -> int:
    """Return a TCP port that nobody listens on at this moment.

    Another process may take it before you do. Prefer to listen on port 0 and ask which one you
    got; this is for configuration files, and for addresses that must refuse.
    """
    with socket.socket() as probe:
        probe.bind((host, 0))
        port: int = probe.getsockname()[1]
        return port
