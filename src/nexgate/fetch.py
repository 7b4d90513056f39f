"""One HTTP/1.1 request on a connection of its own, for the control plane: probes and discovery.

It shares the data plane's strict codec and none of its machinery: no pool, no retry, no redirect,
no cookie, no proxy from the environment. What answers is asked rarely and may be anything, so every
phase has a time limit and everything that is kept has a size limit. An answer that is ambiguous
about its length is an error, as it is for the gateway.

::

    answer = await fetch("http://127.0.0.1:8500", "/v1/status/leader")
    async with fetching("unix:/run/app.sock", "/events") as stream:
        async for line in stream.lines():
            ...
"""

from __future__ import annotations

import asyncio
import contextlib
import re
import ssl as tls
from collections.abc import AsyncIterator, Iterable, Mapping
from dataclasses import dataclass
from typing import Final, Literal

from nexgate.config import parse_host, parse_port, parse_socket_path
from nexgate.errors import Cause, NexgateError, Refused
from nexgate.http import ChunkedDecoder, Headers, ResponseHead, parse_response_head

__all__ = [
    "FetchError",
    "FetchLimits",
    "Fetched",
    "Origin",
    "Stream",
    "fetch",
    "fetching",
    "status_of",
]

Phase = Literal["connect", "request", "head", "body"]

_TARGET: Final = re.compile(r"/[\x21-\x22\x24-\x7e]*")
_METHOD: Final = re.compile(r"[A-Z]+")
_READ_BYTES: Final = 64 * 1024
_MOST_INTERIM: Final = 8


class FetchError(NexgateError):
    """No usable answer. ``phase`` says how far it came; ``connect`` means nothing was sent."""

    def __init__(self, phase: Phase, message: str) -> None:
        super().__init__(phase, message)
        self.phase = phase
        self.message = message

    def __str__(self) -> str:
        return self.message


@dataclass(frozen=True, slots=True)
class FetchLimits:
    """Seconds for each phase, and sizes."""

    connect: float = 2.0
    """Until the connection stands, name resolution and TLS included."""
    head: float = 10.0
    """From the request to the end of the response's head."""
    body: float | None = 10.0
    """How long a body may make no progress; ``None`` for streams with silences."""
    total: float | None = 30.0
    """For ``fetch``, everything together. A stream has no such limit."""
    max_head_bytes: int = 32 * 1024
    max_body_bytes: int = 8 * 1024 * 1024
    """For ``fetch``. A stream is as long as it likes."""
    max_line_bytes: int = 4 * 1024 * 1024
    """For ``Stream.lines``."""


@dataclass(frozen=True, slots=True)
class Origin:
    """Whom to ask."""

    host: str
    port: int
    is_tls: bool = False
    path: str | None = None
    """Of a Unix socket; the host is then only what the ``Host`` field says."""

    @classmethod
    def parse(cls, url: str) -> Origin:
        """Read ``http://host[:port]``, ``https://host[:port]`` or ``unix:/path``; else
        ``ValueError``.
        """
        scheme, _, rest = url.partition(":")
        if scheme == "unix":
            return cls("localhost", 0, path=parse_socket_path(rest))
        if scheme not in ("http", "https") or not rest.startswith("//"):
            raise ValueError("write http://host:port, https://host:port or unix:/path")
        authority = rest[2:].removesuffix("/")
        host, colon, port = authority.rpartition(":")
        if not colon or authority.endswith("]"):
            host, port = authority, "443" if scheme == "https" else "80"
        return cls(parse_host(host), parse_port(port), is_tls=scheme == "https")

    @property
    def authority(self) -> str:
        """What the ``Host`` field says."""
        if self.path is not None:
            return self.host
        host = f"[{self.host}]" if ":" in self.host else self.host
        return host if self.port == (443 if self.is_tls else 80) else f"{host}:{self.port}"

    def __str__(self) -> str:
        return f"unix:{self.path}" if self.path is not None else f"{self.host}:{self.port}"


@dataclass(frozen=True, slots=True)
class Fetched:
    """A whole answer."""

    status: int
    headers: Headers
    body: bytes


