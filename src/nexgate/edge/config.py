"""The ``[gateway]`` section: what the gateway listens on, and what it grants to clients."""

from __future__ import annotations

import ipaddress
import re
import ssl
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar, Literal, Self

from pydantic import Field, PlainSerializer, PlainValidator, WithJsonSchema, model_validator

from nexgate.config import (
    FROM_ENV,
    Duration,
    ExistingFolder,
    FieldName,
    Finding,
    Flag,
    HostPattern,
    Integer,
    OneOrMany,
    PositiveDuration,
    ReadableFile,
    Section,
    Short,
    Size,
    SizeLimit,
    Timeout,
    Token,
    attempt,
    check_authorities,
    check_certificate,
    integer,
    parse_host,
    parse_port,
    parse_socket_path,
    peek,
    size,
    unquoted,
    wrong,
)
from nexgate.policies.filters.config import Filters
from nexgate.state import parse_state_spec

Network = ipaddress.IPv4Network | ipaddress.IPv6Network

# --- listen ---------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class ListenAddress:
    """Where to listen, taken apart: either ``host`` and ``port``, or ``path`` of a Unix socket."""

    host: str = ""
    port: int = 0
    path: str = ""

    @property
    def is_unix(self) -> bool:
        """True for a Unix socket."""
        return bool(self.path)

    def __str__(self) -> str:
        if self.path:
            return f"unix:{self.path}"
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


def parse_listen_address(text: str) -> ListenAddress:
    """Take ``host:port``, ``:port``, ``[v6]:port`` or ``unix:/path`` apart.

    ``:8000`` is loopback. Other servers bind every interface there, which is how development
    servers end up on the internet; here it must be said: ``0.0.0.0:8000``.
    """
    if text.startswith("unix:"):
        return ListenAddress(path=parse_socket_path(text.removeprefix("unix:")))
    if "://" in text:
        bare = text.partition("://")[2].rstrip("/")
        raise wrong("is not an address", f'leave out the scheme: "{bare}"')
    if re.fullmatch(r"[0-9]{1,5}", text, re.ASCII):
        raise wrong(
            "is not an address", f'write ":{text}" (this machine) or "0.0.0.0:{text}" (all)'
        )
    if text.startswith("*:"):
        raise wrong("is not an address", f'to listen on every interface, write "0.0.0.0{text[1:]}"')
    host, colon, port = text.rpartition(":")
    if not colon:
        raise wrong("is not an address", f'add the port: "{text}:8000"')
    if ":" in host and not host.startswith("["):
        raise wrong("is not an address", 'an IPv6 address stands in brackets: "[::1]:8000"')
    return ListenAddress(
        host=parse_host(host) if host else "127.0.0.1", port=parse_port(port, least=0)
    )


def _listen_address(value: object) -> str:
    if isinstance(value, int) and not isinstance(value, bool):
        raise wrong("must be an address", f'write ":{value}" (this machine) or "0.0.0.0:{value}"')
    if not isinstance(value, str):
        raise wrong("must be an address", 'for example "127.0.0.1:8000"')
    return str(parse_listen_address(value))


Address = Annotated[
    str,
    PlainValidator(_listen_address),
    WithJsonSchema({"type": "string", "examples": ["127.0.0.1:8000", "unix:/run/nexgate.sock"]}),
]


# --- TLS ------------------------------------------------------------------------------------------


class CertificateConfig(Section):
    """A certificate with its key."""

    foreign: ClassVar[Mapping[str, str]] = {
        "cert": "the key is certificate",
        "crt": "the key is certificate",
        "cert_file": "the key is certificate",
        "certfile": "the key is certificate",
        "private_key": "the key is key",
        "key_file": "the key is key",
        "keyfile": "the key is key",
    }

    certificate: ReadableFile = Field(examples=['"tls/server.pem"'])
    """PEM file: the certificate, then the intermediate certificates, in this order."""

    key: ReadableFile = Field(examples=['"tls/server.key"'])
    """PEM file with the private key, not encrypted: nobody is there to type a password."""

    def load_into(self, context: ssl.SSLContext) -> None:
        """Load both files into ``context``; again, and they are read again.

        Raises ``ssl.SSLError`` or ``OSError`` when they changed since they were checked and no
        longer belong together.
        """
        # Without a password of ours, OpenSSL would ask the terminal for one.
        context.load_cert_chain(self.certificate, self.key, password=lambda: b"")

    @model_validator(mode="after")
    def _belong_together(self) -> Self:
        check_certificate(self.certificate, self.key)
        return self


