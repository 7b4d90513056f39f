"""A request, as filters see it."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from nexgate.http import Headers
from nexgate.routing import parse_cookies, parse_query

if TYPE_CHECKING:
    from nexgate.exchange._exchange import Exchange

__all__ = ["Request"]


class Request:
    """What a filter sees of an exchange. Text is decoded when asked for, the body read when
    awaited.

    ``state`` is a dictionary for filters to leave things for later filters.
    """

    __slots__ = ("_exchange",)

    def __init__(self, exchange: Exchange) -> None:
        self._exchange = exchange

    @property
    def exchange(self) -> Exchange:
        return self._exchange

    @property
    def method(self) -> str:
        return self._exchange.method.decode("latin-1")

    @property
    def path(self) -> str:
        """The normalised path, still percent-encoded: exactly what is matched and forwarded."""
        return self._exchange.path.decode("latin-1")

    @property
    def query_string(self) -> str:
        return self._exchange.query.decode("latin-1")

    @property
    def query(self) -> dict[str, str]:
        """Decoded query parameters; of a repeated name, the last."""
        return {name: values[-1] for name, values in self.query_values.items()}

    @property
    def query_values(self) -> dict[str, list[str]]:
        """Decoded query parameters, every value."""
        return parse_query(self._exchange.query)

    @property
    def url(self) -> str:
        query = self._exchange.raw_query
        tail = "?" + query.decode("latin-1") if query is not None else ""
        return f"{self.scheme}://{self.authority}{self.path}{tail}"

    @property
    def http_version(self) -> str:
        return "1.0" if self._exchange.head.http10 else "1.1"

    @property
    def scheme(self) -> str:
        return self._exchange.scheme

    @property
    def host(self) -> str:
        """Lower-case, without port."""
        return self._exchange.host.decode("latin-1")

    @property
    def authority(self) -> str:
        return self._exchange.head.authority.decode("latin-1")

    @property
    def client(self) -> str:
        """The client's address, found through trusted proxies."""
        return self._exchange.client

    @property
    def headers(self) -> Headers:
        """Changes reach the service."""
        return Headers(self._exchange.own_fields())

    @property
    def cookies(self) -> dict[str, str]:
        cookies = parse_cookies(self._exchange.header_values(b"cookie"))
        return {name: values[0] for name, values in cookies.items()}

    @property
    def path_params(self) -> dict[str, Any]:
        match = self._exchange.match
        return dict(match.params) if match is not None else {}

    @property
    def route(self) -> str:
        return self._exchange.plan.name

    @property
    def id(self) -> str:
        """The request id that services and the log see."""
        return self._exchange.id.decode("latin-1")

    @property
    def state(self) -> dict[str, Any]:
        state = self._exchange.state
        if state is None:
            state = self._exchange.state = {}
        return state

    @property
    def is_upgrade(self) -> bool:
        return self._exchange.head.upgrade is not None

    async def body(self) -> bytes:
        """The whole body, still forwarded afterwards. Raises ``BodyTooLarge``, ``ClientGone``."""
        return await self._exchange.collect_request()

    async def json(self) -> Any:
        """The body as JSON. Strict: UTF-8 only, no NaN; raises ``ValueError``."""
        text = (await self.body()).decode("utf-8")
        return json.loads(text, parse_constant=_reject_constant)

    def replace_body(self, body: bytes) -> None:
        """Forward this instead. Only before the request has been forwarded."""
        self._exchange.replace_request_body(body)

    def __repr__(self) -> str:
        return f"<Request {self.method} {self.path}>"


def _reject_constant(name: str) -> Any:
    raise ValueError(f"{name} is not JSON")
