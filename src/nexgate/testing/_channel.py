"""One connection as bytes: read, write, and every way to end it.

asyncio's streams would do most of this, but a test tool needs what they hide: which bytes arrived
even if nobody read them, whether the peer closed or reset, a read that stops for real (so that the
kernel's window fills up), and a write that is over only when the kernel has every byte.
"""

from __future__ import annotations

import asyncio
import socket
import struct
from collections.abc import Callable
from typing import Any, cast

from nexgate.testing._address import Address

READ_AHEAD_BYTES = 256 * 1024
RECORD_BYTES = 16 * 1024 * 1024

_RESET_ON_CLOSE = struct.pack("ii", 1, 0)  # SO_LINGER: on, zero seconds


class Channel(asyncio.Protocol):
    """A connection, either side.

    Reads raise ``EOFError`` when the peer closed before they were satisfied and
    ``ConnectionResetError`` when the connection broke; both messages say what had arrived.
    """

    def __init__(
        self,
        *,
        read_ahead_bytes: int = READ_AHEAD_BYTES,
        max_recorded_bytes: int = RECORD_BYTES,
        on_connected: Callable[[Any], None] | None = None,
    ) -> None:
        self.received = bytearray()
        """Every byte that arrived, read or not, up to the recording limit."""
        self.received_bytes = 0
        """How many bytes arrived; goes on counting beyond the recording limit."""
        self.sent_bytes = 0
        self.is_eof = False
        """The peer said that it will send no more."""
        self.is_lost = False
        """The connection is gone, both ways."""
        self.error: Exception | None = None
        """What broke the connection, if something did."""

        self._pending = bytearray()  # arrived, not read yet
        self._read_ahead_bytes = read_ahead_bytes
        self._max_recorded_bytes = max_recorded_bytes
        self._on_connected = on_connected
        self._transport: asyncio.Transport | None = None
        self._readers_waiting = 0
        self._is_held = False
        self._is_reading = True
        self._arrived = asyncio.Event()
        self._writable = asyncio.Event()
        self._writable.set()
        self._lost = asyncio.Event()

    # -- what asyncio calls ------------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        # A cast: uvloop's transports are not instances of asyncio's class.
        self._transport = cast("asyncio.Transport", transport)
        # 0: a write is over when the kernel has it all. Otherwise a reset could overtake bytes.
        self._transport.set_write_buffer_limits(high=0)
        if self._on_connected is not None:
            self._on_connected(self)
        # Soon, not now: uvloop starts to read after this method whatever it asked for. There one
        # buffer may be read before the pause; on asyncio none is.
        asyncio.get_running_loop().call_soon(self._update_reading)

    def data_received(self, data: bytes) -> None:
        self.received_bytes += len(data)
        room = self._max_recorded_bytes - len(self.received)
        if room > 0:
            self.received += data[:room]
        self._pending += data
        self._arrived.set()
        self._update_reading()

    def eof_received(self) -> bool:
        self.is_eof = True
        self._arrived.set()
        # True keeps our own direction open. TLS cannot do that (and asyncio warns if asked to).
        return not self.is_tls

    def connection_lost(self, exc: Exception | None) -> None:
        self.error = exc
        self.is_lost = True
        self._arrived.set()
        self._writable.set()
        self._lost.set()

    def pause_writing(self) -> None:
        self._writable.clear()

    def resume_writing(self) -> None:
        self._writable.set()

    # -- reading -----------------------------------------------------------------------------

    async def read_some(self, limit: int = 64 * 1024) -> bytes:
        """Return what has arrived, at least one byte; ``b""`` when the peer has closed."""
        while not self._pending:
            if not await self._wait_for_bytes():
                return b""
        return self._take(min(limit, len(self._pending)))

    async def read_exactly(self, count: int) -> bytes:
        """Return the next ``count`` bytes."""
        while len(self._pending) < count:
            if not await self._wait_for_bytes():
                raise EOFError(
                    f"the peer closed after {len(self._pending)} of {count} bytes: "
                    f"{_shown(self._pending)}"
                )
        return self._take(count)

    async def read_until(self, separator: bytes) -> bytes:
        """Return the bytes up to and including ``separator``."""
        searched = 0
        while (found := self._pending.find(separator, searched)) < 0:
            searched = max(0, len(self._pending) - len(separator) + 1)
            if not await self._wait_for_bytes():
                raise EOFError(
                    f"the peer closed before {separator!r} came; it sent {_shown(self._pending)}"
                )
        return self._take(found + len(separator))

    async def read_to_end(self) -> bytes:
        """Return everything until the peer closes its direction."""
        while await self._wait_for_bytes():
            pass
        return self._take(len(self._pending))

    def take_pending(self) -> bytes:
        """Return what has arrived and was not read, without waiting."""
        return self._take(len(self._pending))

    def hold(self) -> None:
        """Read nothing from the socket, not even for a reader that waits, until ``release()``."""
        self._is_held = True
        self._update_reading()

    def release(self) -> None:
        """End ``hold()``."""
        self._is_held = False
        self._update_reading()

    async def _wait_for_bytes(self) -> bool:
        """Wait until more has arrived; False at the end of the peer's bytes."""
        if self.error is not None:
            raise ConnectionResetError(
                f"the connection broke ({self.error}); unread were {_shown(self._pending)}"
            ) from self.error
        if self.is_eof or self.is_lost:
            return False
        before = self.received_bytes
        self._arrived.clear()
        self._readers_waiting += 1
        self._update_reading()
        try:
            await self._arrived.wait()
        finally:
            self._readers_waiting -= 1
            self._update_reading()
        return self.received_bytes > before or await self._wait_for_bytes()

    def _take(self, count: int) -> bytes:
        taken = bytes(self._pending[:count])
        del self._pending[:count]
        self._update_reading()
        return taken

    def _update_reading(self) -> None:
        """The one place that turns the socket's reading on and off."""
        if self._transport is None or self.is_eof or self._transport.is_closing():
            return
        has_room = self._readers_waiting > 0 or len(self._pending) < self._read_ahead_bytes
        wanted = has_room and not self._is_held
        if wanted == self._is_reading:
            return
        self._is_reading = wanted
        if wanted:
            self._transport.resume_reading()
        else:
            self._transport.pause_reading()

    # -- writing -----------------------------------------------------------------------------

    async def send(self, data: bytes) -> None:
        """Send, and return when the kernel has taken every byte (so a slow peer slows us)."""
        self._require_open()
        self.transport.write(data)
        await self._writable.wait()
        self._require_open()
        self.sent_bytes += len(data)

    async def send_slowly(self, data: bytes, interval: float = 0.0, *, size: int = 1) -> None:
        """Send ``size`` bytes at a time, each in a segment of its own, ``interval`` s apart."""
        for start in range(0, len(data), size):
            await self.send(data[start : start + size])
            await asyncio.sleep(interval)

    def _require_open(self) -> None:
        if self.is_lost or self.transport.is_closing():
            raise ConnectionResetError(
                f"cannot send: the connection is closed ({self.error or 'in order'})"
            )

    # -- ending ------------------------------------------------------------------------------

    def half_close(self) -> None:
        """Say that no more will be sent, and go on reading. TLS has no such thing here."""
        if self.is_tls:
            raise RuntimeError("asyncio cannot half-close a TLS connection; use close()")
        if not (self.is_lost or self.transport.is_closing()):
            self.transport.write_eof()

    def close(self) -> None:
        """Close in order, after what was written has left."""
        if self._transport is not None:
            self._transport.close()

    def reset(self) -> None:
        """Drop the connection so that the peer sees a reset (RST), not an end.

        A unix socket has no RST; there the peer sees a reset only if we left its bytes unread.
        """
        if self._transport is None or self.is_lost:
            return
        sock = self._transport.get_extra_info("socket")
        if sock is not None and sock.family != socket.AF_UNIX:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET_ON_CLOSE)
        self._transport.abort()

    def abort(self) -> None:
        """Close at once; bytes that were not sent yet are lost."""
        if self._transport is not None:
            self._transport.abort()

    async def wait_lost(self) -> None:
        """Wait until the connection is gone; at once if there never was one."""
        if self._transport is not None:
            await self._lost.wait()

    # -- facts -------------------------------------------------------------------------------

    @property
    def transport(self) -> asyncio.Transport:
        """The asyncio transport below."""
        assert self._transport is not None, "not connected yet"
        return self._transport

    @property
    def is_tls(self) -> bool:
        """Whether the connection is encrypted."""
        return self.info("ssl_object") is not None

    @property
    def peer_address(self) -> tuple[str, int] | str:
        """The other end: host and port, or the path of a unix socket (often empty)."""
        peer = self.info("peername")
        return (str(peer[0]), int(peer[1])) if isinstance(peer, tuple) else str(peer or "")

    def info(self, name: str) -> Any:
        """What the transport knows under ``name``, such as ``"ssl_object"`` or ``"sockname"``."""
        return None if self._transport is None else self._transport.get_extra_info(name)


async def connect(
    channel: Channel, address: Address, *, receive_buffer_bytes: int | None = None, **tls: Any
) -> None:
    """Connect ``channel``; ``tls``: ``ssl`` and ``server_hostname``, as in asyncio.

    ``receive_buffer_bytes`` sets SO_RCVBUF before connecting, which is the only time it bounds the
    TCP window.
    """
    loop = asyncio.get_running_loop()
    if address.path is not None:
        await loop.create_unix_connection(lambda: channel, address.path, **tls)
        return
    sock = socket.socket(socket.AF_INET6 if ":" in address.host else socket.AF_INET)
    try:
        sock.setblocking(False)
        if receive_buffer_bytes is not None:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer_bytes)
        await loop.sock_connect(sock, (address.host, address.port))
        await loop.create_connection(lambda: channel, sock=sock, **tls)
    except BaseException:
        sock.close()
        raise


def _shown(data: bytearray, limit: int = 200) -> str:
    if len(data) <= limit:
        return repr(bytes(data))
    return f"{bytes(data[:limit])!r}… ({len(data)} bytes)"
