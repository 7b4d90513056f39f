"""Register an ASGI application for as long as it serves."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import re
import secrets
import socket
from collections.abc import Awaitable, Callable, Iterable, Mapping, MutableMapping
from typing import Any, Final

from nexgate.discovery._instance import ServiceInstance
from nexgate.discovery._registry import ServiceRegistry
from nexgate.fetch import Origin
from nexgate.state import State

__all__ = ["register_service"]

_log = logging.getLogger("nexgate.discovery")

Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
App = Callable[[MutableMapping[str, Any], Receive, Send], Awaitable[None]]

_PATIENCE: Final = 2.0
"""How long a registration waits for the server to accept, and a stop for the registry."""
_ASK_AGAIN: Final = 0.02


def register_service(
    app: App,
    *,
    name: str,
    url: str,
    id: str | None = None,
    registry: ServiceRegistry | State | str | None = None,
    ttl: float = 15.0,
    health: str = "/health",
    weight: int = 1,
    zone: str | None = None,
    version: str | None = None,
    tags: Iterable[str] = (),
    metadata: Mapping[str, str] | None = None,
) -> App:
    """The application, registered as an instance of ``name`` while it serves.

    ::

        app = register_service(app, name="users", url="http://127.0.0.1:8000")

    It is registered once its own start-up has completed and ``url`` accepts connections (or, if
    that cannot be seen from here, two seconds later), and unregistered before its own shutdown
    begins: nobody is sent to it too early or too late. An application without lifespan is
    registered when the server starts all the same; under a server without lifespan, at the first
    request, and then its lease ends after it. A registry that is away does not keep it from
    starting: that is logged, and tried again.

    ``registry`` is where: a ``ServiceRegistry`` (which stays yours to close), a ``State``, or a
    place as in ``open_state``; unset, ``"local"``, the processes of this machine. ``url`` is how
    others reach it. ``id`` is by default unique to this process. ``health`` is the path that is
    probed.
    """
    instance = ServiceInstance(
        id=id or "-",  # the real one is made in the process that serves
        name=name,
        url=url,
        weight=weight,
        zone=zone,
        version=version,
        tags=frozenset(tags),
        metadata=metadata or {},
        health_path=health,
    )
    return _Registered(app, instance, id, registry, ttl)


class _Registered:
    def __init__(
        self,
        app: App,
        instance: ServiceInstance,
        instance_id: str | None,
        registry: ServiceRegistry | State | str | None,
        ttl: float,
    ) -> None:
        self._app = app
        self._instance = instance
        self._id = instance_id
        self._where = registry
        self._ttl = ttl
        self._registry: ServiceRegistry | None = None
        self._task: asyncio.Task[None] | None = None
        self._is_decided = False
        """A lifespan has begun, or the first request has come."""

    def __getattr__(self, name: str) -> Any:
        # `app.get(...)` goes on working on what used to be the application.
        return getattr(self._app, name)

    async def __call__(self, scope: MutableMapping[str, Any], receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            self._is_decided = True
            await self._live(scope, receive, send)
            return
        if not self._is_decided:
            self._is_decided = True
            _log.info(
                "the server has no lifespan: %s registers with a request", self._instance.name
            )
            self._begin()
        await self._app(scope, receive, send)

    # -- lifespan ------------------------------------------------------------------------------

    async def _live(self, scope: MutableMapping[str, Any], receive: Receive, send: Send) -> None:
        has_taken = has_answered = False

        async def receiving() -> Message:
            nonlocal has_taken
            has_taken = True
            message = await receive()
            if message["type"] == "lifespan.shutdown":
                await self._end()
            return message

        async def sending(message: Message) -> None:
            nonlocal has_answered
            has_answered = True
            await send(message)
            if message["type"] == "lifespan.startup.complete":
                self._begin()

        try:
            await self._app(scope, receiving, sending)
        except Exception:
            if has_taken:
                # Its start-up failed, or its life. The server decides what that means; if it goes
                # on, the first request registers.
                self._is_decided = False
                raise
            # The ASGI specification: an application may refuse a scope it does not know by raising.
        finally:
            if has_answered:
                await self._end()
        if not has_answered:
            _log.info("%s has no lifespan and is registered without", self._instance.name)
            await self._live_for_it(has_taken, receive, send)

    async def _live_for_it(self, has_taken: bool, receive: Receive, send: Send) -> None:
        """The application takes no part: speak to the server in its place."""
        try:
            if not has_taken:
                await receive()
            await send({"type": "lifespan.startup.complete"})
            self._begin()
            while (await receive())["type"] != "lifespan.shutdown":
                pass
        finally:
            await self._end()
        await send({"type": "lifespan.shutdown.complete"})

    # -- registering ---------------------------------------------------------------------------

    def _begin(self) -> None:
        if self._task is None:
            self._task = asyncio.get_running_loop().create_task(self._register())

    async def _register(self) -> None:
        try:
            where = "local" if self._where is None else self._where
            if isinstance(where, ServiceRegistry):
                self._registry = where
            else:
                self._registry = ServiceRegistry(where, ttl=self._ttl)
            fields = {f: getattr(self._instance, f) for f in self._instance.__slots__}
            fields["id"] = self._id or _unique_id()
            self._instance = ServiceInstance(**fields)
            await self._wait_accepting()
            await self._registry.register(self._instance.name, self._instance, self._ttl)
            _log.info(
                "%s is registered as %s at %s",
                self._instance.name,
                self._instance.id,
                self._instance.url,
            )
        except Exception:
            # Whatever it is, the application serves.
            _log.exception("%s could not be registered", self._instance.name)

    async def _wait_accepting(self) -> None:
        """Servers bind after the start-up: until then nobody should be sent here.

        Where the URL leads elsewhere as seen from here, through a gateway or a container's port, it
        may never answer us; then that is what the patience is for.
        """
        url = self._instance.url
        if url.startswith("asgi:"):
            return
        origin = Origin.parse(url)
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(_PATIENCE):
                while True:
                    try:
                        if origin.path is not None:
                            _, writer = await asyncio.open_unix_connection(origin.path)
                        else:
                            _, writer = await asyncio.open_connection(origin.host, origin.port)
                    except (OSError, UnicodeError):
                        await asyncio.sleep(_ASK_AGAIN)
                    else:
                        writer.transport.abort()
                        return

    async def _end(self) -> None:
        task, self._task = self._task, None
        if task is not None:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
        registry, self._registry = self._registry, None
        if registry is None:
            return
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(_PATIENCE):
                if isinstance(self._where, ServiceRegistry):
                    await registry.unregister(self._instance.name, self._instance.id)
                else:
                    await registry.aclose()


def _unique_id() -> str:
    host = re.sub(r"[^A-Za-z0-9.-]", "-", socket.gethostname())[:64] or "host"
    return f"{host}-{os.getpid()}-{secrets.token_hex(3)}"
