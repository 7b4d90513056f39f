"""State of many machines: Redis or Valkey, through redis-py.

Conditions are decided by the server, in short scripts. Each script also publishes the key when its
value has changed, so a watcher learns of our own writes at once whatever the server's settings:
keyspace notifications, which most servers have off, play no part. Expiry is not published; the
watcher knows when it is due and looks. As a safety net it also looks at everything now and then.
"""

from __future__ import annotations

import asyncio
import contextlib
import math
import os
import random
import re
from collections.abc import Awaitable, Callable, Iterable
from typing import Any, Final, TypeVar

from nexgate.redis_link import as_redis_url, cancellable, without_credentials
from nexgate.state._state import (
    Changes,
    Clock,
    Scope,
    StateError,
    StateFull,
    StateStatistics,
    StateUnavailable,
    check_key,
    check_value,
    expiry,
    machine_clock,
)

__all__ = ["RedisState"]

T = TypeVar("T")

# KEYS: the key. ARGV: value, ttl in ms or '', condition, expected, channel, the key as published.
_STORE: Final = """
local present = redis.call('GET', KEYS[1])
if ARGV[3] == 'absent' and present then return 0 end
if ARGV[3] == 'equal' and present ~= ARGV[4] then return 0 end
local changed = present ~= ARGV[1]
if ARGV[2] == '' then
  redis.call('SET', KEYS[1], ARGV[1])
else
  local left = redis.call('PTTL', KEYS[1])
  changed = changed or left < 0 or left > tonumber(ARGV[2])
  redis.call('SET', KEYS[1], ARGV[1], 'PX', ARGV[2])
end
if changed then redis.call('PUBLISH', ARGV[5], ARGV[6]) end
return 1
"""
# ARGV: condition, expected, channel, the key as published.
_DELETE: Final = """
local present = redis.call('GET', KEYS[1])
if not present or (ARGV[1] == 'equal' and present ~= ARGV[2]) then return 0 end
redis.call('DEL', KEYS[1])
redis.call('PUBLISH', ARGV[3], ARGV[4])
return 1
"""
_AT_ONCE: Final = 500
"""Keys per round trip."""
_ASK_ALIVE_EVERY: Final = 3.0
"""Seconds of silence after which a subscription is asked whether it still is one."""

_Record = tuple[bytes, float]
"""A value, and when it expires on our clock."""


