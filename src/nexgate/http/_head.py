"""Heads: the request line or status line, the fields, and what they say about the body.

This module decides what a message *means*, so it is where smuggling is stopped. The rules it
enforces and their sources:

========================================================  =====================================
request line is ``method SP target SP HTTP/1.[01]``       RFC 9112 §3; no leniency of §3 ¶3
target is origin-, absolute- or asterisk-form              RFC 9112 §3.2; CONNECT is not implemented
exactly one valid Host (none only on HTTP/1.0)             RFC 9112 §3.2 ("MUST respond with 400")
absolute-form wins over Host                               RFC 9112 §3.2.2
Transfer-Encoding is exactly ``chunked``, once             RFC 9112 §6.1, §6.3
Transfer-Encoding on HTTP/1.0 is an error                  RFC 9112 §6.1 ("MUST treat as faulty")
Content-Length with Transfer-Encoding is an error          RFC 9112 §6.3 ("ought to be an error")
Content-Length is 1*DIGIT, once                            RFC 9112 §6.3; equal values do not merge
field lines: no folding, no space before the colon         RFC 9112 §5.1, §5.2
CR, LF and NUL appear nowhere but as line ends             RFC 9110 §5.5, RFC 9112 §2.2
========================================================  =====================================

Both directions are held to the same standard; only the error differs (400 for a client, 502 for a
service).
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from http import HTTPStatus
from typing import Final

from nexgate.errors import Cause, Refused
from nexgate.http._fields import LINES, Field, InvalidField, parse_field_line

__all__ = [
    "HeadLimits",
    "RequestHead",
    "ResponseHead",
    "parse_request_fields",
    "parse_request_head",
    "parse_request_line",
    "parse_response_head",
    "reason_phrase",
    "resolve_target",
    "split_target",
]

_TOKEN: Final = re.compile(rb"[!#$%&'*+\-.^_`|~0-9A-Za-z]+").fullmatch
# What may stand in a request target (RFC 3986 plus what browsers send raw in queries); no fragment.
_TARGET_BYTES: Final = bytes(set(range(0x21, 0x7F)) - set(b'#"<>'))
# uri-host [":" port] (RFC 9110 §7.2), without percent-encoding and sub-delims, which no DNS name
# has.
_AUTHORITY: Final = re.compile(
    rb"((?:[A-Za-z0-9_](?:[A-Za-z0-9_.\-]*[A-Za-z0-9_.])?|\[[0-9A-Fa-f:.]+\]))(?::([0-9]{1,5}))?"
).fullmatch
_ABSOLUTE: Final = re.compile(rb"(?i:https?)://([^/?]*)([/?].*)?", re.S).fullmatch
_STATUS_LINE: Final = re.compile(
    rb"HTTP/1\.([01]) ([1-5][0-9]{2})(?: ([\t \x21-\x7e\x80-\xff]*))?"
).fullmatch
_NOT_IMPLEMENTED: Final = frozenset((b"CONNECT", b"TRACE"))
_METHODS: Final = frozenset((b"GET", b"HEAD", b"POST", b"PUT", b"PATCH", b"DELETE", b"OPTIONS"))
_REASONS: Final = {s.value: s.phrase.encode() for s in HTTPStatus}
_MAX_LENGTH_DIGITS: Final = 18  # below 2**63: no reader of the number can overflow

_MAX_REMEMBERED: Final = 256

_hosts: dict[bytes, bytes | None] = {}
_connections: dict[bytes, tuple[bytes, ...] | None] = {}


@dataclass(frozen=True, slots=True)
class HeadLimits:
    """Bounds on one head. ``max_bytes`` counts everything up to the empty line."""

    max_bytes: int = 32 * 1024
    max_fields: int = 100
    max_target_bytes: int = 8 * 1024


class RequestHead:
    """What the fields of a request say. Shared by requests that send the same fields: never
    changed.

    A client on a kept-alive connection repeats its fields, so the connection keeps its last
    ``RequestHead`` and the bytes it came from; equal bytes need no second reading. ``encoded`` and
    its key are where the upstream side remembers the forwarded form, for the same reason.
    """

    __slots__ = (
        "authority",
        "chunked",
        "content_length",
        "encoded",
        "encoded_base",
        "encoded_drop",
        "encoded_host",
        "expects_continue",
        "fields",
        "flags",
        "has_body",
        "host",
        "http10",
        "keep_alive",
        "max_forwards",
        "named",
        "te_trailers",
        "upgrade",
    )

    def __init__(self, fields: list[Field], *, http10: bool) -> None:
        self.fields = fields
        self.http10 = http10
        self.authority: bytes = b""
        """Host as the client means it, with its port; empty only on HTTP/1.0."""
        self.host: bytes = b""
        """Lower-case, without port and trailing dot: what routes match."""
        self.content_length: int | None = None
        self.chunked = False
        self.has_body = False
        self.keep_alive = not http10
        self.upgrade: bytes | None = None
        """The protocols asked for, when Connection names Upgrade too."""
        self.expects_continue = False
        self.te_trailers = False
        self.named: tuple[bytes, ...] = ()
        """Fields that Connection names, which therefore end here (RFC 9110 §7.6.1)."""
        self.max_forwards: int | None = None
        self.flags = 0
        """The kinds of all fields, or-ed: one look tells which rules need a closer one."""
        self.encoded: bytes | None = None
        self.encoded_host: bytes | None = None
        self.encoded_base: bytes | None = None
        self.encoded_drop = 0

    def changed(self, *, content_length: int | None = None) -> RequestHead:
        """A copy for one exchange whose body was read and is forwarded as ``content_length``
        bytes.
        """
        copy = RequestHead(self.fields, http10=self.http10)
        for name in (
            "authority",
            "host",
            "keep_alive",
            "upgrade",
            "te_trailers",
            "named",
            "max_forwards",
        ):
            setattr(copy, name, getattr(self, name))
        copy.flags = self.flags
        copy.content_length = self.content_length if content_length is None else content_length
        copy.chunked = self.chunked and content_length is None
        copy.has_body = copy.chunked or bool(copy.content_length)
        return copy


class ResponseHead:
    """A response head that passed every check. Shared by responses with equal bytes: never changed.

    ``encoded`` is where the edge remembers the form it sends to an HTTP/1.1 client.
    """

    __slots__ = (
        "chunked",
        "content_length",
        "encoded",
        "fields",
        "flags",
        "http10",
        "keep_alive",
        "named",
        "reason",
        "status",
        "until_close",
        "upgrade",
    )

    def __init__(self) -> None:
        self.status = 0
        self.reason = b""
        self.http10 = False
        self.fields: list[Field] = []
        self.flags = 0
        self.content_length: int | None = None
        """Of the body that follows on this connection: 0 for HEAD, 1xx, 204, 304."""
        self.chunked = False
        self.until_close = False
        self.keep_alive = True
        self.named: tuple[bytes, ...] = ()
        self.upgrade: bytes | None = None
        self.encoded: bytes | None = None


def reason_phrase(status: int) -> bytes:
    """The phrase that RFC 9110 gives the status; empty for others."""
    return _REASONS.get(status, b"")


def _learn_host(authority: bytes) -> bytes | None:
    """The lower-case host of a valid authority, None for an invalid one; remembered, bounded."""
    m = _AUTHORITY(authority)
    host: bytes | None = None
    if m is not None and int(m[2] or 0) < 65536:
        host = m[1].lower().removesuffix(b".") or None
        if host is not None and b".." in host:
            host = None
    if len(authority) <= _MAX_REMEMBERED:
        if len(_hosts) >= 1024:
            _hosts.clear()
        _hosts[authority] = host
    return host


def _learn_connection(value: bytes) -> tuple[bytes, ...] | None:
    """The connection options of a Connection value, lower-case; None if it is not a list of
    tokens.
    """
    options: tuple[bytes, ...] | None
    members = [m.strip(b" \t") for m in value.lower().split(b",")]
    options = tuple(m for m in members if m)
    if not all(_TOKEN(m) for m in options):
        options = None
    if len(_connections) >= 256:
        _connections.clear()
    if len(value) <= 128:
        _connections[value] = options
    return options


def _connection_options(value: bytes, cause: Cause) -> tuple[bytes, ...]:
    options = _connections.get(value)
    if options is None:
        options = _learn_connection(value)
        if options is None:
            raise Refused(cause, "Connection is not a list of tokens")
    return options


def _content_length(value: bytes, seen: int | None, cause: Cause) -> int:
    if seen is not None:
        raise Refused(cause, "Content-Length occurs twice")
    # bytes.isdigit() is ASCII only, unlike str.isdigit(); int() alone would take b"+5" and b"1_0".
    if not value.isdigit() or len(value) > _MAX_LENGTH_DIGITS:
        raise Refused(cause, "Content-Length is not a decimal number")
    return int(value)


def split_target(target: bytes) -> tuple[bytes, bytes | None]:
    """Path and query of an origin-form target; the path's own characters are judged by routing."""
    path, mark, query = target.partition(b"?")
    if not mark:
        return path, None
    if query.translate(None, _TARGET_BYTES):
        raise Refused(Cause.BAD_REQUEST, "the query contains an illegal character")
    return path, query


