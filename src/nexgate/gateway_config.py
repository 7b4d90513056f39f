"""``gateway.toml``, or the same in Python: the root of the configuration.

The sections live beside the components they configure. What stands here is what only the whole can
say: what a route does with a request, and whether the names that sections use for each other exist.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Annotated, Any, ClassVar, Final, Literal

from pydantic import Field, PlainValidator, WithJsonSchema

from nexgate.config import (
    FieldValue,
    Finding,
    Flag,
    Integer,
    Overrides,
    Report,
    Section,
    Short,
    Size,
    SizeLimit,
    attempt,
    did_you_mean,
    examine,
    integer,
    nearest,
    parse,
    peek,
    size,
    wrong,
)
from nexgate.discovery import check_service_name
from nexgate.edge.config import GatewaySection
from nexgate.plugins import check_plugin_name
from nexgate.plugins.config import PluginSection
from nexgate.policies.filters.config import Filters
from nexgate.policies.headers.config import ChangeableField, HeaderRules
from nexgate.resilience.config import (
    BreakerConfig,
    BulkheadConfig,
    DeadlineConfig,
    HedgeConfig,
    RetryConfig,
)
from nexgate.routing.config import MatchConfig, PathTemplate, parse_template
from nexgate.upstream import GUARDED
from nexgate.upstream.config import ServiceConfig, TimeoutConfig

ACTIONS: Final = ("service", "split", "redirect", "respond")
"""What a route can do: exactly one of them."""

_SERVICE_NAME: Final = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,127}")


class SplitConfig(Section):
    """One service's share of a route's requests."""

    foreign: ClassVar[Mapping[str, str]] = {
        "name": "the key is service",
        "upstream": "the key is service",
        "percent": "the key is weight; weights are relative",
        "percentage": "the key is weight; weights are relative",
        "ratio": "the key is weight; weights are relative, whole numbers",
    }

    service: str = Field(examples=['"users"'])
    """Name of the service."""

    weight: Annotated[Integer, integer(0, 1_000_000)] = 1
    """Share of the requests, relative to the others. 0 sends none."""


def _redirect_target(value: object) -> str:
    if not isinstance(value, str):
        raise wrong("must be a URL or a path", 'for example "https://example.com/{rest}"')
    if not re.fullmatch(r"[\x21-\x7e]+", value):
        raise wrong("has a character that a URL cannot have", "percent-encode it")
    if value.startswith("//") or "\\" in value:
        raise wrong("is read as another host by browsers", "write the scheme, or a single slash")
    if value.startswith("/"):
        parse_template(value.partition("?")[0])
    elif not re.match(r"https?://[^/{}]", value):
        raise wrong("must be a URL or a path", 'begin with "/", "https://" or "http://"')
    return str(value)


class RedirectConfig(Section):
    """An answer that sends the client elsewhere."""

    foreign: ClassVar[Mapping[str, str]] = {
        "url": "the key is to",
        "location": "the key is to",
        "target": "the key is to",
        "code": "the key is status",
        "permanent": "the key is status: 308 is permanent, 307 is not",
        "preserve_query": "the key is keep_query",
    }

    to: Annotated[
        str,
        PlainValidator(_redirect_target),
        WithJsonSchema({"type": "string", "examples": ["https://example.com/{rest}", "/new/{id}"]}),
    ] = Field(examples=['"https://example.com/{rest}"'])
    """URL or path; ``{name}`` stands for a parameter of the route's ``path``."""

    status: Literal[301, 302, 303, 307, 308] = 308
    """308 and 307 keep the method; 308 and 301 are remembered by browsers, so take 307 to try."""

    keep_query: Flag = True
    """Whether the query of the request is appended."""


class RespondConfig(Section):
    """A fixed answer."""

    foreign: ClassVar[Mapping[str, str]] = {
        "code": "the key is status",
        "status_code": "the key is status",
        "text": "the key is body",
        "content": "the key is body",
        "type": "the key is content_type",
    }

    status: Annotated[Integer, integer(200, 599)] = 200
    """Status of the answer."""

    body: str = ""
    """Content of the answer, sent as UTF-8."""

    content_type: FieldValue | None = None
    """Type of the content. Unset: ``text/plain; charset=utf-8`` when there is a body."""

    headers: dict[ChangeableField, FieldValue] = {}
    """Further fields of the answer."""

    @classmethod
    def relations(cls, data: Mapping[str, Any]) -> Iterator[Finding]:
        if data.get("status") in (204, 205, 304) and data.get("body"):
            yield Finding(("body",), "cannot be sent with this status (RFC 9110 §6.4.1)")
        headers = data.get("headers")
        for name in headers if isinstance(headers, Mapping) else ():
            if str(name).lower() == "content-type" and data.get("content_type") is not None:
                yield Finding(("headers", name), "is said by content_type", is_about_key=True)


