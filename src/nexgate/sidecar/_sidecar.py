"""The process: both ways, the certificates and the registration, from start to drain.

There is one process and no supervisor: a sidecar serves one program and dies with it. What starts
the program starts its sidecar, and starts it again when it ends.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import secrets
import signal
import socket
import ssl
from typing import Final

from nexgate.discovery import ServiceInstance, ServiceRegistry
from nexgate.edge import (
    EdgeConnection,
    EdgeLimits,
    EdgeState,
    EdgeTimeouts,
    Listener,
    MemoryReturn,
    Server,
    affordable_connections,
    allow_many_files,
    bind,
    new_event_loop,
    tune_collector,
)
from nexgate.edge.config import parse_listen_address
from nexgate.exchange import Plan
from nexgate.http import ForwardedRules, HeadLimits, TrustedProxies
from nexgate.observability import AccessLog, access_log, configure_logging
from nexgate.routing import PathRules, Route, RouteTable, Template
from nexgate.sidecar._certificates import CertificateFiles, Certificates, Contexts
from nexgate.sidecar._egress import Egress
from nexgate.sidecar._ingress import Ingress
from nexgate.sidecar._presence import Presence
from nexgate.sidecar.config import SidecarConfig, SidecarSection
from nexgate.snapshot import Snapshot
from nexgate.state import State, open_state

__all__ = ["Sidecar", "check", "run"]

_log = logging.getLogger("nexgate.sidecar")

_TICK: Final = 1.0
_MOST_CONNECTIONS: Final = 20_000
_PATHS: Final = PathRules(merge_slashes=False, encoded_slash="keep", ignore_case=False)
"""No route here depends on a path, so every path is the program's to understand."""
_LOCAL: Final = TrustedProxies(("127.0.0.0/8", "::1/128"))


class _Way:
    """A listener, what it serves, and its TLS, which may change."""

    def __init__(
        self,
        sock: socket.socket,
        edge: EdgeState,
        tls: ssl.SSLContext | None,
        connection: type[EdgeConnection],
        *,
        trust_peer: bool = False,
    ) -> None:
        self.edge = edge
        self._socket = sock
        self._trust_peer = trust_peer
        self._renewing = asyncio.Lock()
        self._tls = tls
        self._connection = connection
        self._server: Server | None = None

    @property
    def url(self) -> str:
        return Listener(self._socket, self._tls).url

    async def start(self) -> None:
        await self.renew(self._tls)

    async def renew(self, tls: ssl.SSLContext | None) -> None:
        """Accept with other certificates. The socket stays, so nobody is refused."""
        async with self._renewing:
            listener = Listener(self._socket.dup(), tls, self._trust_peer)
            server = Server(self.edge, [listener], connection=self._connection)
            await server.start()
            before, self._server, self._tls = self._server, server, tls
            if before is not None:
                before.stop_accepting()

    async def stop(self, drain: float) -> bool:
        if self._server is None:
            return True
        server, self._server = self._server, None
        self._socket.close()
        return await server.stop(drain)


