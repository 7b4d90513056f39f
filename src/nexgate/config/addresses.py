"""The parts of a network address: hosts, ports, paths of Unix sockets.

Listeners and instances write them in different frames (``host:port``, a URL); the parts are the
same.
"""

from __future__ import annotations

import ipaddress
import re
from typing import Final

from .names import parse_host_name
from .section import wrong

_LONGEST_SOCKET_PATH: Final = 103
"""Of ``sockaddr_un`` on macOS; Linux has 107."""


def parse_host(host: str) -> str:
    """A host name, an IPv4 address, or an IPv6 address in brackets, which are taken off."""
    if host.startswith("[") and host.endswith("]"):
        try:
            return str(ipaddress.IPv6Address(host[1:-1]))
        except ValueError:
            raise wrong("has a malformed IPv6 address") from None
    if re.fullmatch(r"[0-9.]+", host):
        try:
            return str(ipaddress.IPv4Address(host))
        except ValueError:
            raise wrong("has a malformed IPv4 address") from None
    return parse_host_name(host)


def parse_port(text: str, *, least: int = 1) -> int:
    """A port in ASCII digits. ``least=0`` lets the system choose one."""
    if not re.fullmatch(r"[0-9]{1,5}", text, re.ASCII) or not least <= int(text) <= 65535:
        raise wrong("has a malformed port", f"a number from {least} to 65535")
    return int(text)


def parse_socket_path(path: str) -> str:
    """The absolute path of a Unix socket, short enough for the system."""
    if not path.startswith("/") or path.startswith("//") or "\0" in path:
        name = path.strip("/") or "run/nexgate.sock"
        raise wrong("needs an absolute path", f'one slash: "unix:/{name}"')
    if len(path.encode("utf-8", "replace")) > _LONGEST_SOCKET_PATH:
        raise wrong(f"is longer than {_LONGEST_SOCKET_PATH} bytes, the system's limit")
    return path