class TlsConfig(CertificateConfig):
    """TLS of a listener. The protocol offered in ALPN is ``http/1.1``."""

    foreign: ClassVar[Mapping[str, str]] = {
        **CertificateConfig.foreign,
        "ca": "the key is client_ca",
        "client_cert": "the keys are client_ca and client_auth",
        "mtls": 'write client_auth = "required" and client_ca',
        "protocols": 'the key is min_version: "1.2" or "1.3"',
        "alpn": "it is always http/1.1",
    }

    client_ca: ReadableFile | None = None
    """PEM file with the authorities that sign client certificates. Needed by ``client_auth``."""

    client_auth: Literal["none", "optional", "required"] = "none"
    """Whether clients show a certificate. ``optional`` verifies one that is shown and lets the
    others in: what they may do must then be decided elsewhere."""

    min_version: Literal["1.2", "1.3"] = "1.2"
    """Oldest protocol version that is accepted."""

    ciphers: str | None = Field(default=None, min_length=1)
    """OpenSSL's list of ciphers for TLS 1.2. Unset: Python's default. TLS 1.3 ignores it."""

    sni: dict[HostPattern, CertificateConfig] = {}
    """Other certificates by host name (``"*.example.com"`` too), chosen by what the client asks
    for. A name without an entry gets the certificate above."""

    @model_validator(mode="after")
    def _knows_authorities(self) -> Self:
        if self.client_ca is not None:
            check_authorities(self.client_ca)
        return self

    @classmethod
    def relations(cls, data: Mapping[str, Any]) -> Iterator[Finding]:
        authority, mode = data.get("client_ca"), data.get("client_auth", "none")
        if mode in ("optional", "required") and authority is None:
            yield Finding(("client_auth",), "needs client_ca", "name the file of the authorities")
        if authority is not None and mode == "none":
            yield Finding(
                ("client_ca",), "has no effect", 'add client_auth = "required" or "optional"'
            )
        if isinstance(ciphers := data.get("ciphers"), str) and ciphers:
            try:
                ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).set_ciphers(ciphers)
            except (ssl.SSLError, ValueError, UnicodeError):
                yield Finding(("ciphers",), "has no cipher that OpenSSL knows")


class ListenConfig(Section):
    """One listener."""

    foreign: ClassVar[Mapping[str, str]] = {
        "host": 'one key for both: address = "127.0.0.1:8000"',
        "port": 'one key for both: address = "127.0.0.1:8000"',
        "bind": "the key is address",
        "url": "the key is address",
        "ssl": "the key is tls",
    }

    address: Address = Field(examples=['"127.0.0.1:8443"'])
    """``"127.0.0.1:8000"``, ``"[::1]:8000"``, ``"unix:/run/nexgate.sock"``, or ``":8000"``, which
    is loopback: to be reachable from outside, write ``"0.0.0.0:8000"``. Port 0 takes a free
    one."""

    tls: TlsConfig | None = None
    """Certificates. Unset: plain HTTP."""

    trusted: Flag = False
    """Whether every peer of this listener is a trusted proxy. Meant for Unix sockets, whose peers
    have no address to put into ``trusted_proxies``; on a network address anyone could then forge
    theirs."""

    @property
    def parsed(self) -> ListenAddress:
        """The address, taken apart."""
        return parse_listen_address(self.address)


# --- limits and timeouts --------------------------------------------------------------------------


