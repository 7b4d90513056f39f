"""``[services.NAME]``: a set of interchangeable instances, and how they are used."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Annotated, Any, ClassVar, Final, Literal, Self

from pydantic import Field, PlainValidator, WithJsonSchema, model_validator

from nexgate.config import (
    Finding,
    Flag,
    Integer,
    Number,
    ObjectPath,
    PositiveDuration,
    ReadableFile,
    Section,
    Short,
    Size,
    Timeout,
    Token,
    attempt,
    check_authorities,
    check_certificate,
    did_you_mean,
    integer,
    parse_field_name,
    parse_host,
    parse_object_path,
    parse_port,
    parse_socket_path,
    parse_status_range,
    parse_token,
    peek,
    size,
    wrong,
)
from nexgate.discovery.config import DiscoverConfig
from nexgate.resilience.config import (
    BreakerConfig,
    BulkheadConfig,
    DeadlineConfig,
    HedgeConfig,
    RetryConfig,
)
from nexgate.upstream.outlier.config import OutlierConfig

# --- instances ------------------------------------------------------------------------------------

_SCHEMES: Final = ("http", "https", "unix", "asgi")


def parse_instance_url(value: object) -> str:
    """An instance's URL in its normal form, which is the instance's identity.

    ``http://host[:port]``, ``https://host[:port]``, ``unix:/path`` or ``asgi:module:app``. Scheme
    and host come out in lower case, a trailing slash is dropped. What an instance does not have is
    refused with the place where it belongs: a path is a route's business, credentials are a field.
    """
    if not isinstance(value, str):
        raise wrong("must be a URL", 'for example "http://127.0.0.1:9001"')
    scheme, colon, rest = value.partition(":")
    scheme = scheme.lower()
    if colon and scheme == "unix":
        return f"unix:{parse_socket_path(rest)}"
    if colon and scheme == "asgi":
        return f"asgi:{parse_object_path(rest)}"
    if not rest.startswith("//") or scheme not in _SCHEMES:
        raise wrong("is not the URL of an instance", _url_hint(value, scheme, rest))
    authority = re.split(r"[/?#\\]", rest[2:], maxsplit=1)[0]
    if "@" in authority:
        hint = "send credentials in a field: request_headers = { set = { Authorization = … } }"
        raise wrong("has credentials in it", hint, is_secret=True)
    if (after := rest[2 + len(authority) :]) not in ("", "/"):
        if after.startswith(("?", "#", "/?", "/#")):
            raise wrong("has a query or a fragment", f'leave it out: "{scheme}://{authority}"')
        raise wrong(
            "has a path", f'write "{scheme}://{authority}"; a route\'s rewrite changes paths'
        )
    return f"{scheme}://{_authority(authority)}"


def _authority(text: str) -> str:
    host, colon, port = text.rpartition(":")
    if not colon or text.endswith("]"):
        host, port = text, ""
    if not host:
        raise wrong("has no host")
    number = f":{parse_port(port)}" if colon and not text.endswith("]") else ""
    bare = parse_host(host)
    return f"[{bare}]{number}" if ":" in bare else f"{bare}{number}"


def _url_hint(value: str, scheme: str, rest: str) -> str:
    if rest.startswith("//"):
        websocket = {"ws": "http", "wss": "https"}.get(scheme)
        if websocket:
            return f'WebSockets pass over HTTP: "{websocket}:{rest}"'
        if scheme in ("h2c", "grpc", "grpcs", "tcp", "fastcgi"):
            return f"{scheme} is not spoken; instances speak HTTP/1.1"
        return did_you_mean(scheme, _SCHEMES, otherwise="the schemes are")
    if value.startswith("/"):
        return f'for a Unix socket: "unix:{value}"'
    if scheme in ("http", "https"):
        return f'two slashes: "{scheme}://{rest.lstrip("/")}"'
    if re.fullmatch(r"[\w.-]+(?::[0-9]+)?", value, re.ASCII):
        return f'add the scheme: "http://{value}"'
    return 'for example "http://127.0.0.1:9001", "unix:/run/app.sock" or "asgi:module:app"'


InstanceUrl = Annotated[
    str,
    PlainValidator(parse_instance_url),
    WithJsonSchema(
        {
            "type": "string",
            "examples": ["http://127.0.0.1:9001", "unix:/run/app.sock", "asgi:package.module:app"],
        }
    ),
]


class InstanceConfig(Section):
    """One instance of a service."""

    foreign: ClassVar[Mapping[str, str]] = {
        "host": 'one key for both: url = "http://127.0.0.1:9001"',
        "port": 'one key for both: url = "http://127.0.0.1:9001"',
        "address": "the key is url",
        "target": "the key is url",
        "server": "the key is url",
        "uri": "the key is url",
        "backup": "there are no backup instances; give the others a higher weight",
    }

    url: InstanceUrl = Field(examples=['"http://127.0.0.1:9001"'])
    """``http://host:port``, ``https://host:port``, ``unix:/path`` or ``asgi:package.module:app``,
    an ASGI application that runs in the gateway's own process. Without a path: see a route's
    ``rewrite``."""

    weight: Annotated[Integer, integer(1, 1_000_000)] = 1
    """Share of the requests, relative to the other instances. Every balancer honours it."""

    zone: Annotated[str, Field(min_length=1)] | None = None
    """Where the instance runs. Shown in logs and metrics."""

    @property
    def scheme(self) -> str:
        """``http``, ``https``, ``unix`` or ``asgi``."""
        return self.url.partition(":")[0]


# --- balancers ------------------------------------------------------------------------------------


class LeastRequestsConfig(Section):
    """Of two instances chosen at random, the one with fewer requests under way."""

    kind: Literal["least-requests"] = "least-requests"
    """Selects this balancer."""


class RoundRobinConfig(Section):
    """One after the other, smoothly weighted."""

    kind: Literal["round-robin"] = "round-robin"
    """Selects this balancer."""


class RandomConfig(Section):
    """Any, by weight."""

    kind: Literal["random"] = "random"
    """Selects this balancer."""


class EwmaConfig(Section):
    """Of two instances chosen at random, the one whose recent latency times its load is lower.

    Not for services whose calls differ much in cost: the instance that got the slow calls looks
    slow.
    """

    kind: Literal["ewma"] = "ewma"
    """Selects this balancer."""

    decay: PositiveDuration = 10.0
    """How long a latency is remembered. Less reacts faster and trembles more."""


def _hash_key(value: object) -> str:
    if not isinstance(value, str):
        raise wrong("must be text", 'for example "client" or "header:X-User"')
    if value in ("client", "path"):
        return str(value)
    source, _, name = value.partition(":")
    if source not in ("header", "cookie", "query"):
        known = ("client", "path", "header:", "cookie:", "query:")
        raise wrong(
            "is not a part of a request",
            did_you_mean(source, [k.rstrip(":") for k in known])
            or 'one of "client", "path", "header:NAME", "cookie:NAME", "query:NAME"',
        )
    if not name:
        raise wrong("lacks the name", f'write "{source}:NAME"')
    if source == "header":
        return f"header:{parse_field_name(name)}"
    return f"cookie:{parse_token(name)}" if source == "cookie" else str(value)


class ConsistentHashConfig(Section):
    """The same key goes to the same instance, as far as the instances stay the same."""

    kind: Literal["consistent-hash"] = "consistent-hash"
    """Selects this balancer."""

    key: Annotated[
        str,
        PlainValidator(_hash_key),
        WithJsonSchema({"type": "string", "examples": ["client", "header:X-User", "path"]}),
    ] = "client"
    """What is hashed: ``"client"`` (its address), ``"path"``, ``"header:NAME"``, ``"cookie:NAME"``
    or ``"query:NAME"``. A request without it goes anywhere."""


class StickyCookieConfig(Section):
    """A client stays with its first instance, by a cookie that the gateway sets."""

    kind: Literal["sticky-cookie"] = "sticky-cookie"
    """Selects this balancer."""

    cookie: Token = "nexgate_affinity"
    """Name of the cookie. Its value names no instance in clear. ``Secure`` where the client used
    TLS."""

    ttl: Timeout = None
    """How long the cookie lives; ``"none"`` until the browser closes."""


class CustomBalancerConfig(Section):
    """A balancer of your own. Its short form is what ``use`` says."""

    foreign: ClassVar[Mapping[str, str]] = {
        "name": "the key is use",
        "class": "the key is use",
        "config": "the key is options",
    }

    kind: Literal["custom"] = "custom"
    """Selects this balancer."""

    use: ObjectPath = Field(examples=['"package.module:Balancer"'])
    """What makes it, called with ``options``: ``"package.module:Class"``, or ``"plugin:name"`` for
    one that a plugin has. It makes a ``nexgate.upstream.balancer.Balancer``."""

    options: dict[str, Any] = {}
    """Keyword arguments."""


BalancerConfig = (
    LeastRequestsConfig
    | RoundRobinConfig
    | RandomConfig
    | EwmaConfig
    | ConsistentHashConfig
    | StickyCookieConfig
    | CustomBalancerConfig
)


# --- health, pool, timeouts, TLS ------------------------------------------------------------------

StatusRange = tuple[int, int]
"""First and last status, both included."""


def _status_ranges(value: object) -> tuple[StatusRange, ...]:
    items = list(value) if isinstance(value, (list, tuple)) else [value]
    if not items:
        raise wrong("must not be empty")
    hint = 'for example 200, "200-299" or [200, 204]'
    return tuple(parse_status_range(item, hint) for item in items)


def _health_path(value: object) -> str:
    if not isinstance(value, str):
        raise wrong("must be a path", 'for example "/health"')
    if value.startswith(("http://", "https://")):
        raise wrong("must be a path", "only the path: the host is each instance's own")
    if not value.startswith("/"):
        raise wrong("must be a path", f'did you mean "/{value}"?')
    if not re.fullmatch(r"[\x21-\x22\x24-\x7e]+", value):
        raise wrong("has a character that a path cannot have", "percent-encode it")
    return str(value)


HealthPath = Annotated[
    str,
    PlainValidator(_health_path),
    WithJsonSchema({"type": "string", "pattern": "^/", "examples": ["/health"]}),
]


class HealthConfig(Section):
    """Active probes. Instances start as healthy; one that fails its probes gets no requests until
    it passes again."""

    foreign: ClassVar[Mapping[str, str]] = {
        "url": "the key is path",
        "uri": "the key is path",
        "endpoint": "the key is path",
        "period": "the key is interval",
        "frequency": "the key is interval",
        "fails": "the key is unhealthy_after",
        "failures": "the key is unhealthy_after",
        "failure_threshold": "the key is unhealthy_after",
        "unhealthy_threshold": "the key is unhealthy_after",
        "passes": "the key is healthy_after",
        "rise": "the key is healthy_after",
        "fall": "the key is unhealthy_after",
        "successes": "the key is healthy_after",
        "success_threshold": "the key is healthy_after",
        "healthy_threshold": "the key is healthy_after",
        "expect_status": "the key is status",
        "statuses": "the key is status",
        "codes": "the key is status",
    }

    path: HealthPath = Field(examples=['"/health"'])
    """What is requested, query included."""

    method: Literal["GET", "HEAD", "OPTIONS"] = "GET"
    """How it is requested."""

    status: Annotated[
        tuple[StatusRange, ...],
        PlainValidator(_status_ranges),
        WithJsonSchema(
            {
                "$comment": "a status, a range or a list of them",
                "anyOf": [
                    {"type": "integer", "minimum": 100, "maximum": 599},
                    {"type": "string", "pattern": "^[1-5][0-9]{2}( *- *[1-5][0-9]{2})?$"},
                    {"type": "array", "items": {"type": ["integer", "string"]}, "minItems": 1},
                ],
            }
        ),
    ] = ((200, 399),)
    """Which answers pass: a status, a range (``"200-299"``) or a list. Every other one fails."""

    interval: PositiveDuration = 5.0
    """From one probe of an instance to its next."""

    jitter: Annotated[Number, Field(ge=0, le=1)] = 0.1
    """By which part of itself an interval varies, so that the probes of many gateways spread."""

    timeout: PositiveDuration = 2.0
    """How long a probe may take, connecting included."""

    healthy_after: Annotated[Integer, integer(1, 1000)] = 2
    """How many probes in a row must pass before an unhealthy instance gets requests again."""

    unhealthy_after: Annotated[Integer, integer(1, 1000)] = 3
    """How many probes in a row must fail before an instance gets none."""

    port: Annotated[Integer, integer(1, 65535)] | None = None
    """Another port to probe. Unset: the instance's own."""

    host: Annotated[str, Field(min_length=1, pattern=r"^[\x21-\x7e]+$")] | None = None
    """The ``Host`` field of a probe. Unset: the instance's authority."""