class RedisState:
    """A ``State`` in Redis or Valkey. Needs ``nexgate[redis]``.

    ``url`` as in ``open_state``; credentials in it are never shown. ``prefix`` is put before every
    key. No operation takes longer than ``timeout``. ``rescan`` is how often a watcher looks at
    everything; a database with millions of foreign keys should be another one, for a scan walks
    through all of it.

    Connections are made at first use, anew in a child after a fork, and belong to the event loop of
    that moment. Nothing is sent
    twice: a write whose answer was lost may have happened, as ``StateError`` says.
    """

    scope: Scope = "machines"
    is_shared = True

    def __init__(
        self,
        url: str,
        prefix: str = "nexgate:",
        *,
        timeout: float = 1.0,
        rescan: float = 10.0,
        max_connections: int = 16,
        clock: Clock = machine_clock,
        draw: Callable[[], float] = random.random,
    ) -> None:
        try:
            import redis.asyncio
            import redis.backoff
            import redis.exceptions
        except ImportError:
            raise StateError(
                "state in Redis or Valkey needs redis-py: pip install 'nexgate[redis]'"
            ) from None
        self._redis: Any = redis
        self._url = as_redis_url(url)
        self.place = without_credentials(self._url)
        """Where it is, for people: scheme, host, port and database."""
        self._prefix = prefix.encode()
        self._channel = f"{prefix}changes"
        self._timeout = timeout
        self._rescan = rescan
        self._max_connections = max_connections
        self._clock = clock
        self._draw = draw
        self._client: Any = None
        self._pid = 0
        self._store: Any = None
        self._delete: Any = None
        self._feed: _Feed | None = None
        self._subscribing = asyncio.Lock()
        self._is_closed = False
        self._reads = self._writes = self._failures = self._outages = 0
        self._was_reached = True
        self._is_stale = False
        self._watchers: set[_Watcher] = set()

    # -- the protocol --------------------------------------------------------------------------

    async def get(self, key: str) -> bytes | None:
        """The value, or ``None``."""
        name = self._prefix + check_key(key)
        self._reads += 1
        value: bytes | None = await self._ask(lambda: self._client.get(name))
        return value

    async def set(self, key: str, value: bytes, *, ttl: float | None = None) -> None:
        """Store the value."""
        await self._put(key, value, ttl, "")

    async def add(self, key: str, value: bytes, *, ttl: float | None = None) -> bool:
        """Store the value if the key is absent."""
        return await self._put(key, value, ttl, "absent")

    async def replace(
        self, key: str, expected: bytes, value: bytes, *, ttl: float | None = None
    ) -> bool:
        """Store the value if the present one is ``expected``."""
        return await self._put(key, value, ttl, "equal", expected)

    async def delete(self, key: str, *, expected: bytes | None = None) -> bool:
        """Remove the key."""
        name = check_key(key)
        condition = "" if expected is None else "equal"
        args = [condition, expected or b"", self._channel, name]
        removed = bool(await self._ask(lambda: self._delete(keys=[self._prefix + name], args=args)))
        self._writes += removed
        return removed

    async def scan(self, prefix: str) -> dict[str, bytes]:
        """Every live key under the prefix, in order. Takes ``timeout`` per thousand keys or so."""
        found = await self._read_all(prefix)
        return {key: value for key, (value, _) in sorted(found.items())}

    async def watch(self, prefix: str) -> Changes:
        """Yield the keys that changed. Raises ``StateUnavailable`` when the connection is lost."""
        feed = await self._subscribe()
        watcher = _Watcher(prefix)
        self._watchers.add(watcher)
        try:
            known = await self._read_all(prefix)
            yield frozenset(known)
            look_at = self._next_look()
            while True:
                first = min((expires for _, expires in known.values()), default=math.inf)
                await watcher.wait(min(first, look_at) - self._clock())
                if self._is_closed:
                    return
                if feed.error is not None:
                    raise StateUnavailable(f"{self.place}: {feed.error}")
                changed: frozenset[str]
                if self._clock() >= look_at:
                    watcher.dirty.clear()
                    fresh = await self._read_all(prefix)
                    look_at = self._next_look()
                    changed = _difference(known, fresh)
                    known = fresh
                else:
                    now = self._clock()
                    due = {key for key, (_, expires) in known.items() if expires <= now}
                    keys, watcher.dirty = due | watcher.dirty, set()
                    fresh = await self._read(keys)
                    before = {key: known[key] for key in keys if key in known}
                    changed = _difference(before, fresh)
                    for key in keys:
                        known.pop(key, None)
                    known.update(fresh)
                if changed:
                    yield changed
        finally:
            self._watchers.discard(watcher)

    def statistics(self) -> StateStatistics:
        """Counters."""
        return StateStatistics(
            reads=self._reads,
            writes=self._writes,
            failures=self._failures,
            outages=self._outages,
            watchers=len(self._watchers),
        )

    async def aclose(self) -> None:
        """End the watchers and close the connections."""
        self._is_closed = True
        self._wake(None)
        feed, self._feed = self._feed, None
        if feed is not None:
            await feed.aclose()
        client, self._client = self._client, None
        if client is not None:
            with contextlib.suppress(Exception):
                async with asyncio.timeout(self._timeout):
                    await client.aclose(close_connection_pool=True)

    # -- asking --------------------------------------------------------------------------------

    async def _put(
        self, key: str, value: bytes, ttl: float | None, condition: str, expected: bytes = b""
    ) -> bool:
        name = check_key(key)
        check_value(value)
        expiry(0.0, ttl)  # refuses what is no time to live
        milliseconds: str | int = "" if ttl is None else max(1, math.ceil(ttl * 1000))
        args = [value, milliseconds, condition, expected, self._channel, name]
        stored = bool(await self._ask(lambda: self._store(keys=[self._prefix + name], args=args)))
        self._writes += stored
        return stored

    async def _ask(self, question: Callable[[], Awaitable[T]]) -> T:
        """Ask the server, and translate what goes wrong."""
        if self._is_closed:
            raise StateError("this state is closed")
        self._connected()
        errors = self._redis.exceptions
        try:
            async with asyncio.timeout(self._timeout):
                if self._is_stale:
                    # One connection found out. Each of the others would fail an operation, too.
                    self._is_stale = False
                    await self._client.connection_pool.disconnect(inuse_connections=False)
                answer = await cancellable(question())
        except (TimeoutError, errors.TimeoutError):
            raise self._lost(f"no answer within {self._timeout} s") from None
        except (OSError, errors.ConnectionError, errors.ReadOnlyError) as error:
            raise self._lost(str(error)) from None
        except errors.OutOfMemoryError as error:
            self._failures += 1
            raise StateFull(f"{self.place}: {error}") from None
        except errors.RedisError as error:
            self._failures += 1
            raise StateError(f"{self.place}: {error}") from None
        self._was_reached = True
        return answer

    def _lost(self, why: str) -> StateUnavailable:
        self._failures += 1
        self._is_stale = True
        if self._was_reached:
            self._was_reached = False
            self._outages += 1
        return StateUnavailable(f"{self.place}: {why}")

    def _connected(self) -> None:
        """Have a client of this process: the sockets of a parent are the parent's to read."""
        if self._client is None or self._pid != os.getpid():
            self._make_client()

    def _make_client(self) -> None:
        self._pid = os.getpid()
        self._feed = None
        asyncio_redis = self._redis.asyncio
        never_again = asyncio_redis.retry.Retry(self._redis.backoff.NoBackoff(), 0)
        pool = asyncio_redis.BlockingConnectionPool.from_url(
            self._url,
            max_connections=self._max_connections,
            timeout=self._timeout,
            socket_timeout=self._timeout,
            socket_connect_timeout=self._timeout,
            retry=never_again,
            decode_responses=False,
        )
        self._client = asyncio_redis.Redis(connection_pool=pool)
        self._store = self._client.register_script(_STORE)
        self._delete = self._client.register_script(_DELETE)

    # -- reading many --------------------------------------------------------------------------

    async def _read_all(self, prefix: str) -> dict[str, _Record]:
        pattern = re.sub(rb"([*?\[\]\\^])", rb"\\\1", self._prefix + prefix.encode()) + b"*"
        names: set[bytes] = set()
        cursor: Any = 0
        while True:
            at = cursor
            cursor, found = await self._ask(
                lambda: self._client.scan(at, match=pattern, count=2 * _AT_ONCE)  # noqa: B023 - awaited here
            )
            names.update(found)
            if not int(cursor):
                break
        start = len(self._prefix)
        return await self._read(name[start:].decode("utf-8", "replace") for name in names)

    async def _read(self, keys: Iterable[str]) -> dict[str, _Record]:
        listed = list(keys)
        found: dict[str, _Record] = {}
        for at in range(0, len(listed), _AT_ONCE):
            some = listed[at : at + _AT_ONCE]
            pipeline = self._pipeline()
            for key in some:
                name = self._prefix + key.encode()
                pipeline.get(name)
                pipeline.pttl(name)
            now = self._clock()
            # A key of another type is not ours and not there.
            answers = await self._ask(lambda: pipeline.execute(raise_on_error=False))  # noqa: B023 - awaited here
            self._reads += len(some)
            for key, value, left in zip(some, answers[::2], answers[1::2], strict=True):
                if isinstance(value, bytes) and isinstance(left, int) and left != -2:
                    found[key] = value, math.inf if left < 0 else now + left / 1000
        return found

    def _pipeline(self) -> Any:
        self._connected()
        return self._client.pipeline(transaction=False)

    # -- watching ------------------------------------------------------------------------------

    def _next_look(self) -> float:
        return self._clock() + self._rescan * (0.8 + 0.4 * self._draw())

    def _wake(self, key: str | None) -> None:
        for watcher in self._watchers:
            watcher.wake(key)

    async def _subscribe(self) -> _Feed:
        """The one subscription of this state, made anew if it was lost."""
        async with self._subscribing:
            feed = self._feed
            if feed is not None and feed.error is None:
                return feed
            feed = _Feed(self._redis, self._timeout, self._wake)
            await self._ask(lambda: feed.open(self._client, self._channel))
            feed.on_lost = self._lost_feed
            self._feed = feed
            return feed

    def _lost_feed(self, why: str) -> None:
        self._lost(why)
        self._wake(None)


