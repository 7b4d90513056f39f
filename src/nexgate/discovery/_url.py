"""The URL of an instance, in the form that is its identity."""

from __future__ import annotations

import re
from typing import Final

from nexgate.config import parse_host, parse_object_path, parse_port, parse_socket_path
from nexgate.state import Scope

__all__ = ["may_come_from", "normal_url"]

_AUTHORITY: Final = re.compile(r"(\[[^\]]*\]|[^\]:]*)(?::([^:]*))?")


def may_come_from(url: str, scope: Scope) -> bool:
    """Whether whoever shares ``scope`` with us may send our requests to ``url``.

    ``asgi:`` imports code, and ``unix:`` opens a socket on this machine, perhaps one that rules it:
    neither means anything to who writes from elsewhere, except harm.
    """
    scheme = url.partition(":")[0]
    return (
        scheme in ("http", "https")
        or scope == "process"
        or (scheme == "unix" and scope == "machine")
    )


def normal_url(value: object) -> str:
    """``http://host[:port]``, ``https://host[:port]``, ``unix:/path`` or ``asgi:module:app``.

    Scheme and host come out in lower case, without a slash at the end. What the gateway's
    configuration refuses as an instance is refused here, with ``ValueError``: a record in a
    registry is no more to be trusted than a person's typing.
    """
    if not isinstance(value, str):
        raise ValueError("must be a URL")
    scheme, colon, rest = value.partition(":")
    scheme = scheme.lower()
    if not colon or scheme not in ("http", "https", "unix", "asgi"):
        raise ValueError(
            "must be http://host:port, https://host:port, unix:/path or asgi:module:app"
        )
    if scheme == "unix":
        return f"unix:{parse_socket_path(rest)}"
    if scheme == "asgi":
        return f"asgi:{parse_object_path(rest)}"
    if "@" in rest:
        raise ValueError("has credentials in it, or another @")
    found = _AUTHORITY.fullmatch(rest[2:].removesuffix("/")) if rest.startswith("//") else None
    if found is None or not found[1]:
        raise ValueError("must be a scheme, a host and a port, and nothing else")
    host, port = parse_host(found[1]), found[2]
    bare = f"[{host}]" if ":" in host else host
    return f"{scheme}://{bare}" if port is None else f"{scheme}://{bare}:{parse_port(port)}"
