"""Prometheus metrics of an application; ``prometheus-client`` is imported when they are wanted."""

from __future__ import annotations

import asyncio
from typing import Any, Final

from nexgate.errors import ConfigError

from ._connection import Receive, Send

__all__ = ["Metrics"]

_METHODS: Final = frozenset(
    {"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE", "CONNECT"}
)
_MOST_ROUTES: Final = 500
"""More than an application has; a template that is none must not fill the memory."""


class Metrics:
    """Counts requests by method, route and class of status; all label sets are bounded.

    ``http_requests_total``, ``http_request_duration_seconds`` and ``http_requests_in_flight``.
    ``registry``: where they live; the default is one of their own, served beside the process-wide
    one. Raises ``ConfigError`` without ``prometheus-client``.
    """

    def __init__(self, registry: Any = None) -> None:
        try:
            import prometheus_client
        except ImportError as error:
            raise ConfigError(
                "metrics need prometheus-client: pip install nexgate[metrics]"
            ) from error
        self._client = prometheus_client
        self._registry = registry or prometheus_client.CollectorRegistry()
        self._requests = prometheus_client.Counter(
            "http_requests",
            "Requests that were answered.",
            ("method", "route", "status"),
            registry=self._registry,
        )
        self._seconds = prometheus_client.Histogram(
            "http_request_duration_seconds",
            "From the head of the request to the end of the response.",
            ("method", "route"),
            registry=self._registry,
        )
        self._in_flight = prometheus_client.Gauge(
            "http_requests_in_flight",
            "Requests that are being answered.",
            registry=self._registry,
        )
        self._routes: set[str] = set()
        self._children: dict[tuple[str, str, int], tuple[Any, Any]] = {}

    def began(self) -> None:
        """A request came."""
        self._in_flight.inc()

    def ended(self, method: str, route: str | None, status: int, seconds: float) -> None:
        """It was answered; ``route`` is a template, ``None`` where none matched."""
        self._in_flight.dec()
        method = method if method in _METHODS else "other"
        key = (method, self._bounded(route), status // 100)
        known = self._children.get(key)
        if known is None:
            known = self._children[key] = (
                self._requests.labels(method, key[1], f"{key[2]}xx"),
                self._seconds.labels(method, key[1]),
            )
        known[0].inc()
        known[1].observe(seconds)

    def _bounded(self, route: str | None) -> str:
        if route is None:
            return "unmatched"
        if route not in self._routes:
            if len(self._routes) >= _MOST_ROUTES:
                return "other"
            self._routes.add(route)
        return route

    def render(self) -> bytes:
        """The text that Prometheus reads."""
        latest = self._client.generate_latest
        text: bytes = latest(self._registry)
        if self._registry is not self._client.REGISTRY:
            text += latest(self._client.REGISTRY)
        return text

    async def answer(self, receive: Receive, send: Send) -> None:
        """Answer a request for the metrics; they are rendered in a thread."""
        body = await asyncio.to_thread(self.render)
        headers = [
            (b"content-type", self._client.CONTENT_TYPE_LATEST.encode()),
            (b"content-length", str(len(body)).encode()),
        ]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": body})
