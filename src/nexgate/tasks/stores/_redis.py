"""Jobs in Redis or Valkey, for many machines.

A job is a hash. Its id waits in the stream of its priority when it is due, and in a sorted set
until then. Workers are one consumer group of the streams; what a worker that died had is claimed by
another when it has been idle for a lease. A token in the hash decides whose outcome counts. Every
change is one script, so that a job is never in two places or in none.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import time
from collections.abc import Awaitable, Callable, Collection, Mapping, Sequence
from typing import Any, Final, TypeVar

from nexgate.redis_link import RedisError, RedisLink

from .._errors import QueueFull
from .._store import MOST_CLAIMS, Claim, JobRecord, JobState, NewJob

__all__ = ["RedisTasks"]

T = TypeVar("T")

_STREAMS: Final = ("high", "normal", "low")
_GROUP: Final = "workers"
_POLL: Final = 0.1
_ORDERS: Final = tuple(
    _STREAMS if turn % 4 else (("normal", "high", "low"), ("low", "normal", "high"))[turn // 4]
    for turn in range(8)
)
"""In which order looks go through the streams: now and then others begin, and are not starved."""
_CLEAN_AT_ONCE: Final = 256
_FOREIGN: Final = 5.0
"""Seconds after which a job whose task a worker does not have comes back to the streams."""
_ROUNDS: Final = 32
"""How often a look goes on when all it found were jobs of tasks that are full."""

# ARGV[1] is the prefix everywhere.
_COMMON: Final = """
local p = ARGV[1]
local function ready(id, priority)
  local job = p .. 'job:' .. id
  local task = redis.call('HGET', job, 'task')
  redis.call('HSET', job, 'entry', redis.call('XADD', p .. priority, '*', 'i', id, 't', task))
end
local function clear(id)
  local job = redis.call('HMGET', p .. 'job:' .. id, 'entry', 'priority')
  if job[1] then
    redis.call('XACK', p .. job[2], 'workers', job[1])
    redis.call('XDEL', p .. job[2], job[1])
    redis.call('HDEL', p .. 'job:' .. id, 'entry')
  end
  redis.call('ZREM', p .. 'delayed', id)
end
local function into(id, state, at)
  local old = redis.call('HGET', p .. 'job:' .. id, 'state')
  if old then redis.call('ZREM', p .. 'in:' .. old, id) end
  redis.call('HSET', p .. 'job:' .. id, 'state', state)
  redis.call('ZADD', p .. 'in:' .. state, at, id)
end
local function ended(id, now, keep)
  redis.call('ZADD', p .. 'ends', now + keep, id)
  local key = redis.call('HGET', p .. 'job:' .. id, 'key')
  redis.call('EXPIRE', p .. 'job:' .. id, keep)
  if key and key ~= '' then redis.call('EXPIRE', p .. 'key:' .. key, keep) end
end
local function mine(id, token)
  local job = redis.call('HMGET', p .. 'job:' .. id, 'state', 'token')
  return job[1] == 'running' and job[2] == token
end
"""
# id, task, body, due, priority, key, now, most
_ENQUEUE: Final = (
    _COMMON
    + """
local id, key = ARGV[2], ARGV[7]
if key ~= '' then
  local known = redis.call('GET', p .. 'key:' .. key)
  if known and redis.call('EXISTS', p .. 'job:' .. known) == 1 then return known end
end
if tonumber(ARGV[9]) > 0 and redis.call('ZCARD', p .. 'in:waiting') >= tonumber(ARGV[9]) then
  return redis.error_reply('FULL')
end
if key ~= '' then redis.call('SET', p .. 'key:' .. key, id) end
redis.call('HSET', p .. 'job:' .. id, 'task', ARGV[3], 'body', ARGV[4], 'due', ARGV[5],
  'priority', ARGV[6], 'key', key, 'created', ARGV[8], 'failures', 0, 'claims', 0)
