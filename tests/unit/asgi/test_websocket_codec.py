"""Handshakes and messages without I/O (RFC 6455)."""

from __future__ import annotations

import itertools

import pytest

from nexgate.errors import Cause, Refused
from nexgate.http import Field, make_field
from nexgate.http._websocket import (
    WebSocketClosed,
    WebSocketCodec,
    accept_token,
    handshake_key,
    is_sendable_code,
    make_key,
    offered_subprotocols,
)

# -------------------------------------------------------------------- handshake


def test_the_accept_token_is_that_of_the_rfc() -> None:
    assert accept_token(b"dGhlIHNhbXBsZSBub25jZQ==") == b"s3pPLMBiTxaQ9kYGzzhZRbK+xOo="


def key_field(value: bytes) -> Field:
    return make_field(b"Sec-WebSocket-Key", value)


def test_a_made_key_is_a_valid_one_and_new_each_time() -> None:
    one, two = make_key(), make_key()
    assert one != two
    assert handshake_key(b"GET", [key_field(one)]) == one


@pytest.mark.parametrize(
    ("method", "keys"),
    [
        (b"POST", [b"dGhlIHNhbXBsZSBub25jZQ=="]),
        (b"GET", []),
        (b"GET", [b"dGhlIHNhbXBsZSBub25jZQ=="] * 2),
        (b"GET", [b""]),
        (b"GET", [b"c2hvcnQ="]),
        (b"GET", [b"dGhlIHNhbXBsZSBub25jZQ"]),
        (b"GET", [b"dGhlIHNhbXBsZSBub25jZR=="]),
    ],
)
def test_what_is_no_handshake_is_refused(method: bytes, keys: list[bytes]) -> None:
    with pytest.raises(Refused) as caught:
        handshake_key(method, [key_field(k) for k in keys])
    assert caught.value.cause is Cause.BAD_REQUEST


def test_subprotocols_are_taken_in_order_from_every_line() -> None:
    lines = [b"chat.v2, chat.v1", b",", b"soap"]
    fields = [make_field(b"Sec-WebSocket-Protocol", line) for line in lines]
    assert offered_subprotocols(fields) == ["chat.v2", "chat.v1", "soap"]


def test_a_subprotocol_that_is_no_token_is_refused() -> None:
    with pytest.raises(Refused):
        offered_subprotocols([make_field(b"Sec-WebSocket-Protocol", b"a b")])


@pytest.mark.parametrize("code", [1000, 1001, 1011, 1014, 3000, 4999])
def test_codes_that_may_be_sent(code: int) -> None:
    assert is_sendable_code(code)


@pytest.mark.parametrize("code", [0, 999, 1004, 1005, 1006, 1015, 1016, 2999, 5000])
def test_codes_that_may_not_be_sent(code: int) -> None:
    assert not is_sendable_code(code)


# -------------------------------------------------------------------- messages


def pair(**options: int) -> tuple[WebSocketCodec, WebSocketCodec]:
    return WebSocketCodec("client"), WebSocketCodec("server", **options)