class _Watcher:
    __slots__ = ("dirty", "prefix", "woken")

    def __init__(self, prefix: str) -> None:
        self.prefix = prefix
        self.dirty: set[str] = set()
        self.woken = asyncio.Event()

    def wake(self, key: str | None) -> None:
        """``None`` wakes without a key to look at."""
        if key is None:
            self.woken.set()
        elif key.startswith(self.prefix):
            self.dirty.add(key)
            self.woken.set()

    async def wait(self, seconds: float) -> None:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(max(0.0, seconds) + 0.002):
                await self.woken.wait()
        self.woken.clear()


class _Feed:
    """A subscription to the channel, on a connection of its own, that knows when it is lost.

    redis-py would connect again by itself and say nothing; what was published in between would be
    missing. So it may not.
    """

    def __init__(self, redis: Any, timeout: float, on_key: Callable[[str | None], None]) -> None:
        self.error: str | None = None
        self.on_lost: Callable[[str], None] = lambda _: None
        self._redis = redis
        self._timeout = timeout
        self._on_key = on_key
        self._pubsub: Any = None
        self._reader: asyncio.Task[None] | None = None

    async def open(self, client: Any, channel: str) -> None:
        """Returns once the server has confirmed."""
        self._pubsub = client.pubsub()
        try:
            await self._pubsub.subscribe(channel)
            confirmed = await self._pubsub.get_message(timeout=self._timeout)
            if confirmed is None or confirmed["type"] != "subscribe":
                raise TimeoutError
        except BaseException:
            await self._give_back()
            raise
        self._reader = asyncio.get_running_loop().create_task(self._run())

    async def aclose(self) -> None:
        """End the subscription."""
        reader, self._reader = self._reader, None
        if reader is not None:
            reader.cancel()
            await asyncio.gather(reader, return_exceptions=True)
        await self._give_back()

    async def _run(self) -> None:
        try:
            is_asked = False
            while True:
                wait = self._timeout if is_asked else _ASK_ALIVE_EVERY
                async with asyncio.timeout(wait + self._timeout):
                    message = await cancellable(self._pubsub.get_message(timeout=wait))
                if message is None:
                    if is_asked:
                        raise TimeoutError
                    async with asyncio.timeout(self._timeout):
                        await cancellable(self._pubsub.ping())
                    is_asked = True
                    continue
                is_asked = False
                if message["type"] == "message":
                    self._on_key(message["data"].decode("utf-8", "replace"))
        except (TimeoutError, self._redis.exceptions.TimeoutError):
            self.error = "the subscription does not answer"
        except (OSError, self._redis.exceptions.RedisError) as error:
            self.error = str(error) or type(error).__name__
        await self._give_back()
        self.on_lost(self.error)

    async def _give_back(self) -> None:
        pubsub, self._pubsub = self._pubsub, None
        if pubsub is not None:
            with contextlib.suppress(Exception):
                async with asyncio.timeout(self._timeout):
                    await pubsub.aclose()


def _difference(before: dict[str, _Record], after: dict[str, _Record]) -> frozenset[str]:
    nothing = (None, 0.0)
    return frozenset(
        key
        for key in before.keys() | after.keys()
        if before.get(key, nothing)[0] != after.get(key, nothing)[0]
    )
