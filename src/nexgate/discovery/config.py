"""``discover = [...]`` of a service: where its instances come from, besides those that are listed.

Each section has ``provider(service, state)``, which makes what it describes. Nothing is opened or
asked before the provider is followed.
"""

from __future__ import annotations

import ssl as tls
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal

from pydantic import (
    AfterValidator,
    Field,
    PlainSerializer,
    PlainValidator,
    ValidationInfo,
    WithJsonSchema,
)

from nexgate.config import (
    MODULES,
    FieldName,
    FieldValue,
    Finding,
    Flag,
    Integer,
    Number,
    ObjectPath,
    Objects,
    PositiveDuration,
    ReadableFile,
    SecretText,
    Section,
    Timeout,
    check_authorities,
    integer,
    wrong,
)
from nexgate.discovery._follow import United
from nexgate.discovery._provider import Provider
from nexgate.discovery._registry import ServiceRegistry
from nexgate.discovery.providers import (
    ConsulProvider,
    DnsProvider,
    FileProvider,
    HttpProvider,
    KubernetesProvider,
    RegistryProvider,
)
from nexgate.discovery.providers._dns import parse_nameserver
from nexgate.discovery.providers._http import split_url
from nexgate.errors import ConfigError
from nexgate.fetch import Origin
from nexgate.state import State

__all__ = [
    "ConsulConfig",
    "CustomProviderConfig",
    "DiscoverConfig",
    "DnsConfig",
    "FileConfig",
    "HttpConfig",
    "KubernetesConfig",
    "RegistryConfig",
    "provider_of",
]

_Text = Annotated[str, Field(min_length=1, max_length=253, pattern=r"^[\x21-\x7e]+$")]
_Scheme = Literal["http", "https"]


def _path(value: object, info: ValidationInfo) -> Path:
    if not isinstance(value, (str, Path)) or not str(value) or "\0" in str(value):
        raise wrong("must be the path of a file")
    directory = (info.context or {}).get("directory")
    path = Path(value) if directory is None else Path(directory) / value
    if path.is_dir():
        raise wrong("names a directory, not a file")
    return path


_WatchedFile = Annotated[
    Path,
    PlainValidator(_path),
    PlainSerializer(str, return_type=str),
    WithJsonSchema({"type": "string", "examples": ["instances.toml"]}),
]


def _name(value: object) -> str:
    if not isinstance(value, str):
        raise wrong("must be text", 'for example "api.service.consul"')
    if "://" in value or "/" in value:
        raise wrong("is not a name in DNS", "a name only: no scheme, no path")
    if ":" in value:
        raise wrong("is not a name in DNS", "the port is a key of its own: port")
    if not value.isascii() or not value.isprintable() or " " in value or len(value) > 253:
        raise wrong("is not a name in DNS")
    if not value.strip("."):
        raise wrong("must not be empty")
    return str(value)


def _nameserver(value: object) -> str:
    if not isinstance(value, str):
        raise wrong("must be text", 'for example "10.0.0.2" or "127.0.0.1:8600"')
    try:
        parse_nameserver(value)
    except ValueError:
        hint = 'for example "10.0.0.2" or "127.0.0.1:8600"'
        raise wrong("is not the address of a nameserver", hint) from None
    return str(value)


def _origin(value: object) -> str:
    if not isinstance(value, str):
        raise wrong("must be a URL", 'for example "http://127.0.0.1:8500"')
    text = str(value).removesuffix("/")
    try:
        Origin.parse(text)
    except ValueError:
        is_secret = "@" in text
        hint = "scheme, host and port only" if is_secret else 'for example "http://127.0.0.1:8500"'
        raise wrong("is not scheme, host and port", hint, is_secret=is_secret) from None
    return text


def _document_url(value: object) -> str:
    if not isinstance(value, str):
        raise wrong("must be a URL", 'for example "http://127.0.0.1:7000/instances"')
    try:
        split_url(value)
    except ValueError:
        is_secret = "@" in value
        hint = "credentials go into fields" if is_secret else "http://host:port/path"
        raise wrong("is not the URL of a document", hint, is_secret=is_secret) from None
    return str(value)


