"""A server that remembers, byte for byte, what was forwarded to it."""

from __future__ import annotations

import ssl as tls
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from http import HTTPStatus
from pathlib import Path

from nexgate.testing._messages import Fields, Message, read_request, values_of
from nexgate.testing._scripted_upstream import ScriptedConnection, ScriptedUpstream, answer_for
from nexgate.testing._waiting import wait_until


@dataclass(frozen=True, slots=True)
class RecordedRequest:
    """One request as it arrived."""

    head: bytes
    """Request line, fields and the empty line, exactly."""
    body: bytes
    """The content, without chunk framing."""
    raw: bytes
    """All of it, exactly: head, chunk framing, trailers."""
    fields: Fields
    """Names as they were sent, values without surrounding blanks."""
    trailers: Fields
    connection: int
    """Index of the connection it came on."""

    @property
    def lines(self) -> list[bytes]:
        """The lines of the head, without their ends and without the empty one."""
        return self.head[:-4].split(b"\r\n")

    @property
    def method(self) -> str:
        """The first word of the request line."""
        return self._request_line[0]

    @property
    def target(self) -> str:
        """The second word of the request line, as it was sent."""
        return self._request_line[1]

    def values(self, name: str) -> list[str]:
        """Every value of the field ``name``, in order."""
        return values_of(self.fields, name)

    @property
    def _request_line(self) -> list[str]:
        return [*self.lines[0].decode("latin-1").split(" "), "", ""]


Answer = bytes | Callable[[RecordedRequest], bytes]


def canned(
    status: int = 200,
    body: bytes = b"",
    fields: Iterable[tuple[str, str]] = (),
    *,
    reason: str = "",
) -> bytes:
    """Return the bytes of a response with a Content-Length, for use as an answer."""
    reason = reason or HTTPStatus(status).phrase
    lines = [f"HTTP/1.1 {status} {reason}", *(f"{name}: {value}" for name, value in fields)]
    if status != 204:  # RFC 9110 §8.6: a 204 must not have the field
        lines.append(f"Content-Length: {len(body)}")
    return "\r\n".join([*lines, "", ""]).encode("latin-1") + body


class RecordingUpstream(ScriptedUpstream):
    """Answers every request, and keeps each in ``requests``.

    ``answer`` is the bytes of a response (``canned`` writes them), or a function of the request
    that returns them; assign to it to change the answer while the server runs. HEAD gets the
    answer's head. ``Connection: close`` in an answer is followed by a close.

    A request that breaks off is not recorded; its bytes are in ``connections[i].received``.
    """

    def __init__(
        self,
        answer: Answer = b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n",
        *,
        port: int = 0,
        path: str | Path | None = None,
        ssl: tls.SSLContext | None = None,
    ) -> None:
        super().__init__([], port=port, path=path, ssl=ssl)
        self.answer = answer
        self.requests: list[RecordedRequest] = []
        """Every complete request, in the order in which they ended."""

    @property
    def last(self) -> RecordedRequest:
        """The newest request; ``IndexError`` if none came."""
        return self.requests[-1]

    async def wait_for_requests(self, count: int, timeout: float = 5.0) -> None:
        """Wait until ``count`` requests have been recorded in all."""
        await wait_until(lambda: len(self.requests) >= count, timeout)

    async def _follow_script(self, connection: ScriptedConnection) -> None:
        while True:
            message = await read_request(connection)
            request = _recorded(message, connection.index)
            self.requests.append(request)
            answer = self.answer(request) if callable(self.answer) else self.answer
            await connection.send(answer_for(message.start_line, answer))
            connection.requests_answered += 1
            if b"connection: close" in answer.partition(b"\r\n\r\n")[0].lower():
                return


def _recorded(message: Message, connection: int) -> RecordedRequest:
    return RecordedRequest(
        head=message.head,
        body=bytes(message.body),
        raw=bytes(message.raw),
        fields=message.fields,
        trailers=message.trailers,
        connection=connection,
    )
