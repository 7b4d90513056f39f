"""Stand-ins on 127.0.0.1: a DNS server, and small HTTP servers that a test drives.

Consul's and Kubernetes' are written after their public API documentation, not against them.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable
from typing import Any, Self
from urllib.parse import parse_qsl, unquote, urlsplit

import dns.flags
import dns.message
import dns.rcode
import dns.rrset

Zone = dict[tuple[str, str], list[str] | int]
"""(name, type) to records, or to a response code."""


class DnsServer(asyncio.DatagramProtocol):
    """Answers from ``zone``; ``spoil`` may change the bytes, or return ``None`` for silence."""

    def __init__(self) -> None:
        self.zone: Zone = {}
        self.ttl = 0
        self.asked: list[tuple[str, str, str]] = []
        self.spoil: Callable[[bytes, str], bytes | None] = lambda data, over: data
        self.truncate_udp = False

    async def __aenter__(self) -> Self:
        loop = asyncio.get_running_loop()
        # TCP and UDP on one port: the first may be taken for the other.
        for _ in range(20):
            self._tcp = await asyncio.start_server(self._accept, "127.0.0.1", 0)
            self.port = self._tcp.sockets[0].getsockname()[1]
            try:
                self._udp, _ = await loop.create_datagram_endpoint(
                    lambda: self, local_addr=("127.0.0.1", self.port)
                )
            except OSError:
                self._tcp.close()
            else:
                return self
        raise OSError("no port for both")

    async def __aexit__(self, *_: object) -> None:
        self._udp.close()
        self._tcp.close()
        await asyncio.sleep(0)

    @property
    def address(self) -> str:
        return f"127.0.0.1:{self.port}"

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        pass

    def datagram_received(self, data: bytes, addr: Any) -> None:
        answer = self._answer(data, "udp")
        if answer is not None:
            self._udp.sendto(answer, addr)

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            size = int.from_bytes(await reader.readexactly(2), "big")
            answer = self._answer(await reader.readexactly(size), "tcp")
            if answer is not None:
                writer.write(len(answer).to_bytes(2, "big") + answer)
                await writer.drain()
        except (EOFError, OSError):
            pass
        finally:
            writer.close()

    def _answer(self, data: bytes, over: str) -> bytes | None:
        query = dns.message.from_wire(data)
        question = query.question[0]
        name, kind = question.name.to_text(), dns.rdatatype.to_text(question.rdtype)
        self.asked.append((name, kind, over))
        response = dns.message.make_response(query)
        response.flags |= dns.flags.RA
        found = self.zone.get((name, kind))
        if isinstance(found, int):
            response.set_rcode(dns.rcode.Rcode(found))
        elif found is not None:
            if self.truncate_udp and over == "udp":
                response.flags |= dns.flags.TC
            else:
                response.answer.append(dns.rrset.from_text_list(name, self.ttl, "IN", kind, found))
        elif not any(key[0] == name for key in self.zone):
            response.set_rcode(dns.rcode.NXDOMAIN)
        return self.spoil(response.to_wire(), over)


class Request:
    """What was asked."""

    def __init__(self, head: str) -> None:
        start, *lines = head.split("\r\n")
        self.method, self.target, _ = start.split(" ")
        parts = urlsplit(self.target)
        self.path = unquote(parts.path)
        self.query = dict(parse_qsl(parts.query))
        self.fields = {k.lower(): v.strip() for k, _, v in (line.partition(":") for line in lines)}


Handler = Callable[[Request, asyncio.StreamWriter], Awaitable[None]]


class HttpServer:
    """Hands each request to ``handler``, one per connection."""

    def __init__(self, handler: Handler, *, ssl: Any = None) -> None:
        self.handler = handler
        self.requests: list[Request] = []
        self._ssl = ssl
        self._tasks: set[asyncio.Task[Any]] = set()

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(self._accept, "127.0.0.1", 0, ssl=self._ssl)
        self.port = self._server.sockets[0].getsockname()[1]
        return self

    async def __aexit__(self, *_: object) -> None:
        self._server.close()
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    @property
    def url(self) -> str:
        return f"{'https' if self._ssl else 'http'}://127.0.0.1:{self.port}"

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        try:
            head = await reader.readuntil(b"\r\n\r\n")
            request = Request(head.decode().rstrip())
            self.requests.append(request)
            await self.handler(request, writer)
        except (EOFError, OSError, asyncio.CancelledError):
            pass
        finally:
            self._tasks.discard(task)
            writer.transport.abort()


async def answer(
    writer: asyncio.StreamWriter,
    document: object,
    *,
    status: int = 200,
    fields: dict[str, str] | None = None,
) -> None:
    """A whole JSON answer."""
    body = document if isinstance(document, bytes) else json.dumps(document).encode()
    if status == 304:
        body = b""
    lines = [f"HTTP/1.1 {status} X", *(f"{k}: {v}" for k, v in (fields or {}).items())]
    if status != 304:
        lines.append(f"Content-Length: {len(body)}")
    writer.write("\r\n".join((*lines, "", "")).encode() + body)
    await writer.drain()
