"""Where to connect to, in the forms that people write it."""

from __future__ import annotations

from dataclasses import dataclass
from urllib.parse import urlsplit


@dataclass(frozen=True, slots=True)
class Address:
    """A TCP host and port, or the path of a unix socket (then ``port`` is 0)."""

    host: str
    port: int
    path: str | None = None
    is_tls: bool = False

    @classmethod
    def parse(cls, target: str | tuple[str, int]) -> Address:
        """Read ``("127.0.0.1", 80)``, ``"127.0.0.1:80"``, ``"http://…"``, ``"unix:/path"``.

        Only scheme, host and port of a URL count; the rest is what the client will send. Raises
        ``ValueError`` for anything else.
        """
        if isinstance(target, tuple):
            return cls(*target)
        if target.startswith("unix:"):
            return cls("localhost", 0, path=target.removeprefix("unix:"))
        url = urlsplit(target if "://" in target else f"http://{target}")
        if url.scheme not in _DEFAULT_PORTS or url.hostname is None:
            raise ValueError(
                f"{target!r} is no address; "
                "write host:port, http://host, https://host or unix:/path"
            )
        port = _DEFAULT_PORTS[url.scheme] if url.port is None else url.port
        return cls(url.hostname, port, is_tls=url.scheme in _TLS_SCHEMES)

    def __str__(self) -> str:
        return f"unix:{self.path}" if self.path else f"{self.host}:{self.port}"


_DEFAULT_PORTS = {"http": 80, "https": 443, "ws": 80, "wss": 443, "tcp": 0}
_TLS_SCHEMES = {"https", "wss"}
