"""Events in streams of Redis or Valkey, for many machines.

Keys are spread over *partitions*, a stream each. A partition is worked on by one consumer of a
group at a time, who holds a lease for it: that is what keeps events of a key in order over
machines. In the group of a stream the consumer is always called the same, so what a holder that
died had read and not settled is its successor's to read again.
"""

from __future__ import annotations

import asyncio
import math
import time
import zlib
from collections.abc import AsyncGenerator, Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from nexgate.redis_link import RedisError, RedisLink

from .._cloudevents import InvalidCloudEvent, decode, encode
from .._errors import BacklogFull
from .._event import Event, new_id
from .._store import Claim, Dead, DurableOptions, GroupStatus, partition_of
from .._topics import matcher
from ._letters import LetterStream
from ._partition import WINDOW, Entry, Partition

__all__ = ["RedisStreams"]

_APPEND: Final = """
if ARGV[1] ~= '' and not redis.call('SET', KEYS[2], '1', 'NX', 'EX', ARGV[2]) then return '' end
if tonumber(ARGV[3]) > 0 and redis.call('XLEN', KEYS[1]) >= tonumber(ARGV[3]) then
  if ARGV[1] ~= '' then redis.call('DEL', KEYS[2]) end
  return redis.error_reply('BACKLOG')
end
return redis.call('XADD', KEYS[1], '*', unpack(ARGV, 4))
"""
_RENEW: Final = """
if redis.call('GET', KEYS[1]) == ARGV[1] then return redis.call('PEXPIRE', KEYS[1], ARGV[2]) end
return 0
"""
_RELEASE: Final = """
if redis.call('GET', KEYS[1]) == ARGV[1] then return redis.call('DEL', KEYS[1]) end
return 0
"""
_CONSUMER: Final = "holder"
_SUSPECT: Final = 3
_MOST_TAKEOVERS: Final = 20
_TRIM_EVERY: Final = 256
_DEDUPE_SECONDS: Final = 24 * 3600
_PAGE: Final = 256
"""Dead letters that are read at once."""


@dataclass(slots=True, eq=False)
class _Group:
    name: str
    matches: tuple[Callable[[str], bool], ...]
    lease: float
    held: dict[int, Partition] = field(default_factory=dict)
    renewed: float = 0.0
    looked: float = 0.0
    """When the last claim looked: what has become due since is worth another look."""
    settled: int = 0
    changed: asyncio.Event = field(default_factory=asyncio.Event)