@pytest.mark.parametrize("size", [0, 1, 125, 126, 65_535, 65_536, 300_000])
@pytest.mark.parametrize("back", [False, True])
def test_messages_of_every_size_survive(size: int, back: bool) -> None:
    sender, receiver = pair()
    if back:
        sender, receiver = receiver, sender
    assert receiver.feed(sender.encode(b"x" * size)) == [b"x" * size]
    assert receiver.feed(sender.encode("ü" * (size // 2))) == ["ü" * (size // 2)]
    assert receiver.take_output() == b""


def test_messages_are_put_together_from_any_pieces() -> None:
    client, server = pair()
    data = client.encode("grüße") + client.encode(b"") + client.encode(b"abc")
    found = list(
        itertools.chain.from_iterable(server.feed(data[i : i + 1]) for i in range(len(data)))
    )
    assert found == ["grüße", b"", b"abc"]


def masked(first: int, payload: bytes) -> bytes:
    assert len(payload) < 126
    return bytes([first, 0x80 | len(payload)]) + bytes(4) + payload


def test_fragments_with_a_ping_between_make_one_message_and_one_pong() -> None:
    _, server = pair()
    text = "ü".encode()
    data = masked(0x01, b"a" + text[:1]) + masked(0x89, b"?") + masked(0x80, text[1:])
    assert server.feed(data) == ["aü"]
    assert server.take_output() == b"\x8a\x01?"


def test_pings_are_answered_in_order() -> None:
    _, server = pair()
    assert server.feed(masked(0x89, b"a") + masked(0x89, b"b")) == []
    assert server.take_output() == b"\x8a\x01a\x8a\x01b"
    assert server.take_output() == b""


def test_of_too_many_pings_at_once_the_latest_are_answered() -> None:
    _, server = pair()
    for n in range(1000):
        assert server.feed(masked(0x89, b"%03d" % n)) == []
    assert server.take_output() == b"".join(b"\x8a\x03%03d" % n for n in range(936, 1000))


@pytest.mark.parametrize("kind", [b"x" * 101, "x" * 101, "ü" * 51])
def test_a_message_beyond_the_limit_fails_the_connection_with_1009(kind: str | bytes) -> None:
    client, server = pair(max_message_bytes=100)
    (closed,) = server.feed(client.encode(kind))
    assert isinstance(closed, WebSocketClosed)
    assert (closed.code, closed.by_peer) == (1009, False)
    assert server.is_closed
    assert client.feed(server.take_output()) == [
        WebSocketClosed(1009, "a message is larger than 100 bytes", by_peer=True)
    ]


def test_the_limit_is_on_the_whole_message_not_on_its_fragments() -> None:
    _, server = pair(max_message_bytes=100)
    assert server.feed(masked(0x02, b"x" * 60)) == []
    (closed,) = server.feed(masked(0x80, b"x" * 60))
    assert isinstance(closed, WebSocketClosed)
    assert closed.code == 1009


def test_a_message_of_exactly_the_limit_passes_again_and_again() -> None:
    client, server = pair(max_message_bytes=100)
    for _ in range(3):
        assert server.feed(client.encode(b"x" * 100)) == [b"x" * 100]


def test_endless_empty_fragments_cost_nothing() -> None:
    _, server = pair()
    server.feed(masked(0x01, b""))
    for _ in range(1000):
        assert server.feed(masked(0x00, b"")) == []
    assert server.feed(masked(0x80, b"end")) == ["end"]


@pytest.mark.parametrize(
    ("data", "code"),
    [
        (b"\x81\x01a", 1002),  # not masked
        (masked(0xC1, b"a"), 1002),  # a reserved bit
        (masked(0x83, b"a"), 1002),  # an opcode nobody knows
        (masked(0x80, b"a"), 1002),  # a continuation of nothing
        (masked(0x09, b"a"), 1002),  # a fragmented ping
        (masked(0x81, b"\xff"), 1007),  # not UTF-8
        (masked(0x88, b"\x03"), 1002),  # half a status
        (masked(0x88, b"\x03\xee"), 1002),  # 1006 is not for sending
    ],
)
def test_a_peer_that_breaks_the_protocol_is_told_and_given_up(data: bytes, code: int) -> None:
    _, server = pair()
    (closed,) = server.feed(data)
    assert isinstance(closed, WebSocketClosed)
    assert (closed.code, closed.by_peer) == (code, False)
    assert server.take_output()[:1] == b"\x88"
    assert server.feed(masked(0x81, b"more")) == []
    assert server.take_output() == b""


# -------------------------------------------------------------------- closing


def test_close_is_answered_with_the_same_status() -> None:
    client, server = pair()
    assert server.feed(client.close(4321, "gone")) == [WebSocketClosed(4321, "gone", by_peer=True)]
    assert not server.can_send
    assert client.feed(server.take_output()) == [WebSocketClosed(4321, "gone", by_peer=True)]
    assert client.is_closed


def test_close_without_status_is_1005_on_both_sides() -> None:
    client, server = pair()
    frame = client.close(1005)
    assert len(frame) == 6
    assert server.feed(frame) == [WebSocketClosed(1005, "", by_peer=True)]
    assert server.take_output() == b"\x88\x00"


def test_close_is_said_once() -> None:
    client, _ = pair()
    assert client.close(1000)
    assert client.close(1001) == b""


def test_messages_before_the_close_are_not_lost() -> None:
    client, server = pair()
    data = client.encode("last words") + client.close(1000) + b"rubbish"
    assert server.feed(data) == ["last words", WebSocketClosed(1000, "", by_peer=True)]


def test_messages_that_cross_our_close_are_still_read() -> None:
    client, server = pair()
    close = server.close(1001)
    assert server.feed(client.encode("crossing")) == ["crossing"]
    client.feed(close)
    assert server.feed(client.take_output()) == [WebSocketClosed(1001, "", by_peer=True)]


@pytest.mark.parametrize("code", [0, 999, 1006, 1015, 5000])
def test_a_code_that_must_not_be_sent_is_a_mistake(code: int) -> None:
    client, _ = pair()
    with pytest.raises(ValueError, match=str(code)):
        client.close(code)
    assert client.can_send


def test_a_long_reason_is_cut_at_a_character() -> None:
    client, server = pair()
    (closed,) = server.feed(client.close(1000, "ü" * 100))
    assert isinstance(closed, WebSocketClosed)
    assert closed.reason == "ü" * 61