def _strip_prefix(value: object) -> str | bool:
    if isinstance(value, bool):
        return value
    if not isinstance(value, str):
        raise wrong("must be true or a path", 'for example true or "/api"')
    if not re.fullmatch(r"/[\x21\x24-\x3e\x40-\x7e]*", value):
        raise wrong("is not a path", 'for example "/api"')
    return value if value == "/" else value.rstrip("/")


class RouteConfig(MatchConfig):
    """What is done with the requests that a route is for."""

    foreign: ClassVar[Mapping[str, str]] = {
        "upstream": "the key is service",
        "upstreams": "the key is split",
        "backend": "the key is service",
        "backends": "the key is split",
        "cluster": "the key is service",
        "target": "the key is service",
        "proxy": "the key is service",
        "proxy_pass": "the key is service",
        "reverse_proxy": "the key is service",
        "to": "the keys are service and redirect",
        "url": "the key is service: give the URL to a service's instances",
        "instances": "they belong to a service: [services.NAME]",
        "services": "the key is service; for several with shares, split",
        "uri": "the key is path",
        "uris": "the key is path; one route for each",
        "paths": "the key is path; one route for each",
        "prefix": 'the key is path: path = "/prefix/*"',
        "match": "the predicates stand in the route itself: path, host, methods, headers",
        "rule": "the predicates stand in the route itself: path, host, methods, headers",
        "rules": "the predicates stand in the route itself: path, host, methods, headers",
        "predicates": "they stand in the route itself: path, host, methods, headers",
        "hosts": "the key is host",
        "hostname": "the key is host",
        "hostnames": "the key is host",
        "domain": "the key is host",
        "method": "the key is methods",
        "verbs": "the key is methods",
        "id": "the key is name",
        "order": "the key is priority",
        "strip_path": "the key is strip_prefix",
        "stripprefix": "the key is strip_prefix",
        "rewrite_path": "the key is rewrite",
        "replace_path": "the key is rewrite",
        "path_rewrite": "the key is rewrite",
        "timeouts": "the key is timeout",
        "max_body_size": "the key is max_body_bytes",
        "request_buffering": "the key is buffer_request, a size",
        "proxy_request_buffering": "the key is buffer_request, a size",
        "client_max_body_size": "the key is max_body_bytes",
        "add_headers": "the keys are request_headers and response_headers",
        "set_headers": "the keys are request_headers and response_headers",
        "plugins": "the key is filters",
        "middlewares": "the key is filters",
        "middleware": "the key is filters",
        "return": "the keys are respond and redirect",
        "static_response": "the key is respond",
        "weight": "weights belong to split",
        "weighted": "the key is split",
    }

    name: Annotated[str, Field(min_length=1, max_length=128)] | None = None
    """Name in logs, metrics and ``nexgate explain``. Unset: made from methods and path."""

    service: str | None = None
    """Name of the service that answers."""

    split: Annotated[tuple[SplitConfig, ...], Field(min_length=1)] | None = None
    """Several services with their shares, for canaries: ``[{ service = "a", weight = 95 },
    { service = "b", weight = 5 }]``."""

    redirect: Annotated[RedirectConfig, Short("to")] | None = None
    """Sends the client elsewhere; the short form is the URL or path."""

    respond: Annotated[RespondConfig, Short("status", (int,))] | None = None
    """Answers without a service; the short form is the status."""

    strip_prefix: Annotated[
        str | bool,
        PlainValidator(_strip_prefix),
        WithJsonSchema({"anyOf": [{"type": "boolean"}, {"type": "string", "pattern": "^/"}]}),
    ] = False
    """Leading part of the path that the service does not see: ``true`` for the literal segments in
    front of the first parameter of ``path``, or the prefix itself."""

    rewrite: PathTemplate | None = None
    """The path that the service sees instead; ``{name}`` stands for a parameter of ``path``. The
    query stays."""

    request_headers: HeaderRules | None = None
    """Changes to the fields of the request that the service sees."""

    response_headers: HeaderRules | None = None
    """Changes to the fields of the response that the client sees."""

    timeout: Annotated[TimeoutConfig, Short("total", (str, int, float))] | None = None
    """Timeouts of this route; what is not said is the service's. The short form is ``total``."""

    retry: Annotated[RetryConfig, Short("attempts", (int,))] | None = None
    """How this route repeats requests, in place of the service's ``retry``. The budget is the
    service's."""

    breaker: BreakerConfig | None = None
    """A breaker of this route's own, in place of the service's."""

    bulkhead: Annotated[BulkheadConfig, Short("limit", (int, str))] | None = None
    """A limit of this route's own, in place of the service's."""

    hedge: Annotated[HedgeConfig, Short("after", (str, int, float))] | None = None
    """How this route hedges, in place of the service's ``hedge``."""

    deadline: Annotated[DeadlineConfig, Short("header")] | None = None
    """The client's deadline on this route, in place of the service's ``deadline``."""

    importance: Literal["low", "normal", "high"] = "normal"
    """Who goes first, and who is turned away first, when ``bulkhead`` is at its limit."""

    fallback: str | None = None
    """Name of the service that is asked when the first has no instance, its circuit is open, or it
    failed a request that can be repeated without harm, with 502, 503 or 504 too."""

    max_body_bytes: SizeLimit = None
    """Largest request body, or ``"unlimited"``. Unset: ``gateway.limits.max_body_bytes``. Beyond:
    413."""

    buffer_request: Annotated[Size, size("0", "64MiB")] = 0
    """How much of a request's content is collected before the service is asked: all of it, or this
    much. A slow client then occupies no connection to the service. 0 asks at once, which streams
    need."""

    filters: Filters = ()
    """Python functions (``"package.module:function"``, or ``"plugin:name"``) through which the
    exchanges of this route pass, in order, after those of ``[gateway]``."""

    def body_limit(self, default: int | None) -> int | None:
        """Bytes, or ``None`` for unlimited, where ``default`` is what the gateway says."""
        return self.max_body_bytes if "max_body_bytes" in self.model_fields_set else default

    @property
    def service_names(self) -> tuple[str, ...]:
        """Every service that may answer."""
        named: tuple[str, ...] = (self.service,) if self.service is not None else ()
        named += tuple(part.service for part in self.split or ())
        return named + ((self.fallback,) if self.fallback is not None else ())

    @property
    def has_own_guard(self) -> bool:
        """Whether the route says something of how its services are called."""
        return any(getattr(self, name) is not None for name in GUARDED)

    @classmethod
    def relations(cls, data: Mapping[str, Any]) -> Iterator[Finding]:
        yield from super().relations(data)
        yield from _one_action(cls, data)
        yield from _path_changes(data)
        split = data.get("split")
        if isinstance(split, (list, tuple)) and split:
            yield from _shares(split)