class PoolConfig(Section):
    """Connections to each instance, of each worker."""

    foreign: ClassVar[Mapping[str, str]] = {
        "size": "the key is max_connections",
        "max_size": "the key is max_connections",
        "keepalive": "the keys are max_idle and idle",
        "keep_alive": "the keys are max_idle and idle",
        "idle_timeout": "the key is idle",
        "max_pending": "the key is max_waiting",
        "timeout": "the key is wait",
    }

    max_connections: Annotated[Integer, integer(1, 1_000_000)] = 1024
    """Most connections to one instance, WebSockets included."""

    max_idle: Annotated[Integer, integer(0, 1_000_000)] = 128
    """Most connections kept open without a request. 0 makes a new one for every request."""

    idle: PositiveDuration = 60.0
    """How long a connection is kept without a request. It must be less than the keep-alive of the
    service, or requests meet connections that are just closing (uvicorn's default is 5 s,
    gunicorn's 2 s, Node's 5 s): those are repeated when that is safe, and answered with 502 when
    it is not."""

    max_waiting: Annotated[Integer, integer(0, 1_000_000)] = 1024
    """How many requests may wait for a connection. Beyond: 503 at once."""

    wait: PositiveDuration = 1.0
    """How long a request may wait for a connection. Beyond: 503."""

    @classmethod
    def relations(cls, data: Mapping[str, Any]) -> Iterator[Finding]:
        most, idle = data.get("max_connections"), data.get("max_idle")
        if type(most) is int and type(idle) is int and idle > most:
            yield Finding(("max_idle",), "must not be more than max_connections")


