"""Who calls: the names in a peer's certificate, and the field that tells them to the program.

The field is ``X-Forwarded-Client-Cert``, in the form that proxies have agreed on::

    Hash=0e42…;Subject="CN=orders,O=Example";URI=spiffe://example/orders;DNS=orders;DNS=orders.mesh

``Hash`` is the SHA-256 of the certificate. ``Subject`` is written as in RFC 4514: the last part
of the certificate's subject comes first. ``URI`` and ``DNS`` are its alternative names, the first
32 of them. A value with a character that means something here is quoted, and ``"`` and ``\\`` in it
have a ``\\`` before them.
"""

from __future__ import annotations

import hashlib
import re
import ssl
from dataclasses import dataclass
from typing import Any, Final

from nexgate.http import Field, make_field

__all__ = ["FIELD_NAME", "Identity", "identity_of"]

FIELD_NAME: Final = b"x-forwarded-client-cert"
_WRITTEN: Final = b"X-Forwarded-Client-Cert"
_SHORT: Final = {
    "commonName": "CN",
    "organizationName": "O",
    "organizationalUnitName": "OU",
    "countryName": "C",
    "localityName": "L",
    "stateOrProvinceName": "ST",
}
_SPECIAL: Final = ',+"\\<>;='
_PLAIN: Final = re.compile(r"[A-Za-z0-9.*_:/@+-]+")
_MOST_NAMES: Final = 32
"""That are told: a certificate with a thousand must not make a head that the program refuses."""


@dataclass(frozen=True, slots=True)
class Identity:
    """A peer whose certificate was verified."""

    names: frozenset[str]
    """DNS names and common names, in lower case."""
    subject: str
    field: Field
    """Tells it to the program."""

    def __str__(self) -> str:
        return ", ".join(sorted(self.names)) or self.subject


def identity_of(peer: ssl.SSLObject | None) -> Identity | None:
    """The identity of the other end; ``None`` when it showed no certificate."""
    found: dict[str, Any] = peer.getpeercert() or {} if peer is not None else {}
    der = peer.getpeercert(binary_form=True) if peer is not None else None
    if der is None:
        return None
    parts = [pair for relative in found.get("subject", ()) for pair in relative]
    alternatives = found.get("subjectAltName", ())
    names = {value for kind, value in alternatives if kind == "DNS"}
    names |= {value for kind, value in parts if kind == "commonName"}
    subject = ",".join(
        "+".join(f"{_SHORT.get(kind, kind)}={_escape(value)}" for kind, value in relative)
        for relative in reversed(found.get("subject", ()))
    )
    elements = [
        f"Hash={hashlib.sha256(der).hexdigest()}",
        f"Subject={_quote(subject, always=True)}",
    ]
    for wanted in ("URI", "DNS"):
        told = alternatives[:_MOST_NAMES]
        elements += [f"{wanted}={_quote(value)}" for kind, value in told if kind == wanted]
    value = ";".join(elements).encode("ascii")
    return Identity(frozenset(name.lower() for name in names), subject, make_field(_WRITTEN, value))


def _escape(text: str) -> str:
    """A value of a subject (RFC 4514 §2.4); what is not printable ASCII as ``\\XX``."""
    escaped = "".join(
        f"\\{c}" if c in _SPECIAL else c if " " <= c <= "~" else _as_bytes(c) for c in text
    )
    if escaped[:1] in ("#", " "):
        escaped = "\\" + escaped
    if text.endswith(" ") and len(text) > 1:
        escaped = escaped[:-1] + "\\ "
    return escaped


def _as_bytes(character: str) -> str:
    return "".join(f"\\{byte:02X}" for byte in character.encode("utf-8", "replace"))


def _quote(text: str, *, always: bool = False) -> str:
    if not always and _PLAIN.fullmatch(text):
        return text
    inner = text if always else _escape_unprintable(text)
    return '"' + inner.replace("\\", "\\\\").replace('"', '\\"') + '"'


def _escape_unprintable(text: str) -> str:
    return "".join(c if " " <= c <= "~" else "?" for c in text)
