"""What the connections of one worker share: the snapshot, limits, the set of connections,
the log.
"""

from __future__ import annotations

import asyncio
import itertools
import logging
import secrets
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from nexgate.clock import Wheel, wheel_of
from nexgate.errors import Refused
from nexgate.exchange import Exchange, Response
from nexgate.http import HeadLimits, RequestHead
from nexgate.snapshot import Snapshot

if TYPE_CHECKING:
    from nexgate.edge._answering import Answering
    from nexgate.edge._protocol import EdgeConnection
    from nexgate.edge._tunnel import Tunnel

__all__ = ["EdgeLimits", "EdgeState", "EdgeTimeouts", "ExchangeLog"]

_log = logging.getLogger("nexgate.edge")


@dataclass(frozen=True, slots=True)
class EdgeTimeouts:
    """Seconds; see ``[gateway.timeouts]``."""

    head: float = 10.0
    idle: float = 75.0
    body: float = 30.0
    write: float = 60.0
    drain: float = 30.0
    half_close: float = 2.0


@dataclass(frozen=True, slots=True)
class EdgeLimits:
    """See ``[gateway.limits]``."""

    head: HeadLimits = HeadLimits()
    max_connections: int = 20_000
    max_pipelined_bytes: int = 64 * 1024
    eager_head_reads: int = 32
    """Reads of one unfinished head after which the next are collected for a moment. No setting:
    whoever needs more of them drips.
    """


ExchangeLog = Callable[[Exchange], None]


class EdgeState:
    """One per worker (and one per served ``Gateway`` in tests)."""

    __slots__ = (
        "_counter",
        "_prefix",
        "connections",
        "drain_grace",
        "draining",
        "exchange_log",
        "head_limits",
        "idle_event",
        "limits",
        "loop",
        "refused",
        "snapshot",
        "timeouts",
        "total_exchanges",
        "tunnels",
        "wheel",
    )

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        snapshot: Snapshot,
        *,
        limits: EdgeLimits,
        timeouts: EdgeTimeouts,
    ) -> None:
        self.loop = loop
        self.wheel: Wheel = wheel_of(loop)
        self.snapshot = snapshot
        self.limits = limits
        self.head_limits = limits.head
        self.timeouts = timeouts
        self.draining = False
        self.drain_grace = min(1.0, timeouts.drain)
        self.connections: set[EdgeConnection] = set()
        self.tunnels: set[Tunnel] = set()
        self.exchange_log: ExchangeLog | None = None
        self.total_exchanges = 0
        self.refused = 0
        self.idle_event = asyncio.Event()
        # Unique among workers and restarts without asking anyone: 40 random bits, then a count.
        self._prefix = secrets.token_hex(5).encode() + b"-"
        self._counter = itertools.count(1)

    def configure(self, snapshot: Snapshot, limits: EdgeLimits, timeouts: EdgeTimeouts) -> None:
        """Swap. New requests, also on open connections, meet the new configuration."""
        self.limits = limits
        self.head_limits = limits.head
        self.timeouts = timeouts
        self.drain_grace = min(1.0, timeouts.drain)
        self.snapshot = snapshot
        for connection in self.connections:
            connection.forward_base = None
            connection._section = connection._section_head = None

    # ---------------------------------------------------------------- called by connections

    def next_id(self) -> bytes:
        return b"%b%x" % (self._prefix, next(self._counter))

    def admit(self, connection: EdgeConnection) -> bool:
        self.connections.add(connection)
        return len(self.connections) <= self.limits.max_connections

    @property
    def is_flooded(self) -> bool:
        """So far over ``max_connections`` that refusing politely is too dear."""
        return len(self.connections) > self.limits.max_connections * 5 // 4

    def forget(self, connection: EdgeConnection) -> None:
        self.connections.discard(connection)
        if self.draining and not self.connections:
            self.idle_event.set()

    def dispatch(
        self,
        connection: EdgeConnection,
        method: bytes,
        path: bytes,
        query: bytes | None,
        head: RequestHead,
        body: bytes | None = None,
    ) -> None:
        """Begin the exchange of a head that ``connection`` has read, with its content if that is
        here already.
        """
        try:
            exchange, plan = self.snapshot.open(
                connection,
                method,
                path,
                query,
                head,
                connection,
                connection._scheme,
                b"%b%x" % (self._prefix, next(self._counter)),  # next_id, without the call
                self.loop.time(),
            )
        except Refused as refused:
            connection._refuse(refused)
            return
        connection.exchange = exchange
        if body is not None:
            exchange.take_whole(body)
        if method == b"OPTIONS" and (path == b"*" or head.max_forwards == 0):
            # Asked of us, not of a service (RFC 9110 §7.6.2, §9.3.7).
            exchange.respond(Response(204))
        elif plan.hooks or head.has_body or plan.total_timeout is not None:
            exchange.begin(plan)
        else:
            exchange.plan = plan  # all that begin would do
            plan.handler.start(exchange)
        if connection._pending_head is not None:
            connection.flush()

    def on_refused(self, connection: Answering, request_id: bytes, refused: Refused) -> None:
        self.refused += 1
        _log.info("refused %s (request %s): %s", connection.client, request_id.decode(), refused)

    def on_tunnel_opened(self, tunnel: Tunnel) -> None:
        self.tunnels.add(tunnel)

    def on_tunnel_closed(self, tunnel: Tunnel) -> None:
        self.tunnels.discard(tunnel)

    # ---------------------------------------------------------------- draining and reloads

    def start_drain(self) -> None:
        """No further requests on any connection; ``idle_event`` is set when all are gone."""
        self.draining = True
        if not self.connections:
            self.idle_event.set()
        for connection in list(self.connections):
            connection.start_drain()

    async def drain(self, limit: float) -> bool:
        """Wait for what is under way, at most ``limit`` seconds; tunnels then get a goodbye.

        Returns whether everything ended by itself.
        """
        self.start_drain()
        try:
            async with asyncio.timeout(limit):
                await self.idle_event.wait()
        except TimeoutError:
            pass
        else:
            return True
        for tunnel in list(self.tunnels):
            tunnel.go_away()
        await asyncio.sleep(0.05)
        for connection in list(self.connections):
            connection.transport.abort()
        return False

    def depart(self, identities: frozenset[Any], on_change: str) -> None:
        """After a reload: what to do with streams and tunnels of plans that are no more."""
        if on_change == "keep":
            return
        leaving = [
            c
            for c in self.connections
            if c.exchange is not None
            # None: no route matched, which no reload takes back.
            and (identity := c.exchange.plan.identity) is not None
            and identity not in identities
        ]
        if not leaving:
            return
        if on_change == "close":
            self._cut(leaving)
        else:
            pairs = [(c, c.exchange) for c in leaving]
            self.loop.call_later(
                self.timeouts.drain, lambda: self._cut([c for c, x in pairs if c.exchange is x])
            )

    def _cut(self, connections: list[EdgeConnection]) -> None:
        for connection in connections:
            if connection.tunnel is not None:
                connection.tunnel.go_away()
            elif connection.exchange is not None:
                connection.transport.abort()
