"""What a service answered."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from typing import TYPE_CHECKING, Any

from nexgate.client._errors import ServiceStatusError
from nexgate.http import Headers

if TYPE_CHECKING:
    from nexgate.client._waiting import Waiting

__all__ = ["ServiceResponse", "StreamedResponse"]


class ServiceResponse:
    """A whole answer, whatever its status."""

    __slots__ = ("attempts", "body", "headers", "instance", "service", "status")

    def __init__(
        self,
        service: str,
        status: int,
        headers: Headers,
        body: bytes,
        instance: str,
        attempts: int = 1,
    ) -> None:
        self.service = service
        self.status = status
        self.headers = headers
        self.body = body
        self.instance = instance
        """URL of the instance that answered."""
        self.attempts = attempts
        """How often the service was asked: more than once after retries. Hedges do not count."""

    @property
    def ok(self) -> bool:
        """Whether the status is below 400."""
        return self.status < 400

    @property
    def text(self) -> str:
        """The body as UTF-8; what is not becomes U+FFFD."""
        return self.body.decode("utf-8", "replace")

    def json(self) -> Any:
        """The body as JSON. Strict: UTF-8 only, no NaN; raises ``ValueError``."""
        return json.loads(self.body.decode("utf-8"), parse_constant=_reject_constant)

    def raise_for_status(self) -> ServiceResponse:
        """Raise ``ServiceStatusError`` for a status from 400 on; else return the answer itself."""
        if self.status >= 400:
            raise ServiceStatusError(self.service, self)
        return self

    def __repr__(self) -> str:
        return f"<ServiceResponse {self.status} {len(self.body)} bytes from {self.instance}>"


class StreamedResponse:
    """An answer whose content is read as it comes. Made by ``ServiceClient.stream``.

    Reading slowly slows the service down: nothing beyond a bounded buffer is kept.
    """

    def __init__(self, service: str, waiting: Waiting) -> None:
        assert waiting.response is not None
        self.service = service
        self.status: int = waiting.response.status
        self.headers = Headers(list(waiting.response.fields))
        self.instance: str = waiting.exchange.served_by[1]
        self.attempts: int = waiting.attempts
        self._waiting = waiting

    async def __aiter__(self) -> AsyncIterator[bytes]:
        """The content in pieces, as they arrive. Raises ``ServiceError`` when it is cut short."""
        while piece := await self._waiting.next_piece():
            yield piece

    async def read(self) -> bytes:
        """The whole content; ``ServiceBodyTooLarge`` beyond the client's ``max_body_bytes``."""
        return await self._waiting.whole()

    def __repr__(self) -> str:
        return f"<StreamedResponse {self.status} from {self.instance}>"


def _reject_constant(name: str) -> Any:
    raise ValueError(f"{name} is not JSON")
