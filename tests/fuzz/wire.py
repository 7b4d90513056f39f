"""The data plane without sockets and clocks, and independent judges of what it sends.

``World`` is an edge in front of one instance whose transports are lists of bytes and whose loop is
a queue: a whole exchange costs a tenth of a millisecond and always happens the same way.

``read_requests`` and ``read_responses`` share no code with the product. They accept what every
reader of RFC 9112 understands in the same way and nothing else: what they refuse, some service or
client somewhere would read differently than we do.
"""

from __future__ import annotations

import re
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from nexgate.edge._protocol import EdgeConnection
from nexgate.edge._worker import EdgeLimits, EdgeState, EdgeTimeouts
from nexgate.exchange import Exchange
from nexgate.gateway import Gateway
from nexgate.http import Kind
from nexgate.upstream import Address, InstanceState
from nexgate.upstream._connection import UpstreamConnection
from nexgate.upstream._encode import DROP_ALWAYS

# --- judges ---------------------------------------------------------------------------------------

_REQUEST_LINE = re.compile(
    rb"([!#$%&'*+\-.^_`|~0-9A-Za-z]+) (/[\x21-\x7e]*|\*) HTTP/1\.1", re.ASCII
)
_FIELD_LINE = re.compile(rb"([!#$%&'*+\-.^_`|~0-9A-Za-z]+): ([\t\x20-\x7e\x80-\xff]*)")
_STATUS_LINE = re.compile(rb"HTTP/1\.1 ([1-5][0-9][0-9])(?: [\t\x20-\x7e\x80-\xff]*)?")
_HOST = re.compile(rb"[A-Za-z0-9_.\-]+(?::[0-9]{1,5})?|\[[0-9A-Fa-f:.]+\](?::[0-9]{1,5})?")
_SIZE = re.compile(rb"[1-9a-f][0-9a-f]*|0")


class Unclear(AssertionError):
    """Two honest readers could disagree about these bytes."""


@dataclass(slots=True)
class Seen:
    """One message as the judge read it."""

    first: bytes
    """Method, or status."""
    line: bytes
    fields: list[tuple[bytes, bytes]]
    body: bytes = b""
    trailers: list[tuple[bytes, bytes]] = field(default_factory=list)
    is_complete: bool = True
    ends_with_connection: bool = False

    def values(self, name: bytes) -> list[bytes]:
        return [v for n, v in self.fields if n == name]


def _fields(lines: list[bytes]) -> list[tuple[bytes, bytes]]:
    found: list[tuple[bytes, bytes]] = []
    for line in lines:
        m = _FIELD_LINE.fullmatch(line)
        if m is None or m[2] != m[2].strip(b" \t"):
            raise Unclear(f"not a field line: {line!r}")
        found.append((m[1].lower(), m[2]))
    return found


def _length(message: Seen) -> int | None:
    """-1 for chunked, None for nothing said."""
    codings = message.values(b"transfer-encoding")
    lengths = message.values(b"content-length")
    if codings:
        if codings != [b"chunked"] or lengths:
            raise Unclear(f"framing: {codings} {lengths}")
        return -1
    if not lengths:
        return None
    if len(lengths) != 1 or not re.fullmatch(rb"[0-9]{1,18}", lengths[0]):
        raise Unclear(f"framing: {lengths}")
    return int(lengths[0])


def _read_body(message: Seen, data: bytes, at: int, length: int) -> int:
    if length >= 0:
        message.body = data[at : at + length]
        message.is_complete = len(message.body) == length
        return at + len(message.body)
    while True:
        end = data.find(b"\r\n", at)
        if end < 0:
            if not re.fullmatch(rb"[0-9a-f]*\r?", data[at:]):
                raise Unclear(f"chunk size: {data[at : at + 40]!r}")
            message.is_complete = False
            return len(data)
        if not _SIZE.fullmatch(data[at:end]):
            raise Unclear(f"chunk size: {data[at:end]!r}")
        size = int(data[at:end], 16)
        at = end + 2
        if not size:
            break
        message.body += data[at : at + size]
        if data[at + size : at + size + 2] != b"\r\n":
            if len(data) < at + size + 2:
                message.is_complete = False
                return len(data)
            raise Unclear("a chunk that does not end")
        at += size + 2
    while True:
        end = data.find(b"\r\n", at)
        if end < 0:
            message.is_complete = False
            return len(data)
        if end == at:
            return at + 2
        message.trailers += _fields([data[at:end]])
        at = end + 2