class Sidecar:
    """A sidecar in the running loop: ``await start()``, then ``await stop()``.

    ``config`` must be complete. What cannot be bound is an ``OSError`` of the constructor, what
    cannot be used of the certificates a ``ConfigError``.
    """

    def __init__(self, config: SidecarConfig) -> None:
        self.config = config
        self._section = section = config.sidecar
        self._loop = loop = asyncio.get_running_loop()
        files = _files(section)
        self.certificates = Certificates(files) if files is not None else None
        self._ways: dict[str, _Way] = {}
        self._tasks: list[asyncio.Task[None]] = []
        self._renewing: set[asyncio.Task[None]] = set()
        self._ticker: asyncio.TimerHandle | None = None
        bound = _bind_all({"egress": section.egress, "ingress": section.ingress})
        self._log = access_log(section.access_log, "json")
        self._state: State = open_state(section.registry)
        contexts = self.certificates.current if self.certificates is not None else None
        self.egress: Egress | None = None
        self.ingress: Ingress | None = None
        self._registry: ServiceRegistry | None = None
        self.presence: Presence | None = None
        if "egress" in bound:
            self.egress = Egress(loop, config, self._state, contexts)
            self._ways["egress"] = self._way(bound["egress"], self.egress.plan, None)
        if "ingress" in bound:
            self.ingress = Ingress(loop, config, self._state)
            tls = contexts.server if contexts is not None else None
            self._ways["ingress"] = self._way(
                bound["ingress"], self.ingress.plan, tls, is_ingress=True
            )
            self._registry = ServiceRegistry(self._state, ttl=section.lease)
            self.presence = _presence(self._registry, section)

    def _way(
        self,
        sock: socket.socket,
        plan: Plan,
        tls: ssl.SSLContext | None,
        *,
        is_ingress: bool = False,
    ) -> _Way:
        snapshot = Snapshot(
            RouteTable([Route(Template.parse("/*"), plan, plan.name)], _PATHS),
            _PATHS,
            # The program may pass on whom it works for; what a peer says of that is not known to
            # be so.
            ForwardedRules(trusted=TrustedProxies() if is_ingress else _LOCAL),
            trust_request_id=True,
            fallback=plan,
            known_routes={},
        )
        limits = EdgeLimits(HeadLimits(), min(_MOST_CONNECTIONS, affordable_connections()))
        timeouts = EdgeTimeouts(drain=self._section.drain)
        edge = EdgeState(self._loop, snapshot, limits=limits, timeouts=timeouts)
        edge.exchange_log = self._log
        if self.ingress is not None and is_ingress:
            return _Way(sock, edge, tls, self.ingress.connection)
        return _Way(sock, edge, tls, EdgeConnection, trust_peer=sock.family == socket.AF_UNIX)

    @property
    def urls(self) -> dict[str, str]:
        """Where it listens, by way."""
        return {name: way.url for name, way in self._ways.items()}

    # ---------------------------------------------------------------- life

    async def start(self) -> None:
        """Listen, and look after the certificates and the program."""
        for way in self._ways.values():
            await way.start()
        self._say()
        self._ticker = self._loop.call_later(_TICK, self._tick)
        if self.certificates is not None:
            self.certificates.on_change.append(self._renew)
            self._tasks.append(self._loop.create_task(self.certificates.watch()))
        if self.presence is not None:
            self._tasks.append(self._loop.create_task(self.presence.run()))

    def _say(self) -> None:
        section = self._section
        urls = self.urls
        if "egress" in urls:
            _log.info("egress on %s: the Host of a request names the service", urls["egress"])
        if "ingress" in urls:
            who = "anyone, unauthenticated"
            if section.allow is not None:
                who = ", ".join(section.allow) or "nobody"
            elif section.is_secured:
                who = "whoever has a certificate"
            _log.info("ingress on %s for %s: to %s", urls["ingress"], who, section.app)
        if self.certificates is not None and self.certificates.current.fault is not None:
            _log.warning(
                "other sidecars will not accept this certificate: %s",
                self.certificates.current.fault,
            )

    def _tick(self) -> None:
        self._ticker = self._loop.call_later(_TICK, self._tick)
        now = self._loop.time()
        if self.egress is not None:
            self.egress.tick(now)
        if self.ingress is not None:
            self.ingress.service.tick(now)

    def _renew(self, contexts: Contexts) -> None:
        if self.egress is not None:
            self.egress.renew(contexts)
        if (way := self._ways.get("ingress")) is not None:
            task = self._loop.create_task(way.renew(contexts.server))
            self._renewing.add(task)
            task.add_done_callback(self._renewing.discard)

    def reopen_log(self) -> None:
        """The access log was rotated away."""
        if isinstance(self._log, AccessLog):
            self._log.close()

    async def stop(self) -> None:
        """An orderly end, in this order: out of the registry; those who have not noticed are served
        a moment longer; the way in is drained; then the way out, which the program may need until
        then.
        """
        try:
            await self._end_tasks()
            if self.presence is not None:
                was_registered = self.presence.is_registered
                await self.presence.leave()
                if was_registered:
                    _log.info("%s is no longer advertised", self.presence.instance.name)
                    await asyncio.sleep(self._section.leave)
            for name in ("ingress", "egress"):
                way = self._ways.get(name)
                if way is not None and not await way.stop(self._section.drain):
                    _log.warning("drain limit reached: connections of %s were cut", name)
        finally:
            await self._aclose()

    async def _end_tasks(self) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, *self._renewing, return_exceptions=True)
        self._tasks.clear()

    async def _aclose(self) -> None:
        if self._ticker is not None:
            self._ticker.cancel()
        for way in self._ways.values():
            await way.stop(0.0)
        if self.egress is not None:
            await self.egress.aclose()
        if self.ingress is not None:
            await self.ingress.aclose()
        if self._registry is not None:
            await self._registry.aclose()
        await self._state.aclose()
        self.reopen_log()


