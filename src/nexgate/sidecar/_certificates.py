"""The certificate of a sidecar and its authorities: as TLS contexts, current as long as it runs.

The three files are looked at twice a second. Contexts are never changed, always replaced: a
connection that is open keeps what it began with, and an authority that is no longer in the file is
no longer trusted by any new one.

Whoever replaces three files cannot do it in one moment. So new files are taken over when they fit
together, which is tried out: the sidecar shakes hands with itself. Until then the old ones stay in
use, and when that lasts longer than a moment it is said, once.
"""

from __future__ import annotations

import asyncio
import logging
import ssl
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from nexgate.edge import server_context
from nexgate.errors import ConfigError

__all__ = ["CertificateFiles", "Certificates", "Contexts"]

_log = logging.getLogger("nexgate.sidecar")

_INTERVAL: Final = 0.5

Signature = tuple[tuple[int, int, int, int], ...]


@dataclass(frozen=True, slots=True)
class CertificateFiles:
    """Where they are."""

    certificate: Path
    key: Path
    ca: Path
    min_version: str = "1.3"
    name: str | None = None
    """What the certificate should say, so that others find it there."""

    def signature(self) -> Signature:
        """Changes when a file was written or replaced, also through a link. Raises ``OSError``."""
        stats = [path.stat() for path in (self.certificate, self.key, self.ca)]
        return tuple((s.st_dev, s.st_ino, s.st_size, s.st_mtime_ns) for s in stats)


@dataclass(frozen=True, slots=True)
class Contexts:
    """TLS with one version of the files."""

    server: ssl.SSLContext
    client: ssl.SSLContext
    fault: str | None
    """Why a handshake with itself fails; ``None`` when all fits."""


class Certificates:
    """See the module's docstring. ``watch`` runs until it is cancelled."""

    def __init__(self, files: CertificateFiles) -> None:
        """Raises ``ConfigError`` when the files cannot be used at all."""
        self.files = files
        self.on_change: list[Callable[[Contexts], None]] = []
        """Called with the new contexts, in the loop."""
        try:
            self._seen = files.signature()
            self.current = load(files)
        except (OSError, ssl.SSLError) as error:
            raise ConfigError(_unusable(files, error)) from error
        self._complained: Signature | None = None
        self._suspect: Signature | None = None
        self._look = asyncio.Event()

    async def watch(self) -> None:
        """Take over what changes."""
        while True:
            try:
                async with asyncio.timeout(_INTERVAL):
                    await self._look.wait()
            except TimeoutError:
                pass
            self._look.clear()
            try:
                await self._check()
            except Exception:
                _log.exception("the certificates could not be looked at")

    def look(self) -> None:
        """Look at the files now."""
        self._look.set()

    async def _check(self) -> None:
        files = self.files
        try:
            signature = files.signature()
        except OSError as error:
            self._refuse((), _unusable(files, error))
            return
        if signature == self._seen:
            self._suspect = None
            return
        loop = asyncio.get_running_loop()
        try:
            made = await loop.run_in_executor(None, load, files)
        except (OSError, ssl.SSLError) as error:
            self._refuse(signature, _unusable(files, error))
            return
        if made.fault is not None and self.current.fault is None:
            self._refuse(signature, made.fault)
            return
        self._seen = signature
        self._complained = self._suspect = None
        self.current = made
        _log.info("new certificates are in use (%s)", files.certificate.name)
        if made.fault is not None:
            _log.warning("other sidecars will not accept them: %s", made.fault)
        for changed in self.on_change:
            changed(made)

    def _refuse(self, signature: Signature, reason: str) -> None:
        """Somebody may be in the middle of replacing them: it must still be so at the next look."""
        if signature == self._suspect and signature != self._complained:
            self._complained = signature
            _log.warning("the certificates in use stay, the new ones do not work: %s", reason)
        self._suspect = signature


def load(files: CertificateFiles) -> Contexts:
    """Read the files. Raises ``ssl.SSLError`` or ``OSError``."""
    server = server_context(
        client_ca=str(files.ca),
        client_auth="required",
        min_version=files.min_version,
        ciphers=None,
    )
    # A resumed session shows no certificate: everyone shows theirs, every time.
    server.options |= ssl.OP_NO_TICKET
    server.num_tickets = 0
    _load_own(server, files)
    client = _client(files)
    return Contexts(server, client, _fault(server, client, files))


def _client(files: CertificateFiles) -> ssl.SSLContext:
    context = ssl.create_default_context(cafile=str(files.ca))
    context.set_alpn_protocols(["http/1.1"])
    context.hostname_checks_common_name = False
    if files.min_version == "1.3":
        context.minimum_version = ssl.TLSVersion.TLSv1_3
    _load_own(context, files)
    return context


def _load_own(context: ssl.SSLContext, files: CertificateFiles) -> None:
    # The password keeps OpenSSL from asking a terminal for that of an encrypted key.
    context.load_cert_chain(str(files.certificate), str(files.key), password=lambda: b"")


def _fault(server: ssl.SSLContext, client: ssl.SSLContext, files: CertificateFiles) -> str | None:
    if files.name is None:
        client = _client(files)
        client.check_hostname = False
    to_server, to_client = ssl.MemoryBIO(), ssl.MemoryBIO()
    ends = (
        client.wrap_bio(to_client, to_server, server_hostname=files.name),
        server.wrap_bio(to_server, to_client, server_side=True),
    )
    finished = 0
    for _ in range(8):
        for end in ends:
            try:
                end.do_handshake()
            except ssl.SSLWantReadError:
                continue
            except ssl.SSLCertVerificationError as error:
                return f"{files.certificate.name}: {error.verify_message}"
            except ssl.SSLError as error:
                return f"{files.certificate.name}: {error.reason or error}"
            finished += 1
        if finished >= len(ends):
            return None
        finished = 0
    return f"{files.certificate.name}: the handshake does not end"


def _unusable(files: CertificateFiles, error: Exception) -> str:
    if isinstance(error, ssl.SSLError):
        what = f"{files.certificate}, {files.key} and {files.ca} cannot be used together"
        return f"{what}: {error.reason or error}"
    if isinstance(error, OSError) and error.filename:
        return f"{error.filename}: {error.strerror}"
    return str(error)