def read_requests(data: bytes) -> list[Seen]:
    """Every request in what was sent to a service. Raises ``Unclear``."""
    found: list[Seen] = []
    at = 0
    while at < len(data):
        end = data.find(b"\r\n\r\n", at)
        if end < 0:
            raise Unclear(f"half a head: {data[at : at + 80]!r}")
        lines = data[at:end].split(b"\r\n")
        m = _REQUEST_LINE.fullmatch(lines[0])
        if m is None:
            raise Unclear(f"request line: {lines[0]!r}")
        if re.search(rb"(?:^|/)\.\.?(?:/|$|\?)", m[2].partition(b"?")[0]):
            raise Unclear(f"dot segments: {lines[0]!r}")
        message = Seen(m[1], lines[0], _fields(lines[1:]))
        hosts = message.values(b"host")
        if len(hosts) != 1 or not _HOST.fullmatch(hosts[0]):
            raise Unclear(f"Host: {hosts}")
        length = _length(message)
        at = end + 4
        if length is not None:
            at = _read_body(message, data, at, length)
        found.append(message)
    return found


_ANY_LINE = re.compile(rb"[!#$%&'*+\-.^_`|~0-9A-Za-z]+ [\x21-\x7e\x80-\xff]+ HTTP/1\.[01]")
_ANY_FIELD = re.compile(rb"([!#$%&'*+\-.^_`|~0-9A-Za-z]+):[ \t]*([\t\x20-\x7e\x80-\xff]*)")
_ANY_SIZE = re.compile(rb"([0-9A-Fa-f]{1,15})(?:;[\t\x20-\x7e\x80-\xff]*)?")


def count_clear_requests(data: bytes) -> int:
    """How many whole requests a client sent before the first that could be read in two ways.

    Only framing is judged. A gateway that forwards more than these took a guess.
    """
    count = at = 0
    while True:
        if data[at : at + 2] == b"\r\n":
            at += 2
        end = data.find(b"\r\n\r\n", at)
        if end < 0:
            return count
        lines = data[at:end].split(b"\r\n")
        matches = [_ANY_FIELD.fullmatch(line) for line in lines[1:]]
        if not _ANY_LINE.fullmatch(lines[0]) or not all(matches):
            return count
        fields = [(m[1].lower(), m[2].strip(b" \t")) for m in matches if m]
        codings = [v.lower() for n, v in fields if n == b"transfer-encoding"]
        lengths = [v for n, v in fields if n == b"content-length"]
        at = end + 4
        if codings:
            if codings != [b"chunked"] or lengths or lines[0].endswith(b"0"):
                return count
            at = _skip_chunks(data, at)
        elif lengths:
            if len(lengths) != 1 or not re.fullmatch(rb"[0-9]{1,18}", lengths[0]):
                return count
            at += int(lengths[0])
        if at < 0 or at > len(data):
            return count
        count += 1


def _skip_chunks(data: bytes, at: int) -> int:
    """Where the body ends; -1 when that is not clear."""
    while True:
        end = data.find(b"\r\n", at)
        m = _ANY_SIZE.fullmatch(data, at, end) if end >= 0 else None
        if m is None:
            return -1
        size = int(m[1], 16)
        at = end + 2
        if not size:
            break
        if data[at + size : at + size + 2] != b"\r\n":
            return -1
        at += size + 2
    while data[at : at + 2] != b"\r\n":
        end = data.find(b"\r\n", at)
        if end < 0 or not _ANY_FIELD.fullmatch(data, at, end):
            return -1
        at = end + 2
    return at + 2


def read_responses(data: bytes, methods: list[bytes]) -> list[Seen]:
    """Every response in what was sent to a client that sent ``methods``. Raises ``Unclear``."""
    found: list[Seen] = []
    asked = iter(methods)
    at = 0
    while at < len(data):
        end = data.find(b"\r\n\r\n", at)
        if end < 0:
            raise Unclear(f"half a head: {data[at : at + 80]!r}")
        lines = data[at:end].split(b"\r\n")
        m = _STATUS_LINE.fullmatch(lines[0])
        if m is None:
            raise Unclear(f"status line: {lines[0]!r}")
        message = Seen(m[1], lines[0], _fields(lines[1:]))
        at = end + 4
        status = int(m[1])
        if status == 101:
            message.body = data[at:]
            found.append(message)
            return found
        if status < 200:
            continue
        method = next(asked, b"")
        length = _length(message)
        if method == b"HEAD" or status in (204, 304):
            pass
        elif length is None:
            message.body = data[at:]
            message.ends_with_connection = True
            at = len(data)
        else:
            at = _read_body(message, data, at, length)
        found.append(message)
    return found


# --- a world without sockets ----------------------------------------------------------------------


class Timer:
    __slots__ = ("at", "call", "is_cancelled")

    def __init__(self, at: float, call: Callable[[], None]) -> None:
        self.at = at
        self.call = call
        self.is_cancelled = False

    def cancel(self) -> None:
        self.is_cancelled = True


