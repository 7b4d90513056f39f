"""Finds where an HTTP/1.1 message ends, and keeps its exact bytes.

This reader judges as little as it can: tests want to see what a peer really sent. What it cannot
make sense of ends the message with a ``problem``; what it does not understand it leaves alone.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field

from nexgate.testing._channel import Channel

Fields = list[tuple[str, str]]

_CHUNK_SIZE = re.compile(rb"[0-9A-Fa-f]{1,16}")
_DIGITS = re.compile(r"[0-9]{1,18}")
_BODILESS_STATUS = {204, 304}


@dataclass(slots=True)
class Message:
    """A request or a response, as far as it came."""

    start_line: str = ""
    fields: Fields = field(default_factory=list)
    trailers: Fields = field(default_factory=list)
    head: bytes = b""
    body: bytearray = field(default_factory=bytearray)
    raw: bytearray = field(default_factory=bytearray)
    is_complete: bool = False
    problem: str | None = None

    def values(self, name: str) -> list[str]:
        """Every value of the field ``name``, in order."""
        return values_of(self.fields, name)


def values_of(fields: Fields, name: str) -> list[str]:
    """Every value of the field ``name`` (in any case), in order."""
    return [value for key, value in fields if key.lower() == name.lower()]


async def read_request(channel: Channel) -> Message:
    """Read one whole request. Raises ``EOFError`` if the peer closes before its end."""
    message = Message()
    await _read_head(channel, message)
    if _is_chunked(message):
        await _read_chunks(channel, message)
    elif (length := _content_length(message)) is not None:
        await _read_counted(channel, message, length)
    message.is_complete = True
    return message


async def read_response(channel: Channel, *, to_head: bool) -> Message:
    """Read one response, 1xx included. A body that breaks off returns, with ``problem`` set."""
    message = Message()
    await _read_head(channel, message)
    status = status_of(message.start_line)
    try:
        if to_head or status < 200 or status in _BODILESS_STATUS:
            pass
        elif _is_chunked(message):
            await _read_chunks(channel, message)
        elif (length := _content_length(message)) is not None:
            await _read_counted(channel, message, length)
        else:
            while piece := await channel.read_some():
                message.raw += piece
                message.body += piece
    except (EOFError, ConnectionError, ValueError) as error:
        message.problem = str(error)
    else:
        message.is_complete = True
    return message


def status_of(status_line: str) -> int:
    """The status code of ``HTTP/1.1 200 OK``. Raises ``ValueError`` if there is none."""
    parts = status_line.split(" ", 2)
    if not parts[0].startswith("HTTP/") or len(parts) < 2 or len(parts[1]) != 3:
        raise ValueError(f"not a status line: {status_line!r}")
    return int(parts[1])


async def _read_head(channel: Channel, message: Message) -> None:
    message.head = await channel.read_until(b"\r\n\r\n")
    message.raw += message.head
    lines = message.head[:-4].decode("latin-1").split("\r\n")
    message.start_line = lines[0]
    message.fields = _fields(lines[1:])


def _fields(lines: list[str]) -> Fields:
    pairs = (line.partition(":") for line in lines)
    return [(name, value.strip(" \t")) for name, _, value in pairs]


def _is_chunked(message: Message) -> bool:
    # Beside a Content-Length the coding wins, RFC 9112 §6.3.
    codings = ",".join(message.values("transfer-encoding"))
    return codings.rpartition(",")[2].strip().lower() == "chunked"


def _content_length(message: Message) -> int | None:
    values = message.values("content-length")
    if not values:
        return None
    if not _DIGITS.fullmatch(values[0]):
        raise ValueError(f"Content-Length is not a number: {values[0]!r}")
    return int(values[0])


async def _read_counted(channel: Channel, message: Message, count: int) -> None:
    while count > 0:
        piece = await channel.read_some(count)
        if not piece:
            raise EOFError(f"the peer closed with {count} bytes of the body missing")
        message.raw += piece
        message.body += piece
        count -= len(piece)


async def _read_chunks(channel: Channel, message: Message) -> None:
    while True:
        line = await _read_line(channel, message)
        size = line.partition(b";")[0].rstrip(b" \t")
        if not _CHUNK_SIZE.fullmatch(size):
            raise ValueError(f"bad chunk size {size!r}")
        if int(size, 16) == 0:
            break
        await _read_counted(channel, message, int(size, 16))
        if end := await _read_line(channel, message):
            raise ValueError(f"junk after the chunk's data: {end!r}")
    trailer_lines: list[str] = []
    while line := await _read_line(channel, message):
        trailer_lines.append(line.decode("latin-1"))
    message.trailers = _fields(trailer_lines)


async def _read_line(channel: Channel, message: Message) -> bytes:
    line = await channel.read_until(b"\r\n")
    message.raw += line
    return line[:-2]
