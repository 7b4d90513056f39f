"""What a scripted connection can do, one step at a time."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from nexgate.testing import _messages

if TYPE_CHECKING:
    from nexgate.testing._scripted_upstream import ScriptedConnection


class Step(Protocol):
    """One thing to do on a connection. Any object with this method is a step."""

    async def run(self, connection: ScriptedConnection, /) -> None:
        """Do it. ``EOFError`` and ``ConnectionError`` end the script as the peer's doing."""


@dataclass(frozen=True, slots=True)
class ExpectHead:
    """Read up to the empty line that ends a head. Body bytes behind it stay unread."""

    async def run(self, connection: ScriptedConnection, /) -> None:
        """Read the head."""
        await connection.read_until(b"\r\n\r\n")


@dataclass(frozen=True, slots=True)
class ReadExactly:
    """Read ``count`` bytes, such as a body of known length."""

    count: int

    async def run(self, connection: ScriptedConnection, /) -> None:
        """Read the bytes."""
        await connection.read_exactly(self.count)


@dataclass(frozen=True, slots=True)
class ReadRequest:
    """Read one whole request: head, body (counted or chunked) and trailers."""

    async def run(self, connection: ScriptedConnection, /) -> None:
        """Read the request."""
        await _messages.read_request(connection)


@dataclass(frozen=True, slots=True)
class ReadToEnd:
    """Read until the peer closes its direction."""

    async def run(self, connection: ScriptedConnection, /) -> None:
        """Read to the end."""
        while await connection.read_some():
            pass


@dataclass(frozen=True, slots=True)
class Send:
    """Send ``data``; over when the kernel has all of it, so a peer that does not read blocks."""

    data: bytes

    async def run(self, connection: ScriptedConnection, /) -> None:
        """Send."""
        await connection.send(self.data)


@dataclass(frozen=True, slots=True)
class SendSlowly:
    """Send ``data`` in pieces of ``size`` bytes, ``interval`` seconds apart."""

    data: bytes
    interval: float = 0.0
    size: int = 1

    async def run(self, connection: ScriptedConnection, /) -> None:
        """Send piece by piece."""
        await connection.send_slowly(self.data, self.interval, size=self.size)


@dataclass(frozen=True, slots=True)
class Sleep:
    """Do nothing for ``seconds``; arriving bytes are recorded meanwhile."""

    seconds: float

    async def run(self, connection: ScriptedConnection, /) -> None:
        """Sleep."""
        await asyncio.sleep(self.seconds)


@dataclass(frozen=True, slots=True)
class HalfClose:
    """Send an end (FIN) and go on reading. Impossible under TLS."""

    async def run(self, connection: ScriptedConnection, /) -> None:
        """Half-close."""
        connection.half_close()


@dataclass(frozen=True, slots=True)
class Close:
    """Close in order. What the script does when its steps run out, too."""

    async def run(self, connection: ScriptedConnection, /) -> None:
        """Close."""
        connection.close()
        await connection.wait_lost()


@dataclass(frozen=True, slots=True)
class Reset:
    """Reset (RST). What was sent before is in the peer's kernel already."""

    async def run(self, connection: ScriptedConnection, /) -> None:
        """Reset."""
        connection.reset()
        await connection.wait_lost()


@dataclass(frozen=True, slots=True)
class Hang:
    """Do nothing until the upstream stops, or the peer closes.

    ``reading=False`` stops reading as well, so that the peer's sends block once the kernel's
    buffers are full; then the peer's close goes unnoticed.
    """

    reading: bool = True

    async def run(self, connection: ScriptedConnection, /) -> None:
        """Hang."""
        if self.reading:
            while await connection.read_some():
                pass
            raise EOFError("the peer gave up on a connection that hangs")
        connection.hold()
        await connection.wait_lost()


@dataclass(frozen=True, slots=True)
class Repeat:
    """Do ``steps`` again and again: ``times`` times, or until the peer closes."""

    steps: Sequence[Step]
    times: int | None = None

    async def run(self, connection: ScriptedConnection, /) -> None:
        """Repeat."""
        done = 0
        while self.times is None or done < self.times:
            for step in self.steps:
                await step.run(connection)
            done += 1
            await asyncio.sleep(0)  # steps that never wait must not stop the world