class Loop:
    """As much of an event loop as protocols need when nothing awaits."""

    def __init__(self) -> None:
        self.now = 1000.0
        self.ready: deque[tuple[Callable[..., Any], tuple[Any, ...]]] = deque()
        self.timers: list[Timer] = []

    def time(self) -> float:
        return self.now

    def is_closed(self) -> bool:
        return False

    def call_soon(self, call: Callable[..., Any], *args: Any) -> None:
        self.ready.append((call, args))

    def call_later(self, delay: float, call: Callable[..., Any], *args: Any) -> Timer:
        timer = Timer(self.now + delay, lambda: call(*args))
        self.timers.append(timer)
        return timer

    def run(self) -> None:
        while self.ready:
            call, args = self.ready.popleft()
            call(*args)

    def advance(self, seconds: float) -> None:
        """Let time pass; timers run in their order."""
        until = self.now + seconds
        while True:
            self.timers = [t for t in self.timers if not t.is_cancelled]
            due = min(self.timers, key=lambda t: t.at, default=None)
            if due is None or due.at > until:
                break
            self.timers.remove(due)
            self.now = max(self.now, due.at)
            due.call()
            self.run()
        self.now = until


class Transport:
    """Collects what is written; the protocol's end comes through the loop, as in life."""

    def __init__(self, loop: Loop, protocol: Any) -> None:
        self.loop = loop
        self.protocol = protocol
        self.written: list[bytes] = []
        self.is_closed = False
        self.is_lost = False
        self.is_paused = False
        self.wrote_eof = False

    def write(self, data: bytes) -> None:
        assert isinstance(data, bytes)
        if not self.is_closed:
            assert not self.wrote_eof, "written after the end"
            self.written.append(data)

    def writelines(self, pieces: Any) -> None:
        for piece in pieces:
            self.write(piece)

    def sent(self) -> bytes:
        return b"".join(self.written)

    def close(self) -> None:
        if not self.is_closed:
            self.is_closed = True
            self.loop.call_soon(self.lose)

    abort = close

    def lose(self, error: Exception | None = None) -> None:
        self.is_closed = True
        if not self.is_lost:
            self.is_lost = True
            self.protocol.connection_lost(error)

    def is_closing(self) -> bool:
        return self.is_closed

    def can_write_eof(self) -> bool:
        return True

    def write_eof(self) -> None:
        self.wrote_eof = True

    def pause_reading(self) -> None:
        self.is_paused = True

    def resume_reading(self) -> None:
        self.is_paused = False

    def get_write_buffer_size(self) -> int:
        return 0

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        return ("192.0.2.1", 40000) if name == "peername" else default


class Instance(InstanceState):
    """Connects at once, to nobody."""

    made: list[UpstreamConnection]

    def _settle(self) -> None:
        while len(self._waiting) > 0:
            connection = self._make_connection()
            transport = Transport(self.loop, connection)  # type: ignore[arg-type]
            connection.connection_made(transport)  # type: ignore[arg-type]
            self.connections += 1
            self.made.append(connection)
            self._offer(connection, self.loop.time())


class World:
    """One edge, one instance; any number of clients, one after the other."""

    def __init__(self, **section: Any) -> None:
        self.loop = Loop()
        gateway = Gateway(**section)
        gateway.service("origin", "http://192.0.2.2:80")
        gateway.route("/*", "origin")
        made = gateway.build()
        loop: Any = self.loop
        service = made.services["origin"]
        self.instance = Instance(
            Address.parse("http://192.0.2.2:80"), loop, service="origin", on_change=service.refresh
        )
        self.instance.made = []
        self.instance.drop = DROP_ALWAYS | Kind.UNDERSCORE
        service.set_instances([self.instance])
        # Time stands still here, so a head that drips would never be read on.
        limits = EdgeLimits(eager_head_reads=1_000_000)
        self.edge = EdgeState(loop, made.snapshot, limits=limits, timeouts=EdgeTimeouts())
        self.edge._prefix = b"id-"
        self.methods: list[bytes] = []
        self.edge.exchange_log = self._log

    def _log(self, exchange: Exchange) -> None:
        self.methods.append(exchange.method)

    def connect(self) -> tuple[EdgeConnection, Transport]:
        connection = EdgeConnection(self.edge)
        transport = Transport(self.loop, connection)
        connection.connection_made(transport)  # type: ignore[arg-type]
        return connection, transport

    def reset(self) -> None:
        """Forget the services' side, so that cases do not depend on each other."""
        for connection in self.instance.made:
            connection.transport.abort()
        self.loop.run()
        self.instance.made.clear()
        self.instance._idle.clear()
        self.instance.heads.clear()
        self.methods.clear()

    def check_nothing_is_left(self) -> None:
        """After the client is gone."""
        assert not self.edge.connections
        assert not self.edge.tunnels
        assert self.instance.active == 0, "an exchange is still counted"
        for connection in self.instance.made:
            assert connection.exchange is None
        alive = sum(not c.transport.is_lost for c in self.instance.made)  # type: ignore[attr-defined]
        assert self.instance.connections == alive
        assert len(self.edge.wheel) <= alive
