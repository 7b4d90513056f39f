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
from ._scripts import (
    AGAIN,
    BURY,
    CANCEL,
    CLAIM,
    COMPLETE,
    DROP,
    ENQUEUE,
    EXTEND,
    LEAVE,
    OPEN,
    PROGRESS,
    REVIVE,
)

__all__ = ["RedisTasks"]

T = TypeVar("T")

_PRIORITIES: Final = ("high", "normal", "low")
_ORDERS: Final = tuple(
    _PRIORITIES if turn % 4 else (("normal", "high", "low"), ("low", "normal", "high"))[turn // 4]
    for turn in range(8)
)
"""In which order looks go through them: now and then others begin, and are not starved."""
_CLEAN_AT_ONCE: Final = 256


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
            await self._run(OPEN)
        except BaseException:
            self._is_open = False
            raise

    async def aclose(self) -> None:
        if self._is_open:
            with contextlib.suppress(RedisError):  # an idle consumer is a name, no more
                await self._run(LEAVE, self._me)
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
                ENQUEUE,
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
        found: bytes | None = await self._run(CANCEL, id, "", self._clock(), max(int(keep), 1))
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
            CLAIM,
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
        for claim, said in zip(claims, await self._run(EXTEND, self._me, *pairs), strict=True):
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
            await self._run(COMPLETE, claim.id, claim.token, result or b"", self._clock(), seconds)
        )

    async def retry(self, claim: Claim, delay: float, error: str) -> bool:
        now = self._clock()
        return bool(
            await self._run(AGAIN, claim.id, claim.token, now + delay, now, error[:4000], 1)
        )

    async def bury(self, claim: Claim, error: str) -> bool:
        return bool(await self._run(BURY, claim.id, claim.token, error[:4000], self._clock()))

    async def cancelled(self, claim: Claim, keep: float) -> bool:
        found = await self._run(CANCEL, claim.id, claim.token, self._clock(), max(int(keep), 1))
        return bool(found == b"cancelled")

    async def give_back(self, claims: Sequence[Claim], error: str = "") -> None:
        now = self._clock()
        for claim in claims:
            await self._run(AGAIN, claim.id, claim.token, now, now, error[:4000], 0)

    async def progress(self, claim: Claim, said: dict[str, Any]) -> None:
        await self._run(PROGRESS, claim.id, claim.token, json.dumps(said))

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
        return sum([int(await self._run(REVIVE, each, self._clock())) for each in ids])

    async def drop(self, ids: Sequence[str]) -> int:
        return sum([int(await self._run(DROP, each)) for each in ids])

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