def parse_request_line(line: bytes, max_target_bytes: int) -> tuple[bytes, bytes, bool]:
    """Method, target and whether it is HTTP/1.0. Raises ``Refused``."""
    parts = line.split(b" ")
    if len(parts) != 3:
        raise Refused(Cause.BAD_REQUEST, "the request line is not 'method target version'")
    method, target, version = parts
    if method not in _METHODS and _TOKEN(method) is None:
        raise Refused(Cause.BAD_REQUEST, "the method is not a token")
    http10 = False
    if version != b"HTTP/1.1":
        if version == b"HTTP/1.0":
            http10 = True
        elif re.fullmatch(rb"HTTP/[0-9]\.[0-9]", version):
            raise Refused(Cause.UNKNOWN_VERSION, "only HTTP/1.0 and HTTP/1.1 are spoken here")
        else:
            raise Refused(Cause.BAD_REQUEST, "the HTTP version is malformed")
    if len(target) > max_target_bytes:
        raise Refused(Cause.URI_TOO_LONG, f"the limit is {max_target_bytes} bytes")
    if not target:
        raise Refused(Cause.BAD_REQUEST, "there is no request target")
    if method in _NOT_IMPLEMENTED:
        raise Refused(Cause.NOT_IMPLEMENTED, f"{method.decode()} is not available here")
    return method, target, http10