class LimitsConfig(Section):
    """What one client may cost. A request beyond a limit is refused, never truncated."""

    foreign: ClassVar[Mapping[str, str]] = {
        "max_header_bytes": "the key is max_head_bytes",
        "max_headers": "the key is max_fields",
        "max_body_size": "the key is max_body_bytes",
        "client_max_body_size": "the key is max_body_bytes",
        "max_url_bytes": "the key is max_target_bytes",
    }

    max_head_bytes: Annotated[Size, size("1KiB", "1MiB")] = 32 * 1024
    """Size of a request head: request line and fields. Beyond: 431."""

    max_fields: Annotated[Integer, integer(8, 10_000)] = 100
    """Number of fields in a request head. Beyond: 431."""

    max_target_bytes: Annotated[Size, size("64B", "1MiB")] = 8 * 1024
    """Length of the request target (path and query). Beyond: 414. Part of ``max_head_bytes``."""

    max_body_bytes: SizeLimit = 100 * 1024 * 1024
    """Size of a request body, or ``"unlimited"``. Beyond: 413. Bodies are streamed and never held,
    so the limit protects the services. A route may set its own."""

    max_connections: Annotated[Integer, integer(1, 10_000_000)] = 20_000
    """Client connections of one worker. Beyond, a connection is answered with 503 and closed.
    The process needs about two file descriptors for each (``ulimit -n``)."""

    max_pipelined_bytes: Annotated[Size, size("1KiB", "16MiB")] = 64 * 1024
    """What a client may send ahead of the answer to its request. Beyond, reading stops for the
    time."""

    max_buffered_body_bytes: Annotated[Size, size("0", "1GiB")] = 1024 * 1024
    """Largest body that a filter may read whole. Beyond: 413 for a request, 502 for a response."""

    @model_validator(mode="after")
    def _target_fits_into_head(self) -> Self:
        if self.max_target_bytes >= self.max_head_bytes:
            raise wrong("must allow a larger head (max_head_bytes) than target (max_target_bytes)")
        return self


class TimeoutsConfig(Section):
    """How long a client is waited for."""

    foreign: ClassVar[Mapping[str, str]] = {
        "keep_alive": "the key is idle",
        "keepalive": "the key is idle",
        "keepalive_timeout": "the key is idle",
        "read": "the keys are head and body",
        "header": "the key is head",
        "send": "the key is write",
        "shutdown": "the key is drain",
        "request": "the key is total",
        "connect": "it is a service's: services.NAME.timeout.connect",
    }

    head: PositiveDuration = 10.0
    """From the first byte of a request until its head is complete. Beyond: 408."""

    idle: PositiveDuration = 75.0
    """How long a connection stays open between two requests. A load balancer in front must wait
    less than this, or it sends a request into a connection that is just closing."""

    body: PositiveDuration = 30.0
    """How long a request body may make no progress. Not a limit of the whole. Beyond: 408."""

    write: PositiveDuration = 60.0
    """How long a client may accept no byte of its response. Beyond, the connection is closed."""

    half_close: Duration = 2.0
    """How long a service works on for a client that closed its sending side. It may still read the
    answer; most often it is gone. 0 ends the request at once."""

    drain: PositiveDuration = 30.0
    """How long a shutdown or a reload waits for what is under way. WebSockets then get 1001."""

    total: Timeout = None
    """From the complete request head to the end of the response, or ``"none"``. Includes streams:
    a limit here ends downloads and event streams. Beyond: 504. A route may set its own."""


# --- the section ----------------------------------------------------------------------------------


class RequestIdConfig(Section):
    """The identifier that follows a request through logs and services."""

    header: FieldName = "X-Request-Id"
    """The field that carries it to the service. Problems and the access log have it too."""

    trust: Flag = False
    """Whether a client's own identifier is kept. Off, everyone gets a new one: a client could
    otherwise make two requests look like one. Identifiers of trusted proxies are always kept."""


class PathConfig(Section):
    """What is done with unusual paths. The defaults refuse what could be read in two ways."""

    merge_slashes: Flag = True
    """Whether ``//`` becomes ``/``."""

    encoded_slash: Literal["reject", "keep"] = "reject"
    """``%2F`` and ``%5C`` in a path: answered with 400, or passed on encoded. ``keep`` is for
    services that decode exactly once, such as object stores."""

    ignore_case: Flag = False
    """Whether routes match letters in either case. The path is passed on as it came."""


