"""Discovery and resilience for code that uses an httpx-like client, by changing one line."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import AsyncGenerator, AsyncIterator, Sequence
from contextlib import AbstractAsyncContextManager
from types import ModuleType
from typing import Any, Final, Literal

from nexgate.client._client import ServiceClient
from nexgate.client._errors import ServiceError, ServiceTimeout
from nexgate.client._response import StreamedResponse
from nexgate.client._waiting import Waiting
from nexgate.discovery import ServiceRegistry
from nexgate.errors import Cause
from nexgate.http._fields import InvalidField
from nexgate.state import StateError

__all__ = ["ServiceTransport"]

_MOST_SERVICES: Final = 1024
_KEPT_BYTES: Final = 64 * 1024
"""Content of a known length up to here is read before it is sent."""
_NOT_SENT: Final = frozenset(
    (
        b"host",
        b"connection",
        b"content-length",
        b"transfer-encoding",
        b"keep-alive",
        b"te",
        b"upgrade",
        b"proxy-connection",
    )
)
"""Fields that are ours to write."""


class ServiceTransport:
    """A transport for ``httpx2.AsyncClient``, and for ``httpx.AsyncClient``.

    ::

        client = httpx2.AsyncClient(transport=ServiceTransport(ServiceRegistry("local")))
        answer = await client.get("http://users/42")    # the path /42 of the service "users"

    The host of a URL is the name of a service; scheme and port do not matter. ``options`` are those
    of ``ServiceClient``, for every service. What fails is raised as the library's own exceptions,
    from ``ServiceError``. A host that is no service is an error, or with ``unknown="direct"`` goes
    where its name leads, through a transport of the library.
    """

    def __init__(
        self,
        registry: ServiceRegistry | str,
        *,
        unknown: Literal["error", "direct"] = "error",
        library: ModuleType | None = None,
        **options: Any,
    ) -> None:
        """``library``: ``httpx2`` or ``httpx``; unset, the one that is imported, or ``httpx2``."""
        self._owns = isinstance(registry, str)
        self._registry = ServiceRegistry(registry) if isinstance(registry, str) else registry
        self._options = options
        self._library = library if library is not None else _imported_library()
        self._clients: dict[str, ServiceClient] = {}
        ServiceClient(self._registry, "any", **options)  # what is wrong with them is said now
        self._direct: Any = None
        if unknown == "direct":
            self._direct = self._library.AsyncHTTPTransport()

    async def handle_async_request(self, request: Any) -> Any:
        """What the library calls."""
        service = request.url.host
        try:
            client = await self._client(service)
        except (ValueError, StateError) as error:
            raise self._library.ConnectError(str(error), request=request) from error
        if client is None:
            return await self._direct.handle_async_request(request)
        timeouts = request.extensions.get("timeout", {})
        waiting = client.waiting_for_pieces()
        waiting.head_timeout = _head_timeout(timeouts)
        answer = client.stream_by(
            waiting,
            request.method,
            request.url.raw_path.decode("ascii"),
            None,
            await self._content(request, waiting),
            None,
            _grouped(request.headers.raw),
            None,
            "normal",
        )
        try:
            response = await answer.__aenter__()
        except ServiceError as error:
            raise self._translated(error, request) from error
        except InvalidField as error:
            raise self._library.LocalProtocolError(str(error), request=request) from error
        return self._library.Response(
            response.status,
            headers=[(f.name, f.value) for f in response.headers.fields],
            stream=self._stream(response, answer, request, timeouts.get("read")),
            extensions={"nexgate_instance": response.instance},
        )

    async def _client(self, service: str) -> ServiceClient | None:
        client = self._clients.get(service)
        if client is not None:
            return client
        try:
            known = await self._registry.get_instances(service)
        except ValueError:  # it cannot be the name of a service
            if self._direct is not None:
                return None
            raise
        if not known and self._direct is not None:
            return None
        if len(self._clients) >= _MOST_SERVICES:
            raise ValueError("too many services: a host of a URL is the name of a service")
        # Somebody else may have been quicker while we asked.
        return self._clients.setdefault(
            service, ServiceClient(self._registry, service, **self._options)
        )

    def _translated(self, error: ServiceError, request: Any) -> Exception:
        """The library's exception for what happened."""
        library = self._library
        kinds = {
            Cause.UPSTREAM_CONNECT_TIMEOUT: library.ConnectTimeout,
            Cause.OVERLOADED: library.PoolTimeout,
            Cause.UPSTREAM_MALFORMED: library.RemoteProtocolError,
            Cause.UPSTREAM_CUT: library.RemoteProtocolError,
            Cause.UPSTREAM_CLOSED: library.ReadError,
        }
        kind = kinds.get(error.cause)
        if kind is None:
            is_timeout = isinstance(error, ServiceTimeout)
            kind = library.ReadTimeout if is_timeout else library.ConnectError
        found: Exception = kind(str(error), request=request)
        return found

    def _stream(
        self,
        response: StreamedResponse,
        answer: AbstractAsyncContextManager[StreamedResponse],
        request: Any,
        read_timeout: float | None,
    ) -> Any:
        transport = self
        library = self._library

        class Stream(self._library.AsyncByteStream):  # type: ignore[misc, name-defined]
            async def __aiter__(self) -> AsyncIterator[bytes]:
                pieces = aiter(response)
                while True:
                    try:
                        async with asyncio.timeout(read_timeout):
                            piece = await anext(pieces, b"")
                    except ServiceError as error:
                        raise transport._translated(error, request) from error
                    except TimeoutError as error:
                        where = f"{response.service} ({response.instance})"
                        text = f"{where}: nothing more came for {read_timeout:g}s"
                        raise library.ReadTimeout(text, request=request) from error
                    if not piece:
                        return
                    yield piece

            async def aclose(self) -> None:
                await answer.__aexit__(None, None, None)

        return Stream()

    async def _content(
        self, request: Any, waiting: Waiting
    ) -> bytes | AsyncGenerator[bytes, None] | None:
        """The body: whole when it is in memory or small, for it can then be sent again."""
        length = request.headers.get("content-length")
        if length is None:
            is_streamed = "transfer-encoding" in request.headers
            return self._pieces(request, waiting) if is_streamed else None
        if not (length.isascii() and length.isdecimal()):
            problem = f"{length!r} is not the length of a request"
            raise self._library.LocalProtocolError(problem, request=request)
        if isinstance(request.stream, self._library.ByteStream) or int(length) <= _KEPT_BYTES:
            body: bytes = await request.aread()
            return body
        waiting.length = int(length)
        return self._pieces(request, waiting)

    async def _pieces(self, request: Any, waiting: Waiting) -> AsyncGenerator[bytes, None]:
        left = waiting.length
        async for piece in request.stream:
            if left is not None:
                left -= len(piece)
                if left < 0:  # a part of it would be taken for the next request
                    break
            yield piece
            waiting.go_on_waiting()
        if left:
            problem = "the content is not as long as its Content-Length says"
            raise self._library.LocalProtocolError(problem, request=request)

    async def aclose(self) -> None:
        """Close the clients, and the registry if it was given by name."""
        await asyncio.gather(*(client.aclose() for client in self._clients.values()))
        if self._direct is not None:
            await self._direct.aclose()
        if self._owns:
            await self._registry.aclose()

    async def __aenter__(self) -> ServiceTransport:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.aclose()


def _imported_library() -> ModuleType:
    for name in ("httpx2", "httpx"):
        if name in sys.modules:
            return sys.modules[name]
    import httpx2

    return httpx2


def _grouped(raw: Sequence[tuple[bytes, bytes]]) -> dict[str, str]:
    """Fields for ``ServiceClient``; repeated ones joined as RFC 9110 §5.3 has it."""
    found: dict[str, str] = {}
    for name, value in raw:
        lower = name.lower()
        if lower in _NOT_SENT:
            continue
        key, text = lower.decode("latin-1"), value.decode("latin-1")
        separator = "; " if lower == b"cookie" else ", "
        found[key] = f"{found[key]}{separator}{text}" if key in found else text
    return found


def _head_timeout(timeouts: dict[str, float | None]) -> float | None:
    """Seconds until the head of the answer must be here: what the phases before it may take."""
    known = [timeouts.get(name) for name in ("connect", "write", "read", "pool")]
    if any(value is None for value in known):
        return None
    return sum(value for value in known if value is not None)
