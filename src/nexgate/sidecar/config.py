"""``sidecar.toml``: what a sidecar is for, and how it calls other services.

Everything in ``[sidecar]`` may be said on the command line instead, so no key is required in the
file; what is missing or does not go together is found when both are known (``complete``).
"""

from __future__ import annotations

import ipaddress
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal, Self

from pydantic import Field, PlainValidator, WithJsonSchema

from nexgate.config import (
    Duration,
    Finding,
    Flag,
    Integer,
    InvalidConfig,
    OneOrMany,
    PositiveDuration,
    ReadableFile,
    Section,
    Short,
    integer,
    parse,
    parse_host,
    read_text,
    wrong,
)
from nexgate.config.problems import problem_of
from nexgate.discovery import check_service_name
from nexgate.discovery.config import RegistryConfig
from nexgate.edge.config import Address, ListenAddress, parse_listen_address
from nexgate.state import parse_state_spec
from nexgate.upstream.config import (
    HealthConfig,
    HealthPath,
    InstanceConfig,
    ServiceConfig,
    UpstreamTlsConfig,
    parse_instance_url,
)

__all__ = [
    "AppHealthConfig",
    "CalledServiceConfig",
    "SidecarConfig",
    "SidecarSection",
    "load_sidecar",
]


def _service_name(value: object) -> str:
    try:
        name = check_service_name(value)
    except ValueError:
        raise wrong("is not the name of a service", 'letters, digits, "-", "_" and "."') from None
    if name != name.lower():
        raise wrong("has capital letters", f'host names have none: "{name.lower()}"')
    return name


_ServiceName = Annotated[
    str, PlainValidator(_service_name), WithJsonSchema({"type": "string", "examples": ["orders"]})
]


def _app_url(value: object) -> str:
    url = parse_instance_url(value)
    if not url.startswith(("http:", "unix:")):
        raise wrong("is not where a local program listens", 'for example "http://127.0.0.1:9001"')
    return url


def _advertised_url(value: object) -> str:
    url = parse_instance_url(value)
    if not url.startswith(("http:", "https:")):
        raise wrong("cannot be reached from elsewhere", 'for example "https://10.0.0.7:15443"')
    return url


def _registry(value: object) -> str:
    place = parse_state_spec(value)
    if place == "memory":
        raise wrong("is known to this process only", '"local" is this machine')
    return place


def _suffix(value: object) -> str:
    if not isinstance(value, str):
        raise wrong("must be text", 'for example "mesh"')
    return parse_host(value.strip(".").lower())


class AppHealthConfig(HealthConfig):
    """How the local program is asked whether it is well; the short form is the path."""

    path: HealthPath = "/health"
    """What is requested, query included."""

    interval: PositiveDuration = 1.0
    """From one probe to the next."""

    timeout: PositiveDuration = 1.0
    """How long a probe may take, connecting included."""

    healthy_after: Annotated[Integer, integer(1, 1000)] = 1
    """How many probes in a row must pass before the program is advertised."""

    unhealthy_after: Annotated[Integer, integer(1, 1000)] = 2
    """How many probes in a row must fail before it is not."""


class CalledServiceConfig(ServiceConfig):
    """How a service is called: the keys of a gateway's ``[services.NAME]``.

    Without ``instances`` and ``discover`` it is looked up in the registry.
    """

    @classmethod
    def relations(cls, data: Mapping[str, Any]) -> Iterator[Finding]:
        if not data.get("instances") and not data.get("discover"):
            data = {**data, "discover": ["registry"]}
        yield from super().relations(data)
        listed = data.get("instances")
        for index, each in enumerate(listed if isinstance(listed, (list, tuple)) else ()):
            url = each.get("url") if isinstance(each, Mapping) else each
            if isinstance(url, str) and url.startswith("asgi:"):
                hint = "a sidecar runs nobody's code; serve it and give its URL"
                yield Finding(("instances", index), "is an application", hint)