def _one_action(cls: type[Section], data: Mapping[str, Any]) -> Iterator[Finding]:
    said = [action for action in ACTIONS if data.get(action) is not None]
    if len(said) > 1:
        for action in said[1:]:
            hint = f"it has {said[0]} already; keep one of the two"
            yield Finding((action,), "is a second action of the route", hint, is_about_key=True)
    if not said:
        if set(data) - set(cls.keys()):
            return  # an unknown key was probably meant to be the action; it gets a hint
        hint = 'for example service = "NAME"'
        yield Finding((), "does nothing: it needs service, split, redirect or respond", hint)


def _path_changes(data: Mapping[str, Any]) -> Iterator[Finding]:
    strip, rewrite = data.get("strip_prefix"), data.get("rewrite")
    goes_upstream = data.get("service") is not None or data.get("split") is not None
    has_other_action = data.get("redirect") is not None or data.get("respond") is not None
    for key in ("strip_prefix", "rewrite", "request_headers", "timeout", "fallback", *GUARDED):
        if data.get(key) and has_other_action and not goes_upstream:
            hint = "this route answers without a service"
            yield Finding((key,), "has no effect", hint, is_about_key=True)
    if strip and rewrite is not None:
        yield Finding(("strip_prefix",), "cannot stand beside rewrite", "rewrite alone is enough")
    path = attempt(parse_template, data.get("path"))
    if path is None:
        return
    if isinstance(strip, str) and strip not in ("", "/"):
        literal = path.literal_prefix.decode("latin-1") + "/"
        if not literal.startswith(strip.rstrip("/") + "/"):
            hint = f'the path begins with "{literal.rstrip("/") or "/"}"'
            yield Finding(("strip_prefix",), "is not how the path begins", hint)
    if strip is True and not path.literal_prefix:
        yield Finding(("strip_prefix",), "has nothing to strip", "the path begins with a parameter")
    if (target := attempt(parse_template, rewrite)) is not None:
        yield from _unknown_parameters(("rewrite",), target.names, path.names)
        if target.rest is not None and target.rest.is_anonymous_rest:
            hint = "name it in path and here: {rest:path}"
            yield Finding(("rewrite",), "ends in a * that has no value", hint)
    to = peek(data, "redirect", "to") or data.get("redirect")
    if isinstance(to, str):
        names = tuple(re.findall(r"\{([^{}:]*)(?::[^{}]*)?\}", to))
        place = ("redirect",) if isinstance(data.get("redirect"), str) else ("redirect", "to")
        yield from _unknown_parameters(place, names, path.names)


