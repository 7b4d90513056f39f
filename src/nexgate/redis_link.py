"""One pool of connections to Redis or Valkey, through redis-py, with errors of ours.

What stands on it are the streams of ``nexgate.events`` and ``nexgate.tasks``; the shared state has
needs of its own, and shares the words for URLs and the care for cancellation.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, TypeVar
from urllib.parse import urlsplit

from nexgate.errors import NexgateError

__all__ = [
    "RedisError",
    "RedisLink",
    "RedisUnavailable",
    "as_redis_url",
    "cancellable",
    "without_credentials",
]

T = TypeVar("T")


class RedisError(NexgateError):
    """The server refused an operation."""


class RedisUnavailable(RedisError):
    """The server cannot be reached, or did not answer in time. Trying again makes sense; what was
    asked may have been done.
    """


class RedisLink:
    """Connections are made at first use and belong to one event loop; ``aclose`` ends them.

    No operation takes longer than ``timeout`` seconds, but for those that wait on purpose. More
    than ``at_once`` of them wait for their turn, for ``patience`` seconds.
    """

    def __init__(
        self, url: str, *, timeout: float = 2.0, at_once: int = 32, patience: float = 30.0
    ) -> None:
        try:
            import redis.asyncio
            import redis.backoff
            import redis.exceptions
        except ImportError:
            raise RedisError(
                "Redis or Valkey needs redis-py: pip install 'nexgate[redis]'"
            ) from None
        self._redis: Any = redis
        self._url = as_redis_url(url)
        self.place = without_credentials(self._url)
        """Where it is, for people."""
        self._timeout = timeout
        self._patience = patience
        self._at_once = at_once
        self._turns = asyncio.Semaphore(at_once)
        self._client: Any = None
        self._scripts: dict[str, Any] = {}

    @property
    def client(self) -> Any:
        """The client of redis-py: its calls are made within ``ask``."""
        if self._client is None:
            asyncio_redis = self._redis.asyncio
            pool = asyncio_redis.ConnectionPool.from_url(
                self._url,  # as many as have their turn, and those that wait on purpose
                socket_timeout=None,  # some wait on purpose; ``ask`` has the limit
                socket_connect_timeout=self._timeout,
                retry=asyncio_redis.retry.Retry(self._redis.backoff.NoBackoff(), 0),
                decode_responses=False,
            )
            self._client = asyncio_redis.Redis(connection_pool=pool)
        return self._client

    async def ask(self, question: Callable[[Any], Awaitable[T]], *, wait: float = 0.0) -> T:
        """``question(client)``. ``wait``: seconds that the answer takes on purpose. Raises
        ``RedisUnavailable`` and ``RedisError``.
        """
        if wait:
            return await self._asked(question, wait)
        try:
            async with asyncio.timeout(self._patience):
                await self._turns.acquire()
        except TimeoutError:
            why = f"no turn within {self._patience:g}s"
            raise RedisUnavailable(f"{self.place}: {why}") from None
        try:
            return await self._asked(question, wait)
        finally:
            self._turns.release()

    async def _asked(self, question: Callable[[Any], Awaitable[T]], wait: float) -> T:
        errors = self._redis.exceptions
        try:
            async with asyncio.timeout(self._timeout + wait):
                return await cancellable(question(self.client))
        except (TimeoutError, errors.TimeoutError):
            await self._forget()
            raise RedisUnavailable(f"{self.place}: no answer within {self._timeout:g}s") from None
        except (OSError, errors.ConnectionError, errors.ReadOnlyError) as error:
            await self._forget()
            raise RedisUnavailable(f"{self.place}: {error}") from None
        except errors.RedisError as error:
            raise RedisError(f"{self.place}: {error}") from None

    async def run(self, script: str, keys: Sequence[Any], args: Sequence[Any]) -> Any:
        """A Lua script, by its hash once the server has it."""
        found = self._scripts.get(script)
        if found is None:
            found = self._scripts[script] = self.client.register_script(script)
        return await self.ask(lambda client: found(keys=keys, args=args, client=client))

    async def _forget(self) -> None:
        """One connection found out; each of the others would fail an operation, too."""
        if self._client is not None:
            with contextlib.suppress(Exception):
                await self._client.connection_pool.disconnect(inuse_connections=False)

    async def aclose(self) -> None:
        """Close the connections."""
        client, self._client = self._client, None
        self._scripts.clear()
        self._turns = asyncio.Semaphore(self._at_once)  # who opens it again may have another loop
        if client is not None:
            with contextlib.suppress(Exception):
                async with asyncio.timeout(self._timeout):
                    await client.aclose(close_connection_pool=True)


async def cancellable(question: Awaitable[T]) -> T:
    """Await, and be cancelled when cancelled.

    redis-py waits with ``asyncio.wait_for``, which before Python 3.12 forgets a cancellation that
    arrives together with the answer; the task would then go on for ever.
    """
    task = asyncio.current_task()
    before = 0 if task is None else task.cancelling()
    answer = await question
    if task is not None and task.cancelling() > before:
        raise asyncio.CancelledError
    return answer


def as_redis_url(url: str) -> str:
    """redis-py knows Redis's names of the schemes only."""
    scheme, _, rest = url.partition(":")
    known = {
        "valkey": "redis",
        "valkeys": "rediss",
        "redis+unix": "unix",
        "valkey+unix": "unix",
    }
    return f"{known.get(scheme, scheme)}:{rest}"


def without_credentials(url: str) -> str:
    """Scheme, host, port and path."""
    parts = urlsplit(url)
    return f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}{parts.path}"
