"""The two sides of an exchange, as it sees them.

The edge and the ASGI entry implement ``Downstream``; connections to instances and local
applications implement ``Attempt`` and ``TunnelEnd``; whoever sent the exchange to an instance is
its ``Caller``, who decides what a failed attempt comes to.
"""

from __future__ import annotations

import asyncio
from enum import Enum
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

from nexgate.clock import Wheel
from nexgate.errors import Cause
from nexgate.http import Field, ResponseHead

if TYPE_CHECKING:
    from nexgate.exchange._exchange import Exchange
    from nexgate.exchange._response import Response

__all__ = ["Attempt", "Caller", "Downstream", "Failure", "Handler", "Reach", "TunnelEnd"]


class Downstream(Protocol):
    """The client's side of an exchange."""

    @property
    def wheel(self) -> Wheel: ...
    @property
    def loop(self) -> asyncio.AbstractEventLoop: ...
    @property
    def is_writable(self) -> bool:
        """False while the client does not keep up; ``Exchange.on_writable`` says when it does."""
        ...

    def send_interim(self, status: int, fields: list[Field]) -> None: ...
    def send_head(self, exchange: Exchange, response: Response) -> None: ...
    def send_whole(self, exchange: Exchange, head: ResponseHead, body: bytes) -> bool:
        """Send a response that is complete already, if there is a short way for it; else say
        False.
        """
        ...

    def send_body(self, data: bytes) -> None: ...
    def send_end(self, trailers: list[Field]) -> None: ...
    def flush(self) -> None:
        """Send a head that waits for content to travel with."""
        ...

    def take_back_head(self) -> bool:
        """Unsend a head that has not left yet; False when it has."""
        ...

    def break_off(self) -> None:
        """End a response that has begun so that the client can tell it is incomplete."""
        ...

    def pause_request(self) -> None: ...
    def resume_request(self) -> None: ...
    def open_tunnel(self, exchange: Exchange, response: Response, far: TunnelEnd) -> None:
        """Send the 101 and join ``far`` with the client, for good."""
        ...

    def exchange_ended(self, exchange: Exchange) -> None: ...


class TunnelEnd(Protocol):
    """The far side of a tunnel: what the near side calls."""

    def tunnel_data(self, data: bytes) -> None: ...
    def tunnel_eof(self) -> None: ...
    def tunnel_lost(self) -> None: ...
    def tunnel_pause(self) -> None: ...
    def tunnel_resume(self) -> None: ...
    def tunnel_opened(self, near: TunnelEnd) -> None:
        """The near side is ready: bytes held back may flow now."""
        ...


class Attempt(Protocol):
    """The service's side of an exchange, once its head has been sent."""

    def send_body(self, data: bytes) -> None: ...
    def send_end(self, trailers: list[Field]) -> None: ...
    def pause_response(self) -> None: ...
    def resume_response(self) -> None: ...
    def cancel(self) -> None:
        """The exchange no longer wants anything. Must not call back."""
        ...


class Reach(Enum):
    """How far an attempt came, which decides whether another may follow (RFC 9110 §9.2.2)."""

    NOTHING = "nothing was sent"
    REQUEST = "the request was sent, and not a byte came back"
    SILENCE = "the request was sent, and the answer took too long"
    ANSWER = "an answer had begun"


class Failure(NamedTuple):
    """Why an attempt failed."""

    cause: Cause
    detail: str = ""
    reach: Reach = Reach.ANSWER
    retry_after: float | None = None
    """Seconds after which the client may try again; None where that is not known."""
    is_ours: bool = False
    """A limit of ours: nothing is said about the instance."""


class Caller(Protocol):
    """Who sent an exchange to an instance."""

    def attempt_failed(self, exchange: Exchange, instance: Any, failure: Failure) -> None:
        """The attempt has let go of the exchange; nothing of an answer has reached the client."""
        ...

    def attempt_answered(
        self, exchange: Exchange, instance: Any, head: ResponseHead, seconds: float
    ) -> bool:
        """The head of an answer came after ``seconds``. False: the attempt drops the answer, lets
        go of the exchange and calls ``attempt_dropped``.
        """
        ...

    def attempt_dropped(self, exchange: Exchange) -> None: ...

    def timed_out(self, exchange: Exchange) -> None:
        """The total time is over, and no answer has begun."""
        ...


class Handler(Protocol):
    """What a plan does once every hook has agreed: proxy, redirect, answer, run an application."""

    def start(self, exchange: Exchange) -> None: ...
    def describe(self) -> str: ...