def _read_fields(lines: list[bytes], cause: Cause) -> tuple[list[Field], int, list[Field] | None]:
    """Fields, their kinds or-ed, and those that change how the message is read."""
    fields: list[Field] = []
    known = LINES.get
    special: list[Field] | None = None
    flags = 0
    try:
        for line in lines:
            field = known(line)
            if field is None:
                field = parse_field_line(line)
            fields.append(field)
            kind = field[3]
            flags |= kind
            if kind & 2:  # Kind.SEEN, spelled out: this is the innermost loop of the gateway
                if special is None:
                    special = [field]
                else:
                    special.append(field)
    except InvalidField as error:
        raise Refused(cause, error.args[0]) from None
    return fields, flags, special


def parse_request_fields(section: bytes, max_fields: int, *, http10: bool) -> RequestHead:
    """The fields of a request: ``section`` is what stands between request line and empty line."""
    fields: list[Field] = []
    special: list[Field] | None = None
    flags = 0
    if section:
        lines = section.split(b"\r\n")
        if len(lines) > max_fields:
            raise Refused(Cause.HEAD_TOO_LARGE, f"the limit is {max_fields} fields")
        fields, flags, special = _read_fields(lines, Cause.BAD_REQUEST)
    head = RequestHead(fields, http10=http10)
    head.flags = flags
    authority = _read_special(head, special) if special is not None else None
    if authority is None:
        if not http10:
            raise Refused(Cause.BAD_REQUEST, "there is no Host")
        return head
    _set_authority(head, authority)
    return head


def _set_authority(head: RequestHead, authority: bytes) -> None:
    host = _hosts.get(authority)
    if host is None:
        host = _learn_host(authority)
        if host is None:
            raise Refused(Cause.BAD_REQUEST, "Host is not a valid host and port")
    head.authority = authority
    head.host = host