class SidecarSection(Section):
    """The sidecar itself."""

    foreign: ClassVar[Mapping[str, str]] = {
        "name": "the key is service",
        "listen": "the keys are egress and ingress",
        "outbound": "the key is egress",
        "inbound": "the key is ingress",
        "upstream": "the key is app",
        "cert": "the key is certificate",
        "private_key": "the key is key",
        "client_ca": "the key is ca",
        "url": "the key is advertise",
        "ttl": "the key is lease",
        "state": "the key is registry",
        "tls": "the keys are certificate, key and ca",
    }

    service: _ServiceName | None = None
    """The name under which the local program is registered. Its certificate carries it, too."""

    app: (
        Annotated[
            str,
            PlainValidator(_app_url),
            WithJsonSchema({"type": "string", "examples": ["http://127.0.0.1:9001"]}),
        ]
        | None
    ) = None
    """Where the local program listens: ``http://host:port`` or ``unix:/path``."""

    egress: Address | None = None
    """Where the local program reaches other services. On this machine only: whoever can connect
    speaks with the certificate of the program."""

    egress_anywhere: Flag = False
    """Let ``egress`` listen on an address that other machines reach."""

    ingress: Address | None = None
    """Where other sidecars reach the local program, over mutual TLS."""

    advertise: (
        Annotated[
            str,
            PlainValidator(_advertised_url),
            WithJsonSchema({"type": "string", "examples": ["https://10.0.0.7:15443"]}),
        ]
        | None
    ) = None
    """The URL of ``ingress`` as others reach it. Unset: the address of ``ingress``."""

    registry: Annotated[
        str,
        PlainValidator(_registry),
        WithJsonSchema({"type": "string", "examples": ["local", "redis://127.0.0.1:6379/0"]}),
    ] = "local"
    """Where services find each other: ``"local"`` (programs of this user on this machine),
    ``"lmdb:/directory"``, or ``"redis://host:port/db"`` (Redis or Valkey, many machines)."""

    certificate: ReadableFile | None = None
    """PEM file with the program's certificate, which names ``service``; shown to callers and to
    whom it calls. Read again when it changes."""

    key: ReadableFile | None = None
    """PEM file with its private key, not encrypted."""

    ca: ReadableFile | None = None
    """PEM file with the authorities that signed everybody's certificate."""

    min_version: Literal["1.2", "1.3"] = "1.3"
    """Oldest version of TLS between sidecars."""

    insecure: Flag = False
    """Let ``ingress`` speak plain HTTP to anyone, without certificates."""

    tls_only: Flag = False
    """Never call an instance whose URL is ``http``."""

    allow: Annotated[tuple[Annotated[str, Field(min_length=1)], ...], OneOrMany()] | None = None
    """Callers that are let in: a name of their certificate, DNS or CN. Others get 403. Unset:
    everyone whose certificate ``ca`` has signed."""

    trusted_proxies: Annotated[tuple[Annotated[str, Field(min_length=1)], ...], OneOrMany()] = ()
    """Callers, by a name of their certificate, that are believed when they say for whom they ask
    (``X-Forwarded-For``): a gateway in front. What others say of it is removed."""

    health: Annotated[AppHealthConfig, Short("path")] = AppHealthConfig()
    """How the program is asked whether it is well; it is advertised only while it is."""

    suffix: Annotated[str, PlainValidator(_suffix)] | None = None
    """``users.SUFFIX`` means the service ``users``, as ``users`` does."""

    max_services: Annotated[Integer, integer(1, 100_000)] = 256
    """Most services that are followed at once. For one more, the one unused for longest is
    closed."""

    idle: PositiveDuration = 300.0
    """How long an unused service is followed."""

    lease: PositiveDuration = 15.0
    """How long a registration outlives a sidecar that was killed."""

    leave: Duration = 1.0
    """After unregistering, how long new connections are still accepted from those who have not
    noticed."""

    drain: PositiveDuration = 30.0
    """How long a shutdown waits for what is under way."""

    weight: Annotated[Integer, integer(1, 1_000_000)] = 1
    """Share of the requests, relative to other instances of the service."""

    zone: Annotated[str, Field(min_length=1, max_length=128)] | None = None
    """Where it runs."""

    access_log: Annotated[str, Field(min_length=1)] = "off"
    """Where a line for each exchange goes: ``"off"``, ``"stdout"``, ``"stderr"`` or a file."""

    log_level: Literal["debug", "info", "warning", "error"] = "info"
    """Least severe message that is logged."""

    @property
    def is_secured(self) -> bool:
        """Whether there are certificates."""
        return self.certificate is not None

    @property
    def advertised(self) -> str | None:
        """The URL to register, if there is one to tell others."""
        if self.advertise is not None or self.ingress is None:
            return self.advertise
        address = parse_listen_address(self.ingress)
        if address.is_unix or not address.port or _is_wildcard(address):
            return None
        return f"{'https' if self.is_secured else 'http'}://{address}"


def _is_wildcard(address: ListenAddress) -> bool:
    return address.host in ("0.0.0.0", "::")  # noqa: S104  # compared, not bound


def _is_local(address: ListenAddress) -> bool:
    if address.is_unix or address.host == "localhost":
        return True
    try:
        return ipaddress.ip_address(address.host).is_loopback
    except ValueError:
        return False


