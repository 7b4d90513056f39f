"""A wire that misbehaves: a TCP proxy with faults that change while it runs.

Each direction of a connection is a *lane*: one task reads from the source and stamps every piece
with the time at which it is due, one task waits for that time, cuts the piece into what the fault
allows, and sends it. Between the two there is a bounded queue, so that latency delays bytes without
limiting their rate, and a receiver that does not read stops the sender, as on a real wire.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
from collections import deque
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, Self

from nexgate.testing._address import Address
from nexgate.testing._channel import Channel, connect
from nexgate.testing._listening import Listener

_PIECE_BYTES = 16 * 1024
_SLICES_PER_SECOND = 50  # a bandwidth is spent in slices of 20 ms

_Ending = Literal["reset", "hang", "cut", "half_close"]


@dataclass(frozen=True, slots=True)
class Fault:
    """What is wrong with one direction. Everything may be combined; at most one ending.

    Bytes are counted per connection, from the moment at which the fault was set on it (a new
    connection: from its first byte). An ending after 0 bytes therefore happens at once.
    """

    latency: float = 0.0
    """Seconds that each piece travels."""
    jitter: float = 0.0
    """Up to so many seconds more, at random; the order of the bytes is kept."""
    bytes_per_second: int | None = None
    """A ceiling of the rate."""
    drip: bool = False
    """One byte per segment. A parser must not care where segments end."""
    drip_interval: float = 0.0
    """Seconds after each dripped byte; ignored without ``drip``."""
    reset_after_bytes: int | None = None
    """Reset (RST) both sides after delivering so many bytes."""
    hang_after_bytes: int | None = None
    """Neither deliver nor read any more, until the fault changes. 0: a black hole."""
    cut_after_bytes: int | None = None
    """Close both sides in order, as if the message had ended here."""
    half_close_after_bytes: int | None = None
    """Send an end in this direction and throw away what follows; the other direction lives on."""

    def __post_init__(self) -> None:
        endings = [limit for _, limit in self._endings() if limit is not None]
        if len(endings) > 1:
            raise ValueError("a fault has at most one ending: reset, hang, cut or half-close")
        numbers = [self.latency, self.jitter, self.drip_interval, *endings]
        if min(numbers) < 0 or (self.bytes_per_second is not None and self.bytes_per_second < 1):
            raise ValueError(f"a fault's numbers cannot be negative, nor its rate zero: {self}")

    @property
    def ending(self) -> tuple[_Ending, int] | None:
        """How the direction ends, and after how many bytes."""
        for kind, limit in self._endings():
            if limit is not None:
                return kind, limit
        return None

    def _endings(self) -> tuple[tuple[_Ending, int | None], ...]:
        return (
            ("reset", self.reset_after_bytes),
            ("hang", self.hang_after_bytes),
            ("cut", self.cut_after_bytes),
            ("half_close", self.half_close_after_bytes),
        )


@dataclass(frozen=True, slots=True)
class FaultProxyStatistics:
    """What a proxy has done so far."""

    accepted: int
    """Connections accepted."""
    open: int
    """Connections that live now."""
    failed_connects: int
    """Connections whose target could not be reached (the client was reset)."""
    resets: int
    """Connections ended with a reset, by a fault or because one side did it."""
    cuts: int
    """Connections closed by ``cut_after_bytes``."""
    bytes_to_target: int
    bytes_to_client: int
    buffered_bytes: int
    """Bytes read and not delivered yet; bounded per connection."""


class FaultProxy:
    """Listens on ``127.0.0.1`` and forwards to ``target``, badly if told so.

    ::

        async with FaultProxy(upstream.url) as wire:
            ...                                          # configure the gateway with wire.url
            wire.to_client = Fault(latency=0.2)          # answers are late from now on
            wire.fault = Fault(reset_after_bytes=100)    # both directions
            wire.fault = Fault()                         # healthy again
            await wire.refuse()                          # connection refused
            await wire.accept()

    It forwards bytes and knows no protocol, so TLS passes through it (and the URL's scheme is the
    target's). What ends on one side ends the same way on the other: an end as an end, a reset as a
    reset. A connection is opened to the target for each one accepted.
    """

    def __init__(
        self,
        target: str | tuple[str, int],
        *,
        to_target: Fault | None = None,
        to_client: Fault | None = None,
        port: int = 0,
        path: str | Path | None = None,
        seed: int = 0,
        max_buffered_bytes: int = 256 * 1024,
        sleep: Callable[[float], Awaitable[object]] = asyncio.sleep,
    ) -> None:
        """``seed``: of the jitter. ``path``: listen on a unix socket. ``max_buffered_bytes``: per
        direction of a connection; also the most that can be under way during ``latency``.
        ``sleep``: for tests of time without waiting.
        """
        self._target = Address.parse(target)
        self._to_target = to_target or Fault()
        self._to_client = to_client or Fault()
        self._listener = Listener(self._accept_channel, port=port, path=path)
        self._random = random.Random(seed)  # noqa: S311 - weather, not a secret
        self._max_buffered_bytes = max_buffered_bytes
        self._sleep = sleep
        self._is_paused = False
        self._links: set[_Link] = set()
        self._tasks: set[asyncio.Task[None]] = set()
        self._accepted = self._failed_connects = self._resets = self._cuts = 0
        self._finished_bytes = [0, 0]  # to target, to client, of links that are gone

    # -- addresses ---------------------------------------------------------------------------

    @property
    def url(self) -> str:
        """Where the proxy listens, with the scheme of its target."""
        url = self._listener.url
        return url.replace("http://", "https://") if self._target.is_tls else url

    @property
    def host(self) -> str:
        """Always ``127.0.0.1``."""
        return self._listener.host

    @property
    def port(self) -> int:
        """The TCP port it listens on."""
        return self._listener.port

    # -- faults ------------------------------------------------------------------------------

    @property
    def to_target(self) -> Fault:
        """The fault of what clients send. Assigning changes living connections too."""
        return self._to_target

    @to_target.setter
    def to_target(self, fault: Fault) -> None:
        self._to_target = fault
        for link in self._links:
            link.to_target.change(fault)

    @property
    def to_client(self) -> Fault:
        """The fault of what the target sends. Assigning changes living connections too."""
        return self._to_client

    @to_client.setter
    def to_client(self, fault: Fault) -> None:
        self._to_client = fault
        for link in self._links:
            link.to_client.change(fault)

    @property
    def fault(self) -> Fault | None:
        """The fault of both directions; None while they differ. Assigning sets both."""
        return self._to_target if self._to_target == self._to_client else None

    @fault.setter
    def fault(self, fault: Fault) -> None:
        self.to_target = fault
        self.to_client = fault

    def black_hole(self) -> None:
        """Accept, read nothing, send nothing, until ``fault`` is assigned again.

        New connections do not reach the target before that.
        """
        self.fault = Fault(hang_after_bytes=0)

    async def refuse(self) -> None:
        """Stop listening: new connections are refused. Living ones go on."""
        await self._listener.close()

    async def accept(self) -> None:
        """Listen again, on the same port."""
        await self._listener.open()

    def pause(self) -> None:
        """Deliver nothing, read nothing and lose nothing until ``resume()``."""
        self._is_paused = True
        for lane in self._lanes():
            lane.pause()

    def resume(self) -> None:
        """End ``pause()``."""
        self._is_paused = False
        for lane in self._lanes():
            lane.resume()

    def reset_all(self) -> None:
        """Reset every living connection, now."""
        for link in list(self._links):
            link.end_with_reset()

    def statistics(self) -> FaultProxyStatistics:
        """Return the counts so far."""
        return FaultProxyStatistics(
            accepted=self._accepted,
            open=len(self._links),
            failed_connects=self._failed_connects,
            resets=self._resets,
            cuts=self._cuts,
            bytes_to_target=self._finished_bytes[0]
            + sum(link.to_target.delivered_bytes for link in self._links),
            bytes_to_client=self._finished_bytes[1]
            + sum(link.to_client.delivered_bytes for link in self._links),
            buffered_bytes=sum(lane.buffered_bytes for lane in self._lanes()),
        )

    # -- life --------------------------------------------------------------------------------

    async def start(self) -> None:
        """Listen. Called by ``async with``."""
        await self._listener.open()

    async def stop(self) -> None:
        """Stop listening, abort every connection, and wait until all are gone."""
        await self._listener.close()
        tasks = list(self._tasks)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.stop()

    # -- connections -------------------------------------------------------------------------

    def _lanes(self) -> list[_Lane]:
        return [lane for link in self._links for lane in (link.to_target, link.to_client)]

    def _accept_channel(self) -> Channel:
        return _new_channel(on_connected=self._connected)

    def _connected(self, client: Channel) -> None:
        self._accepted += 1
        task = asyncio.get_running_loop().create_task(self._carry(client))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    def _lane(self, source: Channel, sink: Channel, fault: Fault) -> _Lane:
        lane = _Lane(source, sink, fault, self._random, self._max_buffered_bytes, self._sleep)
        if self._is_paused:
            lane.pause()
        return lane

    async def _carry(self, client: Channel) -> None:
        target = _new_channel()
        link = _Link(
            to_target=self._lane(client, target, self._to_target),
            to_client=self._lane(target, client, self._to_client),
        )
        self._links.add(link)
        try:
            await link.to_target.wait_until_flowing()  # a black hole hides the target as well
            try:
                await connect(target, self._target)
            except OSError:
                self._failed_connects += 1
                client.reset()
                return
            await link.run()
        except* _LinkResetError:
            self._resets += 1
            link.end_with_reset()
        except* _LinkCutError:
            self._cuts += 1
            link.end_in_order()
        except* ConnectionError:
            self._resets += 1
            link.end_with_reset()
        finally:
            self._links.discard(link)
            self._finished_bytes[0] += link.to_target.delivered_bytes
            self._finished_bytes[1] += link.to_client.delivered_bytes
            for channel in (client, target):
                # Every delivered byte is in the kernel already, so nothing is cut short here.
                channel.abort()
                await channel.wait_lost()


class _LinkResetError(Exception):
    """The fault says: reset both sides."""


class _LinkCutError(Exception):
    """The fault says: close both sides."""


def _new_channel(on_connected: Callable[[Channel], None] | None = None) -> Channel:
    # No reading ahead: what no lane has asked for stays in the kernel, and its window closes.
    return Channel(read_ahead_bytes=0, max_recorded_bytes=0, on_connected=on_connected)


@dataclass(frozen=True, slots=True, eq=False)
class _Link:
    """Both directions of one connection."""

    to_target: _Lane
    to_client: _Lane

    async def run(self) -> None:
        async with asyncio.TaskGroup() as group:
            for lane in (self.to_target, self.to_client):
                group.create_task(lane.fill())
                group.create_task(lane.drain())

    def end_in_order(self) -> None:
        # Before the close: closing with unread bytes in the kernel would send a reset alone.
        self.to_target.half_close_sink()
        self.to_client.half_close_sink()

    def end_with_reset(self) -> None:
        self.to_target.source.reset()
        self.to_client.source.reset()


class _Lane:
    """One direction of one connection."""

    def __init__(
        self,
        source: Channel,
        sink: Channel,
        fault: Fault,
        rng: random.Random,
        max_buffered_bytes: int,
        sleep: Callable[[float], Awaitable[object]],
    ) -> None:
        self.source = source
        self.sink = sink
        self.delivered_bytes = 0
        self.buffered_bytes = 0
        self._fault = fault
        self._counted_from = 0  # of delivered_bytes, when the fault was set
        self._random = rng
        self._max_buffered_bytes = max_buffered_bytes
        self._sleep = sleep
        self._queue: deque[tuple[float, bytes]] = deque()  # (due, bytes)
        self._last_due = 0.0
        self._is_paused = False
        self._is_source_done = False
        self._is_half_closed = False
        self._changed = asyncio.Event()
        self._update_source()

    # -- orders ------------------------------------------------------------------------------

    def change(self, fault: Fault) -> None:
        self._fault = fault
        self._counted_from = self.delivered_bytes
        self._update_source()

    def pause(self) -> None:
        self._is_paused = True
        self._update_source()

    def resume(self) -> None:
        self._is_paused = False
        self._update_source()

    @property
    def is_flowing(self) -> bool:
        return not self._is_paused and not (self._ending == "hang" and self._allowance == 0)

    @property
    def _ending(self) -> _Ending | None:
        return self._fault.ending[0] if self._fault.ending else None

    @property
    def _allowance(self) -> int:
        """How many bytes may pass before the ending."""
        if self._fault.ending is None:
            return _PIECE_BYTES
        return max(0, self._fault.ending[1] - (self.delivered_bytes - self._counted_from))

    def _update_source(self) -> None:
        if self.is_flowing:
            self.source.release()
        else:
            self.source.hold()
        self._changed.set()

    async def _wait_for_change(self) -> None:
        self._changed.clear()
        await self._changed.wait()

    async def wait_until_flowing(self) -> None:
        while not self.is_flowing:
            await self._wait_for_change()

    # -- the two tasks -----------------------------------------------------------------------

    async def fill(self) -> None:
        """Read from the source into the queue, as long as there is room."""
        now = asyncio.get_running_loop().time
        room = self._max_buffered_bytes
        while piece := await self.source.read_some(min(_PIECE_BYTES, room)):
            if self._is_half_closed:
                continue
            delay = self._fault.latency + self._fault.jitter * self._random.random()
            # Never due before the piece ahead: a wire delays bytes, it does not swap them.
            self._last_due = max(self._last_due, now() + delay if delay else 0.0)
            self._queue.append((self._last_due, piece))
            self.buffered_bytes += len(piece)
            self._changed.set()
            while (room := self._max_buffered_bytes - self.buffered_bytes) <= 0:
                await self._wait_for_change()
        self._is_source_done = True
        self._changed.set()

    async def drain(self) -> None:
        """Send what is due, as the fault allows."""
        while True:
            if self._ending is not None and self._allowance == 0 and not self._is_half_closed:
                if self._end():
                    return
                await self._wait_for_change()
            elif self._is_paused:
                await self._wait_for_change()
            elif not self._queue:
                if self._is_source_done:
                    self.half_close_sink()
                    return
                await self._wait_for_change()
            else:
                await self._deliver()

    def _end(self) -> bool:
        """Carry out the fault's ending. True if nothing will be sent after it."""
        match self._ending:
            case "reset":
                raise _LinkResetError
            case "cut":
                raise _LinkCutError
            case "half_close":
                self.half_close_sink()
                self._is_half_closed = True
                self._queue.clear()
                self.buffered_bytes = 0
                self._update_source()
                return True
            case _:
                self._update_source()  # "hang" stops the reading too
                return False

    async def _deliver(self) -> None:
        due, piece = self._queue[0]
        fault = self._fault
        if due:
            early = due - asyncio.get_running_loop().time()
            self._queue[0] = (0.0, piece)
            if early > 0:
                await self._sleep(early)
                return  # the fault may have changed meanwhile
        size = min(len(piece), self._allowance)
        if fault.drip:
            size = 1
        if fault.bytes_per_second is not None:
            size = min(size, max(1, fault.bytes_per_second // _SLICES_PER_SECOND))
            await self._sleep(size / fault.bytes_per_second)
            if self._fault is not fault or self._is_paused:
                return
        await self.sink.send(piece[:size])
        self.delivered_bytes += size
        self.buffered_bytes -= size
        if size == len(piece):
            self._queue.popleft()
        else:
            self._queue[0] = (0.0, piece[size:])
        self._changed.set()
        if fault.drip:
            await self._sleep(fault.drip_interval)

    def half_close_sink(self) -> None:
        with contextlib.suppress(OSError):
            self.sink.half_close()
