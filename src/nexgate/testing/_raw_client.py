"""A client that sends what you write, and tells you exactly what came back."""

from __future__ import annotations

import asyncio
import ssl as tls
from collections.abc import Awaitable
from dataclasses import dataclass, field
from typing import Self, TypeVar

from nexgate.testing._address import Address
from nexgate.testing._channel import READ_AHEAD_BYTES, RECORD_BYTES, Channel, connect
from nexgate.testing._messages import Fields, Message, read_response, status_of, values_of

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class RawResponse:
    """A response as it arrived."""

    status: int
    reason: str
    version: str
    """Such as ``HTTP/1.1``."""
    headers: Fields
    """Names as they were sent, values without surrounding blanks, in order."""
    body: bytes
    """The content, without chunk framing."""
    trailers: Fields
    raw: bytes
    """All of it, exactly, without the interim responses before it."""
    complete: bool
    """False when the body broke off or its framing made no sense; ``problem`` says how."""
    problem: str | None = None
    interim: list[RawResponse] = field(default_factory=list)
    """The 1xx responses that came before, in order."""

    def values(self, name: str) -> list[str]:
        """Every value of the field ``name``, in order."""
        return values_of(self.headers, name)

    def value(self, name: str) -> str | None:
        """The only value of the field ``name``; None if absent, ``ValueError`` if repeated."""
        values = self.values(name)
        if len(values) > 1:
            raise ValueError(f"{name} came {len(values)} times: {values}")
        return values[0] if values else None