def _authorities(path: Path) -> Path:
    check_authorities(path)
    return path


_Origin = Annotated[
    str,
    PlainValidator(_origin),
    WithJsonSchema({"type": "string", "examples": ["http://127.0.0.1:8500"]}),
]
_Authorities = Annotated[ReadableFile, AfterValidator(_authorities)]


def _context(ca: Path | None) -> tls.SSLContext | None:
    return None if ca is None else tls.create_default_context(cafile=str(ca))


class FileConfig(Section):
    """Instances from a TOML or JSON file that is looked at again and again."""

    foreign: ClassVar[Mapping[str, str]] = {
        "file": "the key is path",
        "filename": "the key is path",
        "files": "the key is path; for several files, write several tables",
        "refresh_interval": "the key is interval",
        "watch": "it is always watched; how often is interval",
    }

    kind: Literal["file"] = "file"
    """Selects this source."""

    path: _WatchedFile = Field(examples=['"instances.toml"'])
    """The file: ``instances = [...]`` in TOML, or the same in JSON where its name ends in
    ``.json``. It may appear later. Replace it by renaming; one with a mistake changes nothing."""

    interval: PositiveDuration = 0.5
    """From one look to the next."""

    def provider(self, service: str, state: State | ServiceRegistry) -> Provider:
        """What this describes."""
        return FileProvider(service, self.path, interval=self.interval)


class DnsConfig(Section):
    """Instances from the addresses or the SRV records of a name."""

    foreign: ClassVar[Mapping[str, str]] = {
        "name": "the key is host",
        "domain": "the key is host",
        "hostname": "the key is host",
        "type": 'the key is records: "address" or "srv"',
        "record_type": 'the key is records: "address" or "srv"',
        "resolver": "the key is nameserver",
        "resolvers": "the key is nameserver",
        "nameservers": "the key is nameserver",
        "refresh": "the keys are min_ttl and max_ttl",
        "ttl": "the keys are min_ttl and max_ttl",
    }

    kind: Literal["dns"] = "dns"
    """Selects this source."""

    host: Annotated[
        str,
        PlainValidator(_name),
        WithJsonSchema({"type": "string", "examples": ["api.internal", "_http._tcp.api.internal"]}),
    ] = Field(examples=['"api.internal"'])
    """The name to ask for. Completed as the system does; a dot at its end says that it is complete.
    The file of hosts is not looked at."""

    port: Annotated[Integer, integer(1, 65535)] | None = None
    """Where instances listen. Needed for addresses; SRV records have their own."""

    records: Literal["address", "srv"] = "address"
    """``"address"``: an instance per A and AAAA record. ``"srv"``: an instance per address of each
    SRV target, with its port and weight; only the lowest priority is used."""

    family: Literal["any", "ipv4", "ipv6"] = "any"
    """Which addresses are used."""

    scheme: _Scheme = "http"
    """How instances are spoken to. With ``"https"``, set ``tls.server_name`` of the service: the
    instances' URLs have addresses."""

    nameserver: (
        Annotated[
            str,
            PlainValidator(_nameserver),
            WithJsonSchema({"type": "string", "examples": ["10.0.0.2", "127.0.0.1:8600"]}),
        ]
        | None
    ) = None
    """Whom to ask. Unset: whom the system asks."""

    timeout: PositiveDuration = 5.0
    """How long an answer may take, retries included."""

    min_ttl: PositiveDuration = 1.0
    """An answer is used for at least so long, whatever it says."""

    max_ttl: PositiveDuration = 60.0
    """An answer is used for at most so long, whatever it says."""

    grace: Timeout = 30.0
    """How long the last instances are kept after the name is gone; ``"none"`` for ever. No answer
    is never taken for an empty one."""

    @classmethod
    def relations(cls, data: Mapping[str, Any]) -> Iterator[Finding]:
        is_srv = data.get("records") == "srv"
        if is_srv and data.get("port") is not None:
            yield Finding(("port",), "has no effect: SRV records have their own ports")
        if not is_srv and data.get("port") is None:
            hint = 'for example port = 8000, or records = "srv"'
            yield Finding(("port",), "is required for addresses", hint, is_missing=True)
        low, high = data.get("min_ttl"), data.get("max_ttl")
        if isinstance(low, (int, float)) and isinstance(high, (int, float)) and low > high:
            yield Finding(("min_ttl",), "must not be more than max_ttl")

    def provider(self, service: str, state: State | ServiceRegistry) -> Provider:
        """What this describes."""
        return DnsProvider(
            service,
            self.host,
            port=self.port,
            records=self.records,
            family=self.family,
            scheme=self.scheme,
            nameserver=self.nameserver,
            timeout=self.timeout,
            min_ttl=self.min_ttl,
            max_ttl=self.max_ttl,
            grace=self.grace,
        )