def _files(section: SidecarSection) -> CertificateFiles | None:
    if section.certificate is None:
        return None
    assert section.key is not None
    assert section.ca is not None
    return CertificateFiles(
        section.certificate, section.key, section.ca, section.min_version, section.service
    )


def _bind_all(addresses: dict[str, str | None]) -> dict[str, socket.socket]:
    bound: dict[str, socket.socket] = {}
    try:
        for name, address in addresses.items():
            if address is not None:
                bound[name] = _bind(address)
    except OSError:
        for sock in bound.values():
            sock.close()
        raise
    return bound


def _bind(text: str) -> socket.socket:
    address = parse_listen_address(text)
    try:
        return bind(address.host, address.port, address.path)
    except OSError as error:
        raise OSError(error.errno, f"cannot listen on {address}: {error.strerror}") from None


def _presence(registry: ServiceRegistry, section: SidecarSection) -> Presence:
    assert section.service is not None
    assert section.app is not None
    assert section.advertised is not None
    host = "".join(c if c.isalnum() or c in ".-" else "-" for c in socket.gethostname())[:64]
    instance = ServiceInstance(
        id=f"{host or 'host'}-{os.getpid()}-{secrets.token_hex(3)}",
        name=section.service,
        url=section.advertised,
        weight=section.weight,
        zone=section.zone,
    )
    return Presence(registry, instance, section.app, section.health)


# -------------------------------------------------------------------- a process of its own


def check(config: SidecarConfig) -> str | None:
    """What is wrong with the certificates, if anything. Raises ``ConfigError`` when they cannot be
    used at all.
    """

    async def look() -> str | None:
        files = _files(config.sidecar)
        return Certificates(files).current.fault if files is not None else None

    return asyncio.run(look())


def run(config: SidecarConfig) -> int:
    """Serve until SIGTERM or SIGINT; the exit code. A second signal does not wait."""
    configure_logging(config.sidecar.log_level)
    allow_many_files()
    with asyncio.Runner(loop_factory=new_event_loop) as runner:
        runner.run(_main(config))
    return 0


async def _main(config: SidecarConfig) -> None:
    loop = asyncio.get_running_loop()
    stop, hurry = asyncio.Event(), asyncio.Event()

    def told() -> None:
        (hurry if stop.is_set() else stop).set()

    sidecar = Sidecar(config)
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, told)
    if sidecar.certificates is not None:
        loop.add_signal_handler(signal.SIGHUP, sidecar.certificates.look)
    loop.add_signal_handler(signal.SIGUSR1, sidecar.reopen_log)
    await sidecar.start()
    tune_collector()
    memory = MemoryReturn(loop)
    await stop.wait()
    stopping = loop.create_task(sidecar.stop())
    hurrying = loop.create_task(hurry.wait())
    await asyncio.wait((stopping, hurrying), return_when=asyncio.FIRST_COMPLETED)
    hurrying.cancel()
    if not stopping.done():
        _log.warning("told twice: connections are cut")
        stopping.cancel()
    memory.stop()
    with contextlib.suppress(asyncio.CancelledError):
        await stopping
