"""Handlers that need no service."""

from __future__ import annotations

from nexgate.exchange import Exchange, Response
from nexgate.http import Field
from nexgate.routing import substitution

__all__ = ["Answer", "Redirect"]


class Answer:
    """The same answer for everyone."""

    __slots__ = ("_body", "_fields", "_status")

    def __init__(
        self, status: int, body: str, headers: dict[str, str], content_type: str | None
    ) -> None:
        made = Response(status, body.encode(), headers)
        if body and not any(f.name == b"content-type" for f in made.fields):
            made.headers.set("Content-Type", content_type or "text/plain; charset=utf-8")
        self._status = status
        self._body = body.encode()
        self._fields: list[Field] = made.fields

    def start(self, exchange: Exchange) -> None:
        response = Response(self._status, self._body)
        response.fields = self._fields.copy()
        exchange.respond(response)

    def describe(self) -> str:
        return f"answer {self._status}"


class Redirect:
    """Sends the client to a URL made from the route's parameters."""

    __slots__ = ("_keep_query", "_render", "_status", "_to")

    def __init__(self, to: str, status: int, *, keep_query: bool) -> None:
        self._to = to
        self._status = status
        self._keep_query = keep_query
        self._render = substitution(to)

    def start(self, exchange: Exchange) -> None:
        target = self._render(exchange.match)
        if self._to.startswith("/") and target.startswith(b"//"):
            # A parameter with an empty first segment must not turn a path into another host.
            target = b"/" + target.lstrip(b"/")
        if self._keep_query and exchange.raw_query is not None:
            target += (b"&" if b"?" in target else b"?") + exchange.raw_query
        exchange.respond(Response.redirect(target.decode("latin-1"), self._status))

    def describe(self) -> str:
        return f"redirect {self._status} to {self._to}"