class SidecarConfig(Section):
    """The whole file."""

    foreign: ClassVar[Mapping[str, str]] = {
        "gateway": "a sidecar has [sidecar]; nexgate run has [gateway]",
        "routes": "a sidecar has no routes: the Host of a request names the service",
        "default": "the table is [defaults]",
        "service": "tables of services are [services.NAME]",
        **dict.fromkeys(SidecarSection.model_fields, "it belongs to [sidecar]"),
    }

    sidecar: SidecarSection = SidecarSection()
    """What it is for."""

    app: CalledServiceConfig = CalledServiceConfig()
    """How the local program is called: ``timeout``, ``pool``, ``bulkhead`` and so on."""

    defaults: CalledServiceConfig = CalledServiceConfig()
    """How every service is called, key by key unless its own table says otherwise."""

    services: dict[_ServiceName, CalledServiceConfig] = {}
    """How single services are called."""

    def with_options(self, values: Mapping[str, object]) -> Self:
        """The command line's word over ``[sidecar]``. Raises ``pydantic.ValidationError``."""
        checked = SidecarSection.model_validate(dict(values))
        changes = {name: getattr(checked, name) for name in checked.model_fields_set}
        return self.model_copy(update={"sidecar": self.sidecar.model_copy(update=changes)})

    def complete(self, *, file: str = "") -> Self:
        """Itself, when it says everything it must. Raises ``InvalidConfig`` with all that is
        missing.
        """
        problems = [problem_of(each, file=file) for each in _missing(self.sidecar)]
        if problems:
            raise InvalidConfig(problems)
        return self

    def called(self, name: str) -> ServiceConfig:
        """How to call a service: its own keys over the defaults, found in the registry unless
        something else is said.
        """
        own = self.services.get(name)
        merged = self.defaults
        if own is not None:
            merged = merged.model_copy(
                update={key: getattr(own, key) for key in own.model_fields_set}
            )
            if "timeout" in own.model_fields_set:
                timeout = own.timeout.over(self.defaults.timeout)
                merged = merged.model_copy(update={"timeout": timeout})
        if not merged.instances and not merged.discover:
            merged = merged.model_copy(update={"discover": (RegistryConfig(),)})
        if merged.tls is None and self.sidecar.is_secured:
            # Whoever answers must be the service, wherever it is: the address says nothing.
            merged = merged.model_copy(update={"tls": UpstreamTlsConfig(server_name=name)})
        return merged

    def local(self) -> ServiceConfig:
        """How the local program is called."""
        assert self.sidecar.app is not None
        listed = (InstanceConfig(url=self.sidecar.app),)
        return self.app.model_copy(update={"instances": listed, "discover": ()})


def _missing(said: SidecarSection) -> Iterator[Finding]:
    def finding(key: str, message: str, hint: str = "") -> Finding:
        return Finding(("sidecar", key), message, hint)

    if said.egress is None and said.ingress is None:
        hint = 'for example --egress 127.0.0.1:15001, or egress = "127.0.0.1:15001"'
        yield finding("egress", "or ingress is required: there is nothing to do", hint)
    files = {name: getattr(said, name) for name in ("certificate", "key", "ca")}
    given = [name for name, path in files.items() if path is not None]
    for name in files if given else ():
        if name not in given:
            yield finding(name, f"is required with {given[0]}", "the three go together")
    if said.egress is not None and not said.egress_anywhere:
        address = parse_listen_address(said.egress)
        if not _is_local(address):
            hint = f"127.0.0.1:{address.port}; or --egress-anywhere, if that is meant"
            yield finding("egress", "can be reached from other machines", hint)
    if said.ingress is None:
        for name in ("app", "advertise", "allow", "trusted_proxies"):
            if getattr(said, name):
                yield finding(name, "has no effect without ingress")
        return
    if said.app is None:
        yield finding("app", "is required with ingress", "where your program listens")
    if said.service is None:
        yield finding("service", "is required with ingress", "the name to register")
    if not given and not said.insecure:
        hint = "--cert, --key and --ca; or --insecure, if everyone may call"
        yield finding("certificate", "is required with ingress", hint)
    if given and said.insecure:
        yield finding("insecure", "contradicts the certificates", "leave out one of the two")
    if said.allow is not None and not given:
        yield finding("allow", "needs certificates: without them nobody has a name")
    if said.advertised is None:
        yield finding("advertise", "is required", "the URL at which others reach ingress")
    elif given and said.advertised.startswith("http:"):
        yield finding("advertise", "is not https", "ingress speaks TLS only")
    elif not given and said.advertised.startswith("https:"):
        yield finding(
            "advertise", "is https", "ingress speaks plain HTTP: there are no certificates"
        )


def load_sidecar(path: Path, env: Mapping[str, str]) -> SidecarConfig:
    """The configuration in a file. Raises ``InvalidConfig``; see ``complete`` for the rest."""
    return parse(read_text(path), SidecarConfig, filename=str(path), env=env)
