"""A server that does exactly what its script says."""

from __future__ import annotations

import asyncio
import ssl as tls
from collections.abc import Awaitable, Callable, Sequence
from enum import Enum
from pathlib import Path
from typing import Self

from nexgate.testing._channel import READ_AHEAD_BYTES, RECORD_BYTES, Channel
from nexgate.testing._listening import Listener
from nexgate.testing._messages import read_request
from nexgate.testing._steps import Step
from nexgate.testing._waiting import wait_until


class Outcome(Enum):
    """How a scripted connection went."""

    RUNNING = "the script is running"
    FINISHED = "the script ran to its end"
    PEER_CLOSED = "the peer closed before the script's end"
    PEER_RESET = "the connection broke before the script's end"
    FAILED = "the script raised"
    STOPPED = "the upstream stopped first"


class ScriptedConnection(Channel):
    """One accepted connection: what a script works on, and what a test looks at afterwards.

    ``received`` holds every byte that arrived, whether or not the script read it.
    """

    def __init__(
        self,
        *,
        on_connected: Callable[[ScriptedConnection], None],
        read_ahead_bytes: int,
        max_recorded_bytes: int,
    ) -> None:
        super().__init__(
            on_connected=on_connected,
            read_ahead_bytes=read_ahead_bytes,
            max_recorded_bytes=max_recorded_bytes,
        )
        self.index = -1
        """0 for the first connection accepted."""
        self.outcome = Outcome.RUNNING
        self.failure: Exception | None = None
        """What the script raised, if it did."""
        self.requests_answered = 0
        """Counted by ``replying`` and ``RecordingUpstream``; a script may count its own."""

    def __repr__(self) -> str:
        return (
            f"<connection {self.index}: {self.outcome.name.lower()}, "
            f"received {self.received_bytes}, sent {self.sent_bytes} bytes>"
        )


Script = Sequence[Step] | Callable[[ScriptedConnection], Sequence[Step] | Awaitable[None]]
"""The steps of every connection; or a function that picks them for this connection; or a
coroutine function that does the work itself."""