class RegistryConfig(Section):
    """Instances that registered themselves in the gateway's shared state."""

    kind: Literal["registry"] = "registry"
    """Selects this source."""

    name: (
        Annotated[
            str, Field(min_length=1, max_length=64, pattern=r"^[A-Za-z0-9_]([A-Za-z0-9._-]*\w)?$")
        ]
        | None
    ) = None
    """The name that instances registered under. Unset: the service's own."""

    def provider(self, service: str, state: State | ServiceRegistry) -> Provider:
        """What this describes. ``state`` is where instances register."""
        return RegistryProvider(state, self.name or service)


class ConsulConfig(Section):
    """Instances of a service in Consul."""

    foreign: ClassVar[Mapping[str, str]] = {
        "service": "the key is name",
        "address": "the key is url",
        "host": "the key is url",
        "dc": "the key is datacenter",
        "tag": 'the key is tags: tags = ["…"]',
        "only_passing": "the key is passing",
    }

    kind: Literal["consul"] = "consul"
    """Selects this source."""

    name: _Text | None = None
    """The service's name in Consul. Unset: the service's own."""

    url: _Origin = "http://127.0.0.1:8500"
    """The agent: ``http://host:port``, ``https://host:port`` or ``unix:/path``."""

    token: SecretText | None = None
    """An ACL token that may read the service and its nodes."""

    datacenter: _Text | None = None
    """Unset: the agent's own."""

    namespace: _Text | None = None
    """Of Consul Enterprise."""

    tags: tuple[_Text, ...] = ()
    """Only instances that have all of them."""

    passing: Flag = True
    """Whether only instances are taken whose checks all pass. ``false`` takes the others, too: as
    unhealthy where a check is critical."""

    scheme: _Scheme = "http"
    """How instances are spoken to."""

    wait: Annotated[PositiveDuration, Field(ge=1, le=600)] = 55.0
    """How long a question waits for a change; 1 s to 10 m. Proxies between us and the agent must
    allow it."""

    ca: _Authorities | None = None
    """PEM file of the authorities that vouch for the agent. Unset: the system's."""

    def provider(self, service: str, state: State | ServiceRegistry) -> Provider:
        """What this describes."""
        return ConsulProvider(
            service,
            consul_service=self.name,
            url=self.url,
            token=None if self.token is None else self.token.reveal(),
            datacenter=self.datacenter,
            namespace=self.namespace,
            tags=self.tags,
            passing=self.passing,
            scheme=self.scheme,
            wait=self.wait,
            ssl=_context(self.ca),
        )


class KubernetesConfig(Section):
    """Ready endpoints of a service in Kubernetes."""

    foreign: ClassVar[Mapping[str, str]] = {
        "service": "the key is name",
        "api_server": "the key is server",
        "url": "the key is server",
        "token": "the key is token_file: tokens are rotated",
        "port_name": "the key is port",
        "target_port": "the key is port",
        "kubeconfig": "not read: give server, token_file and ca",
    }

    kind: Literal["kubernetes"] = "kubernetes"
    """Selects this source."""

    name: _Text | None = None
    """The service's name in Kubernetes. Unset: the service's own."""

    namespace: _Text | None = None
    """Unset: the pod's own."""

    port: Annotated[Integer, integer(1, 65535)] | _Text | None = None
    """Name or number of the endpoints' port. Unset: the only one."""

    scheme: _Scheme = "http"
    """How instances are spoken to. With ``"https"``, set ``tls.server_name`` of the service: the
    instances' URLs have addresses."""

    server: _Origin | None = None
    """The API server. Unset: the one of the cluster that we run in."""

    token_file: _WatchedFile | None = None
    """File with the token, read for every request. Unset: the service account's."""

    ca: ReadableFile | None = None
    """PEM file of the authorities that vouch for the API server. Unset: the service account's."""

    def provider(self, service: str, state: State | ServiceRegistry) -> Provider:
        """What this describes."""
        return KubernetesProvider(
            service,
            kubernetes_service=self.name,
            namespace=self.namespace,
            port=self.port,
            scheme=self.scheme,
            server=self.server,
            token_file=self.token_file,
            ca_file=self.ca,
        )