into(id, 'waiting', ARGV[8])
if tonumber(ARGV[5]) > tonumber(ARGV[8]) then
  redis.call('ZADD', p .. 'delayed', ARGV[5], id)
else
  ready(id, ARGV[6])
end
return id
"""
)
# now, most; also forgets those whose hashes have expired
_PROMOTE: Final = (
    _COMMON
    + """
local ends = redis.call('ZRANGEBYSCORE', p .. 'ends', '-inf', ARGV[2], 'LIMIT', 0, ARGV[3])
for _, id in ipairs(ends) do
  redis.call('ZREM', p .. 'ends', id)
  redis.call('ZREM', p .. 'in:done', id)
  redis.call('ZREM', p .. 'in:cancelled', id)
  redis.call('DEL', p .. 'job:' .. id)
end
local due = redis.call('ZRANGEBYSCORE', p .. 'delayed', '-inf', ARGV[2], 'LIMIT', 0, ARGV[3])
for _, id in ipairs(due) do
  redis.call('ZREM', p .. 'delayed', id)
  local priority = redis.call('HGET', p .. 'job:' .. id, 'priority')
  if priority then ready(id, priority) end
end
return #due
"""
)
# priority, entry, id, token, now
_BEGIN: Final = (
    _COMMON
    + """
local id, job = ARGV[4], p .. 'job:' .. ARGV[4]
if redis.call('EXISTS', job) == 0 or redis.call('HGET', job, 'entry') ~= ARGV[3] then
  redis.call('XACK', p .. ARGV[2], 'workers', ARGV[3])
  redis.call('XDEL', p .. ARGV[2], ARGV[3])
  return false
end
into(id, 'running', ARGV[6])
redis.call('HSET', job, 'token', ARGV[5], 'begun', ARGV[6])
redis.call('HINCRBY', job, 'claims', 1)
return redis.call('HMGET', job, 'task', 'body', 'failures', 'claims', 'ends')
"""
)
# priority, now, then entry, id and time of each
_PASS: Final = (
    _COMMON
    + """
for at = 4, #ARGV, 3 do
  local entry, id, time = ARGV[at], ARGV[at + 1], ARGV[at + 2]
  redis.call('XACK', p .. ARGV[2], 'workers', entry)
  redis.call('XDEL', p .. ARGV[2], entry)
  if redis.call('HGET', p .. 'job:' .. id, 'entry') == entry then
    if tonumber(time) > tonumber(ARGV[3]) then
      redis.call('HDEL', p .. 'job:' .. id, 'entry')
      redis.call('ZADD', p .. 'delayed', time, id)
    else
      ready(id, ARGV[2])
    end
  end
end
"""
)
# worker, then id and token of each
_EXTEND: Final = (
    _COMMON
    + """