def _unknown_parameters(
    place: tuple[str, ...], used: tuple[str, ...], known: tuple[str, ...]
) -> Iterator[Finding]:
    unknown = next((name for name in used if name not in known), None)
    if unknown is not None:
        near = nearest(unknown, known)
        has = f"the path has {', '.join(f'{{{name}}}' for name in known)}"
        guess = f"did you mean {{{near}}}?" if near else has if known else "the path has none"
        hint = f"{{{unknown}}}: {guess}"
        yield Finding(place, "uses a parameter that the path does not have", hint)


def _shares(split: list[Any] | tuple[Any, ...]) -> Iterator[Finding]:
    weights = [1 if (w := peek(part, "weight")) is None else w for part in split]
    if all(type(weight) is int and weight == 0 for weight in weights):
        yield Finding(("split",), "sends every request nowhere", "one weight must be more than 0")
    names = [peek(part, "service") for part in split]
    for index, name in enumerate(names):
        if isinstance(name, str) and name in names[:index]:
            hint = f"it is split[{names.index(name)}] already; add the weights"
            yield Finding(("split", index, "service"), "is there twice", hint)


class GatewayConfig(Section):
    """Everything: the gateway, its services, its routes."""

    foreign: ClassVar[Mapping[str, str]] = {
        "server": "the table is [gateway]",
        "http": "the table is [gateway]",
        "global": "the table is [gateway]",
        "service": "the table is [services.NAME]",
        "upstream": "the table is [services.NAME]",
        "upstreams": "the table is [services.NAME]",
        "backends": "the table is [services.NAME]",
        "clusters": "the table is [services.NAME]",
        "route": "the table is [[routes]], with double brackets",
        "router": "the table is [[routes]], with double brackets",
        "routers": "the table is [[routes]], with double brackets",
        "endpoints": "the table is [[routes]], with double brackets",
        "locations": "the table is [[routes]], with double brackets",
        "frontends": "the table is [[routes]], with double brackets",
        "entrypoints": "the key is gateway.listen",
        "schema": 'the key is "$schema", in quotes',
    }

    editor_schema: str | None = Field(default=None, alias="$schema")
    """Where editors find the JSON Schema (``nexgate check --schema`` prints it). Else ignored."""

    gateway: GatewaySection = GatewaySection()
    """The gateway as a whole."""

    services: dict[str, ServiceConfig] = {}
    """Services by name."""

    plugins: dict[str, PluginSection] = {}
    """Plugins by name."""

    routes: tuple[RouteConfig, ...] = ()
    """Routes. Their order only decides between routes that are equally specific."""

    @classmethod
    def hint_for_unknown(cls, key: str) -> str:
        """A key of ``[gateway]`` at the top is common: TOML tables look like indentation."""
        if key in set(GatewaySection.keys()):
            return "it belongs under [gateway]"
        return super().hint_for_unknown(key)

    @classmethod
    def relations(cls, data: Mapping[str, Any]) -> Iterator[Finding]:
        services, routes = data.get("services", {}), data.get("routes", ())
        plugins = data.get("plugins")
        for name in plugins if isinstance(plugins, Mapping) else ():
            if attempt(check_plugin_name, str(name)) is None:
                hint = "lower-case letters, digits and underscores"
                yield Finding(("plugins", name), "is not a name", hint, is_about_key=True)
        # A dict: ten thousand routes look into it, and the hint wants the file's order.
        known = dict.fromkeys(map(str, services)) if isinstance(services, Mapping) else None
        for name in known or ():
            if not _SERVICE_NAME.fullmatch(name):
                hint = "letters, digits, hyphen, underscore and dot"
                yield Finding(("services", name), "is not a name", hint, is_about_key=True)
            elif _registers(services[name]) and attempt(check_service_name, name) is None:
                hint = 'shorter, or discover = [{ kind = "registry", name = "…" }]'
                yield Finding(
                    ("services", name), "is not a name in a registry", hint, is_about_key=True
                )
        names: dict[str, int] = {}
        for index, route in enumerate(routes if isinstance(routes, (list, tuple)) else ()):
            if known is not None:
                for place, name in _references(route):
                    if name not in known:
                        hint = did_you_mean(name, known, otherwise="the services are")
                        yield Finding(
                            ("routes", index, *place),
                            "names a service that does not exist",
                            hint or f"add [services.{name}]",
                        )
            name = peek(route, "name")
            if isinstance(name, str) and (first := names.setdefault(name, index)) != index:
                hint = f"routes[{first}] has it already"
                yield Finding(("routes", index, "name"), "is the name of two routes", hint)

    def warnings(self) -> Iterator[Finding]:
        used = {name for route in self.routes for name in route.service_names}
        for name in self.services:
            if name not in used:
                hint = f'a route reaches it with service = "{name}"'
                yield Finding(
                    ("services", name),
                    "is not used by any route",
                    hint,
                    is_about_key=True,
                    is_warning=True,
                )
        if not self.routes:
            hint = "add [[routes]] with path and service"
            yield Finding((), "there are no routes: every request gets 404", hint, is_warning=True)

    def with_overrides(self, overrides: Overrides) -> GatewayConfig:
        """This configuration with the command line's word over it, validated like the file's.

        Raises ``pydantic.ValidationError``: its paths begin at ``[gateway]``'s keys.
        """
        values = overrides.values()
        if not values:
            return self
        checked = GatewaySection.model_validate(values)
        changes = {name: getattr(checked, name) for name in checked.model_fields_set}
        return self.model_copy(update={"gateway": self.gateway.model_copy(update=changes)})

    @classmethod
    def json_schema(
        cls, plugins: Mapping[str, tuple[dict[str, Any], dict[str, Any]]] | None = None
    ) -> dict[str, Any]:
        """The JSON Schema of the file, for editors: completion, descriptions, checks. ``plugins``:
        by name, the schema of what may stand in ``config``, and its definitions.
        """
        schema = cls.model_json_schema(by_alias=True)
        for name, (config, definitions) in (plugins or {}).items():
            schema["$defs"] |= definitions
            section = {
                "allOf": [{"$ref": "#/$defs/PluginSection"}, {"properties": {"config": config}}]
            }
            schema["properties"]["plugins"].setdefault("properties", {})[name] = section
        return {
            "$schema": "https://json-schema.org/draft/2020-12/schema",
            **schema,
            "title": "Nexgate configuration",
        }


