"""One worker process: loads the gateway, serves on inherited sockets, obeys the supervisor.

The supervisor speaks to a worker over a socket pair, in frames: four bytes of length, then a verb,
a space and a payload. ``reload TEXT`` brings a new version of the configuration, already checked;
``drain`` ends the worker gracefully; ``logs`` reopens log files. The worker answers ``ready``,
``reloaded`` or ``failed REASON``. When the supervisor is gone, the pair is closed, and the worker
drains by itself: an orphan must not hold the port for ever.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import signal
import socket
import struct
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from nexgate.config import Overrides
from nexgate.edge import (
    Listener,
    MemoryReturn,
    Server,
    affordable_connections,
    allow_many_files,
    listener_tls,
    new_event_loop,
    refresh_certificates,
    tune_collector,
)
from nexgate.errors import ConfigError
from nexgate.gateway import Gateway, load_source
from nexgate.observability import AccessLog, access_log, configure_logging
from nexgate.runtime import Runtime
from nexgate.state import path_of

if TYPE_CHECKING:
    from nexgate.edge.config import ListenConfig

__all__ = ["Frames", "Worker", "frame", "worker_main"]

_log = logging.getLogger("nexgate")

_LENGTH: Final = struct.Struct("!I")


def frame(verb: str, payload: str = "") -> bytes:
    """One message between supervisor and worker."""
    data = f"{verb} {payload}".encode()
    return _LENGTH.pack(len(data)) + data


class Frames:
    """Takes frames out of a byte stream."""

    def __init__(self) -> None:
        self._buffer = b""

    def feed(self, data: bytes) -> list[tuple[str, str]]:
        self._buffer += data
        found: list[tuple[str, str]] = []
        while len(self._buffer) >= 4:
            (length,) = _LENGTH.unpack_from(self._buffer)
            if len(self._buffer) < 4 + length:
                break
            verb, _, payload = self._buffer[4 : 4 + length].decode().partition(" ")
            self._buffer = self._buffer[4 + length :]
            found.append((verb, payload))
        return found


class Worker:
    """Serves a gateway on sockets until told to stop."""

    def __init__(
        self,
        gateway: Gateway,
        sockets: list[socket.socket],
        *,
        path: Path,
        overrides: Overrides,
        control: socket.socket,
    ) -> None:
        self.gateway = gateway
        self.path = path
        self.overrides = overrides
        self._sockets = sockets
        self._control = control
        self._stop = asyncio.Event()
        self._runtime: Runtime | None = None
        self._server: Server | None = None
        self._listen: tuple[ListenConfig, ...] = ()
        self._reloading = asyncio.Lock()
        self._tasks: set[asyncio.Task[None]] = set()

    async def run(self) -> None:
        """Until ``stop``. Raises ``ConfigError`` when the gateway cannot start."""
        loop = asyncio.get_running_loop()
        config = self.gateway.config
        allow_many_files()
        wanted = config.gateway.limits.max_connections
        if affordable_connections() < wanted and "max_connections" in (
            config.gateway.limits.model_fields_set
        ):
            _log.warning(
                "the limit of open files allows %d connections, not %d (ulimit -n)",
                affordable_connections(),
                wanted,
            )
        self._listen = config.gateway.listen
        state = f"lmdb:{path_of(os.getppid())}"
        self._runtime = runtime = await self.gateway.start(loop, default_state=state)
        listeners = [
            Listener(sock, listener_tls(each.tls), each.trusted)
            for sock, each in zip(self._sockets, self._listen, strict=True)
        ]
        self._server = server = Server(runtime.edge, listeners)
        await server.start()
        tune_collector()
        memory = MemoryReturn(loop)
        reader = loop.create_task(self._obey(self._control))
        await loop.sock_sendall(self._control, frame("ready"))
        await self._stop.wait()
        clean = await server.stop(runtime.edge.timeouts.drain)
        if not clean:
            _log.warning("drain limit reached: connections were cut")
        reader.cancel()
        memory.stop()
        await runtime.aclose()
        self._close_log()

    def stop(self) -> None:
        self._stop.set()

    async def _obey(self, control: socket.socket) -> None:
        try:
            await self._obey_until_closed(control)
        except OSError:
            pass  # it died while we answered
        finally:
            if not self._stop.is_set():
                _log.warning("the supervisor is gone: worker %d drains", os.getpid())
            self.stop()

    async def _obey_until_closed(self, control: socket.socket) -> None:
        loop = asyncio.get_running_loop()
        frames = Frames()
        while data := await loop.sock_recv(control, 65536):
            for verb, payload in frames.feed(data):
                if verb == "drain":
                    self.stop()
                elif verb == "logs":
                    self._close_log()
                elif verb == "reload":
                    try:
                        await self.reload(payload)
                    except Exception as error:
                        _log.exception("worker %d cannot reload", os.getpid())
                        await loop.sock_sendall(control, frame("failed", str(error)))
                    else:
                        await loop.sock_sendall(control, frame("reloaded"))

    def _close_log(self) -> None:
        if self._runtime is not None and isinstance(self._runtime.edge.exchange_log, AccessLog):
            self._runtime.edge.exchange_log.close()

    async def reload(self, text: str) -> None:
        """Swap to another version of the file. On any error nothing has changed."""
        runtime = self._runtime
        server = self._server
        assert runtime is not None
        assert server is not None
        path = self.path
        loop = asyncio.get_running_loop()
        async with self._reloading:

            def compile_it() -> tuple[Gateway, Any]:
                gateway = load_source(text, path)
                gateway.override(self.overrides)
                return gateway, gateway.build(runtime)

            # In a thread: requests go on while ten thousand routes compile.
            gateway, made = await loop.run_in_executor(None, compile_it)
            runtime.apps.update(gateway._apps)
            await runtime.apply(made)
            section = gateway.config.gateway
            before = self.gateway.config.gateway
            self.gateway = gateway
            if (section.access_log, section.access_log_format) != (
                before.access_log,
                before.access_log_format,
            ):
                self._close_log()
                runtime.edge.exchange_log = access_log(
                    section.access_log, section.access_log_format
                )
            configure_logging(section.log_level)
            for listener, config in zip(server.listeners, section.listen, strict=False):
                if listener.tls is not None and config.tls is not None:
                    try:
                        refresh_certificates(listener.tls, config.tls)
                    except OSError:
                        _log.exception("the old certificates stay in use")


def worker_main(
    text: str,
    path: Path,
    overrides: Overrides,
    sockets: list[socket.socket],
    control: socket.socket,
) -> int:
    """The life of a forked worker; the exit code."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the supervisor's
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        gateway = load_source(text, path)
        gateway.override(overrides)
        configure_logging(gateway.config.gateway.log_level)
    except ConfigError as error:
        control.sendall(frame("failed", str(error)))
        return 3

    async def main() -> None:
        control.setblocking(False)
        worker = Worker(gateway, sockets, path=path, overrides=overrides, control=control)
        asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, worker.stop)
        await worker.run()

    try:
        with asyncio.Runner(loop_factory=new_event_loop) as runner:
            runner.run(main())
    except ConfigError as error:
        control.setblocking(True)
        with contextlib.suppress(OSError):
            control.sendall(frame("failed", str(error)))
        return 3
    except Exception:
        _log.exception("worker %d failed", os.getpid())
        return 1
    return 0
