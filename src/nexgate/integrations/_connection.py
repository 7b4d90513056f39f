"""One request, or one WebSocket, as ASGI has it."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, MutableMapping
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Any, Final, Protocol

__all__ = [
    "ASGIApp",
    "Background",
    "Connection",
    "Message",
    "Receive",
    "Send",
    "current_request_id",
]

Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
ASGIApp = Callable[[Any, Any, Any], Awaitable[Any]]
"""Loosely typed: each framework has its own words for the same three things."""

current_request_id: Final[ContextVar[str | None]] = ContextVar("nexgate_request_id", default=None)
"""The id of the request that the present task works for."""


class Background(Protocol):
    """What ``nexgate.tasks.BackgroundTasks`` has."""

    async def run(self) -> None:
        """Do what was left for after the response."""


@dataclass(slots=True, eq=False)
class Connection:
    """Can be asked for by factories and handlers, in every framework. Reading the body here takes
    it from the framework's own request.
    """

    scope: MutableMapping[str, Any]
    receive: Receive
    send: Send
    request_id: str | None = None
    background: list[Background] = field(default_factory=list)
    """What is done after the response, within the same dependency scope."""

    def header(self, name: str) -> str | None:
        """The first header of that name, which is lower case."""
        return header_of(self.scope, name.encode("latin-1"))


def header_of(scope: MutableMapping[str, Any], name: bytes) -> str | None:
    """The first header of that name, which is lower case."""
    for key, value in scope.get("headers", ()):
        if key == name:
            return bytes(value).decode("latin-1")
    return None
