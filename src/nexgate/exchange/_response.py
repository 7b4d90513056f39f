"""A response, as filters and handlers see it."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from nexgate.http import Field, Headers, ResponseHead, make_field, reason_phrase

if TYPE_CHECKING:
    from nexgate.exchange._exchange import Exchange

__all__ = ["Response"]


class Response:
    """A response: the gateway's own, or the head of a service's with its content still to come.

    ``body`` is the whole content, or None while it streams from the service. Change ``status`` and
    ``headers`` freely in a filter; assign ``body`` to replace the content; ``await
    response.read()`` to have it whole (bounded).
    """

    __slots__ = ("_exchange", "_status", "body", "content_length", "fields", "head", "reason")

    def __init__(
        self,
        status: int = 200,
        body: bytes | str | None = b"",
        headers: Mapping[str, str] | Sequence[tuple[str, str]] | None = None,
        *,
        content_type: str | None = None,
    ) -> None:
        if not 200 <= status <= 599:
            raise ValueError(f"{status} is not a final HTTP status")
        self._status = status
        self.reason = reason_phrase(status)
        self.body: bytes | None = body.encode() if isinstance(body, str) else body
        self.content_length: int | None = None
        """Declared length of a streaming body; None when it is not known in advance."""
        self.fields: list[Field] = []
        self.head: ResponseHead | None = None
        """What a streaming response was made from; its fields are shared until ``headers`` is asked
        for.
        """
        self._exchange: Exchange | None = None
        if headers is not None:
            pairs = headers.items() if isinstance(headers, Mapping) else headers
            for name, value in pairs:
                self.fields.append(make_field(name.encode("latin-1"), value.encode("latin-1")))
        if content_type is not None:
            self.headers.set("Content-Type", content_type)
        elif isinstance(body, str) and not any(f.name == b"content-type" for f in self.fields):
            self.headers.set("Content-Type", "text/plain; charset=utf-8")

    @classmethod
    def streaming(cls, exchange: Exchange, head: ResponseHead) -> Response:
        """The head of an attempt's response. No validation: the codec did it."""
        self = object.__new__(cls)
        self._status = head.status
        self.reason = head.reason
        self.body = None
        self.content_length = head.content_length if not head.until_close else None
        self.fields = head.fields
        self.head = head
        self._exchange = exchange
        return self

    @classmethod
    def json(
        cls, content: Any, status: int = 200, headers: Mapping[str, str] | None = None
    ) -> Response:
        text = json.dumps(content, separators=(",", ":"), ensure_ascii=False, allow_nan=False)
        return cls(status, text.encode(), headers, content_type="application/json")

    @classmethod
    def problem(
        cls,
        status: int,
        *,
        detail: str = "",
        title: str | None = None,
        type: str = "about:blank",
        headers: Mapping[str, str] | None = None,
        **extensions: Any,
    ) -> Response:
        """``application/problem+json`` (RFC 9457). ``type`` should be a URI you own."""
        members: dict[str, Any] = {
            "type": type,
            "title": title or reason_phrase(status).decode(),
            "status": status,
        }
        if detail:
            members["detail"] = detail
        response = cls.json(members | extensions, status, headers)
        response.headers.set("Content-Type", "application/problem+json")
        return response

    @classmethod
    def redirect(cls, location: str, status: int = 307) -> Response:
        return cls(status, b"", {"Location": location})

    @property
    def status(self) -> int:
        return self._status

    @status.setter
    def status(self, status: int) -> None:
        if not 200 <= status <= 599:
            raise ValueError(f"{status} is not a final HTTP status")
        self._status = status
        self.reason = reason_phrase(status)

    @property
    def headers(self) -> Headers:
        if self.head is not None and self.fields is self.head.fields:
            self.fields = self.fields.copy()
        return Headers(self.fields)

    @property
    def is_streaming(self) -> bool:
        return self.body is None

    async def read(self) -> bytes:
        """The whole content. Raises ``BodyTooLarge`` beyond the route's
        ``max_buffered_body_bytes``.
        """
        if self.body is None:
            assert self._exchange is not None
            if self._exchange.method == b"HEAD" or self._status in (204, 304):
                # There is none, and its length is that of an answer to GET: to be left as it is.
                return b""
            self.body = await self._exchange.collect_response()
        return self.body

    def __repr__(self) -> str:
        size = "streaming" if self.body is None else f"{len(self.body)} bytes"
        return f"<Response {self.status} {size}>"
