"""One instance of a service: where it is, how it is, and the pool of connections to it.

The pool works by supply and demand. *Demand* is the queue of exchanges that want a connection;
*supply* is a connection that became idle or was just made. One synchronous step, ``_settle``,
matches the two and decides how many new connections to open. So an exchange takes whichever comes
first, a request that found the pool empty is not tied to the fate of "its" connect, and nothing is
ever locked.
"""

from __future__ import annotations

import asyncio
import errno
import logging
import ssl
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Final
from urllib.parse import urlsplit

from nexgate.clock import NEVER, TICK, Timed, Wheel, wheel_of
from nexgate.errors import Cause
from nexgate.exchange import Exchange, Failure, Reach, Response
from nexgate.http import Kind, ResponseHead
from nexgate.upstream._connection import UpstreamConnection
from nexgate.upstream._encode import DROP_ALWAYS, encode_request_head
from nexgate.upstream._guard import GATEWAY_FAILURES
from nexgate.upstream.balancer import PeakLatency

__all__ = ["Address", "InstanceState", "PoolLimits", "UpstreamTimeouts"]

_log = logging.getLogger("nexgate.upstream")

_BACKOFF_FIRST: Final = 0.25
_BACKOFF_MAX: Final = 5.0
_OURS: Final = frozenset(
    (errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM, errno.EADDRNOTAVAIL)
)
"""Why a connect fails on our side: the instance is not to blame and not to be avoided."""
_MAX_HEADS: Final = 64
_MAX_HEAD_REMEMBERED: Final = 2048


@dataclass(frozen=True, slots=True)
class PoolLimits:
    """Bounds of one instance's pool, per worker process. Times in seconds."""

    max_connections: int = 1024
    max_idle: int = 128
    idle: float = 60.0
    max_waiting: int = 1024
    wait: float = 1.0


@dataclass(frozen=True, slots=True)
class UpstreamTimeouts:
    """Seconds. ``body`` is the longest pause between two pieces of a response."""

    connect: float = 1.0
    first_byte: float = 60.0
    body: float = 60.0


@dataclass(frozen=True, slots=True)
class Address:
    """Where an instance listens, from its URL."""

    url: str
    host: str = ""
    port: int = 0
    path: str | None = None
    tls: bool = False
    authority: bytes = b""

    @classmethod
    def parse(cls, url: str) -> Address:
        """``http://host[:port]``, ``https://host[:port]`` or ``unix:/path``. Raises
        ``ValueError``.
        """
        if url.startswith("unix:"):
            return cls(url, path=url.removeprefix("unix:"), authority=b"localhost")
        parts = urlsplit(url)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise ValueError(f"{url!r} is not an http, https or unix URL")
        tls = parts.scheme == "https"
        port = parts.port or (443 if tls else 80)
        host = parts.hostname
        shown = f"[{host}]" if ":" in host else host
        authority = shown if port == (443 if tls else 80) else f"{shown}:{port}"
        return cls(
            url, host, port, None, tls, authority.encode("idna" if not host.isascii() else "ascii")
        )


@dataclass(slots=True)
class _Waiter(Timed):
    """An exchange in the queue for a connection. Void once the exchange is elsewhere or has
    ended.
    """

    instance: InstanceState
    exchange: Exchange | None
    deadline: float = field(default=NEVER, init=False)
    _slot: int = field(default=-1, init=False)

    def __hash__(self) -> int:
        return id(self)

    def __eq__(self, other: object) -> bool:
        return self is other

    def on_deadline(self, now: float) -> None:
        exchange = self.exchange
        self.exchange = None
        if exchange is not None and exchange.instance is self.instance and exchange.attempt is None:
            self.instance._waited_too_long(exchange)