def _workers(value: object) -> int | Literal["auto"]:
    value = unquoted(value)
    if value == "auto":
        return "auto"
    if isinstance(value, bool) or not isinstance(value, int):
        is_quoted = isinstance(value, str) and value.isascii() and value.isdigit()
        hint = f"without the quotes: {value}" if is_quoted else ""
        raise wrong('must be a whole number or "auto"', hint)
    if not 1 <= value <= 1024:
        raise wrong("must be from 1 to 1024", '"auto" takes one for each processor')
    return value


def _network(value: object) -> Network:
    if isinstance(value, (ipaddress.IPv4Network, ipaddress.IPv6Network)):
        return value
    if not isinstance(value, str):
        raise wrong("must be a network", 'for example "10.0.0.0/8"')
    try:
        return ipaddress.ip_network(str(value))
    except ValueError:
        pass
    try:
        loose = ipaddress.ip_network(str(value), strict=False)
    except ValueError:
        raise wrong("is not a network", 'for example "10.0.0.0/8" or "::1"') from None
    raise wrong("has host bits set", f'did you mean "{loose}"?')


def _log_target(value: object) -> str:
    if not isinstance(value, str):
        raise wrong("must be text", '"off", "stdout", "stderr" or the path of a file')
    if not value or "\0" in value:
        raise wrong("must name a place", '"off", "stdout", "stderr" or the path of a file')
    if value.casefold() in ("off", "stdout", "stderr") and value != value.casefold():
        raise wrong("is neither a place nor a path", f'did you mean "{value.casefold()}"?')
    return str(value)


