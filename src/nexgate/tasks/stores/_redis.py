"""Jobs in Redis or Valkey, for many machines.

A job is a hash. Its id waits in the stream of its task and priority when it is due, and in a sorted
set until then. A worker reads the streams of the tasks that it has room for, so no job that is not
for it is in its way. Workers are one consumer group; what a worker that died had is claimed by
another when it has been idle for a lease. A token in the hash decides whose outcome counts. Every
change is one script, so that a job is never in two places or in none, and so is a look for work.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import math
import time
from collections.abc import Awaitable, Callable, Collection, Sequence
from typing import Any, Final, TypeVar

from nexgate.redis_link import RedisError, RedisLink

from .._errors import QueueFull
from .._store import MOST_CLAIMS, Claim, JobRecord, JobState, NewJob

__all__ = ["RedisTasks"]

T = TypeVar("T")

_PRIORITIES: Final = ("high", "normal", "low")
_ORDERS: Final = tuple(
    _PRIORITIES if turn % 4 else (("normal", "high", "low"), ("low", "normal", "high"))[turn // 4]
    for turn in range(8)
)
"""In which order looks go through them: now and then others begin, and are not starved."""
_CLEAN_AT_ONCE: Final = 256

# ARGV[1] is the prefix everywhere.
_COMMON: Final = """
local p = ARGV[1]
local priorities = {'high', 'normal', 'low'}
local function stream(task, priority) return p .. 'of:' .. priority .. ':' .. task end
local function groups(task)
  for _, priority in ipairs(priorities) do
    redis.pcall('XGROUP', 'CREATE', stream(task, priority), 'workers', '0', 'MKSTREAM')
  end
end
local function wake(id) redis.call('XADD', p .. 'wake', 'MAXLEN', '1', '*', 'i', id) end
local function later(id, at)
  redis.call('ZADD', p .. 'delayed', at, id)
  if redis.call('ZRANGE', p .. 'delayed', 0, 0)[1] == id then wake(id) end
end
local function ready(id)
  local job = redis.call('HMGET', p .. 'job:' .. id, 'task', 'priority')
  if not job[1] then return end
  if redis.call('SADD', p .. 'tasks', job[1]) == 1 then groups(job[1]) end
  redis.call('HSET', p .. 'job:' .. id, 'entry',
    redis.call('XADD', stream(job[1], job[2]), '*', 'i', id))
  wake(id)
end
local function clear(id)
  local job = redis.call('HMGET', p .. 'job:' .. id, 'entry', 'task', 'priority')
  if job[1] then
    local from = stream(job[2], job[3])
    redis.call('XACK', from, 'workers', job[1])
    redis.call('XDEL', from, job[1])
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
  later(id, ARGV[5])
else
  ready(id)
end
return id
"""
)
# worker, token, now, room, at once, turn, the three priorities in order, lease in ms or 0 for no
# look for the jobs of dead workers, tasks to pass over
_CLAIM: Final = (
    _COMMON
    + """
local me, token, now, room = ARGV[2], ARGV[3], ARGV[4], tonumber(ARGV[5])
local ends = redis.call('ZRANGEBYSCORE', p .. 'ends', '-inf', now, 'LIMIT', 0, ARGV[6])
for _, id in ipairs(ends) do
  redis.call('ZREM', p .. 'ends', id)
  redis.call('ZREM', p .. 'in:done', id)
  redis.call('ZREM', p .. 'in:cancelled', id)
  redis.call('DEL', p .. 'job:' .. id)
end
local due = redis.call('ZRANGEBYSCORE', p .. 'delayed', '-inf', now, 'LIMIT', 0, ARGV[6])
for _, id in ipairs(due) do
  redis.call('ZREM', p .. 'delayed', id)
  ready(id)
