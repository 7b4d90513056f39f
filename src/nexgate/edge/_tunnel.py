"""An upgraded connection: bytes both ways, back-pressure, half-close, and a decent end.

The gateway does not speak the protocol inside, with one exception: of a WebSocket it follows the
frame boundaries of what goes to the client (a dozen lines, no copying), because that is what it
takes to say goodbye properly (Close 1001, "going away", RFC 6455 §7.4.1) when the gateway shuts
down or the route is gone. A frame of ours in the middle of one of theirs would be garbage.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from nexgate.exchange import Exchange, TunnelEnd

if TYPE_CHECKING:
    from nexgate.edge._answering import Answering

__all__ = ["FrameTracker", "Tunnel"]

_GOING_AWAY: Final = b"\x88\x02\x03\xe9"  # FIN+Close, length 2, code 1001


class FrameTracker:
    """Where the WebSocket frames in a byte stream begin and end (RFC 6455 §5.2). Content is
    skipped.
    """

    __slots__ = ("_head", "_skip")

    def __init__(self) -> None:
        self._head = b""
        self._skip = 0

    @property
    def is_between_frames(self) -> bool:
        return not self._skip and not self._head

    def feed(self, data: bytes) -> None:
        at = 0
        end = len(data)
        while at < end:
            if self._skip:
                step = min(self._skip, end - at)
                self._skip -= step
                at += step
                continue
            head = self._head + data[at : at + 14 - len(self._head)]
            size = _frame_size(head)
            if size is None:
                self._head = head
                return
            at -= len(self._head)
            self._head = b""
            # ``at`` may be negative for a moment: the head began in an earlier read.
            self._skip = size
            if at < 0:
                self._skip += at
                at = 0


def _frame_size(head: bytes) -> int | None:
    """The size of the whole frame whose first bytes are ``head``; None while that is not known."""
    if len(head) < 2:
        return None
    length = head[1] & 0x7F
    size = 2 + (4 if head[1] & 0x80 else 0)
    if length == 126:
        return None if len(head) < 4 else size + 2 + int.from_bytes(head[2:4])
    if length == 127:
        return None if len(head) < 10 else size + 8 + int.from_bytes(head[2:10])
    return size + length


class Tunnel:
    """Joins a client connection and a ``TunnelEnd``. Knows its exchange for the log and for
    reloads.
    """

    __slots__ = (
        "_far_ended",
        "_frames",
        "_is_closing",
        "_near",
        "_near_ended",
        "exchange",
        "far",
        "is_websocket",
    )

    def __init__(
        self, near: Answering, exchange: Exchange, far: TunnelEnd, *, is_websocket: bool
    ) -> None:
        self._near: Answering | None = near
        self.far: TunnelEnd | None = far
        self.exchange = exchange
        self.is_websocket = is_websocket
        self._frames = FrameTracker() if is_websocket else None
        self._is_closing = False
        self._near_ended = False
        self._far_ended = False

    # ---- called by the client's connection

    def from_client(self, data: bytes) -> None:
        self.exchange.bytes_in += len(data)
        if self._far_ended:
            self._limit_half_open()
        if self.far is not None:
            self.far.tunnel_data(data)

    def client_eof(self) -> bool:
        """Whether to keep our side open: the service may still have something to say."""
        if self.far is None or self._near is None:
            return False
        self._near_ended = True
        self.far.tunnel_eof()
        if self._far_ended or self._near._scheme != "http":
            return False  # both have said all they had to say
        self._limit_half_open()
        return True

    def _limit_half_open(self) -> None:
        """One direction has ended: the other may go on, but not for ever in silence."""
        near = self._near
        if near is not None:
            near.wheel.set(near, near.loop.time() + near.edge.timeouts.idle)

    def client_full(self) -> None:
        if self.far is not None:
            self.far.tunnel_pause()

    def client_drained(self) -> None:
        if self.far is not None:
            self.far.tunnel_resume()

    def client_lost(self) -> None:
        self._near = None
        far = self.far
        self.far = None
        if far is not None:
            far.tunnel_lost()
        self._ended()

    # ---- called by the service's side (this is a TunnelEnd for it)

    def tunnel_data(self, data: bytes) -> None:
        near = self._near
        if near is None or self._is_closing:
            return
        self.exchange.bytes_out += len(data)
        if self._frames is not None:
            self._frames.feed(data)
        if self._near_ended:
            self._limit_half_open()
        near.transport.write(data)

    def tunnel_eof(self) -> None:
        near = self._near
        if near is None:
            return
        self._far_ended = True
        if self._near_ended or not near.transport.can_write_eof():
            near.transport.close()
        else:
            near.transport.write_eof()
            self._limit_half_open()

    def tunnel_lost(self) -> None:
        self.far = None
        self._close_near()

    def tunnel_pause(self) -> None:
        if self._near is not None:
            self._near._pause(4)

    def tunnel_resume(self) -> None:
        if self._near is not None:
            self._near._resume(4)

    def tunnel_opened(self, near: TunnelEnd) -> None:
        raise AssertionError("a tunnel is opened from its far side only")

    # ---- called by the gateway

    def go_away(self) -> None:
        """End the tunnel from the middle: Close 1001 where the client can understand it."""
        near = self._near
        if near is None or self._is_closing:
            return
        if self._frames is not None and self._frames.is_between_frames:
            near.transport.write(_GOING_AWAY)
        self._is_closing = True
        self._close_near()

    def _close_near(self) -> None:
        """Close when everything has been written, which a client that does not read may prevent."""
        near = self._near
        if near is not None:
            near.transport.close()
            near.wheel.set(near, near.loop.time() + near.edge.timeouts.write)

    def abandon(self) -> None:
        """The exchange ended from within (its total time is over): let go of the service."""
        far = self.far
        self.far = None
        if far is not None:
            far.tunnel_lost()
        self.exchange.down.edge.on_tunnel_closed(self)  # type: ignore[attr-defined]  # an edge's

    def _ended(self) -> None:
        near = self.exchange.down
        near.edge.on_tunnel_closed(self)  # type: ignore[attr-defined]  # only edge connections tunnel
        self.exchange.tunnel_closed()