class TimeoutConfig(Section):
    """How long a service is waited for. The short form is ``total``."""

    foreign: ClassVar[Mapping[str, str]] = {
        "read": "the keys are first_byte and body",
        "response": "the keys are first_byte and total",
        "request": "the key is total",
        "send": "the key is body",
        "write": "the key is body",
        "header": "the key is first_byte",
        "ttfb": "the key is first_byte",
        "idle": "the keys are body (here) and idle (of the pool)",
        "dial": "the key is connect",
    }

    connect: PositiveDuration = 1.0
    """Until the connection stands, TLS included. Beyond: 504."""

    first_byte: Timeout = 60.0
    """From the end of the request to the first byte of the response, or ``"none"``. Beyond: 504."""

    body: Timeout = 60.0
    """How long a body, in either direction, may make no progress, or ``"none"``. Not a limit of the
    whole. Services that stream events with long pauses need more."""

    total: Timeout = None
    """From choosing an instance to the end of the response, or ``"none"``. Includes streams.
    Beyond: 504 when the response has not begun; otherwise it is cut."""

    def over(self, base: Self) -> Self:
        """``base`` with what this one says itself: a route's timeouts over its service's."""
        return base.model_copy(update={name: getattr(self, name) for name in self.model_fields_set})


class UpstreamTlsConfig(Section):
    """TLS to the instances whose URL is ``https``."""

    foreign: ClassVar[Mapping[str, str]] = {
        "insecure": "the key is verify = false",
        "insecure_skip_verify": "the key is verify = false",
        "skip_verify": "the key is verify = false",
        "sni": "the key is server_name",
        "cert": "the key is certificate",
        "ca_file": "the key is ca",
        "client_certificate": "the key is certificate",
    }

    ca: ReadableFile | None = None
    """PEM file of the authorities to trust. Unset: the system's."""

    certificate: ReadableFile | None = None
    """PEM file with the certificate that the gateway shows. Needs ``key``."""

    key: ReadableFile | None = None
    """PEM file with the private key, not encrypted. Needs ``certificate``."""

    server_name: Annotated[str, Field(min_length=1)] | None = None
    """The name to ask for (SNI) and to verify. Unset: the host of the URL."""

    verify: Flag = True
    """Whether the instance's certificate is verified. ``false`` lets anyone on the way read and
    change everything: give ``ca`` instead."""

    min_version: Literal["1.2", "1.3"] = "1.2"
    """Oldest protocol version that is used."""

    @model_validator(mode="after")
    def _files_are_usable(self) -> Self:
        if self.certificate is not None and self.key is not None:
            check_certificate(self.certificate, self.key)
        if self.ca is not None:
            check_authorities(self.ca)
        return self

    @classmethod
    def relations(cls, data: Mapping[str, Any]) -> Iterator[Finding]:
        for one, other in (("certificate", "key"), ("key", "certificate")):
            if data.get(one) is not None and data.get(other) is None:
                yield Finding((one,), f"needs {other} beside it")
        if data.get("verify") is False and data.get("ca") is not None:
            yield Finding(("ca",), "has no effect without verification", "leave out verify = false")