def resolve_target(head: RequestHead, method: bytes, target: bytes) -> tuple[RequestHead, bytes]:
    """Absolute-form and asterisk-form: the head with the authority that counts, and path with
    query.

    The authority of an absolute target replaces Host (RFC 9112 §3.2.2), in a copy of the head.
    """
    if target.translate(None, _TARGET_BYTES):
        raise Refused(Cause.BAD_REQUEST, "the request target contains an illegal character")
    if target == b"*":
        if method != b"OPTIONS":
            raise Refused(Cause.BAD_REQUEST, "the target '*' is for OPTIONS only")
        return head, target
    m = _ABSOLUTE(target)
    if m is None:
        raise Refused(Cause.BAD_REQUEST, "the request target is not a path or an http URL")
    copy = head.changed()
    copy.expects_continue = head.expects_continue
    _set_authority(copy, m[1])
    path = m[2] or b"/"
    return copy, path if path.startswith(b"/") else b"/" + path


def parse_request_head(
    head: bytes, limits: HeadLimits
) -> tuple[bytes, bytes, bytes | None, RequestHead]:
    """Everything before the empty line: method, path, query, fields. Raises ``Refused``.

    ``head`` excludes the final CRLFCRLF; the caller has bounded its length. The path is as received
    (not normalised), or ``*``; the query is None when there is no ``?``.
    """
    line, _, section = head.partition(b"\r\n")
    method, target, http10 = parse_request_line(line, limits.max_target_bytes)
    request = parse_request_fields(section, limits.max_fields, http10=http10)
    if target[0] != 0x2F:
        request, target = resolve_target(request, method, target)
    path, query = split_target(target)
    return method, path, query, request


def _read_special(request: RequestHead, special: list[Field]) -> bytes | None:
    """What Host, framing and connection fields say; returns the Host value or None."""
    authority: bytes | None = None
    coding: bytes | None = None
    upgrade: bytes | None = None
    named: tuple[bytes, ...] = ()
    for field in special:
        name = field[0]
        value = field[1]
        if name == b"host":
            if authority is not None:
                raise Refused(Cause.BAD_REQUEST, "Host occurs twice")
            authority = value
        elif name == b"connection":
            named += _connection_options(value, Cause.BAD_REQUEST)
        elif name == b"content-length":
            request.content_length = _content_length(
                value, request.content_length, Cause.BAD_FRAMING
            )
        elif name == b"transfer-encoding":
            if coding is not None:
                raise Refused(Cause.BAD_FRAMING, "Transfer-Encoding occurs twice")
            coding = value
        elif name == b"upgrade":
            upgrade = value if upgrade is None else upgrade + b", " + value
        elif name == b"expect":
            if value.lower() != b"100-continue":
                raise Refused(Cause.EXPECTATION_FAILED, "the only expectation is 100-continue")
            request.expects_continue = not request.http10  # RFC 9110 §10.1.1: 1.0 cannot mean it
        elif name == b"te":
            request.te_trailers |= any(
                part.strip(b" \t").lower() == b"trailers" for part in value.split(b",")
            )
        elif name == b"max-forwards":
            if not value.isdigit() or len(value) > 9:
                raise Refused(Cause.BAD_REQUEST, "Max-Forwards is not a number")
            request.max_forwards = int(value)
    if coding is not None:
        if request.content_length is not None:
            raise Refused(Cause.BAD_FRAMING, "both Content-Length and Transfer-Encoding are there")
        if request.http10:
            raise Refused(Cause.BAD_FRAMING, "Transfer-Encoding is not part of HTTP/1.0")
        _check_coding(coding)
        request.chunked = True
        request.has_body = True
    elif request.content_length:
        request.has_body = True
    if not request.has_body:
        request.expects_continue = False  # RFC 9110 §10.1.1: nothing to wait for
    if named:
        if b"close" in named:
            request.keep_alive = False
        elif b"keep-alive" in named:
            request.keep_alive = True
        if upgrade is not None and b"upgrade" in named and not request.http10:
            request.upgrade = _forwardable_upgrade(upgrade)
        request.named = tuple(n for n in named if n not in _ROUTINE_OPTIONS)
    return authority