class RedisStreams(LetterStream):
    """Events at ``url`` (``redis://``, ``rediss://``, ``valkey://``, ``unix://``). Needs
    ``nexgate[redis]``.

    ``partitions``: how many consumers of a group can work at once, over all machines; the same
    everywhere, for ever. ``max_pending``: events of one partition that may wait; beyond it
    ``publish`` raises ``BacklogFull``. Ids that publishers chose are remembered for a day.
    """

    def __init__(
        self,
        url: str,
        *,
        prefix: str = "nexgate:events",
        partitions: int = 16,
        max_pending: int = 100_000,
        timeout: float = 2.0,
    ) -> None:
        self.link = RedisLink(url, timeout=timeout)
        self._prefix = prefix
        self._partitions = partitions
        self._max_pending = max_pending
        self._me = new_id()
        self._groups: dict[str, _Group] = {}

    async def open(self) -> None:
        await self.link.ask(lambda client: client.ping())

    async def aclose(self) -> None:
        try:
            for group in self._groups.values():
                for partition in group.held.values():
                    await self._release(group, partition)
                members = f"{self._prefix}:members:{group.name}"
                await self.link.ask(lambda client, key=members: client.zrem(key, self._me))  # type: ignore[misc]  # a default binds it
        except RedisError:
            pass  # what we hold ends by itself
        self._groups.clear()
        await self.link.aclose()

    async def _release(self, group: _Group, partition: Partition) -> None:
        await self.link.run(_RELEASE, [self._lease(group, partition.number)], [partition.lease])

    # ---------------------------------------------------------------- publishing

    def _stream(self, number: int) -> str:
        return f"{self._prefix}:{number}"

    def _lease(self, group: _Group, number: int) -> str:
        return f"{self._prefix}:lease:{group.name}:{number}"

    async def append(self, events: Sequence[Event], *, within: Any = None) -> None:
        if within is not None:
            raise TypeError("Redis is not in your database's transaction: use SqliteOutbox")
        for event in events:
            await self._append(event, encode(event), event.chosen_id or "")

    async def _append(self, event: Event, body: bytes, chosen: str, only: str = "") -> None:
        fields: list[Any] = ["e", body]
        if only:
            fields += ["g", only]
        number = partition_of(event, self._partitions)
        keys = [self._stream(number), f"{self._prefix}:id:{chosen}"]
        args = [chosen, _DEDUPE_SECONDS, self._max_pending, *fields]
        for is_trimmed in (False, True):
            try:
                await self.link.run(_APPEND, keys, args)
                return
            except RedisError as error:
                if "BACKLOG" not in str(error):
                    raise
                if is_trimmed:
                    message = f"{self.link.place}: {self._max_pending} events wait"
                    raise BacklogFull(message) from None
            await self._trim(number)

    # ---------------------------------------------------------------- holding partitions

    async def join(self, group: str, patterns: Sequence[str], options: DurableOptions) -> None:
        matches = tuple(matcher(each) for each in patterns)
        known = self._groups.get(group)
        if known is not None:
            known.matches = matches
            return
        await self._begin(group, "0" if options.start == "beginning" else "$")
        await self.link.ask(lambda client: client.sadd(f"{self._prefix}:groups", group))
        self._groups[group] = _Group(group, matches, options.lease)

    async def _begin(self, group: str, start: str) -> None:
        for number in range(self._partitions):
            try:
                await self.link.ask(
                    lambda client, n=number: client.xgroup_create(  # type: ignore[misc]  # a default binds it
                        self._stream(n), group, id=start, mkstream=True
                    )
                )
            except RedisError as error:
                if "BUSYGROUP" not in str(error):
                    raise

    async def leave(self, group: str) -> None:
        self._groups.pop(group, None)
        for number in range(self._partitions):
            stream = self._stream(number)
            try:
                await self.link.ask(lambda client, s=stream: client.xgroup_destroy(s, group))  # type: ignore[misc]  # a default binds it
            except RedisError as error:
                if "key to exist" not in str(error):
                    raise
        names = [f"{self._prefix}:{kind}:{group}" for kind in ("counts", "members", "dead")]
        await self.link.ask(lambda client: client.delete(*names))
        await self.link.ask(lambda client: client.srem(f"{self._prefix}:groups", group))

    async def _hold(self, group: _Group) -> None:
        """Hold our share of the partitions: those that are free, up to as many as the others."""
        now = time.monotonic()
        if now - group.renewed < group.lease / 4:
            return
        group.renewed = now
        await self._renew(group)
        members = f"{self._prefix}:members:{group.name}"
        alive = time.time()

        async def count(client: Any) -> Any:
            pipeline = client.pipeline()
            pipeline.zadd(members, {self._me: alive + group.lease * 2})
            pipeline.zremrangebyscore(members, "-inf", alive)
            pipeline.zcard(members)
            pipeline.expire(members, math.ceil(group.lease * 4))
            return await pipeline.execute()

        share = math.ceil(self._partitions / max((await self.link.ask(count))[2], 1))
        for number in range(self._partitions):
            offset = (number + zlib.crc32(self._me.encode())) % self._partitions
            if len(group.held) >= share:
                break
            if offset not in group.held:
                await self._take(group, offset)
        idle = [p for p in group.held.values() if not p.entries]
        for partition in idle[: max(len(group.held) - share, 0)]:
            await self._release(group, partition)
            del group.held[partition.number]

    async def _take(self, group: _Group, number: int) -> None:
        token = f"{self._me}:{new_id()}".encode()
        milliseconds = int(group.lease * 1000)
        if not await self.link.ask(
            lambda client: client.set(self._lease(group, number), token, nx=True, px=milliseconds)
        ):
            return
        partition = Partition(number, token)
        # What the holder before us read and did not settle comes first.
        begin: bytes = b"0"
        while True:
            found = await self._read(group, partition, begin, WINDOW)
            if not found:
                break
            begin = found[-1][0]
            counts = await self._counts_of(group, [name for name, _ in found])
            for (name, fields), (failures, takeovers) in zip(found, counts, strict=True):
                await self._enter(group, partition, name, fields, failures, takeovers)
        # What was delivered and settled before is not news.
        stream = self._stream(number)
        for each in await self._groups_of(stream):
            if each["name"] == group.name.encode():
                partition.last = max(partition.last, each["last-delivered-id"], key=_order)
        group.held[number] = partition

    async def _renew(self, group: _Group) -> None:
        for partition in list(group.held.values()):
            kept = await self.link.run(
                _RENEW,
                [self._lease(group, partition.number)],
                [partition.lease, int(group.lease * 1000)],
            )
            if not kept:
                partition.is_lost = True
                del group.held[partition.number]

    async def _read(
        self, group: _Group, partition: Partition, begin: bytes | str, count: int
    ) -> list[tuple[bytes, dict[bytes, bytes]]]:
        stream = self._stream(partition.number)
        found = await self.link.ask(
            lambda client: client.xreadgroup(group.name, _CONSUMER, {stream: begin}, count=count)
        )
        return found[0][1] if found else []

    async def _counts_of(self, group: _Group, names: Sequence[bytes]) -> list[tuple[int, int]]:
        """Failures and takeovers of what another has read; this is one takeover more."""
        counts = f"{self._prefix}:counts:{group.name}"

        async def count(client: Any) -> Any:
            pipeline = client.pipeline()
            for name in names:
                pipeline.hget(counts, b"f" + name)
                pipeline.hincrby(counts, b"t" + name, 1)
            return await pipeline.execute()

        found = await self.link.ask(count)
        return [
            (int(failures or 0), int(takeovers))
            for failures, takeovers in zip(found[::2], found[1::2], strict=True)
        ]

    async def _enter(
        self,
        group: _Group,
        partition: Partition,
        name: bytes,
        fields: dict[bytes, bytes],
        failures: int = 0,
        takeovers: int = 0,
    ) -> None:
        partition.last = max(partition.last, name, key=_order)
        if not fields:  # its content is gone
            await self._acknowledge(group, partition, name)
            return
        only, body = fields.get(b"g"), fields.get(b"e", b"")
        try:
            event = decode(body)
        except InvalidCloudEvent as error:
            id_ = f"unreadable-{partition.number}-{name.decode()}"
            letter = _letter(id_, body, failures, str(error))
            await self._bury(group, partition, name, letter)
            return
        is_ours = (
            only == group.name.encode()
            if only is not None
            else any(matches(event.name) for matches in group.matches)
        )
        if not is_ours:
            await self._acknowledge(group, partition, name)
            return
        lane = f"k{event.key}" if event.key is not None else f"e{name.decode()}"
        partition.add(name, Entry(lane, body, failures, takeovers))

    async def groups(self) -> list[GroupStatus]:
        names = await self.link.ask(lambda client: client.smembers(f"{self._prefix}:groups"))
        waiting = dict.fromkeys((name.decode() for name in names), 0)
        for number in range(self._partitions):
            stream = self._stream(number)
            for each in await self._groups_of(stream):
                name = each["name"].decode()
                # Redis does not know how many are left where some in the middle are deleted: ours
                # are deleted from the front only.
                waiting[name] = waiting.get(name, 0) + (each["lag"] or 0) + each["pending"]
        found: list[GroupStatus] = []
        for name, count in sorted(waiting.items()):
            dead = f"{self._prefix}:dead:{name}"
            letters = await self.link.ask(lambda client, key=dead: client.xlen(key))  # type: ignore[misc]  # a default binds it
            found.append(GroupStatus(name, count, letters))
        return found

    async def _groups_of(self, stream: str) -> list[dict[str, Any]]:
        try:
            found: list[dict[str, Any]] = await self.link.ask(
                lambda client: client.xinfo_groups(stream)
            )
        except RedisError as error:
            if "no such key" not in str(error):
                raise
            return []
        return found

    # ---------------------------------------------------------------- claiming

    async def claim(self, group: str, limit: int, lease: float) -> list[Claim]:
        try:
            return await self._claim(group, limit)
        except RedisError as error:
            if "NOGROUP" not in str(error):
                raise
            # The server has lost it. What was published since is the group's.
            await self._begin(group, "0")
            await self.link.ask(lambda client: client.sadd(f"{self._prefix}:groups", group))
            return await self._claim(group, limit)

    async def _claim(self, group: str, limit: int) -> list[Claim]:
        known = self._groups[group]
        known.changed.clear()  # before we look: what changes from here on is noticed by ``wait``
        await self._hold(known)
        now = known.looked = time.monotonic()
        claims: list[Claim] = []
        for partition in list(known.held.values()):
            if len(claims) >= limit:
                break
            room = min(partition.room(now), limit)
            if room > 0:
                for name, fields in await self._read(known, partition, ">", room):
                    await self._enter(known, partition, name, fields)
            picked = await self._pick(known, partition, now, limit - len(claims))
            if picked and partition.number in known.held:
                # The others come first next time, or a busy one would leave them nothing.
                known.held[partition.number] = known.held.pop(partition.number)
            claims += picked
        return claims

    async def _pick(
        self, group: _Group, partition: Partition, now: float, limit: int
    ) -> list[Claim]:
        found: list[Claim] = []
        for lane in list(partition.lanes.values()):
            if not lane:  # it was settled while we waited
                continue
            head = partition.entries[lane[0]]
            if head.is_claimed or head.due > now:
                continue
            for name in list(lane):
                if len(found) >= limit:
                    return found
                entry = partition.entries[name]
                # Read again, not kept: much may be parked, and a handler may change what it gets.
                claim = Claim(decode(entry.body), entry.lane, entry.failures, (partition, name))
                if entry.takeovers > _MOST_TAKEOVERS:
                    await self.bury(group.name, claim, f"{entry.takeovers} consumers died of it")
                    continue
                if entry.takeovers >= _SUSPECT:
                    if found or any(each.is_claimed for each in partition.heads()):
                        return found
                    entry.is_claimed = True  # alone, so that it takes no other with it
                    return [claim]
                entry.is_claimed = True
                found.append(claim)
        return found

    async def extend(self, group: str, claims: Sequence[Claim], lease: float) -> None:
        known = self._groups[group]
        await self._renew(known)
        known.renewed = time.monotonic()
        for claim in claims:
            claim.is_lost = claim.is_lost or claim.token[0].is_lost

    # ---------------------------------------------------------------- settling

    async def _acknowledge(
        self, group: _Group, partition: Partition, name: bytes, *more: Any
    ) -> None:
        stream = self._stream(partition.number)
        counts = f"{self._prefix}:counts:{group.name}"

        async def settle(client: Any) -> Any:
            pipeline = client.pipeline(transaction=True)
            for each in more:
                each(pipeline)
            pipeline.xack(stream, group.name, name)
            pipeline.hdel(counts, b"f" + name, b"t" + name)
            return await pipeline.execute()

        await self.link.ask(settle)
        partition.remove(name)
        group.changed.set()
        group.settled += 1
        if group.settled % _TRIM_EVERY == 0:
            await self._trim(partition.number)

    async def _trim(self, number: int) -> None:
        """Forget what every group has settled."""
        stream = self._stream(number)
        groups = await self._groups_of(stream)
        least: bytes | None = None
        for each in groups:
            name = each["name"]
            pending = await self.link.ask(lambda client, n=name: client.xpending(stream, n))  # type: ignore[misc]  # a default binds it
            oldest = pending["min"] or each["last-delivered-id"]
            if least is None or _order(oldest) < _order(least):
                least = oldest
        if least is not None and _order(least) > (0, 0):
            minimum = least
            await self.link.ask(
                lambda client: client.xtrim(stream, minid=minimum, approximate=False)
            )

    async def done(self, group: str, claim: Claim) -> None:
        partition, name = claim.token
        await self._acknowledge(self._groups[group], partition, name)

    async def retry(self, group: str, claim: Claim, delay: float) -> None:
        partition, name = claim.token
        counts = f"{self._prefix}:counts:{group}"

        async def count(client: Any) -> Any:
            pipeline = client.pipeline()
            pipeline.hincrby(counts, b"f" + name, 1)
            pipeline.hdel(counts, b"t" + name)
            return await pipeline.execute()

        await self.link.ask(count)
        entry = partition.entries.get(name)
        if entry is not None:
            entry.failures, entry.takeovers = entry.failures + 1, 0
            entry.due, entry.is_claimed = time.monotonic() + delay, False
        self._groups[group].changed.set()  # there is something new to wait for

    async def give_back(self, group: str, claims: Sequence[Claim]) -> None:
        for claim in claims:
            partition, name = claim.token
            entry = partition.entries.get(name)
            if entry is not None:
                entry.is_claimed = False
        known = self._groups.get(group)
        if known is not None:
            known.changed.set()

    async def bury(self, group: str, claim: Claim, error: str) -> None:
        partition, name = claim.token
        entry = partition.entries.get(name)
        if entry is not None:
            letter = _letter(claim.event.id, entry.body, claim.failures, error)
            await self._bury(self._groups[group], partition, name, letter)

    async def _bury(
        self, group: _Group, partition: Partition, name: bytes, letter: dict[str, Any]
    ) -> None:
        stream = f"{self._prefix}:dead:{group.name}"
        await self._acknowledge(
            group, partition, name, lambda pipeline: pipeline.xadd(stream, letter)
        )

    async def wait(self, group: str, timeout: float) -> None:
        known = self._groups[group]
        now = time.monotonic()
        dues = [
            entry.due - now
            for partition in known.held.values()
            for entry in partition.heads()
            if entry.due > known.looked
        ]
        timeout = max(min([timeout, known.lease / 4, *dues]), 0.001)
        streams = {self._stream(p.number): p.last for p in known.held.values() if p.room(now) > 0}
        waiting: list[asyncio.Task[Any]] = [asyncio.create_task(known.changed.wait())]
        if streams:
            block = max(int(timeout * 1000), 1)
            waiting.append(
                asyncio.create_task(
                    self.link.ask(
                        lambda client: client.xread(streams, count=1, block=block), wait=timeout
                    )
                )
            )
        try:
            finished, _ = await asyncio.wait(
                waiting, timeout=timeout, return_when=asyncio.FIRST_COMPLETED
            )
        finally:
            for task in waiting:
                task.cancel()
            await asyncio.gather(*waiting, return_exceptions=True)
        for task in finished:
            if (error := task.exception()) is not None:
                raise error

    # ---------------------------------------------------------------- dead letters

    async def _letters(self, group: str) -> AsyncGenerator[tuple[bytes, Dead], None]:
        """Every dead letter with its name in the stream, the oldest first."""
        stream, begin = f"{self._prefix}:dead:{group}", b"-"
        while True:
            found: list[tuple[bytes, dict[bytes, bytes]]] = await self.link.ask(
                lambda client, b=begin: client.xrange(stream, min=b, count=_PAGE)  # type: ignore[misc]  # a default binds it
            )
            for name, fields in found:
                yield (
                    name,
                    Dead.of(
                        group,
                        fields[b"i"].decode(),
                        fields[b"e"],
                        int(fields[b"f"]),
                        fields[b"x"].decode(),
                        float(fields[b"t"]),
                    ),
                )
            if len(found) < _PAGE:
                return
            begin = b"(" + found[-1][0]

    async def _again(self, letter: Dead) -> None:
        assert letter.event is not None
        await self._append(letter.event, letter.body, "", letter.group)

    async def _forget_letter(self, group: str, place: bytes) -> None:
        await self.link.ask(lambda client: client.xdel(f"{self._prefix}:dead:{group}", place))


def _letter(id: str, body: bytes, failures: int, error: str) -> dict[str, Any]:
    return {"i": id, "e": body, "f": failures, "x": error, "t": time.time()}


def _order(name: bytes | str) -> tuple[int, int]:
    text = name.decode() if isinstance(name, bytes) else name
    first, _, second = text.partition("-")
    return int(first), int(second or 0)
