"""Events in a stream of NATS JetStream, for many machines.

A subject for each partition of the keys, and for each group and partition a durable consumer that
has at most one message out. So the server itself keeps the events of a key in order, whoever asks,
gives what a consumer that died had to another after the lease, and waits where a message is to come
again later: all keys of that partition wait with it.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import re
import time
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, TypeVar

from pydantic_core import from_json

from nexgate.errors import NexgateError

from .._cloudevents import encode, from_cloudevent
from .._errors import BacklogFull, EventError
from .._event import Event
from .._store import Claim, Dead, DurableOptions, partition_of
from .._topics import matcher

__all__ = ["JetStream"]

T = TypeVar("T")

_POLL: Final = 1.0
"""Seconds that a question for the next message is open. One that is cut may lose the message until
its lease ends, so closing waits for that long."""
_MOST_DELIVERIES: Final = 20
_TRIM_EVERY: Final = 512
_FOR: Final = "Nexgate-For"


class JetStreamError(EventError):
    """NATS cannot be reached, or refused."""


@dataclass(slots=True, eq=False)
class _Group:
    matches: tuple[Callable[[str], bool], ...]
    lease: float
    waiting: deque[tuple[float, Any]] = field(default_factory=deque)
    """Messages that no one has claimed yet, with the time at which they are another's."""
    came: asyncio.Event = field(default_factory=asyncio.Event)
    pulling: list[asyncio.Task[None]] = field(default_factory=list)
    is_over: bool = False