class Stream:
    """An answer whose body is read as it comes. Made by ``fetching``."""

    def __init__(
        self, head: ResponseHead, reader: asyncio.StreamReader, limits: FetchLimits
    ) -> None:
        self.status = head.status
        self.headers = Headers(head.fields)
        self._reader = reader
        self._limits = limits
        self._chunks = ChunkedDecoder(Cause.UPSTREAM_MALFORMED) if head.chunked else None
        self._left = None if head.until_close else head.content_length

    async def pieces(self) -> AsyncIterator[bytes]:
        """The content as it arrives. Ends where the message does; a cut is a ``FetchError``."""
        while not self._is_complete():
            data = await self._read()
            if not data:
                if self._chunks is None and self._left is None:
                    return
                raise FetchError("body", "the connection ended inside the answer")
            if self._chunks is not None:
                try:
                    data = self._chunks.feed(data)
                except Refused as refused:
                    raise FetchError("body", f"the answer is malformed: {refused.detail}") from None
            elif self._left is not None:
                data = data[: self._left]
                self._left -= len(data)
            if data:
                yield data

    async def lines(self) -> AsyncIterator[bytes]:
        """The content line by line, without line ends. A last line may lack its end."""
        most = self._limits.max_line_bytes
        parts: list[bytes] = []
        size = 0
        async for piece in self.pieces():
            *ended, rest = piece.split(b"\n")
            for line in ended:
                if size + len(line) > most:
                    raise FetchError("body", f"a line has more than {most} bytes")
                yield b"".join((*parts, line)).removesuffix(b"\r")
                parts.clear()
                size = 0
            if rest:
                parts.append(rest)
                size += len(rest)
                if size > most:
                    raise FetchError("body", f"a line has more than {most} bytes")
        if parts:
            yield b"".join(parts)

    async def read(self, most: int) -> bytes:
        """The whole content; a ``FetchError`` beyond ``most`` bytes."""
        parts: list[bytes] = []
        size = 0
        async for piece in self.pieces():
            size += len(piece)
            if size > most:
                raise FetchError("body", f"the answer has more than {most} bytes")
            parts.append(piece)
        return b"".join(parts)

    def _is_complete(self) -> bool:
        return self._chunks.done if self._chunks is not None else self._left == 0

    async def _read(self) -> bytes:
        try:
            async with asyncio.timeout(self._limits.body):
                return await self._reader.read(_READ_BYTES)
        except TimeoutError:
            raise FetchError("body", f"nothing came for {self._limits.body} s") from None
        except OSError as error:
            raise FetchError("body", f"the connection broke: {_words(error)}") from error


async def fetch(
    url: str,
    target: str = "/",
    *,
    method: str = "GET",
    fields: Mapping[str, str] | None = None,
    body: bytes = b"",
    limits: FetchLimits = FetchLimits(),
    ssl: tls.SSLContext | None = None,
    server_name: str | None = None,
) -> Fetched:
    """Ask once and return the whole answer, whatever its status.

    ``url`` is an ``Origin``; ``target`` is the path, with query. ``fields`` override ``Host``,
    ``User-Agent`` and ``Accept``. ``ssl`` and ``server_name`` are for ``https``; unset, the
    system's authorities and the host of the URL. Raises ``FetchError``, or ``ValueError`` for a
    question that cannot be asked.
    """
    try:
        async with asyncio.timeout(limits.total):
            async with fetching(
                url,
                target,
                method=method,
                fields=fields,
                body=body,
                limits=limits,
                ssl=ssl,
                server_name=server_name,
            ) as stream:
                content = await stream.read(limits.max_body_bytes)
                return Fetched(stream.status, stream.headers, content)
    except TimeoutError:
        raise FetchError("body", f"no whole answer within {limits.total} s") from None


async def status_of(
    url: str,
    target: str,
    *,
    timeout: float,
    method: str = "GET",
    fields: Mapping[str, str] | None = None,
    ssl: tls.SSLContext | None = None,
    server_name: str | None = None,
) -> int:
    """Ask for the status alone, as probes do: the content is not waited for.

    ``timeout`` is for everything; beyond it, and for whatever else goes wrong: ``FetchError``.
    """
    limits = FetchLimits(connect=timeout, head=timeout, total=timeout)
    try:
        async with (
            asyncio.timeout(timeout),
            fetching(
                url,
                target,
                method=method,
                fields=fields,
                limits=limits,
                ssl=ssl,
                server_name=server_name,
            ) as answer,
        ):
            return answer.status
    except TimeoutError:
        raise FetchError("head", "no answer in time") from None


