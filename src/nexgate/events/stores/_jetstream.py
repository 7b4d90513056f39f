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
from collections.abc import AsyncGenerator, Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, TypeVar

from nexgate.errors import NexgateError

from .._cloudevents import InvalidCloudEvent, decode, encode
from .._errors import BacklogFull, EventError
from .._event import Event
from .._store import Claim, Dead, DurableOptions, GroupStatus, partition_of
from .._topics import matcher
from ._letters import LetterStream

__all__ = ["JetStream"]

T = TypeVar("T")

_POLL: Final = 1.0
"""Seconds that a question for the next message is open. One that is cut may lose the message until
its lease ends, so closing waits for that long."""
_MOST_DELIVERIES: Final = 20
_TRIM_EVERY: Final = 512
_CONSUMERS_PAGE: Final = 256
_COUNTED: Final = 7 * 24 * 3600.0
"""Seconds after which the failures of what is not tried any more are forgotten."""
_FOR: Final = "Nexgate-For"
_LETTER: Final = "Nexgate-Letter"
_RESERVED: Final = 16 * 1024
"""Bytes of a message that are left for what a dead letter says besides the event."""


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


class JetStream(LetterStream):
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
        self._counts: Any = None
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
        self._counts = await self._ask(
            lambda: self._js.create_key_value(
                bucket=f"{self._stream}_failures", ttl=_COUNTED, storage=api.StorageType.FILE
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

    async def _ask(self, question: Callable[[], Awaitable[T]], *answers: type[Exception]) -> T:
        """Ask the server; what it raises is an error of ours, but for ``answers``."""
        passed: tuple[type[Exception], ...] = (NexgateError, *answers)
        try:
            return await question()
        except passed:
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
            await self._append(event, encode(event), {"Nats-Msg-Id": event.id})

    async def _append(self, event: Event, body: bytes, headers: dict[str, str]) -> None:
        subject = f"{self._stream}.{partition_of(event, self._partitions)}.{event.name}"
        most = self._connection.max_payload - _RESERVED
        if len(body) > most:
            raise EventError(f"{event.name}: it has {len(body)} bytes, NATS takes {most}")
        try:
            await self._ask(lambda: self._js.publish(subject, body, headers=headers))
        except BacklogFull:
            await self._trim()
            await self._ask(lambda: self._js.publish(subject, body, headers=headers))

    async def _trim(self) -> None:
        """Forget what every group has handled."""
        last = (await self._ask(lambda: self._js.stream_info(self._stream))).state.last_seq
        consumers = await self._consumers()
        if not consumers:
            return
        floor = min(
            each.ack_floor.stream_seq if each.num_pending or each.num_ack_pending else last
            for each in consumers
        )
        if floor:
            await self._ask(lambda: self._js.purge_stream(self._stream, seq=floor + 1))

    async def _consumers(self) -> list[Any]:
        """All of them: the server names 256 at once."""
        found: list[Any] = []
        while True:
            offset = len(found) or None
            page = await self._ask(
                lambda at=offset: self._js.consumers_info(self._stream, offset=at)  # type: ignore[misc]  # a default binds it
            )
            found += page
            if len(page) < _CONSUMERS_PAGE:
                return found

    async def groups(self) -> list[GroupStatus]:
        dead = f"{self._stream}_dead"
        info = await self._ask(lambda: self._js.stream_info(dead, subjects_filter=f"{dead}.>"))
        letters = info.state.subjects or {}
        waiting: dict[str, int] = {}
        for each in await self._consumers():
            name = each.name.rpartition("-")[0]
            count = (each.num_pending or 0) + (each.num_ack_pending or 0)
            waiting[name] = waiting.get(name, 0) + count
        return [
            GroupStatus(name, count, letters.get(f"{dead}.{name}", 0))
            for name, count in sorted(waiting.items())
        ]

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
            delivered = message.metadata.num_delivered
            failures = await self._failures_of(group, message) if delivered > 1 else 0
            try:
                event = decode(message.data)
            except InvalidCloudEvent as error:
                name = f"unreadable-{message.metadata.sequence.stream}"
                await self._bury(group, message, name, failures, str(error))
                continue
            claim = Claim(event, message.subject.split(".", 2)[1], failures, message)
            if delivered - failures > _MOST_DELIVERIES:
                await self.bury(group, claim, f"delivered {delivered} times without an outcome")
                continue
            claims.append(claim)
        return claims

    async def extend(self, group: str, claims: Sequence[Claim], lease: float) -> None:
        for claim in claims:
            await self._ask(claim.token.in_progress)

    # ---------------------------------------------------------------- settling

    async def done(self, group: str, claim: Claim) -> None:
        await self._end(group, claim.token, claim.failures)

    async def _end(self, group: str, message: Any, failures: int) -> None:
        await self._ask(lambda: message.ack_sync(timeout=self._timeout))
        if failures:
            await self._ask(lambda: self._counts.delete(_count_of(group, message)))
        self._settled += 1
        if self._settled % _TRIM_EVERY == 0:
            await self._trim()

    async def _failures_of(self, group: str, message: Any) -> int:
        """NATS counts deliveries, also of what was given back; failures are counted here."""
        absent = self._nats.js.errors.KeyNotFoundError
        try:
            found = await self._ask(lambda: self._counts.get(_count_of(group, message)), absent)
        except absent:
            return 0
        return int(found.value)

    async def retry(self, group: str, claim: Claim, delay: float) -> None:
        count = str(claim.failures).encode()
        await self._ask(lambda: self._counts.put(_count_of(group, claim.token), count))
        await self._ask(lambda: claim.token.nak(delay=max(delay, 0.001)))

    async def give_back(self, group: str, claims: Sequence[Claim]) -> None:
        for claim in claims:
            await self._ask(claim.token.nak)

    async def bury(self, group: str, claim: Claim, error: str) -> None:
        await self._bury(group, claim.token, claim.event.id, claim.failures, error)

    async def _bury(self, group: str, message: Any, id: str, failures: int, error: str) -> None:
        said = {"id": id, "failures": failures, "error": error[:1000], "died": time.time()}
        headers = {_LETTER: json.dumps(said)}  # which is ASCII in one line
        dead = f"{self._stream}_dead.{group}"
        await self._ask(lambda: self._js.publish(dead, message.data, headers=headers))
        await self._end(group, message, failures)

    async def wait(self, group: str, timeout: float) -> None:
        known = self._groups[group]
        known.came.clear()
        if known.waiting:
            return
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(timeout):
                await known.came.wait()

    # ---------------------------------------------------------------- dead letters

    async def _letters(self, group: str) -> AsyncGenerator[tuple[int, Dead], None]:
        """Every dead letter with its number, the oldest first."""
        stream, number = f"{self._stream}_dead", 0
        absent = self._nats.js.errors.NotFoundError
        while True:
            try:
                message = await self._ask(
                    lambda n=number + 1: self._js.get_msg(  # type: ignore[misc]  # a default binds it
                        stream, n, subject=f"{stream}.{group}", next=True
                    ),
                    absent,
                )
            except absent:
                return
            number = message.seq
            said = json.loads((message.headers or {})[_LETTER])
            yield number, Dead.of(group, body=message.data or b"", **said)

    async def _again(self, letter: Dead) -> None:
        assert letter.event is not None
        await self._append(letter.event, letter.body, {_FOR: letter.group})

    async def _forget_letter(self, group: str, place: int) -> None:
        await self._ask(lambda: self._js.delete_msg(f"{self._stream}_dead", place))


def _count_of(group: str, message: Any) -> str:
    """Where the failures of a group with a message are counted."""
    return f"{group}.{message.metadata.sequence.stream}"


async def _quiet(error: Exception) -> None:
    """The client reconnects by itself; whoever asks meanwhile is told."""