def _forwardable_upgrade(upgrade: bytes) -> bytes | None:
    """The protocols of Upgrade that a tunnel can carry.

    HTTP/2 and TLS upgrades would put a protocol behind our back whose requests we never see (h2c
    smuggling), so they are taken out; the request is then an ordinary one (RFC 9110 §7.8: a server
    may ignore Upgrade).
    """
    kept = [
        p
        for member in upgrade.split(b",")
        if (p := member.strip(b" \t")) and not p.lower().startswith((b"h2", b"http/", b"tls"))
    ]
    if not all(_TOKEN(p.partition(b"/")[0]) for p in kept):
        raise Refused(Cause.BAD_REQUEST, "Upgrade is not a list of protocols")
    return b", ".join(kept) or None


_ROUTINE_OPTIONS: Final = frozenset((b"close", b"keep-alive", b"upgrade", b"te"))


def _check_coding(coding: bytes) -> None:
    if coding.lower() == b"chunked":
        return
    members = [m.strip(b" \t").lower() for m in coding.split(b",")]
    if all(members) and members[-1] == b"chunked" and members.count(b"chunked") == 1:
        if b"identity" not in members:
            raise Refused(Cause.UNKNOWN_CODING, "chunked is the only transfer coding")
    raise Refused(Cause.BAD_FRAMING, "Transfer-Encoding is not 'chunked'")


def parse_response_head(head: bytes, max_fields: int, *, head_request: bool) -> ResponseHead:
    """Parse everything before the empty line. Raises ``Refused(UPSTREAM_MALFORMED)``.

    ``head_request`` says that the request was HEAD, whose answer has no body whatever it claims.
    """
    lines = head.split(b"\r\n")
    m = _STATUS_LINE(lines[0])
    if m is None:
        raise Refused(Cause.UPSTREAM_MALFORMED, "the status line is malformed")
    if len(lines) > max_fields + 1:
        raise Refused(Cause.UPSTREAM_MALFORMED, "there are too many fields")
    response = ResponseHead()
    minor, code, reason = m.groups()
    status = response.status = int(code)
    response.reason = reason or b""
    if minor == b"0":
        response.http10 = True
        response.keep_alive = False
    response.fields, response.flags, special = _read_fields(lines[1:], Cause.UPSTREAM_MALFORMED)
    chunked = special is not None and _read_special_response(response, special)
    # RFC 9112 §6.3: in this order.
    if head_request or status == 204 or status == 304 or status < 200:
        response.content_length = 0
    elif chunked:
        response.chunked = True
    elif response.content_length is None:
        response.until_close = True
        response.keep_alive = False
    return response


def _read_special_response(response: ResponseHead, special: list[Field]) -> bool:
    coding: bytes | None = None
    named: tuple[bytes, ...] = ()
    for field in special:
        name = field[0]
        value = field[1]
        if name == b"content-length":
            response.content_length = _content_length(
                value, response.content_length, Cause.UPSTREAM_MALFORMED
            )
        elif name == b"transfer-encoding":
            if coding is not None:
                raise Refused(Cause.UPSTREAM_MALFORMED, "Transfer-Encoding occurs twice")
            coding = value
        elif name == b"connection":
            named += _connection_options(value, Cause.UPSTREAM_MALFORMED)
        elif name == b"upgrade":
            response.upgrade = value
    if coding is not None:
        if response.content_length is not None:
            raise Refused(
                Cause.UPSTREAM_MALFORMED, "both Content-Length and Transfer-Encoding are there"
            )
        if response.http10:
            raise Refused(Cause.UPSTREAM_MALFORMED, "Transfer-Encoding is not part of HTTP/1.0")
        if coding.lower() != b"chunked":
            raise Refused(Cause.UPSTREAM_MALFORMED, "Transfer-Encoding is not 'chunked'")
    if named:
        if b"close" in named:
            response.keep_alive = False
        elif b"keep-alive" in named:
            response.keep_alive = True
        response.named = tuple(n for n in named if n not in _ROUTINE_OPTIONS)
    return coding is not None
