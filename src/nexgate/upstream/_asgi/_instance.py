"""What services, balancers and routes see of an application."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

from nexgate.clock import Wheel, wheel_of
from nexgate.exchange import Exchange, Response
from nexgate.http import ResponseHead
from nexgate.http._websocket import MAX_MESSAGE_BYTES
from nexgate.upstream._asgi._call import Call
from nexgate.upstream._asgi._http import HttpCall
from nexgate.upstream._asgi._lifespan import Lifespan
from nexgate.upstream._asgi._scope import AsgiApp, http_scope
from nexgate.upstream._asgi._websocket import asks_for_websocket, start_websocket
from nexgate.upstream._encode import DROP_ALWAYS
from nexgate.upstream._instance import UpstreamTimeouts
from nexgate.upstream.balancer import PeakLatency

__all__ = ["AsgiInstance"]


def _do_nothing() -> None:
    pass


class AsgiInstance:
    """An ASGI 3 application that runs in this process, as an instance of a service.

    Interchangeable with ``InstanceState``: the same attributes, the same life. Call ``startup``
    before the first exchange and ``aclose`` after the last; both per worker.

    A route that strips a prefix mounts the application there: it is told as ``root_path``, and the
    path is whole again, as ASGI has it. Starlette, FastAPI, Litestar and Nexios take ``root_path``
    off when they match and put it in front of the links they build.
    """

    is_local = True
    """There is no other: it is never ejected and never asked twice at once."""
    ejected_until = 0.0
    ejections = 0
    slow_since = 0.0

    def __init__(
        self,
        app: AsgiApp,
        url: str,
        loop: asyncio.AbstractEventLoop,
        *,
        service: str,
        on_change: Callable[[], None] = _do_nothing,
        root_path: str | None = None,
        shutdown_timeout: float = 10.0,
    ) -> None:
        """``url`` names the application in logs and in the service, such as ``asgi:shop.app:app``.

        ``root_path`` stands in for the prefix that the route has stripped, when another proxy in
        front of the gateway stripped more (as ``uvicorn --root-path`` does); empty for none.

        ``shutdown_timeout``: seconds for background work to end in ``aclose``, and again for the
        application's own shutdown.
        """
        if root_path and not root_path.startswith("/"):
            raise ValueError(f"root_path {root_path!r} does not start with '/'")
        self.app = app
        self.url = url
        self.loop = loop
        self.wheel: Wheel = wheel_of(loop)
        self.service = service
        self.identity = (service, url)
        self.on_change = on_change
        """Called when the instance becomes available or unavailable."""
        self.root_path = root_path.rstrip("/") if root_path is not None else None
        self.shutdown_timeout = shutdown_timeout
        self.full_weight = 1.0
        self.weight = 1.0
        self.zone: str | None = None
        self.timeouts = UpstreamTimeouts()
        """``connect`` means nothing here; the others are as for any instance."""
        self.disconnect_grace = 1.0
        """Seconds after which a call that nobody waits for is cancelled, unless it has noticed."""
        self.max_message_bytes = MAX_MESSAGE_BYTES
        """Of one WebSocket message; a longer one closes the connection with 1009."""
        self.host: bytes | None = None
        """The Host to show; None passes the client's on."""
        self.drop: int = DROP_ALWAYS
        self.on_response: Callable[[Exchange, Response], None] | None = None
        self.is_healthy = True
        self.is_removed = False
        self.active = 0
        self.total_requests = 0
        self.total_failures = 0
        self.requests_judged = 0
        self.failures_judged = 0
        self.failures_in_row = 0
        self.on_failure: Callable[[Any], None] | None = None
        self.latency: PeakLatency | None = None
        """Measured only when the balancer looks at it."""
        self.probe: Any = None
        self.state: dict[str, Any] = {}
        """What the lifespan left for requests; each scope has a shallow copy."""
        self.calls: set[Call] = set()
        """Running, background work after an answer included."""
        self._lifespan: Lifespan | None = None

    # ---------------------------------------------------------------- lifespan

    async def startup(self) -> None:
        """Run the application's startup. Raises ``AsgiStartupError`` when it reports a failure."""
        lifespan = Lifespan(self.app, self.url, self.state)
        await lifespan.startup()
        self._lifespan = lifespan

    async def shutdown(self) -> None:
        """Run the application's shutdown; bounded, and without effect when it is not running."""
        lifespan = self._lifespan
        self._lifespan = None
        if lifespan is not None:
            await lifespan.shutdown(self.shutdown_timeout)

    async def aclose(self) -> None:
        """End what is running, then shut down. What has not been answered by now fails (503);
        work in the background has ``shutdown_timeout`` seconds.
        """
        self.remove()
        background: list[asyncio.Task[None]] = []
        unanswered: list[asyncio.Task[None]] = []
        for call in self.calls:
            if call.task is not None:
                (background if call.is_answered else unanswered).append(call.task)
        for task in unanswered:
            task.cancel()
        if background or unanswered:
            _, late = await asyncio.wait(background + unanswered, timeout=self.shutdown_timeout)
            for task in late:
                task.cancel()
            if late:
                await asyncio.wait(late, timeout=self.shutdown_timeout)
        await self.shutdown()

    # ---------------------------------------------------------------- exchanges

    def start(self, exchange: Exchange) -> None:
        """Run the application for the exchange, in a task of its own."""
        exchange.instance = self
        exchange.served_by = self.identity
        self.active += 1
        self.total_requests += 1
        if asks_for_websocket(exchange.head.upgrade):
            start_websocket(self, exchange)
            return
        scope = http_scope(exchange, self.root_path, self.host, self.drop, self.state)
        HttpCall(self, exchange).begin(exchange, scope)

    def finished(self, exchange: Exchange) -> None:
        """The attempt is over, however it ended."""
        if exchange.instance is self:
            exchange.instance = None
            self.active -= 1

    def answered(self, exchange: Exchange, head: ResponseHead, seconds: float) -> None:
        """A response began after ``seconds``. It is wanted whatever it is: the application is
        running, and there is no other that would do better.
        """
        if self.latency is not None:
            self.latency.observe(head.status, seconds, self.loop.time())
        if exchange.call is not None:
            exchange.call.answered_locally(head.status)

    def failed(self) -> None:
        """It did not do what it was asked. Counted, but an application is never ejected."""
        self.total_failures += 1
        self.failures_in_row += 1

    def watch(self, wanted: bool) -> None:
        pass

    # ---------------------------------------------------------------- availability

    @property
    def is_available(self) -> bool:
        return self.is_healthy

    def set_healthy(self, healthy: bool) -> None:
        if healthy != self.is_healthy:
            self.is_healthy = healthy
            self.on_change()

    def remove(self) -> None:
        """Out of the configuration: what is under way ends by itself; see ``aclose``."""
        self.is_removed = True
        if self.probe is not None:
            self.probe.cancel()
            self.probe = None

    def __repr__(self) -> str:
        return f"<AsgiInstance {self.url} active={self.active} healthy={self.is_healthy}>"
