"""Discovery and resilience for code that uses an httpx-like client, by changing one line."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import AsyncIterator, Sequence
from contextlib import AbstractAsyncContextManager
from types import ModuleType
from typing import Any, Final, Literal

from nexgate.client._client import ServiceClient
from nexgate.client._errors import ServiceError, ServiceTimeout
from nexgate.client._response import StreamedResponse
from nexgate.discovery import ServiceRegistry
from nexgate.errors import Cause
from nexgate.http._fields import InvalidField

__all__ = ["ServiceTransport"]

_MOST_SERVICES: Final = 1024
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
        self._direct: Any = None
        if unknown == "direct":
            self._direct = self._library.AsyncHTTPTransport()

    async def handle_async_request(self, request: Any) -> Any:
        """What the library calls."""
        service = request.url.host
        try:
            client = await self._client(service)
        except ValueError as error:
            raise self._library.ConnectError(str(error), request=request) from error
        if client is None:
            return await self._direct.handle_async_request(request)
        headers = _grouped(request.headers.raw)
        timeouts = request.extensions.get("timeout", {})
        body = await _content(request)
        answer = client.stream(
            request.method,
            request.url.raw_path.decode("ascii"),
            content=body,
            headers=headers,
            timeout=_whole_timeout(timeouts),
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
            stream=self._stream(response, answer, request),
            extensions={"nexgate_instance": response.instance},
        )

    async def _client(self, service: str) -> ServiceClient | None:
        client = self._clients.get(service)
        if client is not None:
            return client
        if len(self._clients) >= _MOST_SERVICES:
            raise ValueError("too many services: a host of a URL is the name of a service")
        known = await self._registry.get_instances(service)  # raises for what is no name
        if not known and self._direct is not None:
            return None
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
    ) -> Any:
        transport = self

        class Stream(self._library.AsyncByteStream):  # type: ignore[misc, name-defined]
            async def __aiter__(self) -> AsyncIterator[bytes]:
                try:
                    async for piece in response:
                        yield piece
                except ServiceError as error:
                    raise transport._translated(error, request) from error

            async def aclose(self) -> None:
                await answer.__aexit__(None, None, None)

        return Stream()

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


async def _content(request: Any) -> bytes | AsyncIterator[bytes] | None:
    """The body: whole where its length is known, else as a stream."""
    if "content-length" in request.headers or "transfer-encoding" in request.headers:
        if "content-length" in request.headers:
            body: bytes = await request.aread()
            return body
        return _pieces(request)
    return None


async def _pieces(request: Any) -> AsyncIterator[bytes]:
    async for piece in request.stream:
        yield piece


def _whole_timeout(timeouts: dict[str, float | None]) -> float | None:
    """httpx limits phases; here the whole is limited: to what all of them allow together."""
    known = [timeouts.get(name) for name in ("connect", "write", "read", "pool")]
    if any(value is None for value in known):
        return None
    return sum(value for value in known if value is not None)