class InstanceState:
    """Living state of one instance; survives reloads that keep its service and URL.

    ``active`` counts exchanges under way, queued ones included: it is what least-requests balances
    by.
    """

    __slots__ = (
        "__weakref__",
        "_backoff",
        "_complained_at",
        "_connecting",
        "_idle",
        "_tasks",
        "_waiting",
        "_watches",
        "active",
        "address",
        "connections",
        "drop",
        "ejected_until",
        "ejections",
        "failures_in_row",
        "failures_judged",
        "full_weight",
        "heads",
        "host",
        "identity",
        "is_healthy",
        "is_removed",
        "is_watched",
        "latency",
        "limits",
        "loop",
        "max_response_head_bytes",
        "on_change",
        "on_failure",
        "on_response",
        "probe",
        "requests_judged",
        "service",
        "slow_since",
        "ssl_context",
        "ssl_server_name",
        "timeouts",
        "total_failures",
        "total_requests",
        "unreachable_until",
        "url",
        "weight",
        "wheel",
        "zone",
    )

    is_local = False

    def __init__(
        self,
        address: Address,
        loop: asyncio.AbstractEventLoop,
        *,
        service: str,
        on_change: Callable[[], None],
    ) -> None:
        self.address = address
        self.url = address.url
        self.loop = loop
        self.wheel: Wheel = wheel_of(loop)
        self.service = service
        self.identity = (service, address.url)
        self.on_change = on_change
        """Called when the instance becomes available or unavailable."""
        self.full_weight = 1.0
        self.weight = 1.0
        """What the balancer goes by; less than the full one during a slow start."""
        self.zone: str | None = None
        self.limits = PoolLimits()
        self.timeouts = UpstreamTimeouts()
        self.host: bytes | None = None
        """The Host to send; None passes the client's on."""
        self.drop: int = DROP_ALWAYS
        self.ssl_context: ssl.SSLContext | None = None
        self.ssl_server_name: str | None = None
        self.max_response_head_bytes = 64 * 1024
        self.on_response: Callable[[Exchange, Response], None] | None = None
        self.is_healthy = True
        self.is_removed = False
        self.unreachable_until = 0.0
        self.active = 0
        self.connections = 0
        self.total_requests = 0
        self.total_failures = 0
        self.on_failure: Callable[[InstanceState], None] | None = None
        self.failures_in_row = 0
        self.requests_judged = 0
        self.failures_judged = 0
        self.ejected_until = 0.0
        self.ejections = 0
        self.slow_since = 0.0
        self.is_watched = False
        """Whether an ordinary answer is worth telling ``answered`` of."""
        self._watches = False
        self.latency: PeakLatency | None = None
        """Measured only when the balancer looks at it."""
        self.probe: Any = None
        self.heads: dict[bytes, ResponseHead] = {}
        """Response heads read lately, by their bytes. Few: they are for answers that repeat."""
        self._backoff = 0.0
        self._complained_at = 0.0
        self._connecting = 0
        self._idle: dict[UpstreamConnection, None] = {}
        self._waiting: deque[_Waiter] = deque()
        self._tasks: set[asyncio.Task[None]] = set()

    # ---------------------------------------------------------------- exchanges

    def start(self, exchange: Exchange) -> None:
        """Send the exchange here: now if a connection is idle, else as soon as there is one."""
        exchange.instance = self
        exchange.served_by = self.identity
        self.active += 1
        self.total_requests += 1
        idle = self._idle
        while idle and (not exchange.wants_new_connection or self._is_full):
            connection, _ = idle.popitem()  # the most recently used: the others may expire
            if connection.state == 0 and not connection.transport.is_closing():  # is_usable
                host = self.host or exchange.head.authority or self.address.authority
                head = encode_request_head(exchange, host, self.drop)
                # Mostly the exchange began just now: no need to ask for the time again.
                is_first = exchange.plan.is_prompt and exchange.call is None
                now = exchange.started if is_first else self.loop.time()
                connection.start(exchange, head, now)
                return
        self._drop_void()
        if len(self._waiting) - self._connecting >= self.limits.max_waiting:
            self._overloaded(exchange, "too many requests wait for a connection", self.limits.wait)
            return
        waiter = _Waiter(self, exchange)
        self._waiting.append(waiter)
        self._settle()
        if waiter.exchange is exchange and len(self._waiting) > self._connecting:
            self.wheel.set(waiter, self.loop.time() + self.limits.wait)

    @property
    def _is_full(self) -> bool:
        """No connection more may be opened."""
        return self.connections + self._connecting >= self.limits.max_connections

    def _send(self, connection: UpstreamConnection, exchange: Exchange, now: float) -> None:
        host = self.host or exchange.head.authority or self.address.authority
        connection.start(exchange, encode_request_head(exchange, host, self.drop), now)

    def finished(self, exchange: Exchange) -> None:
        """The attempt is over, however it ended."""
        if exchange.instance is self:
            exchange.instance = None
            self.active -= 1

    def answered(self, exchange: Exchange, head: ResponseHead, seconds: float) -> bool:
        """The head of an answer arrived after ``seconds``. False: it is not wanted.

        Told of every answer while ``is_watched``, else only of those with a status from 500 on.
        """
        self.reached()
        status = head.status
        if self.latency is not None:
            self.latency.observe(status, seconds, self.loop.time())
        if status in GATEWAY_FAILURES:
            self.failed()
        elif self.failures_in_row:
            self.failures_in_row = 0
            self.watch(self._watches)
        caller = exchange.caller
        return caller is None or caller.attempt_answered(exchange, self, head, seconds)

    def watch(self, wanted: bool) -> None:
        """Somebody else wants to know of every answer, or no longer does."""
        self._watches = wanted
        self.is_watched = bool(
            wanted or self.failures_in_row or self._backoff or self.latency is not None
        )

    def failed(self) -> None:
        """It did not do what it was asked."""
        self.total_failures += 1
        self.failures_in_row += 1
        self.is_watched = True
        if self.on_failure is not None:
            self.on_failure(self)

    def remember_head(self, raw: bytes, head: ResponseHead) -> None:
        if len(raw) <= _MAX_HEAD_REMEMBERED and not head.flags & Kind.SECRET:
            if len(self.heads) >= _MAX_HEADS:
                self.heads.clear()
            self.heads[raw] = head

    def attempt_died(self, exchange: Exchange, *, heard: bool) -> None:
        """The connection was lost after the head was sent and before the answer began.

        The instance may have acted on the request; whether it can be asked again is the caller's
        to know. One that was merely restarting, or closed an idle connection as we picked it, is
        then never noticed.
        """
        if heard:
            failure = Failure(Cause.UPSTREAM_MALFORMED, "the answer ends in its head")
        else:
            failure = Failure(Cause.UPSTREAM_CLOSED, reach=Reach.REQUEST)
        self.attempt_failed(exchange, failure)

    def attempt_failed(self, exchange: Exchange, failure: Failure) -> None:
        self.finished(exchange)
        if not failure.is_ours:
            self.failed()
        exchange.attempt_failed(self, failure)

    def _overloaded(self, exchange: Exchange, detail: str, retry_after: float) -> None:
        self.attempt_failed(
            exchange,
            Failure(Cause.OVERLOADED, detail, Reach.NOTHING, retry_after, is_ours=True),
        )

    def _waited_too_long(self, exchange: Exchange) -> None:
        self._overloaded(exchange, "no connection became free in time", self.limits.wait)
        exchange.down.flush()

    # ---------------------------------------------------------------- supply and demand

    def release(self, connection: UpstreamConnection, exchange: Exchange, now: float) -> None:
        """A connection has finished a message and can take another."""
        if exchange.instance is self:
            exchange.instance = None
            self.active -= 1
        if self._waiting or self.is_removed or len(self._idle) >= self.limits.max_idle:
            self._offer(connection, now)
            return
        # The common case of _offer, spelled out: nobody waits.
        self._idle[connection] = None
        deadline = now + self.limits.idle
        if connection._slot >= 0 and connection._slot * TICK <= deadline:
            connection.deadline = deadline
        else:
            self.wheel.set(connection, deadline)

    def _settle(self) -> None:
        """Open as many connections as there is demand for, within the limit."""
        self._drop_void()
        wanted = len(self._waiting) - self._connecting
        room = self.limits.max_connections - self.connections - self._connecting
        for _ in range(min(wanted, room)):
            self._connecting += 1
            task = self.loop.create_task(self._connect())
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    async def _connect(self) -> None:
        cause: Cause
        detail = ""
        try:
            async with asyncio.timeout(self.timeouts.connect):
                connection = await self._open()
        except TimeoutError:
            cause = Cause.UPSTREAM_CONNECT_TIMEOUT
        except ssl.SSLError as error:
            cause = Cause.UPSTREAM_TLS
            detail = error.reason or ""
            _log.warning("TLS with %s failed: %s", self.url, error)
        except OSError as error:
            if error.errno in _OURS:
                self._connecting -= 1
                self._cannot_connect(error)
                return
            cause = Cause.UPSTREAM_UNREACHABLE
            _log.debug("cannot connect to %s: %s", self.url, error)
        except asyncio.CancelledError:
            self._connecting -= 1
            raise
        except (
            Exception
        ):  # whatever a resolver or a TLS library thinks of: nobody may wait for ever
            cause = Cause.UPSTREAM_UNREACHABLE
            _log.exception("cannot connect to %s", self.url)
        else:
            self.connections += 1
            if connection.is_usable:
                self._connecting -= 1
                self.reached()
                self._offer(connection, self.loop.time())
                return
            # It was closed, or spoke unasked, before we could use it: worth no request.
            cause = Cause.UPSTREAM_UNREACHABLE
        self._connecting -= 1
        self.not_reached()
        self._connect_failed(cause, detail)

    async def _open(self) -> UpstreamConnection:
        address = self.address
        make = self._make_connection
        if address.path is not None:
            _, protocol = await self.loop.create_unix_connection(make, address.path)
            return protocol
        tls: dict[str, Any] = {}
        if address.tls:
            tls = {
                "ssl": self.ssl_context,
                "server_hostname": self.ssl_server_name or address.host,
            }
        _, protocol = await self.loop.create_connection(make, address.host, address.port, **tls)
        return protocol

    def _make_connection(self) -> UpstreamConnection:
        return UpstreamConnection(self, self.loop, self.wheel)

    def _offer(self, connection: UpstreamConnection, now: float) -> None:
        """A connection without work: to the first in the queue, or to the idle ones."""
        if self._waiting:
            exchange = self._next_waiting()
            if exchange is not None:
                self._send(connection, exchange, now)
                return
        if self.is_removed or len(self._idle) >= self.limits.max_idle:
            connection.close()
            return
        self._idle[connection] = None
        deadline = now + self.limits.idle
        if connection._slot >= 0 and connection._slot * TICK <= deadline:
            connection.deadline = deadline
        else:
            self.wheel.set(connection, deadline)

    def _connect_failed(self, cause: Cause, detail: str) -> None:
        """Nothing of the first exchange in the queue has been sent: it may go anywhere else."""
        exchange = self._next_waiting()
        if exchange is not None:
            self.attempt_failed(exchange, Failure(cause, detail, Reach.NOTHING))
            exchange.down.flush()
        self._settle()

    def _cannot_connect(self, error: OSError) -> None:
        """We are out of file descriptors, ports or memory: the client is told to come back."""
        exchange = self._next_waiting()
        if exchange is not None:
            self._overloaded(exchange, "the gateway is at its limit", 1.0)
            exchange.down.flush()
        now = self.loop.time()
        if now > self._complained_at + 1.0:
            self._complained_at = now
            _log.warning("cannot open a connection to %s: %s", self.url, error.strerror)

    def _drop_void(self) -> None:
        """Forget those at the head of the queue that no longer wait: the oldest leave first."""
        waiting = self._waiting
        while waiting:
            exchange = waiting[0].exchange
            if exchange is not None and exchange.instance is self and exchange.attempt is None:
                return
            self.wheel.forget(waiting.popleft())

    def _next_waiting(self) -> Exchange | None:
        """The first in the queue that still wants a connection from here."""
        waiting = self._waiting
        while waiting:
            waiter = waiting.popleft()
            exchange = waiter.exchange
            waiter.exchange = None
            self.wheel.forget(waiter)
            if exchange is not None and exchange.instance is self and exchange.attempt is None:
                return exchange
        return None

    def connection_gone(self, connection: UpstreamConnection, *, was_idle: bool) -> None:
        self.connections -= 1
        if was_idle:
            self._idle.pop(connection, None)
        if self._waiting:
            self._settle()

    def drop_idle(self, connection: UpstreamConnection) -> None:
        self._idle.pop(connection, None)

    # ---------------------------------------------------------------- availability

    @property
    def is_available(self) -> bool:
        return self.is_healthy and not self.unreachable_until and not self.ejected_until

    def not_reached(self) -> None:
        """A connect failed: avoid the instance for a moment, longer each time (0.25 s to 5 s)."""
        now = self.loop.time()
        if now < self.unreachable_until:
            return
        self._backoff = min(max(self._backoff * 2, _BACKOFF_FIRST), _BACKOFF_MAX)
        self.is_watched = True
        self.unreachable_until = now + self._backoff
        self.loop.call_later(self._backoff, self._backoff_over)
        self.on_change()

    def _backoff_over(self) -> None:
        if self.unreachable_until and self.loop.time() >= self.unreachable_until:
            self.unreachable_until = 0.0
            self.on_change()

    def reached(self) -> None:
        """It answers: as good as new."""
        if self._backoff:
            self._backoff = 0.0
            self.watch(self._watches)
        if self.unreachable_until:
            self.unreachable_until = 0.0
            self.on_change()

    def set_healthy(self, healthy: bool) -> None:
        if healthy != self.is_healthy:
            self.is_healthy = healthy
            self.on_change()

    def remove(self) -> None:
        """Out of the configuration: idle connections close now, busy ones when they are done."""
        self.is_removed = True
        idle = list(self._idle)
        self._idle.clear()
        for connection in idle:
            connection.close()
        if self.probe is not None:
            self.probe.cancel()
            self.probe = None

    async def aclose(self) -> None:
        self.remove()
        tasks = list(self._tasks)
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.gather(*tasks, return_exceptions=True)

    @property
    def idle_connections(self) -> int:
        return len(self._idle)

    @property
    def waiting(self) -> int:
        return sum(1 for w in self._waiting if w.exchange is not None)

    def __repr__(self) -> str:
        return f"<Instance {self.url} active={self.active} healthy={self.is_healthy}>"