class JetStream:
    """Events at ``url`` (``nats://``). Needs ``nexgate[nats]``, and a server with JetStream.

    ``partitions``: how many consumers of a group can work at once, over all machines; the same
    everywhere, for ever. ``max_pending``: events that the stream may hold; beyond it ``publish``
    raises ``BacklogFull``. Ids are remembered for ``dedupe`` seconds.
    """

    def __init__(
        self,
        url: str,
        *,
        stream: str = "nexgate_events",
        partitions: int = 8,
        max_pending: int = 1_000_000,
        dedupe: float = 120.0,
        timeout: float = 2.0,
    ) -> None:
        try:
            import nats
            import nats.errors
            import nats.js.errors
        except ImportError:
            raise JetStreamError("JetStream needs nats-py: pip install 'nexgate[nats]'") from None
        self._nats: Any = nats
        self._url = url
        self._stream = stream
        self._partitions = partitions
        self._max_pending = max_pending
        self._dedupe = dedupe
        self._timeout = timeout
        self._connection: Any = None
        self._js: Any = None
        self._groups: dict[str, _Group] = {}
        self._settled = 0

    # ---------------------------------------------------------------- its life

    async def open(self) -> None:
        if self._connection is not None:
            return
        api = self._nats.js.api
        try:
            # With endless reconnection, which we want later, it would never say that it cannot.
            async with asyncio.timeout(self._timeout):
                self._connection = await self._nats.connect(
                    self._url,
                    connect_timeout=self._timeout,
                    max_reconnect_attempts=-1,
                    reconnect_time_wait=0.25,
                    error_cb=_quiet,
                )
        except Exception as error:
            why = str(error) or "it does not answer"
            raise JetStreamError(f"{self._place}: {why}") from None
        self._js = self._connection.jetstream(timeout=self._timeout)
        for name, subjects, config in (
            (
                self._stream,
                [f"{self._stream}.*.>"],
                {
                    # Not "interest": what is published before the first group would be lost.
                    "retention": api.RetentionPolicy.LIMITS,
                    "max_msgs": self._max_pending,
                    "discard": api.DiscardPolicy.NEW,
                    "duplicate_window": self._dedupe,
                },
            ),
            (f"{self._stream}_dead", [f"{self._stream}_dead.>"], {}),
        ):
            await self._ask(
                lambda n=name, s=subjects, c=config: self._js.add_stream(  # type: ignore[misc]  # defaults bind them
                    name=n, subjects=s, storage=api.StorageType.FILE, **c
                )
            )

    @property
    def _place(self) -> str:
        return re.sub(r"//[^@/]*@", "//", self._url)

    async def aclose(self) -> None:
        for group in self._groups.values():
            group.is_over = True
        for group in self._groups.values():
            await asyncio.wait(group.pulling, timeout=_POLL + 0.5)
            for task in group.pulling:
                task.cancel()
            await asyncio.gather(*group.pulling, return_exceptions=True)
            for _, message in group.waiting:
                with contextlib.suppress(Exception):
                    await message.nak()
        self._groups.clear()
        connection, self._connection = self._connection, None
        if connection is not None:
            with contextlib.suppress(Exception):
                async with asyncio.timeout(self._timeout):
                    await connection.flush()  # what was acknowledged
            with contextlib.suppress(Exception):
                await connection.close()

    async def _ask(self, question: Callable[[], Awaitable[T]]) -> T:
        try:
            return await question()
        except NexgateError:
            raise
        except Exception as error:
            text = str(error) or type(error).__name__
            if "maximum messages" in text:
                raise BacklogFull(f"{self._place}: {self._max_pending} events wait") from None
            raise JetStreamError(f"{self._place}: {text}") from None

    # ---------------------------------------------------------------- publishing

    async def append(self, events: Sequence[Event], *, within: Any = None) -> None:
        if within is not None:
            raise TypeError("NATS is not in your database's transaction: use SqliteOutbox")
        if self._js is None:
            raise JetStreamError(f"{self._place}: it is not open")
        for event in events:
            await self._append(event, {"Nats-Msg-Id": event.id})

    async def _append(self, event: Event, headers: dict[str, str]) -> None:
        subject = f"{self._stream}.{partition_of(event, self._partitions)}.{event.name}"
        body = encode(event)
        try:
            await self._ask(lambda: self._js.publish(subject, body, headers=headers))
        except BacklogFull:
            await self._trim()
            await self._ask(lambda: self._js.publish(subject, body, headers=headers))

    async def _trim(self) -> None:
        """Forget what every group has handled."""
        last = (await self._ask(lambda: self._js.stream_info(self._stream))).state.last_seq
        consumers = await self._ask(lambda: self._js.consumers_info(self._stream))
        if not consumers:
            return
        floor = min(
            each.ack_floor.stream_seq if each.num_pending or each.num_ack_pending else last
            for each in consumers
        )
        if floor:
            await self._ask(lambda: self._js.purge_stream(self._stream, seq=floor + 1))

    # ---------------------------------------------------------------- claiming

    async def join(self, group: str, patterns: Sequence[str], options: DurableOptions) -> None:
        matches = tuple(matcher(each) for each in patterns)
        known = self._groups.get(group)
        if known is not None:
            known.matches = matches
            return
        if not re.fullmatch(r"[A-Za-z0-9_-]+", group):
            raise EventError(f"{group!r} is no name of a group in NATS: letters, digits, _ and -")
        api = self._nats.js.api
        made = _Group(matches, options.lease)
        for number in range(self._partitions):
            config = api.ConsumerConfig(
                durable_name=f"{group}-{number}",
                filter_subject=f"{self._stream}.{number}.>",
                ack_policy=api.AckPolicy.EXPLICIT,
                ack_wait=options.lease,
                max_ack_pending=1,
                deliver_policy=api.DeliverPolicy.ALL
                if options.start == "beginning"
                else api.DeliverPolicy.NEW,
            )
            subscription = await self._ask(
                lambda c=config, n=number: self._js.pull_subscribe(  # type: ignore[misc]  # defaults bind them
                    f"{self._stream}.{n}.>", durable=c.durable_name, stream=self._stream, config=c
                )
            )
            made.pulling.append(
                asyncio.create_task(
                    self._pull(group, made, subscription), name=f"nexgate-events-{group}-{number}"
                )
            )
        self._groups[group] = made

    async def leave(self, group: str) -> None:
        known = self._groups.pop(group, None)
        for task in known.pulling if known is not None else ():
            task.cancel()
        for number in range(self._partitions):
            name = f"{group}-{number}"
            try:
                await self._ask(lambda n=name: self._js.delete_consumer(self._stream, n))  # type: ignore[misc]  # a default binds it
            except JetStreamError as error:
                if "not found" not in str(error):
                    raise
        dead = f"{self._stream}_dead"
        await self._ask(lambda: self._js.purge_stream(dead, subject=f"{dead}.{group}"))

    async def _pull(self, name: str, group: _Group, subscription: Any) -> None:
        """Ask for the next message of a partition, again and again."""
        while not group.is_over:
            try:
                messages = await subscription.fetch(1, timeout=_POLL)
            except asyncio.CancelledError:
                raise
            except (TimeoutError, self._nats.errors.TimeoutError):
                continue
            except Exception:
                await asyncio.sleep(0.25)  # it reconnects by itself
                continue
            for message in messages:
                only = (message.headers or {}).get(_FOR)
                topic = message.subject.split(".", 2)[2]
                is_ours = only == name if only else any(m(topic) for m in group.matches)
                if not is_ours:
                    with contextlib.suppress(Exception):
                        await message.ack()
                    continue
                group.waiting.append((time.monotonic() + group.lease * 0.8, message))
                group.came.set()

    async def claim(self, group: str, limit: int, lease: float) -> list[Claim]:
        known = self._groups[group]
        if not self._connection.is_connected:
            raise JetStreamError(f"{self._place}: there is no connection")
        claims: list[Claim] = []
        while known.waiting and len(claims) < limit:
            until, message = known.waiting.popleft()
            if time.monotonic() > until:
                continue  # the server has given it to somebody, or is about to
            event = from_cloudevent(from_json(message.data))
            failures = message.metadata.num_delivered - 1
            lane = message.subject.split(".", 2)[1]
            claim = Claim(event, lane, failures, message)
            if failures > _MOST_DELIVERIES:
                await self.bury(group, claim, f"delivered {failures} times without an outcome")
                continue
            claims.append(claim)
        return claims

    async def extend(self, group: str, claims: Sequence[Claim], lease: float) -> None:
        for claim in claims:
            await self._ask(claim.token.in_progress)

    # ---------------------------------------------------------------- settling

    async def done(self, group: str, claim: Claim) -> None:
        await self._ask(lambda: claim.token.ack_sync(timeout=self._timeout))
        self._settled += 1
        if self._settled % _TRIM_EVERY == 0:
            await self._trim()

    async def retry(self, group: str, claim: Claim, delay: float) -> None:
        await self._ask(lambda: claim.token.nak(delay=max(delay, 0.001)))

    async def give_back(self, group: str, claims: Sequence[Claim]) -> None:
        for claim in claims:
            await self._ask(claim.token.nak)

    async def bury(self, group: str, claim: Claim, error: str) -> None:
        letter = json.dumps(
            {
                "id": claim.event.id,
                "event": encode(claim.event).decode(),
                "failures": claim.failures,
                "error": error,
                "died": time.time(),
            }
        ).encode()
        await self._ask(lambda: self._js.publish(f"{self._stream}_dead.{group}", letter))
        await self.done(group, claim)

    async def wait(self, group: str, timeout: float) -> None:
        known = self._groups[group]
        known.came.clear()
        if known.waiting:
            return
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(timeout):
                await known.came.wait()

    # ---------------------------------------------------------------- dead letters

    async def _letters(self, group: str) -> list[tuple[int, dict[str, Any]]]:
        """Every dead letter with its number, the oldest first."""
        stream = f"{self._stream}_dead"
        info = await self._ask(lambda: self._js.stream_info(stream))
        found: list[tuple[int, dict[str, Any]]] = []
        for number in range(max(info.state.first_seq, 1), info.state.last_seq + 1):
            try:
                message = await self._js.get_msg(stream, number)
            except self._nats.js.errors.NotFoundError:
                continue
            if message.subject == f"{stream}.{group}":
                found.append((number, json.loads(message.data)))
        return found

    async def dead(self, group: str, limit: int = 100) -> list[Dead]:
        return [
            Dead(
                group,
                said["id"],
                from_cloudevent(from_json(said["event"])),
                said["failures"],
                said["error"],
                said["died"],
            )
            for _, said in (await self._letters(group))[:limit]
        ]

    async def _take_letters(
        self, group: str, ids: Sequence[str], use: Callable[[Event], Awaitable[None]] | None
    ) -> int:
        wanted, count = set(ids), 0
        for number, said in await self._letters(group):
            if said["id"] in wanted:
                if use is not None:
                    await use(from_cloudevent(from_json(said["event"])))
                await self._ask(lambda n=number: self._js.delete_msg(f"{self._stream}_dead", n))  # type: ignore[misc]  # a default binds it
                count += 1
        return count

    async def revive(self, group: str, ids: Sequence[str]) -> int:
        return await self._take_letters(
            group, ids, lambda event: self._append(event, {_FOR: group})
        )

    async def drop(self, group: str, ids: Sequence[str]) -> int:
        return await self._take_letters(group, ids, None)


async def _quiet(error: Exception) -> None:
    """The client reconnects by itself; whoever asks meanwhile is told."""
