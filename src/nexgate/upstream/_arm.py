"""The second attempt of a hedged exchange, until it wins or is given up."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from nexgate.clock import Wheel
from nexgate.exchange import Exchange, Response, TunnelEnd
from nexgate.http import Field, ResponseHead

if TYPE_CHECKING:
    from nexgate.exchange import Caller

__all__ = ["Arm"]


class Arm(Exchange):
    """Looks to its instance like the exchange that it stands in for.

    It never meets the client: when the head of its answer has come, ``Call.adopt`` gives its
    attempt to the exchange itself.
    """

    __slots__ = ()

    def __init__(self, primary: Exchange, caller: Caller) -> None:
        super().__init__(
            _Nobody(primary),
            primary.method,
            primary.path,
            primary.raw_query,
            primary.head,
            primary.client,
            primary.scheme,
            primary.forward_base,
            primary.id,
            primary.id_name,
            primary.started,
        )
        self.fields = primary.fields
        self.match = primary.match
        self.plan = primary.plan
        self.caller = caller

    def drop(self) -> None:
        """Nobody waits for it any more."""
        self.ended = True
        attempt, self.attempt = self.attempt, None
        if attempt is not None:
            attempt.cancel()
        elif self.instance is not None:
            self.instance.finished(self)


class _Nobody:
    """The client of an arm: there is none."""

    __slots__ = ("is_writable", "loop", "wheel")

    def __init__(self, primary: Exchange) -> None:
        self.loop: asyncio.AbstractEventLoop = primary.down.loop
        self.wheel: Wheel = primary.down.wheel
        self.is_writable = True

    def send_interim(self, status: int, fields: list[Field]) -> None:
        pass

    def flush(self) -> None:
        pass

    def pause_request(self) -> None:
        pass

    def resume_request(self) -> None:
        pass

    def send_head(self, exchange: Exchange, response: Response) -> None:
        raise AssertionError("an arm was answered")

    def send_whole(self, exchange: Exchange, head: ResponseHead, body: bytes) -> bool:
        raise AssertionError("an arm was answered")

    def send_body(self, data: bytes) -> None:
        raise AssertionError("an arm was answered")

    def send_end(self, trailers: list[Field]) -> None:
        raise AssertionError("an arm was answered")

    def take_back_head(self) -> bool:
        return False

    def break_off(self) -> None:
        pass

    def open_tunnel(self, exchange: Exchange, response: Response, far: TunnelEnd) -> None:
        far.tunnel_lost()

    def exchange_ended(self, exchange: Exchange) -> None:
        pass