class GatewaySection(Section):
    """The gateway as a whole: where it listens, what it grants to clients, how it logs."""

    foreign: ClassVar[Mapping[str, str]] = {
        "port": 'the key is listen: listen = ":8000"',
        "host": 'the key is listen: listen = "127.0.0.1:8000"',
        "bind": "the key is listen",
        "address": "the key is listen",
        "addr": "the key is listen",
        "worker_processes": "the key is workers",
        "threads": "the key is workers",
        "processes": "the key is workers",
        "timeout": 'the key is timeouts, a table: timeouts = { idle = "75s" }',
        "keepalive_timeout": "the key is timeouts.idle",
        "client_max_body_size": "the key is limits.max_body_bytes",
        "max_body_size": "the key is limits.max_body_bytes",
        "max_body_bytes": "the key is limits.max_body_bytes",
        "tls": 'it belongs to a listener: listen = [{ address = ":8443", tls = { … } }]',
        "ssl": 'it belongs to a listener: listen = [{ address = ":8443", tls = { … } }]',
        "loglevel": "the key is log_level",
        "log": "the keys are log_level and access_log",
        "logging": "the keys are log_level and access_log",
        "proxies": "the key is trusted_proxies",
        "trusted_ips": "the key is trusted_proxies",
        "real_ip_from": "the key is trusted_proxies",
        "plugins": "it stands beside [gateway]: [plugins.NAME]",
        "middlewares": "the key is filters",
        "middleware": "the key is filters",
        "services": "it stands beside [gateway]: [services.NAME]",
        "routes": "it stands beside [gateway]: [[routes]]",
    }

    listen: Annotated[
        tuple[Annotated[ListenConfig, Short("address", (str, int))], ...],
        OneOrMany(),
        Field(min_length=1),
    ] = (ListenConfig(address="127.0.0.1:8000"),)
    """Where to listen: an address, or a list of addresses and tables. ``":8000"`` is loopback; to
    be reachable from outside, write ``"0.0.0.0:8000"``."""

    workers: Annotated[
        int | Literal["auto"],
        PlainValidator(_workers),
        WithJsonSchema(
            {
                "anyOf": [
                    {"type": "integer", "minimum": 1, "maximum": 1024},
                    {"const": "auto"},
                    FROM_ENV,
                ]
            }
        ),
    ] = 1
    """Number of worker processes; ``"auto"`` is one for each processor. Limits, pools and
    balancers are each worker's own."""

    state: (
        Annotated[
            str,
            PlainValidator(parse_state_spec),
            WithJsonSchema(
                {"type": "string", "examples": ["memory", "local", "redis://127.0.0.1:6379/0"]}
            ),
        ]
        | None
    ) = None
    """Where workers and machines agree on what is to be known once, such as who probes an instance
    and which instances have registered: ``"memory"`` (each worker alone), ``"local"`` (all
    programs of this user on this machine), ``"lmdb:/directory"``, or ``"redis://host:port/db"``
    (Redis or Valkey, for many machines; while it is away each worker goes by its own view). Unset:
    the workers of this gateway among themselves."""

    limits: LimitsConfig = LimitsConfig()
    """What one client may cost."""

    timeouts: TimeoutsConfig = TimeoutsConfig()
    """How long a client is waited for."""

    trusted_proxies: tuple[
        Annotated[
            Network,
            PlainValidator(_network),
            PlainSerializer(str, return_type=str),
            WithJsonSchema({"type": "string", "examples": ["10.0.0.0/8"]}),
        ],
        ...,
    ] = ()
    """Networks of the proxies in front. What they say about the client (``X-Forwarded-For``,
    ``Forwarded``) is believed; what anyone else says is removed."""

    forwarded: Literal["x-forwarded", "rfc7239", "both", "off"] = "x-forwarded"
    """How services are told who the client is: ``X-Forwarded-*``, ``Forwarded`` (RFC 7239), both,
    or not at all. Whatever the client itself sent in such fields never passes."""

    request_id: Annotated[RequestIdConfig, Short("header")] = RequestIdConfig()
    """The identifier of a request; the short form is the name of its field."""

    via: Token = "nexgate"  # a token of HTTP, not a credential
    """Name of this gateway in the ``Via`` field that RFC 9110 demands. It also detects loops: give
    two gateways in a row two names."""

    path: PathConfig = PathConfig()
    """What is done with unusual paths."""

    underscores: Literal["drop", "reject", "allow"] = "drop"
    """Fields with ``_`` in their name: removed, answered with 400, or passed on. Many services
    cannot tell ``X_User`` from ``X-User``, so passing them on lets clients forge what the gateway
    sets."""

    access_log: Annotated[
        str, PlainValidator(_log_target), WithJsonSchema({"type": "string", "minLength": 1})
    ] = "off"
    """Where a line for each exchange goes: ``"off"``, ``"stdout"``, ``"stderr"`` or the path of a
    file, which is opened again on SIGUSR1."""

    access_log_format: Literal["json", "text"] = "json"
    """Form of the access log."""

    log_level: Literal["debug", "info", "warning", "error"] = "info"
    """Least severe message that is logged."""

    on_change: Literal["keep", "drain", "close"] = "keep"
    """What a reload does with tunnels and streams of routes that it changed or removed: they go on,
    they are given ``timeouts.drain``, or they are closed at once. Others are never touched."""

    filters: Filters = ()
    """Python functions (``"package.module:function"``, or ``"plugin:name"``) through which every
    exchange passes, in order."""

    plugin_folders: tuple[ExistingFolder, ...] = ()
    """Folders in which every ``.py`` file and every package is a plugin; ``[plugins.NAME]``
    configures it."""

    reload: Flag = True
    """Whether the file is watched and read again when it changes. A file with problems is reported
    and changes nothing. SIGHUP reads it in any case."""

    @classmethod
    def relations(cls, data: Mapping[str, Any]) -> Iterator[Finding]:
        listen = data.get("listen")
        seen: dict[str, int] = {}
        for index, item in enumerate(listen if isinstance(listen, (list, tuple)) else ()):
            address = item if isinstance(item, str) else peek(item, "address")
            if not isinstance(address, str):
                continue
            parsed = attempt(parse_listen_address, address)
            if parsed is None:
                continue  # reported where it stands
            if not (parsed.port or parsed.path):
                continue  # each port 0 is another free one
            if (first := seen.setdefault(str(parsed), index)) != index:
                hint = f"it is listen[{first}] already"
                yield Finding(("listen", index), "is there twice", hint)