class ScriptedUpstream:
    """A server on ``127.0.0.1``, or on a unix socket, whose every connection follows a script.

    ::

        script = [ExpectHead(), Send(b"HTTP/1.1 200 OK\\r\\nContent-Le"), Reset()]
        async with ScriptedUpstream(script) as upstream:
            ...  # talk to upstream.url
        assert upstream.connections[0].received.startswith(b"GET / HTTP/1.1")

    When the steps run out the connection is closed in order. A peer that goes away ends a script
    without an error; look at ``connection.outcome``. An exception of a script of your own is raised
    again at the end of the ``async with``, unless the block itself raises.

    Leaving the block aborts what is still open and waits until it is gone.
    """

    def __init__(
        self,
        script: Script,
        *,
        port: int = 0,
        path: str | Path | None = None,
        ssl: tls.SSLContext | None = None,
        read_ahead_bytes: int = READ_AHEAD_BYTES,
        max_recorded_bytes: int = RECORD_BYTES,
    ) -> None:
        """``path``: a unix socket instead of TCP. ``ssl``: a server context, for TLS.

        ``read_ahead_bytes`` bounds what is taken from the socket beyond what the script asks for;
        0 gives back-pressure at once. Recording stops after ``max_recorded_bytes`` per connection
        (counting goes on), so that a long stream does not fill the memory.
        """
        self.connections: list[ScriptedConnection] = []
        """Every connection accepted so far, in order, closed ones included."""
        self._script = script
        self._read_ahead_bytes = read_ahead_bytes
        self._max_recorded_bytes = max_recorded_bytes
        self._listener = Listener(self._accept, port=port, path=path, ssl=ssl)
        self._tasks: set[asyncio.Task[None]] = set()

    @classmethod
    def replying(
        cls,
        response: bytes,
        *,
        port: int = 0,
        path: str | Path | None = None,
        ssl: tls.SSLContext | None = None,
    ) -> ScriptedUpstream:
        """Answer each complete request with these very bytes, on connections that stay open.

        Two things follow the request and the answer, as any server must: HEAD gets the head only,
        and an answer that says ``Connection: close`` is followed by a close.
        """
        closes = b"connection: close" in response.partition(b"\r\n\r\n")[0].lower()

        async def answer(connection: ScriptedConnection) -> None:
            while True:
                request = await read_request(connection)
                await connection.send(answer_for(request.start_line, response))
                connection.requests_answered += 1
                if closes:
                    return

        return ScriptedUpstream(answer, port=port, path=path, ssl=ssl)

    # -- addresses ---------------------------------------------------------------------------

    @property
    def url(self) -> str:
        """For a configuration: ``http://127.0.0.1:PORT``, ``https://…`` or ``unix:…``."""
        return self._listener.url

    @property
    def host(self) -> str:
        """Always ``127.0.0.1``."""
        return self._listener.host

    @property
    def port(self) -> int:
        """The TCP port; 0 before the start, and for a unix socket."""
        return self._listener.port

    @property
    def path(self) -> str | None:
        """The unix socket's path."""
        return self._listener.path

    # -- facts -------------------------------------------------------------------------------

    @property
    def open_connections(self) -> int:
        """How many accepted connections are not closed yet."""
        return sum(not connection.is_lost for connection in self.connections)

    @property
    def requests_answered(self) -> int:
        """The sum over all connections."""
        return sum(connection.requests_answered for connection in self.connections)

    async def wait_for_connections(self, count: int, timeout: float = 5.0) -> None:
        """Wait until ``count`` connections have been accepted in all."""
        await wait_until(lambda: len(self.connections) >= count, timeout)

    async def wait_until_idle(self, timeout: float = 5.0) -> None:
        """Wait until at least one connection was accepted and every one has ended."""

        def is_idle() -> bool:
            # Without the first clause a test that is faster than the accept would look too early.
            return bool(self.connections) and self.open_connections == 0 and not self._tasks

        await wait_until(is_idle, timeout)

    # -- life --------------------------------------------------------------------------------

    async def start(self) -> None:
        """Listen. Called by ``async with``; after ``stop()`` it listens on the same port again."""
        await self._listener.open()

    async def stop_listening(self) -> None:
        """Refuse new connections; those accepted go on. ``start()`` undoes it."""
        await self._listener.close()

    async def stop(self) -> None:
        """Stop listening, abort every connection, and wait until all are gone."""
        await self._listener.close()
        tasks = list(self._tasks)
        for task in tasks:
            task.cancel()
        for connection in self.connections:
            connection.abort()
        await asyncio.gather(*tasks, return_exceptions=True)
        for connection in self.connections:
            await connection.wait_lost()

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(self, exc_type: type[BaseException] | None, *_: object) -> None:
        await self.stop()
        if exc_type is None:
            for connection in self.connections:
                if connection.failure is not None:
                    raise connection.failure

    # -- connections -------------------------------------------------------------------------

    def _accept(self) -> ScriptedConnection:
        return ScriptedConnection(
            on_connected=self._connected,
            read_ahead_bytes=self._read_ahead_bytes,
            max_recorded_bytes=self._max_recorded_bytes,
        )

    def _connected(self, connection: ScriptedConnection) -> None:
        connection.index = len(self.connections)
        self.connections.append(connection)
        task = asyncio.get_running_loop().create_task(self._serve(connection))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _serve(self, connection: ScriptedConnection) -> None:
        try:
            await self._follow_script(connection)
            connection.outcome = Outcome.FINISHED
        except asyncio.CancelledError:
            connection.outcome = Outcome.STOPPED
            raise
        except EOFError:
            connection.outcome = Outcome.PEER_CLOSED
        except ConnectionError:
            connection.outcome = Outcome.PEER_RESET
        except Exception as error:
            connection.outcome = Outcome.FAILED
            connection.failure = error
        finally:
            connection.close()

    async def _follow_script(self, connection: ScriptedConnection) -> None:
        """What a connection does. Subclasses may do something else."""
        script = self._script
        chosen = script(connection) if callable(script) else script
        if not isinstance(chosen, Sequence):
            await chosen
            return
        for step in chosen:
            await step.run(connection)


def answer_for(request_line: str, response: bytes) -> bytes:
    """Return ``response`` as that request gets it: only its head after HEAD, RFC 9110 §9.3.2."""
    if not request_line.startswith("HEAD "):
        return response
    head, end, _ = response.partition(b"\r\n\r\n")
    return head + end
