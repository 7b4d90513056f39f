"""What happens to the exchanges of a route: hooks, then a handler."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final

from nexgate.exchange._request import Request
from nexgate.exchange._response import Response
from nexgate.exchange._sides import Handler

if TYPE_CHECKING:
    from nexgate.exchange._exchange import Exchange

__all__ = ["NO_PLAN", "CallNext", "Hook", "Plan"]

RequestHook = Callable[["Exchange"], "Response | Awaitable[Response | None] | None"]
ResponseHook = Callable[["Exchange", "Response"], "Response | Awaitable[Response | None] | None"]
CallNext = Callable[["Request"], Awaitable["Response"]]
AroundHook = Callable[["Exchange", CallNext], Awaitable["Response"]]


@dataclass(frozen=True, slots=True)
class Hook:
    """A policy as the pipeline runs it. ``name`` is what the log says when it raises."""

    name: str
    on_request: RequestHook | None = None
    on_response: ResponseHook | None = None
    around: AroundHook | None = None


@dataclass(frozen=True, slots=True)
class Plan:
    """What happens to the exchanges of one route. Immutable; part of a snapshot."""

    name: str
    handler: Handler
    hooks: tuple[Hook, ...] = ()
    max_body_bytes: int | None = None
    max_buffered_body_bytes: int = 1024 * 1024
    request_buffer_bytes: int = 0
    """How much request content is collected before the handler starts; 0: none."""
    total_timeout: float | None = None
    timeouts: Any = None
    """``UpstreamTimeouts`` that replace the service's, or None."""
    identity: Any = None
    """Equal in two snapshots when the route means the same in both."""
    importance: int = 1
    """Of three (0 low, 1 normal, 2 high): who goes first when a service is at its limit."""
    labels: Mapping[str, str] = field(default_factory=dict)
    is_prompt: bool = field(init=False, default=True, compare=False)
    """The handler starts in the moment in which the exchange began."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "is_prompt", not self.hooks and not self.request_buffer_bytes)


class _NoHandler:
    def start(self, exchange: Exchange) -> None:
        raise AssertionError("an exchange was started without a plan")

    def describe(self) -> str:
        return "nothing"


NO_PLAN: Final = Plan("", _NoHandler())
