"""The request head that a service receives: the header rules of a gateway, in one place.

What ends here and what goes on (RFC 9110 §7.6): connection fields and whatever Connection names end
here; Host, framing, Via and the forwarded fields are written anew; everything else is passed on as
it came, in order, byte for byte.
"""

from __future__ import annotations

from typing import Final

from nexgate.exchange import Exchange
from nexgate.http import Kind, RequestHead

__all__ = ["DROP_ALWAYS", "encode_request_head"]

DROP_ALWAYS: Final = Kind.HOP | Kind.FORWARDED | Kind.VIA | Kind.REQUEST_ID


def encode_request_head(exchange: Exchange, host: bytes, drop: int) -> bytes:
    """The head for one attempt. ``host`` is the Host value; ``drop`` the kinds of field that end
    here.

    What does not depend on the single request (everything but its first line and its id) is
    remembered with the fields it was made from.
    """
    head = exchange.head
    target = exchange.path
    query = exchange.raw_query
    if query is not None:
        target = b"%b?%b" % (target, query)
    base = exchange.forward_base
    if (
        head.encoded_base is base
        and head.encoded_host == host
        and head.encoded_drop == drop
        and exchange.fields is head.fields
        and head.encoded is not None
    ):
        rest = head.encoded
    else:
        rest = _encode_rest(exchange, head, host, drop)
        if exchange.fields is head.fields and not head.flags & Kind.RARE:
            head.encoded = rest
            head.encoded_base = base
            head.encoded_host = host
            head.encoded_drop = drop
    return b"%b %b HTTP/1.1\r\n%b%b: %b\r\n\r\n" % (
        exchange.method,
        target,
        rest,
        exchange.id_name,
        exchange.id,
    )


def _encode_rest(exchange: Exchange, head: RequestHead, host: bytes, drop: int) -> bytes:
    lines = [b"Host: " + host]
    if head.named or head.flags & Kind.RARE:
        # Connection may name what the client sent, not what a policy has set since.
        sent = {id(field) for field in head.fields}
        for field in exchange.fields:
            name = field[0]
            if field[3] & drop or (name in head.named and id(field) in sent):
                continue
            if name == b"expect" and not head.expects_continue:
                continue  # already satisfied here
            if name == b"max-forwards" and head.max_forwards and exchange.method == b"OPTIONS":
                lines.append(b"Max-Forwards: %d" % (head.max_forwards - 1))
                continue
            lines.append(field[2])
    else:
        lines += [f[2] for f in exchange.fields if not f[3] & drop]
    if exchange.forward_base:
        lines.append(exchange.forward_base)
    if head.content_length is not None:
        lines.append(b"Content-Length: %d" % head.content_length)
    elif head.chunked:
        lines.append(b"Transfer-Encoding: chunked")
    if head.upgrade is not None:
        lines.append(b"Connection: Upgrade\r\nUpgrade: " + head.upgrade)
    elif head.te_trailers:
        lines.append(b"Connection: TE\r\nTE: trailers")
    lines.append(b"")
    return b"\r\n".join(lines)