class RawClient:
    """One connection over TCP, TLS or a unix socket; nothing is added to what you send.

    ::

        async with RawClient(gateway_url) as client:
            await client.send(b"GET / HTTP/1.1\\r\\nHost: a\\r\\nHost: b\\r\\n\\r\\n")
            response = await client.read_response()
            assert response.status == 400

    Every method that waits takes a ``timeout`` in seconds (default: the client's, 5 s) and raises
    ``TimeoutError`` with what had arrived by then. ``EOFError``: the peer closed too early.
    ``ConnectionResetError``: the connection broke.
    """

    def __init__(
        self,
        target: str | tuple[str, int],
        *,
        ssl: tls.SSLContext | None = None,
        server_hostname: str | None = None,
        timeout: float = 5.0,
        read_ahead_bytes: int = READ_AHEAD_BYTES,
        receive_buffer_bytes: int | None = None,
        max_recorded_bytes: int = RECORD_BYTES,
    ) -> None:
        """``target``: a URL, ``host:port``, a pair, or ``unix:/path``. ``https`` needs ``ssl``.

        For a client that reads slowly set ``read_ahead_bytes=0`` and a small
        ``receive_buffer_bytes``: then nothing leaves the socket before you ask for it.
        ``server_hostname``: for SNI and the certificate (default: the target's host).
        """
        self._address = Address.parse(target)
        if self._address.is_tls and ssl is None:
            raise ValueError(f"{target!r} needs an ssl.SSLContext: pass ssl=")
        self._ssl = ssl
        self._server_hostname = server_hostname or (self._address.host if ssl else None)
        self._timeout = timeout
        self._receive_buffer_bytes = receive_buffer_bytes
        self._channel = Channel(
            read_ahead_bytes=read_ahead_bytes, max_recorded_bytes=max_recorded_bytes
        )

    async def connect(self, timeout: float | None = None) -> None:
        """Connect. Called by ``async with``. Raises ``OSError`` when refused."""
        await self._within(
            connect(
                self._channel,
                self._address,
                receive_buffer_bytes=self._receive_buffer_bytes,
                ssl=self._ssl,
                server_hostname=self._server_hostname,
            ),
            timeout,
            f"connecting to {self._address}",
        )

    # -- sending -----------------------------------------------------------------------------

    async def send(self, data: bytes, timeout: float | None = None) -> None:
        """Send these bytes; returns when the kernel has them all."""
        await self._within(self._channel.send(data), timeout, f"sending {len(data)} bytes")

    async def send_slowly(self, data: bytes, interval: float = 0.0, *, size: int = 1) -> None:
        """Send ``size`` bytes at a time, ``interval`` seconds apart. Has no timeout."""
        await self._channel.send_slowly(data, interval, size=size)

    async def request(
        self, data: bytes, *, head: bool = False, timeout: float | None = None
    ) -> RawResponse:
        """``send`` and ``read_response``. HEAD is recognised; ``head`` is for odd methods."""
        await self.send(data, timeout)
        return await self.read_response(head=head or data.startswith(b"HEAD "), timeout=timeout)

    # -- reading -----------------------------------------------------------------------------

    async def read_response(
        self, *, head: bool = False, timeout: float | None = None
    ) -> RawResponse:
        """Read the next final response, and the interim ones (1xx, but 101) before it.

        ``head``: the request was HEAD, so no body follows whatever the fields say.

        A body that breaks off is no exception, it is ``complete=False``; a head that breaks off
        raises.
        """

        async def read() -> RawResponse:
            interim: list[RawResponse] = []
            while True:
                message = await read_response(self._channel, to_head=head)
                response = _response(message, interim)
                if response.status >= 200 or response.status == 101:
                    return response
                interim.append(response)

        return await self._within(read(), timeout, "waiting for a response")

    async def read_until(self, separator: bytes, timeout: float | None = None) -> bytes:
        """Return the bytes up to and including ``separator``."""
        return await self._within(
            self._channel.read_until(separator), timeout, f"waiting for {separator!r}"
        )

    async def read_exactly(self, count: int, timeout: float | None = None) -> bytes:
        """Return the next ``count`` bytes."""
        return await self._within(
            self._channel.read_exactly(count), timeout, f"waiting for {count} bytes"
        )

    async def read_some(self, limit: int = 64 * 1024, timeout: float | None = None) -> bytes:
        """Return what has arrived, at least one byte; ``b""`` at the peer's end."""
        return await self._within(self._channel.read_some(limit), timeout, "waiting for a byte")

    async def read_eof(self, timeout: float | None = None) -> bytes:
        """Wait for the peer's end and return the bytes before it (``b""`` for a silent end)."""
        return await self._within(self._channel.read_to_end(), timeout, "waiting for the end")

    # -- ending ------------------------------------------------------------------------------

    def half_close(self) -> None:
        """Send an end (FIN) and go on reading. ``RuntimeError`` under TLS."""
        self._channel.half_close()

    def reset(self) -> None:
        """Reset the connection (RST)."""
        self._channel.reset()

    async def close(self) -> None:
        """Close and wait until the connection is gone. Twice is fine."""
        self._channel.close()
        try:
            async with asyncio.timeout(self._timeout):
                await self._channel.wait_lost()
        except TimeoutError:  # unsent bytes for a peer that does not read, or a silent TLS peer
            self._channel.abort()
            await self._channel.wait_lost()

    async def __aenter__(self) -> Self:
        await self.connect()
        return self

    async def __aexit__(self, *_: object) -> None:
        # Not close(): at the end of a block nobody waits for a peer that does not read.
        self._channel.abort()
        await self._channel.wait_lost()

    # -- facts -------------------------------------------------------------------------------

    @property
    def received(self) -> bytearray:
        """Every byte that arrived, read or not (up to ``max_recorded_bytes``)."""
        return self._channel.received

    @property
    def received_bytes(self) -> int:
        """How many bytes arrived."""
        return self._channel.received_bytes

    @property
    def is_closed_by_peer(self) -> bool:
        """Whether the peer's end, or a reset, has been seen."""
        return self._channel.is_eof or self._channel.is_lost

    @property
    def local_address(self) -> tuple[str, int]:
        """Our host and port, as the peer sees them without a proxy in between."""
        host, port = self._channel.info("sockname")[:2]
        return str(host), int(port)

    @property
    def peer_certificate(self) -> bytes | None:
        """The server's certificate (DER), under TLS."""
        ssl_object = self._channel.info("ssl_object")
        certificate: bytes | None = ssl_object and ssl_object.getpeercert(binary_form=True)
        return certificate

    @property
    def alpn_protocol(self) -> str | None:
        """What TLS negotiated, such as ``http/1.1``."""
        ssl_object = self._channel.info("ssl_object")
        protocol: str | None = ssl_object and ssl_object.selected_alpn_protocol()
        return protocol

    async def _within(self, work: Awaitable[T], timeout: float | None, what: str) -> T:
        limit = self._timeout if timeout is None else timeout
        try:
            async with asyncio.timeout(limit) as scope:
                return await work
        except TimeoutError as error:
            if not scope.expired():  # the operating system's own, such as ETIMEDOUT
                raise
            tail = bytes(self.received[-200:])
            raise TimeoutError(
                f"{what}: nothing after {limit} s; received {self.received_bytes} bytes so far, "
                f"the last of them {tail!r}"
            ) from error


def _response(message: Message, interim: list[RawResponse]) -> RawResponse:
    version, _, rest = message.start_line.partition(" ")
    return RawResponse(
        status=status_of(message.start_line),
        reason=rest.partition(" ")[2],
        version=version,
        headers=message.fields,
        body=bytes(message.body),
        trailers=message.trailers,
        raw=bytes(message.raw),
        complete=message.is_complete,
        problem=message.problem,
        interim=interim,
    )