@contextlib.asynccontextmanager
async def fetching(
    url: str,
    target: str = "/",
    *,
    method: str = "GET",
    fields: Mapping[str, str] | None = None,
    body: bytes = b"",
    limits: FetchLimits = FetchLimits(),
    ssl: tls.SSLContext | None = None,
    server_name: str | None = None,
) -> AsyncIterator[Stream]:
    """Ask once; inside the block the answer's head is there and its body can be read.

    Leaving the block, also by cancellation, ends the connection.
    """
    origin = Origin.parse(url)
    request = _encode(origin, method, target, fields or {}, body)
    reader, writer = await _connect(origin, limits, ssl, server_name)
    try:
        head = await _exchange(reader, writer, request, method, limits)
        yield Stream(head, reader, limits)
    finally:
        # Not close(): a peer that does not read would keep what is unsent alive.
        writer.transport.abort()


async def _connect(
    origin: Origin, limits: FetchLimits, ssl: tls.SSLContext | None, server_name: str | None
) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    try:
        async with asyncio.timeout(limits.connect):
            if origin.path is not None:
                return await asyncio.open_unix_connection(origin.path, limit=limits.max_head_bytes)
            if not origin.is_tls:
                return await asyncio.open_connection(
                    origin.host, origin.port, limit=limits.max_head_bytes
                )
            return await asyncio.open_connection(
                origin.host,
                origin.port,
                limit=limits.max_head_bytes,
                ssl=ssl or tls.create_default_context(),
                server_hostname=server_name or origin.host,
            )
    except TimeoutError:
        message = f"connecting to {origin} took more than {limits.connect} s"
        raise FetchError("connect", message) from None
    except tls.SSLError as error:
        raise FetchError("connect", f"TLS with {origin} failed: {_words(error)}") from error
    except (OSError, UnicodeError) as error:
        raise FetchError("connect", f"no connection to {origin}: {_words(error)}") from error


async def _exchange(
    reader: asyncio.StreamReader,
    writer: asyncio.StreamWriter,
    request: bytes,
    method: str,
    limits: FetchLimits,
) -> ResponseHead:
    try:
        async with asyncio.timeout(limits.head):
            writer.write(request)
            for _ in range(_MOST_INTERIM):
                raw = await reader.readuntil(b"\r\n\r\n")
                head = parse_response_head(raw[:-4], 256, head_request=method == "HEAD")
                if head.status == 101:
                    raise FetchError("head", "the answer switches to another protocol")
                if head.status >= 200:
                    return head
    except TimeoutError:
        raise FetchError("head", f"no answer within {limits.head} s") from None
    except asyncio.IncompleteReadError as cut:
        where = "inside the head" if cut.partial else "without an answer"
        raise FetchError("head", f"the connection ended {where}") from None
    except asyncio.LimitOverrunError:
        message = f"the head has more than {limits.max_head_bytes} bytes"
        raise FetchError("head", message) from None
    except Refused as refused:
        raise FetchError("head", f"the answer is malformed: {refused.detail}") from None
    except OSError as error:
        raise FetchError("request", f"the connection broke: {_words(error)}") from error
    raise FetchError("head", "interim answers follow each other without an end")


def _encode(
    origin: Origin, method: str, target: str, fields: Mapping[str, str], body: bytes
) -> bytes:
    if not _METHOD.fullmatch(method):
        raise ValueError(f"{method!r} is not a method")
    if not _TARGET.fullmatch(target):
        raise ValueError(f"{target!r} is not the path of a request; percent-encode it")
    headers = Headers.of(
        {"Host": origin.authority, "User-Agent": "nexgate", "Accept": "*/*"}
    )  # make_field refuses what would become a second line
    for name, value in fields.items():
        if name.lower() in ("connection", "content-length", "transfer-encoding"):
            raise ValueError(f"{name} is not for the caller to set")
        headers.set(name, value)
    headers.set("Connection", "close")
    if body or method not in ("GET", "HEAD"):
        headers.set("Content-Length", str(len(body)))
    lines: Iterable[bytes] = (field.line for field in headers.fields)
    start = f"{method} {target} HTTP/1.1".encode("ascii")
    return b"\r\n".join((start, *lines, b"", body))


def _words(error: Exception) -> str:
    """What the system says, without numbers and module names."""
    if isinstance(error, tls.SSLCertVerificationError):
        return error.verify_message
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    return str(error) or type(error).__name__
