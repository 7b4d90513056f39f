"""From ``listen`` and ``tls`` in the configuration to bound sockets and TLS contexts."""

from __future__ import annotations

import ssl

from nexgate.edge._server import Listener, bind, server_context
from nexgate.edge.config import CertificateConfig, ListenConfig, TlsConfig

__all__ = ["listener_tls", "open_listener", "refresh_certificates"]


def open_listener(config: ListenConfig) -> Listener:
    """Bind. Raises ``OSError`` with the address in its message."""
    address = config.parsed
    try:
        sock = bind(address.host, address.port, address.path)
    except OSError as error:
        raise OSError(error.errno, f"cannot listen on {address}: {error.strerror}") from None
    return Listener(sock, listener_tls(config.tls), config.trusted)


def listener_tls(config: TlsConfig | None) -> ssl.SSLContext | None:
    """The context for a listener, with its certificates; None without TLS."""
    if config is None:
        return None
    context = server_context(
        client_ca=str(config.client_ca) if config.client_ca else None,
        client_auth=config.client_auth,
        min_version=config.min_version,
        ciphers=config.ciphers,
    )
    refresh_certificates(context, config)
    return context


def refresh_certificates(context: ssl.SSLContext, config: TlsConfig) -> None:
    """Load the certificate files (again): handshakes from now on use them, open connections go
    on.
    """
    _load(context, config)
    by_name: dict[str, ssl.SSLContext] = {}
    for host, each in config.sni.items():
        other = server_context(
            client_ca=str(config.client_ca) if config.client_ca else None,
            client_auth=config.client_auth,
            min_version=config.min_version,
            ciphers=config.ciphers,
        )
        _load(other, each)
        by_name[host.lower()] = other

    def choose(tls: ssl.SSLObject, name: str | None, default: ssl.SSLContext) -> None:
        if name is not None:
            lower = name.lower()
            found = by_name.get(lower) or by_name.get("*." + lower.partition(".")[2])
            if found is not None:
                tls.context = found

    context.sni_callback = choose if by_name else None


def _load(context: ssl.SSLContext, files: CertificateConfig) -> None:
    # The password keeps OpenSSL from asking a terminal for that of an encrypted key.
    context.load_cert_chain(str(files.certificate), str(files.key), password=lambda: b"")