end
local skip, tasks, claims = {}, {}, {}
for at = 12, #ARGV do skip[ARGV[at]] = true end
for _, task in ipairs(redis.call('SMEMBERS', p .. 'tasks')) do
  if not skip[task] then tasks[#tasks + 1] = task end
end
table.sort(tasks)
local function begin(from, found)
  for _, each in ipairs(found) do
    local entry, id = each and each[1], each and each[2] and each[2][2]
    local job = id and p .. 'job:' .. id
    if job and redis.call('HGET', job, 'entry') == entry then
      into(id, 'running', now)
      redis.call('HSET', job, 'token', token, 'begun', now)
      redis.call('HINCRBY', job, 'claims', 1)
      local said = redis.call('HMGET', job, 'task', 'body', 'failures', 'claims', 'ends')
      claims[#claims + 1] = {id, said[1], said[2], said[3], said[4], said[5] and 1 or 0}
    elseif entry then
      redis.call('XACK', from, 'workers', entry)
      redis.call('XDEL', from, entry)
    end
  end
end
-- The first task of a look is another each time: one with much to do leaves the others their turn.
local function each_stream(use)
  for place = 8, 10 do
    for number = 1, #tasks do
      if #claims >= room then return end
      use(stream(tasks[(number + ARGV[7]) % #tasks + 1], ARGV[place]))
    end
  end
end
if tonumber(ARGV[11]) > 0 then
  each_stream(function(from)
    local cursor = '0-0'
    repeat
      local found = redis.call('XAUTOCLAIM', from, 'workers', me, ARGV[11], cursor,
        'COUNT', room - #claims)
      cursor = found[1]
      begin(from, found[2])
    until cursor == '0-0' or #claims >= room
  end)
end
each_stream(function(from)
  local found = redis.call('XREADGROUP', 'GROUP', 'workers', me, 'COUNT', room - #claims,
    'STREAMS', from, '>')
  if found then begin(from, found[1][2]) end
end)
local woken = redis.call('XREVRANGE', p .. 'wake', '+', '-', 'COUNT', 1)
local soonest = redis.call('ZRANGE', p .. 'delayed', 0, 0, 'WITHSCORES')
return {claims, woken[1] and woken[1][1] or '0-0', soonest[2] or ''}
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
    local job = redis.call('HMGET', p .. 'job:' .. id, 'entry', 'task', 'priority', 'ends')
    redis.call('XCLAIM', stream(job[2], job[3]), 'workers', ARGV[2], 0, job[1], 'JUSTID')
    found[#found + 1] = job[4] and 'ends' or 'kept'
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
  later(id, ARGV[4])
else
  ready(id)
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
ready(id)
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

# no arguments
_OPEN: Final = (
    _COMMON
    + """
for _, task in ipairs(redis.call('SMEMBERS', p .. 'tasks')) do groups(task) end
"""
)
# worker; one that has something keeps its name, because with it goes what it has
_LEAVE: Final = (
    _COMMON
    + """
for _, task in ipairs(redis.call('SMEMBERS', p .. 'tasks')) do
  for _, priority in ipairs(priorities) do
    local from = stream(task, priority)
    local has = redis.pcall('XPENDING', from, 'workers', '-', '+', 1, ARGV[2])
    if not has.err and #has == 0 then
      redis.pcall('XGROUP', 'DELCONSUMER', from, 'workers', ARGV[2])
    end
  end
end
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
        self._searched = -math.inf
        self._woken = b"0-0"
        self._due: float | None = None

    async def open(self) -> None:
        self._is_open = True
        try:
            await self._run(_OPEN)
        except BaseException:
            self._is_open = False
            raise

    async def aclose(self) -> None:
        if self._is_open:
            with contextlib.suppress(RedisError):  # an idle consumer is a name, no more
                await self._run(_LEAVE, self._me)
        self._is_open = False
        await self.link.aclose()

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

    async def claim(self, limit: int, lease: float, skip: Collection[str]) -> list[Claim]:
        try:
            return await self._claim(limit, lease, skip)
        except RedisError as error:
            if "NOGROUP" not in str(error):
                raise
            await self.open()  # the server has lost some of it
            return await self._claim(limit, lease, skip)

    async def _claim(self, limit: int, lease: float, skip: Collection[str]) -> list[Claim]:
        self._turn += 1
        token = f"{self._me}.{self._turn:x}"
        began = time.monotonic()
        is_search = began - self._searched >= lease / 4
        found, self._woken, due = await self._run(
            _CLAIM,
            *(self._me, token, self._clock(), limit, _CLEAN_AT_ONCE, self._turn),
            *_ORDERS[self._turn % len(_ORDERS)],
            int(lease * 1000) if is_search else 0,
            *skip,
        )
        if is_search and len(found) < limit:  # else there may be more
            self._searched = began
        self._due = float(due) if due else None
        claims: list[Claim] = []
        for job, task, body, failures, count, ends in found:
            claim = Claim(
                job.decode(), task.decode(), body, int(failures), token, is_cancelled=bool(ends)
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
        if self._due is not None:
            timeout = min(timeout, max(self._due - self._clock(), 0.0))
        block = math.ceil(timeout * 1000)
        if block <= 0:
            return
        self._check_open()
        await self.link.ask(
            lambda client: client.xread({f"{self._prefix}wake": self._woken}, block=block),
            wait=timeout,
        )

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
