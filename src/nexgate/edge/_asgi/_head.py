"""A scope, read with the strictness of a head from the wire.

A server has parsed the request before us, by its own rules, which are laxer than ours in places
that matter (h11 lets Content-Length and Transfer-Encoding pass together). So the fields are written
as lines and read again by the codec. What cannot be written as one line each is refused first.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final
from urllib.parse import quote, unquote

from nexgate.errors import Cause, Refused
from nexgate.http import (
    HeadLimits,
    RequestHead,
    parse_request_fields,
    parse_request_line,
    split_target,
)

__all__ = ["Mounted", "mounted_path", "read_head", "read_target"]

_SAFE_IN_PATH: Final = "/!$&'()*+,:;=@[]^`{|}~"


@dataclass(frozen=True, slots=True)
class Mounted:
    """Where in an application we are mounted, and what is left of the path."""

    prefix: str
    """Without a slash at the end; empty when we are not mounted below anything."""
    path: bytes
    """Percent-encoded, as the client sent it where that is known."""


def mounted_path(scope: Any) -> Mounted:
    """The path below the mount. Raises ``Refused``.

    Frameworks disagree on how to tell a mounted application. After ``/api`` of ``/api/x`` is taken:

    =============================  ===========  =============
    framework                      ``path``     ``root_path``
    =============================  ===========  =============
    ASGI, Starlette, FastAPI       ``/api/x``   ``/api``
    Nexios                         ``/x``       ``/api``
    Litestar                       ``/x``       empty
    =============================  ===========  =============

    ``raw_path`` is the whole path in all of them, so it tells which one it is. (Litestar also adds
    a slash at the end, which the client has not sent and the service does not get.) When it fits
    none, a middleware has rewritten ``path``: then ``path`` is what the application meant.
    """
    path: str = scope["path"]
    root: str = scope.get("root_path", "").rstrip("/")
    raw: bytes | None = scope.get("raw_path")
    if raw is not None:
        raw = raw.partition(b"?")[0]  # some servers left the query in
        whole = unquote(raw.decode("latin-1"))
        if whole == path:
            if not _is_below(path, root):
                return Mounted("", raw)
            return Mounted(root, _without_prefix(raw, root))
        for end in (path, path.removesuffix("/")):
            if end.startswith("/") and whole.endswith(end) and (prefix := whole[: -len(end)]):
                return Mounted(prefix, _without_prefix(raw, prefix))
    if _is_below(path, root):
        path = path[len(root) :]
    return Mounted(root, quote(path, safe=_SAFE_IN_PATH).encode() or b"/")


def _is_below(path: str, root: str) -> bool:
    return bool(root) and (path == root or path.startswith(root + "/"))


def _without_prefix(raw: bytes, prefix: str) -> bytes:
    """``raw`` without the segments that decode to ``prefix``."""
    segments = raw.split(b"/")
    count = prefix.count("/") + 1
    if unquote(b"/".join(segments[:count]).decode("latin-1")) != prefix:
        # An encoded slash in the prefix: the framework took it for a separator. We do not.
        raise Refused(Cause.BAD_PATH, "the prefix of the path contains an encoded slash")
    return b"/" + b"/".join(segments[count:])


def read_target(
    method: str, path: bytes, query: bytes, limits: HeadLimits
) -> tuple[bytes, bytes, bytes | None]:
    """Method, path and query as the edge's own parser would take them. Raises ``Refused``."""
    target = b"%b?%b" % (path, query) if query else path
    line = b"%b %b HTTP/1.1" % (method.encode("latin-1"), target)
    name, target, _ = parse_request_line(line, limits.max_target_bytes)
    if target == b"*":
        return name, target, None
    return name, *split_target(target)


def read_head(
    headers: list[tuple[bytes, bytes]], scope: Any, limits: HeadLimits, *, leave_out: Any = ()
) -> RequestHead:
    """The head for ``headers`` without those named in ``leave_out``. Raises ``Refused``.

    HTTP/2 has no Host of its own; what its server made of ``:authority`` is taken, or else the
    address of the server.
    """
    version: str = scope.get("http_version", "1.1")
    is_binary = not version.startswith("1")
    lines: list[bytes] = []
    cookies: list[bytes] = []
    authority: bytes | None = None
    has_host = False
    size = 0
    for name, value in headers:
        if b":" in name:
            if is_binary and name.startswith(b":"):
                if name == b":authority":
                    authority = value
                continue
            raise Refused(Cause.BAD_REQUEST, "a field name is not a token")
        name = name.lower()
        if name in leave_out:
            continue
        if is_binary:
            if name in (b"transfer-encoding", b"connection"):
                # RFC 9113 §8.2.2: a message with these is malformed.
                raise Refused(Cause.BAD_REQUEST, f"{name.decode()} has no place in HTTP/2")
            if name == b"cookie":
                cookies.append(value)
                continue
        has_host = has_host or name == b"host"
        lines.append(b"%b: %b" % (name, value))
        size += len(lines[-1]) + 2
    if cookies:
        # RFC 9113 §8.2.3: crumbs become one field before they are passed on.
        lines.append(b"cookie: " + b"; ".join(cookies))
    if is_binary and not has_host:
        lines.append(b"host: " + (authority or _server_of(scope)))
    if size > limits.max_bytes:
        raise Refused(Cause.HEAD_TOO_LARGE, f"the limit is {limits.max_bytes} bytes")
    section = b"\r\n".join(lines)
    if section.count(b"\r\n") != max(0, len(lines) - 1):
        raise Refused(Cause.BAD_REQUEST, "a field value contains a control character")
    head = parse_request_fields(section, limits.max_fields, http10=version in ("1.0", "0.9"))
    # The server answers Expect itself, when it is asked for content.
    head.expects_continue = False
    return head


def _server_of(scope: Any) -> bytes:
    server = scope.get("server")
    if not server:
        return b"localhost"
    host, port = server
    shown = f"[{host}]" if ":" in host else host
    return (f"{shown}:{port}" if port else shown).encode("latin-1")
