"""Sticky sessions: a cookie names the instance; who has none gets the least loaded one.

The cookie holds a digest of the instance's URL, nothing a client could use. A cookie whose instance
is gone or not available is replaced.
"""

from __future__ import annotations

from collections.abc import Sequence
from hashlib import blake2b
from typing import Any

from nexgate.exchange import Exchange, Response
from nexgate.upstream.balancer._least_requests import LeastRequests

__all__ = ["StickyCookie"]


class StickyCookie:
    __slots__ = ("_attributes", "_by_mark", "_fallback", "_name")

    def __init__(self, name: str, max_age: int | None = None) -> None:
        self._name = name
        self._attributes = "; Path=/; HttpOnly; SameSite=Lax"
        if max_age is not None:
            self._attributes += f"; Max-Age={max_age}"
        self._by_mark: dict[str, Any] = {}
        self._fallback = LeastRequests()

    def rebuild(self, instances: Sequence[Any], available: Sequence[Any]) -> None:
        self._by_mark = {_mark(i.url): i for i in instances}
        self._fallback.rebuild(instances, available)

    def pick(self, exchange: Exchange) -> Any:
        for value in exchange.cookie_values(self._name):
            instance = self._by_mark.get(value)
            if instance is not None and instance.is_available:
                return instance
        return self._fallback.pick(exchange)

    def on_response(self, exchange: Exchange, response: Response, instance: Any) -> None:
        mark = _mark(instance.url)
        if mark not in exchange.cookie_values(self._name):
            secure = "; Secure" if exchange.scheme == "https" else ""
            response.headers.add("Set-Cookie", f"{self._name}={mark}{self._attributes}{secure}")


def _mark(url: str) -> str:
    return blake2b(url.encode(), digest_size=9, person=b"nexgate.sticky").hexdigest()