# --- the service ----------------------------------------------------------------------------------


class ServiceConfig(Section):
    """A set of interchangeable instances."""

    foreign: ClassVar[Mapping[str, str]] = {
        "url": 'the key is instances: instances = ["http://127.0.0.1:9001"]',
        "uri": 'the key is instances: instances = ["http://127.0.0.1:9001"]',
        "urls": "the key is instances",
        "upstream": "the key is instances",
        "upstreams": "the key is instances",
        "server": "the key is instances",
        "servers": "the key is instances",
        "target": "the key is instances",
        "targets": "the key is instances",
        "nodes": "the key is instances",
        "backends": "the key is instances",
        "endpoints": "the key is instances",
        "hosts": "the key is instances",
        "address": "the key is instances",
        "loadbalancer": "the key is balancer",
        "load_balancer": "the key is balancer",
        "load_balancing": "the key is balancer",
        "lb": "the key is balancer",
        "lb_policy": "the key is balancer",
        "algorithm": "the key is balancer",
        "policy": "the key is balancer",
        "strategy": "the key is balancer",
        "healthcheck": "the key is health",
        "health_check": "the key is health",
        "healthchecks": "the key is health",
        "health_checks": "the key is health",
        "keepalive": "the key is pool, a table: pool = { max_idle = 128 }",
        "connections": "the key is pool, a table: pool = { max_connections = 1024 }",
        "timeouts": "the key is timeout",
        "connect_timeout": "the key is timeout.connect",
        "read_timeout": "the keys are timeout.first_byte and timeout.body",
        "preserve_host": 'the key is host: "preserve" or "instance"',
        "ssl": "the key is tls",
        "retries": "the key is retry",
        "circuit_breaker": "the key is breaker",
        "outlier_detection": "the key is outlier",
        "max_concurrency": "the key is bulkhead",
        "concurrency": "the key is bulkhead",
        "path": "paths belong to routes: path, strip_prefix, rewrite",
    }

    instances: tuple[Annotated[InstanceConfig, Short("url")], ...] = Field(
        default=(), examples=['["http://127.0.0.1:9001"]']
    )
    """URLs, or tables with ``url`` and ``weight``. At least one, unless ``discover`` finds some."""

    discover: tuple[
        Annotated[DiscoverConfig, Field(discriminator="kind"), Short("kind", may_be_custom=True)],
        ...,
    ] = ()
    """Where further instances come from: ``"registry"``, or tables with ``kind``: ``"file"``,
    ``"dns"``, ``"registry"``, ``"consul"``, ``"kubernetes"``, ``"http"``, or ``"plugin:name"`` for
    one of your own. Several are united; one that is away keeps what it said last."""

    balancer: Annotated[
        BalancerConfig, Field(discriminator="kind"), Short("kind", may_be_custom=True)
    ] = LeastRequestsConfig()
    """Who gets the next request: ``"least-requests"``, ``"round-robin"``, ``"random"``, ``"ewma"``,
    ``"consistent-hash"`` or ``"sticky-cookie"``, or a table with ``kind`` and its options, or
    ``"plugin:name"`` for one of your own."""

    health: Annotated[HealthConfig, Short("path")] | None = None
    """Active probes; the short form is their path. Unset: none."""

    pool: PoolConfig = PoolConfig()
    """Connections to each instance."""

    timeout: Annotated[TimeoutConfig, Short("total", (str, int, float))] = TimeoutConfig()
    """How long the service is waited for; the short form is ``total``."""

    outlier: Annotated[OutlierConfig, Short("enabled", (bool,))] = OutlierConfig()
    """Instances that fail real requests are left alone for a while; ``false`` turns that off."""

    retry: Annotated[RetryConfig, Short("attempts", (int,))] | None = None
    """Failed requests that may be repeated without harm are; the short form is ``attempts``.
    Unset: only a request whose connection died without an answer is sent once more. In every case,
    what was not sent to an instance that cannot be reached goes to another."""

    breaker: BreakerConfig | None = None
    """Answers 503 at once while the service fails. Unset: none."""

    bulkhead: Annotated[BulkheadConfig, Short("limit", (int, str))] | None = None
    """How many requests are under way at once, per worker; the short form is ``limit``. Unset: as
    many as ``pool`` allows."""

    hedge: Annotated[HedgeConfig, Short("after", (str, int, float))] | None = None
    """A second attempt when the first takes unusually long; the short form is ``after``. Unset:
    none."""

    deadline: Annotated[DeadlineConfig, Short("header")] | None = None
    """How long the client waits is read from a field, kept to, and passed on; the short form is its
    name. Unset: ignored."""

    tls: UpstreamTlsConfig | None = None
    """TLS to instances whose URL is ``https``. Unset: the system's authorities, verified."""

    host: Annotated[str, Field(min_length=1)] = "preserve"
    """The ``Host`` field that instances see: ``"preserve"`` is the client's, ``"instance"`` the
    host and port of the instance, anything else is sent as it is. Public services need
    ``"instance"``."""

    max_response_head_bytes: Annotated[Size, size("1KiB", "16MiB")] = 64 * 1024
    """Size of a response head. Beyond: 502."""

    @property
    def per_try(self) -> float | None:
        """Seconds for one attempt, where ``retry`` says."""
        return self.retry.per_try if self.retry is not None else None

    @model_validator(mode="after")
    def _host_is_a_host(self) -> Self:
        if self.host not in ("preserve", "instance"):
            name, colon, port = self.host.rpartition(":")
            if not colon or self.host.endswith("]"):
                name, port = self.host, "80"
            parse_host(name)
            parse_port(port)
        return self

    @classmethod
    def relations(cls, data: Mapping[str, Any]) -> Iterator[Finding]:
        instances = data.get("instances")
        has_none = instances is None or (isinstance(instances, (list, tuple)) and not instances)
        # An unknown key was probably meant to be it; it has a hint of its own.
        if has_none and not data.get("discover") and set(data) <= set(cls.keys()):
            what = "is required" if instances is None else "must not be empty"
            hint = 'for example instances = ["http://127.0.0.1:9001"], or discover = ["registry"]'
            yield Finding(("instances",), what, hint, is_missing=instances is None)
        listed = instances if isinstance(instances, (list, tuple)) else ()
        schemes: set[str] = set()
        seen: dict[str, int] = {}
        for index, item in enumerate(listed):
            url = attempt(parse_instance_url, item if isinstance(item, str) else peek(item, "url"))
            if url is None:
                schemes.add("https")  # unknown: it is reported where it stands, and nothing else is
                continue
            schemes.add(url.partition(":")[0])
            if (first := seen.setdefault(url, index)) != index:
                hint = f"it is instances[{first}] already; for a larger share, give it a weight"
                yield Finding(("instances", index), "is there twice", hint)
        if listed and data.get("tls") is not None and "https" not in schemes:
            yield Finding(
                ("tls",), "has no effect: no instance is https", "write https:// in the URLs"
            )