local found = {}
for at = 3, #ARGV, 2 do
  local id = ARGV[at]
  if mine(id, ARGV[at + 1]) then
    local job = redis.call('HMGET', p .. 'job:' .. id, 'entry', 'priority', 'ends')
    redis.call('XCLAIM', p .. job[2], 'workers', ARGV[2], 0, job[1], 'JUSTID')
    found[#found + 1] = job[3] and 'ends' or 'kept'
  else
    found[#found + 1] = 'lost'
  end
end
return found
"""
)
# id, token, result, now, keep
_COMPLETE: Final = (
    _COMMON
    + """
local id = ARGV[2]
if not mine(id, ARGV[3]) then return 0 end
clear(id)
if tonumber(ARGV[6]) <= 0 then
  local key = redis.call('HGET', p .. 'job:' .. id, 'key')
  if key and key ~= '' then redis.call('DEL', p .. 'key:' .. key) end
  redis.call('ZREM', p .. 'in:running', id)
  redis.call('DEL', p .. 'job:' .. id)
  return 1
end
into(id, 'done', ARGV[5])
redis.call('HSET', p .. 'job:' .. id, 'result', ARGV[4], 'ended', ARGV[5], 'body', '')
ended(id, ARGV[5], ARGV[6])
return 1
"""
)
# id, token, due, now, error, failed (0 or 1)
_AGAIN: Final = (
    _COMMON
    + """
local id, job = ARGV[2], p .. 'job:' .. ARGV[2]
if not mine(id, ARGV[3]) then return 0 end
clear(id)
into(id, 'waiting', ARGV[5])
redis.call('HDEL', job, 'token')
if ARGV[7] == '1' then
  redis.call('HSET', job, 'claims', 0)
  redis.call('HINCRBY', job, 'failures', 1)
else
  redis.call('HINCRBY', job, 'claims', -1)
end
if ARGV[6] ~= '' then redis.call('HSET', job, 'error', ARGV[6]) end
if tonumber(ARGV[4]) > tonumber(ARGV[5]) then
  redis.call('HSET', job, 'due', ARGV[4])
  redis.call('ZADD', p .. 'delayed', ARGV[4], id)
else
  ready(id, redis.call('HGET', job, 'priority'))
end
return 1
"""
)
# id, token, error, now
_BURY: Final = (
    _COMMON
    + """
local id = ARGV[2]
if not mine(id, ARGV[3]) then return 0 end
clear(id)
into(id, 'dead', ARGV[5])
redis.call('HSET', p .. 'job:' .. id, 'error', ARGV[4], 'ended', ARGV[5])
redis.call('HINCRBY', p .. 'job:' .. id, 'failures', 1)
return 1
"""
)
# id, token ('' when it waits), now, keep
_CANCEL: Final = (
    _COMMON
    + """
local id, job = ARGV[2], p .. 'job:' .. ARGV[2]
local state = redis.call('HGET', job, 'state')
if not state then return false end
if ARGV[3] == '' and state == 'running' then
  redis.call('HSET', job, 'ends', 1)
  return state
end
if state == 'waiting' or (state == 'running' and mine(id, ARGV[3])) then
  clear(id)
  into(id, 'cancelled', ARGV[4])
  redis.call('HSET', job, 'ended', ARGV[4])
  ended(id, ARGV[4], ARGV[5])
  return 'cancelled'
end
return state
"""
)
# id, now
_REVIVE: Final = (
    _COMMON
    + """
local id, job = ARGV[2], p .. 'job:' .. ARGV[2]
local state = redis.call('HGET', job, 'state')
if state ~= 'dead' and state ~= 'cancelled' then return 0 end
redis.call('ZREM', p .. 'ends', id)
redis.call('PERSIST', job)
local key = redis.call('HGET', job, 'key')
if key ~= '' then redis.call('PERSIST', p .. 'key:' .. key) end
redis.call('HDEL', job, 'ends', 'ended', 'token')
redis.call('HSET', job, 'failures', 0, 'claims', 0, 'due', ARGV[3])
into(id, 'waiting', ARGV[3])
ready(id, redis.call('HGET', job, 'priority'))
return 1
"""
)
# id, token, said
_PROGRESS: Final = (
    _COMMON
    + """
if mine(ARGV[2], ARGV[3]) then redis.call('HSET', p .. 'job:' .. ARGV[2], 'progress', ARGV[4]) end
"""
)
# id
_DROP: Final = (
    _COMMON
    + """
local id, job = ARGV[2], p .. 'job:' .. ARGV[2]
local state = redis.call('HGET', job, 'state')
if not state or state == 'running' then return 0 end
clear(id)
local key = redis.call('HGET', job, 'key')
if key and key ~= '' then redis.call('DEL', p .. 'key:' .. key) end
redis.call('ZREM', p .. 'in:' .. state, id)
redis.call('ZREM', p .. 'ends', id)
redis.call('DEL', job)
return 1
"""
)


class RedisTasks:
    """Jobs at ``url`` (``redis://``, ``rediss://``, ``valkey://``, ``unix://``). Needs
    ``nexgate[redis]``. ``max_pending``: jobs that may wait.
    """

    def __init__(
        self,
        url: str,
        *,
        prefix: str = "nexgate:tasks:",
        max_pending: int = 1_000_000,
        timeout: float = 2.0,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self.link = RedisLink(url, timeout=timeout)
        self._prefix = prefix
        self._max_pending = max_pending
        self._clock = clock
        self._me = f"{id(self):x}-{time.time_ns():x}"
        self._turn = 0
        self._is_open = False
        self._scanned: dict[str, Any] = dict.fromkeys(_STREAMS, "0-0")

    async def open(self) -> None:
        for name in _STREAMS:
            try:
                await self.link.ask(
                    lambda client, n=name: client.xgroup_create(  # type: ignore[misc]  # a default binds it
                        self._prefix + n, _GROUP, id="0", mkstream=True
                    )
                )
            except RedisError as error:
                if "BUSYGROUP" not in str(error):
                    raise
        self._is_open = True

    async def aclose(self) -> None:
        was_open, self._is_open = self._is_open, False
        if was_open:
            with contextlib.suppress(RedisError):  # an idle consumer is a name, no more
                for name in _STREAMS:
                    await self._leave(self._prefix + name)
        await self.link.aclose()

    async def _leave(self, stream: str) -> None:
        pending = await self.link.ask(
            lambda client: client.xpending_range(stream, _GROUP, "-", "+", 1, self._me)
        )
        if not pending:  # deleting a consumer forgets what it has
            await self.link.ask(lambda client: client.xgroup_delconsumer(stream, _GROUP, self._me))

    async def _ask(self, question: Callable[[Any], Awaitable[T]]) -> T:
        self._check_open()
        return await self.link.ask(question)

    def _check_open(self) -> None:
        if not self._is_open:  # the link would connect, and nobody would close that
            raise RedisError(f"{self.link.place}: it is not open")

    async def _run(self, script: str, *args: Any) -> Any:
        self._check_open()
        return await self.link.run(script, [], [self._prefix, *args])

    # ---------------------------------------------------------------- producing

    async def enqueue(self, job: NewJob) -> str:
        try:
            found: bytes = await self._run(
                _ENQUEUE,
                *(job.id, job.task, job.body, job.due, job.priority, job.key or ""),
                *(self._clock(), self._max_pending),
            )
        except RedisError as error:
            if "FULL" in str(error):
                message = f"{self.link.place}: {self._max_pending} jobs wait"
                raise QueueFull(message) from None
            raise
        return found.decode()

    async def cancel(self, id: str, keep: float) -> JobState | None:
        found: bytes | None = await self._run(_CANCEL, id, "", self._clock(), max(int(keep), 1))
        return None if found is None else found.decode()  # type: ignore[return-value]  # one of them

    # ---------------------------------------------------------------- working

    async def claim(
        self, limit: int, lease: float, full: Collection[str], foreign: Collection[str] = ()
    ) -> list[Claim]:
        # What is full has room in a moment; what is foreign may be so for ever.
        skip = {**dict.fromkeys(full, 0.0), **dict.fromkeys(foreign, _FOREIGN)}
        try:
            return await self._claim(limit, lease, skip)
        except RedisError as error:
            if "NOGROUP" not in str(error):
                raise
            await self.open()  # the server has forgotten everything
            return await self._claim(limit, lease, skip)

    async def _claim(self, limit: int, lease: float, skip: Mapping[str, float]) -> list[Claim]:
        await self._run(_PROMOTE, self._clock(), _CLEAN_AT_ONCE)
        self._turn += 1
        order = _ORDERS[self._turn % len(_ORDERS)]
        claims: list[Claim] = []
        for name in order:
            if len(claims) < limit:
                claims += await self._claim_dead(name, limit - len(claims), lease)
        for name in order:
            if len(claims) < limit:
                claims += await self._claim_new(name, limit - len(claims), skip)
        given = [claim for claim in claims if claim.task in skip]
        if given:
            await self.give_back(given)
        return [claim for claim in claims if claim.task not in skip]

    async def _claim_new(self, name: str, limit: int, skip: Mapping[str, float]) -> list[Claim]:
        """Those that are not for us go behind the others, so that they do not hide them."""
        stream = self._prefix + name
        claims: list[Claim] = []
        passed: set[bytes] = set()
        for _ in range(_ROUNDS):
            room = limit - len(claims)
            found = await self._ask(
                lambda client, n=room: client.xreadgroup(  # type: ignore[misc]  # a default binds it
                    _GROUP, self._me, {stream: ">"}, count=n
                )
            )
            entries = found[0][1] if found else []
            full = [each for each in entries if each[1][b"t"].decode() in skip]
            if full:
                now = self._clock()
                told = [
                    part
                    for entry, fields in full
                    for part in (entry, fields[b"i"], now + skip[fields[b"t"].decode()])
                ]
                await self._run(_PASS, name, now, *told)
            claims += await self._begin(name, [each for each in entries if each not in full])
            ids = {fields[b"i"] for _, fields in full}
            if not ids or len(claims) >= limit or ids & passed:
                break
            passed |= ids
        return claims

    async def _claim_dead(self, name: str, limit: int, lease: float) -> list[Claim]:
        stream = self._prefix + name
        # A look goes through a few of those that are being run, and the next one goes on there.
        found = await self._ask(
            lambda client: client.xautoclaim(
                stream, _GROUP, self._me, int(lease * 1000), self._scanned[name], count=limit
            )
        )
        self._scanned[name] = found[0]
        return await self._begin(name, found[1])

    async def _begin(
        self, name: str, entries: Sequence[tuple[bytes, dict[bytes, bytes]]]
    ) -> list[Claim]:
        claims: list[Claim] = []
        for entry, fields in entries:
            if not fields:
                continue
            job = fields[b"i"].decode()
            token = f"{self._me}.{time.monotonic_ns():x}"
            found = await self._run(_BEGIN, name, entry, job, token, self._clock())
            if found is None:
                continue
            task, body, failures, count, ends = found
            claim = Claim(
                job, task.decode(), body, int(failures), token, is_cancelled=ends is not None
            )
            if int(count) > MOST_CLAIMS:
                await self.bury(claim, f"{MOST_CLAIMS} workers died while they ran it")
            else:
                claims.append(claim)
        return claims

    async def extend(self, claims: Sequence[Claim], lease: float) -> None:
        pairs = [each for claim in claims for each in (claim.id, claim.token)]
        for claim, said in zip(claims, await self._run(_EXTEND, self._me, *pairs), strict=True):
            claim.is_lost = claim.is_lost or said == b"lost"
            claim.is_cancelled = claim.is_cancelled or said == b"ends"

    async def wanted_ends(self, claims: Sequence[Claim]) -> None:
        """Set ``is_cancelled``, without extending anything."""

        async def look(client: Any) -> Any:
            pipeline = client.pipeline(transaction=False)
            for claim in claims:
                pipeline.hget(f"{self._prefix}job:{claim.id}", "ends")
            return await pipeline.execute()

        for claim, ends in zip(claims, await self._ask(look), strict=True):
            claim.is_cancelled = claim.is_cancelled or ends is not None

    async def complete(self, claim: Claim, result: bytes | None, keep: float) -> bool:
        seconds = max(int(keep), 1) if keep > 0 else 0
        return bool(
            await self._run(_COMPLETE, claim.id, claim.token, result or b"", self._clock(), seconds)
        )

    async def retry(self, claim: Claim, delay: float, error: str) -> bool:
        now = self._clock()
        return bool(
            await self._run(_AGAIN, claim.id, claim.token, now + delay, now, error[:4000], 1)
        )

    async def bury(self, claim: Claim, error: str) -> bool:
        return bool(await self._run(_BURY, claim.id, claim.token, error[:4000], self._clock()))

    async def cancelled(self, claim: Claim, keep: float) -> bool:
        found = await self._run(_CANCEL, claim.id, claim.token, self._clock(), max(int(keep), 1))
        return bool(found == b"cancelled")

    async def give_back(self, claims: Sequence[Claim], error: str = "") -> None:
        now = self._clock()
        for claim in claims:
            await self._run(_AGAIN, claim.id, claim.token, now, now, error[:4000], 0)

    async def progress(self, claim: Claim, said: dict[str, Any]) -> None:
        await self._run(_PROGRESS, claim.id, claim.token, json.dumps(said))

    async def wait(self, timeout: float) -> None:
        """Polling: a stream can be waited for, a job that becomes due cannot."""
        await asyncio.sleep(min(timeout, _POLL))

    # ---------------------------------------------------------------- asking

    async def get(self, id: str) -> JobRecord | None:
        found: dict[bytes, bytes] = await self._ask(
            lambda client: client.hgetall(f"{self._prefix}job:{id}")
        )
        return _record(id, found) if found.get(b"state") else None

    async def jobs(self, state: JobState | None = None, limit: int = 100) -> list[JobRecord]:
        states = (
            (state,) if state is not None else ("waiting", "running", "done", "dead", "cancelled")
        )
        found: list[JobRecord] = []
        for each in states:
            name = f"{self._prefix}in:{each}"
            ids: list[bytes] = await self._ask(
                lambda client, n=name: client.zrevrange(n, 0, limit - 1)  # type: ignore[misc]  # a default binds it
            )
            for job in ids:
                record = await self.get(job.decode())
                if record is None:  # its result has expired
                    await self._ask(lambda client, n=name, j=job: client.zrem(n, j))  # type: ignore[misc]  # defaults bind them
                else:
                    found.append(record)
        return sorted(found, key=lambda record: record.id, reverse=True)[:limit]

    async def revive(self, ids: Sequence[str]) -> int:
        return sum([int(await self._run(_REVIVE, each, self._clock())) for each in ids])

    async def drop(self, ids: Sequence[str]) -> int:
        return sum([int(await self._run(_DROP, each)) for each in ids])

    async def counts(self) -> dict[str, int]:
        states = ("waiting", "running", "done", "dead", "cancelled")

        async def count(client: Any) -> Any:
            pipeline = client.pipeline(transaction=False)
            for each in states:
                pipeline.zcard(f"{self._prefix}in:{each}")
            return await pipeline.execute()

        return dict(zip(states, await self._ask(count), strict=True))

    async def wait_job(self, id: str, timeout: float) -> JobRecord | None:
        loop = asyncio.get_running_loop()
        end = loop.time() + timeout
        pause = 0.01
        while True:
            job = await self.get(id)
            if job is None or job.state in ("done", "dead", "cancelled") or loop.time() >= end:
                return job
            await asyncio.sleep(min(pause, max(end - loop.time(), 0.0)))
            pause = min(pause * 1.5, 0.25)


def _record(id: str, said: dict[bytes, bytes]) -> JobRecord:
    def number(name: bytes) -> float | None:
        text = said.get(name)
        return float(text) if text else None

    state: Any = said[b"state"].decode()
    return JobRecord(
        id,
        said[b"task"].decode(),
        state,
        said[b"priority"].decode(),
        number(b"due") or 0.0,
        int(said.get(b"failures", b"0")),
        number(b"created") or 0.0,
        number(b"begun"),
        number(b"ended"),
        said[b"key"].decode() or None,
        said.get(b"error", b"").decode(),
        json.loads(said[b"progress"]) if b"progress" in said else None,
        said.get(b"result") or None,
        said.get(b"body", b""),
    )