class HttpConfig(Section):
    """Instances from a JSON document that is asked for again and again."""

    foreign: ClassVar[Mapping[str, str]] = {
        "endpoint": "the key is url",
        "poll_interval": "the key is interval",
        "refresh_interval": "the key is interval",
        "headers": "the key is fields",
    }

    kind: Literal["http"] = "http"
    """Selects this source."""

    url: Annotated[
        str,
        PlainValidator(_document_url),
        WithJsonSchema({"type": "string", "examples": ["http://127.0.0.1:7000/instances"]}),
    ] = Field(examples=['"http://127.0.0.1:7000/instances"'])
    """The document: ``{"instances": ["http://…", {"url": "http://…", "weight": 2}]}`` or the list
    alone."""

    interval: PositiveDuration = 5.0
    """From one question to the next."""

    jitter: Annotated[Number, Field(ge=0, le=1)] = 0.1
    """By which part of itself the interval varies."""

    timeout: PositiveDuration = 5.0
    """How long each phase of an answer may take."""

    fields: Mapping[FieldName, FieldValue] = {}
    """Header fields to send, such as ``Authorization``."""

    ca: _Authorities | None = None
    """PEM file of the authorities to trust. Unset: the system's."""

    def provider(self, service: str, state: State | ServiceRegistry) -> Provider:
        """What this describes."""
        return HttpProvider(
            service,
            self.url,
            interval=self.interval,
            jitter=self.jitter,
            timeout=self.timeout,
            fields={name: value.reveal() for name, value in self.fields.items()},
            ssl=_context(self.ca),
        )


class CustomProviderConfig(Section):
    """Instances from a source of your own."""

    foreign: ClassVar[Mapping[str, str]] = {
        "name": "the key is use",
        "class": "the key is use",
        "config": "the key is options",
    }

    kind: Literal["custom"] = "custom"
    """Selects this source."""

    use: ObjectPath = Field(examples=['"package.module:Provider"'])
    """What makes it, called with the service's name and ``options``: ``"package.module:Class"``, or
    ``"plugin:name"`` for one that a plugin has. It makes a ``nexgate.discovery.Provider``."""

    options: dict[str, Any] = {}
    """Keyword arguments."""

    def provider(self, service: str, objects: Objects) -> Provider:
        """What this describes. Raises ``ConfigError``."""
        made = objects.find(self.use)(service, **self.options)
        if not callable(getattr(made, "watch", None)):
            raise ConfigError(f"{self.use} made {type(made).__name__}, which is no Provider")
        provider: Provider = made
        return provider


DiscoverConfig = (
    FileConfig
    | DnsConfig
    | RegistryConfig
    | ConsulConfig
    | KubernetesConfig
    | HttpConfig
    | CustomProviderConfig
)
"""One source, told apart by ``kind``. Use it as
``Annotated[DiscoverConfig, Field(discriminator="kind"), Short("kind")]``, so that ``"registry"``
alone is one, too."""


def provider_of(
    sources: Sequence[DiscoverConfig],
    service: str,
    state: State | ServiceRegistry,
    objects: Objects = MODULES,
) -> Provider:
    """What all of them together know of a service. Raises ``ConfigError`` for what ``use`` names
    in vain.
    """
    providers = [
        source.provider(service, objects)
        if isinstance(source, CustomProviderConfig)
        else source.provider(service, state)
        for source in sources
    ]
    return providers[0] if len(providers) == 1 else United(providers)