def _registers(service: object) -> bool:
    """Whether instances register under the name of the service itself."""
    discover = peek(service, "discover")
    return any(
        each == "registry" or (peek(each, "kind") == "registry" and not peek(each, "name"))
        for each in (discover if isinstance(discover, (list, tuple)) else ())
    )


def _references(route: object) -> Iterator[tuple[tuple[str | int, ...], str]]:
    """Every name of a service in a route, with its place."""
    name = peek(route, "service")
    if isinstance(name, str):
        yield ("service",), name
    if isinstance(name := peek(route, "fallback"), str):
        yield ("fallback",), name
    split = peek(route, "split")
    for index, part in enumerate(split if isinstance(split, (list, tuple)) else ()):
        if isinstance(name := peek(part, "service"), str):
            yield ("split", index, "service"), name


def load_text(text: str, *, filename: str, env: Mapping[str, str]) -> GatewayConfig:
    """The configuration in ``text``. Raises ``InvalidConfig`` with every problem.

    ``filename`` is for reports, and relative files in the text start at its directory. ``env`` is
    where ``${NAME}`` is looked up. Warnings are not reported; see ``check_text``.
    """
    return parse(text, GatewayConfig, filename=filename, env=env)


def check_text(text: str, *, filename: str, env: Mapping[str, str]) -> Report[GatewayConfig]:
    """Like ``load_text``, but returns the problems, the warnings of a good configuration too."""
    return examine(text, GatewayConfig, filename=filename, env=env)
