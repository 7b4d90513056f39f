"""Who the client is: Forwarded (RFC 7239) and X-Forwarded-*, believed only from trusted proxies.

What a stranger says about itself is dropped and replaced; what a trusted proxy says is kept and
extended. The client address is found by walking the chain from the right, because only the right
end was written by someone we know: each address that is itself a trusted proxy is skipped, the
first that is not is the client.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from ipaddress import IPv4Network, IPv6Network, ip_address, ip_network
from typing import Final, Literal

from nexgate.http._fields import Field

__all__ = ["ForwardedMode", "ForwardedRules", "TrustedProxies"]

ForwardedMode = Literal["x-forwarded", "rfc7239", "both", "off"]

_PAIR: Final = re.compile(
    rb"[ \t]*([!#$%&'*+\-.^_`|~0-9A-Za-z]+)="
    rb"(?:([!#$%&'*+\-.^_`|~0-9A-Za-z]+)|\"((?:[^\"\\]|\\.)*)\")[ \t]*"
)


class TrustedProxies:
    """A set of networks. Lookups are remembered (bounded), because peers repeat."""

    __slots__ = ("_known", "_networks")

    def __init__(self, networks: Iterable[str] = ()) -> None:
        self._networks: tuple[IPv4Network | IPv6Network, ...] = tuple(
            ip_network(n, strict=False) for n in networks
        )
        self._known: dict[str, bool] = {}

    def __bool__(self) -> bool:
        return bool(self._networks)

    def __contains__(self, address: str) -> bool:
        if not self._networks:
            return False
        known = self._known.get(address)
        if known is None:
            try:
                ip = ip_address(address)
            except ValueError:
                known = False
            else:
                if ip.version == 6 and ip.ipv4_mapped is not None:
                    ip = ip.ipv4_mapped
                known = any(ip in n for n in self._networks if n.version == ip.version)
            if len(self._known) >= 4096:
                self._known.clear()
            self._known[address] = known
        return known


@dataclass(frozen=True, slots=True)
class ForwardedRules:
    """What is written to services, and whom we believe."""

    mode: ForwardedMode = "x-forwarded"
    trusted: TrustedProxies = TrustedProxies()

    def lines(
        self,
        peer: str,
        scheme: str,
        authority: bytes,
        received: list[Field],
        *,
        trust_peer: bool = False,
    ) -> tuple[list[bytes], str, str]:
        """The lines to forward, the client's address and its scheme.

        ``received`` are the fields of kind FORWARDED that came in, in order; ``peer`` is the
        address of the socket, empty for a Unix socket; ``trust_peer`` says that its listener trusts
        every peer.
        """
        believed = received if (received and (trust_peer or peer in self.trusted)) else []
        chain = _x_forwarded_for(believed)
        if not chain:
            chain = _forwarded_for(believed)
        client = self._client(chain, peer)
        scheme_seen = _last_value(believed, b"x-forwarded-proto") or _forwarded_param(
            believed, b"proto"
        )
        client_scheme = scheme
        if scheme_seen is not None and scheme_seen.lower() in (b"http", b"https"):
            client_scheme = scheme_seen.lower().decode()
        host_seen = _last_value(believed, b"x-forwarded-host") or authority
        node = peer or "unknown"
        out: list[bytes] = []
        if self.mode in ("x-forwarded", "both"):
            chain_text = ", ".join([*chain, node]) if chain else node
            out.append(b"X-Forwarded-For: " + chain_text.encode("latin-1"))
            out.append(b"X-Forwarded-Proto: " + client_scheme.encode())
            if host_seen:
                out.append(b"X-Forwarded-Host: " + host_seen)
        if self.mode in ("rfc7239", "both"):
            before = b", ".join(f.value for f in believed if f.name == b"forwarded" and f.value)
            element = forwarded_element(node, scheme, authority)
            out.append(b"Forwarded: " + (before + b", " + element if before else element))
        return out, client, client_scheme

    def _client(self, chain: list[str], peer: str) -> str:
        client = peer
        for n, address in enumerate(reversed(chain)):
            if n and client not in self.trusted:
                break
            try:
                ip_address(address)
            except ValueError:
                break  # malformed or obfuscated: believe no further than here
            client = address
        return client


def forwarded_element(peer: str, scheme: str, authority: bytes) -> bytes:
    """One element of Forwarded (RFC 7239 §4): IPv6 and ports quoted."""
    node = f'"[{peer}]"' if ":" in peer else peer
    element = f"for={node};proto={scheme}".encode("latin-1")
    if authority:
        quoted = authority if re.fullmatch(rb"[A-Za-z0-9.\-]+", authority) else b'"%b"' % authority
        element += b";host=" + quoted
    return element


def _strip_port(node: str) -> str:
    """``192.0.2.1:80`` and ``[2001:db8::1]:80`` without the port; a bare IPv6 address as it is."""
    if node.startswith("["):
        return node[1:].partition("]")[0]
    if node.count(":") == 1:
        return node.partition(":")[0]
    return node


def _x_forwarded_for(fields: list[Field]) -> list[str]:
    chain: list[str] = []
    for field in fields:
        if field.name == b"x-forwarded-for":
            for member in field.value.split(b","):
                node = member.strip(b" \t").decode("latin-1")
                if node:
                    chain.append(_strip_port(node))
    return chain


def _elements(fields: list[Field]) -> list[dict[bytes, bytes]]:
    """Elements of every Forwarded field; a malformed field empties the whole list (believe
    nothing).
    """
    elements: list[dict[bytes, bytes]] = []
    for field in fields:
        if field.name != b"forwarded":
            continue
        at = 0
        value = field.value
        element: dict[bytes, bytes] = {}
        while at < len(value):
            m = _PAIR.match(value, at)
            if m is None or m[1].lower() in element:
                return []
            text = m[2] if m[2] is not None else re.sub(rb"\\(.)", rb"\1", m[3])
            element[m[1].lower()] = text
            at = m.end()
            mark = value[at : at + 1]
            if mark == b",":
                elements.append(element)
                element = {}
            elif mark not in (b";", b""):
                return []
            at += 1
        if element:
            elements.append(element)
    return elements


def _forwarded_for(fields: list[Field]) -> list[str]:
    return [_strip_port(e[b"for"].decode("latin-1")) for e in _elements(fields) if b"for" in e]


def _forwarded_param(fields: list[Field], name: bytes) -> bytes | None:
    for element in reversed(_elements(fields)):
        if name in element:
            return element[name]
    return None


def _last_value(fields: list[Field], name: bytes) -> bytes | None:
    for field in reversed(fields):
        if field.name == name and field.value:
            return field.value.rpartition(b",")[2].strip(b" \t") or None
    return None
