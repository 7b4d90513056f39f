"""Whether TLS files are what they are said to be, found out before anything starts with them."""

from __future__ import annotations

import ssl
from pathlib import Path

from .section import wrong


def check_certificate(certificate: Path, key: Path) -> None:
    """Raise, as a validator does, unless the two PEM files are a certificate and its key."""
    try:
        # Without a password of ours, OpenSSL would ask the terminal for one.
        ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).load_cert_chain(
            certificate, key, password=lambda: b""
        )
    except (ssl.SSLError, OSError):
        raise wrong(
            "has a certificate and a key that OpenSSL cannot use together",
            "both are PEM, the key is not encrypted and belongs to the certificate",
        ) from None


def check_authorities(authorities: Path) -> None:
    """Raise, as a validator does, unless the PEM file has a certificate of an authority."""
    try:
        ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT).load_verify_locations(authorities)
    except (ssl.SSLError, OSError):
        raise wrong(f"names authorities that OpenSSL cannot read: {authorities.name}") from None
