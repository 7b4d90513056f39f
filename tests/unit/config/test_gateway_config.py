"""``gateway.toml``: what it means, and what is said about every mistake in it."""

# ruff: noqa: E501  # the tables: a mistake a line, however long
from __future__ import annotations

import ipaddress
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
import trustme

from nexgate.config import InvalidConfig, Overrides, Problem, Section
from nexgate.config.reference import ROOT, _places, markdown
from nexgate.discovery.config import FileConfig
from nexgate.edge.config import GatewaySection, ListenAddress, ListenConfig
from nexgate.gateway_config import GatewayConfig, RouteConfig, check_text, load_text
from nexgate.upstream.config import ServiceConfig, TimeoutConfig


def load(text: str) -> GatewayConfig:
    return load_text(text, filename="", env={})


def problems(text: str) -> tuple[Problem, ...]:
    return check_text(text, filename="g.toml", env={}).problems


def the_problem(text: str) -> Problem:
    (only,) = problems(text)
    return only


def gateway(line: str) -> str:
    return f'[gateway]\n{line}\n[[routes]]\npath = "/"\nrespond = 200\n'


def service(line: str, instances: str = '["http://h"]') -> str:
    return f'[services.a]\ninstances = {instances}\n{line}\n[[routes]]\npath = "/"\nservice = "a"\n'


def route(lines: str) -> str:
    return f'[[routes]]\n{lines}\n[services.users]\ninstances = ["http://h"]\n'


# --- what it means --------------------------------------------------------------------------------


def test_an_empty_file_is_a_gateway_with_defaults() -> None:
    report = check_text("", filename="g.toml", env={})
    assert report.config == GatewayConfig()
    assert [p.message for p in report.problems] == ["there are no routes: every request gets 404"]


def test_the_design_example_without_later_policies() -> None:
    config = load("""
        "$schema" = "schema.json"
        [gateway]
        listen = "127.0.0.1:8000"
        workers = "auto"
        [services.users]
        instances = ["http://127.0.0.1:9001", { url = "http://127.0.0.1:9002", weight = 2 }]
        balancer = "least-requests"
        health = { path = "/health", interval = "5s" }
        timeout = { connect = "1s", total = "10s" }
        [[routes]]
        path = "/users/{user_id}"
        methods = ["GET"]
        service = "users"
    """)
    users = config.services["users"]
    assert [(i.url, i.weight) for i in users.instances] == [
        ("http://127.0.0.1:9001", 1),
        ("http://127.0.0.1:9002", 2),
    ]
    assert users.health is not None
    assert (users.health.interval, users.health.status) == (5.0, ((200, 399),))
    assert (users.timeout.connect, users.timeout.total) == (1.0, 10.0)
    assert config.routes[0].service_names == ("users",)
    assert config.gateway.workers == "auto"


@pytest.mark.parametrize(
    ("written", "parsed"),
    [
        ("127.0.0.1:8000", ListenAddress("127.0.0.1", 8000)),
        (":8000", ListenAddress("127.0.0.1", 8000)),
        (":0", ListenAddress("127.0.0.1", 0)),
        ("0.0.0.0:80", ListenAddress("0.0.0.0", 80)),
        ("[::1]:8000", ListenAddress("::1", 8000)),
        ("[0:0::1]:8000", ListenAddress("::1", 8000)),
        ("LocalHost:8000", ListenAddress("localhost", 8000)),
        ("unix:/run/nexgate.sock", ListenAddress(path="/run/nexgate.sock")),
    ],
)
def test_where_to_listen(written: str, parsed: ListenAddress) -> None:
    (listen,) = load(f'gateway.listen = "{written}"').gateway.listen
    assert listen.parsed == parsed
    assert listen.parsed.is_unix == (parsed.path != "")
    assert ListenConfig(address=str(parsed)).parsed == parsed


@pytest.mark.parametrize(
    ("written", "normal"),
    [
        ("http://H:9001", "http://h:9001"),
        ("HTTP://h/", "http://h"),
        ("https://[0::1]:9001", "https://[::1]:9001"),
        ("https://[::1]", "https://[::1]"),
        ("http://a_b.c-d.", "http://a_b.c-d."),
        ("unix:/run/a.sock", "unix:/run/a.sock"),
        ("asgi:a.b:c", "asgi:a.b:c"),
    ],
)
def test_an_instance_has_one_form(written: str, normal: str) -> None:
    assert ServiceConfig.model_validate({"instances": [written]}).instances[0].url == normal


@pytest.mark.parametrize(
    ("written", "ranges"),
    [
        ("200", ((200, 200),)),
        ('"200-299"', ((200, 299),)),
        ('"204"', ((204, 204),)),
        ('[200, "300-399"]', ((200, 200), (300, 399))),
    ],
)
def test_which_answers_pass_a_probe(written: str, ranges: object) -> None:
    config = load(service(f'health = {{ path = "/", status = {written} }}'))
    health = config.services["a"].health
    assert health is not None
    assert health.status == ranges


@pytest.mark.parametrize(
    ("written", "kind"),
    [
        ('"round-robin"', "round-robin"),
        ('"ewma"', "ewma"),
        ('{ kind = "ewma", decay = "1m" }', "ewma"),
        ('"consistent-hash"', "consistent-hash"),
        ('{ kind = "consistent-hash", key = "query:q" }', "consistent-hash"),
        ('{ kind = "sticky-cookie", ttl = "1h" }', "sticky-cookie"),
    ],
)
def test_the_balancer_may_be_a_name_or_a_table(written: str, kind: str) -> None:
    assert load(service(f"balancer = {written}")).services["a"].balancer.kind == kind


def test_a_routes_timeouts_stand_over_its_services() -> None:
    config = load(
        '[services.a]\ninstances = ["http://h"]\ntimeout = { connect = "2s", total = "9s" }\n'
        '[[routes]]\npath = "/"\nservice = "a"\ntimeout = { total = "none", body = "5m" }\n'
    )
    mine = config.routes[0].timeout
    assert mine is not None
    assert mine.over(config.services["a"].timeout) == TimeoutConfig(
        connect=2.0, first_byte=60.0, body=300.0, total=None
    )


def test_a_routes_body_limit_is_its_own_or_the_gateways() -> None:
    def limit(line: str) -> int | None:
        return load(route(f'path = "/"\nservice = "users"\n{line}')).routes[0].body_limit(7)

    assert limit("") == 7
    assert limit('max_body_bytes = "1k"') == 1000
    assert limit('max_body_bytes = "unlimited"') is None


def test_predicates_have_short_forms() -> None:
    config = load(
        route(
            'path = "/"\nservice = "users"\n'
            'headers = { A = "2", B = true, C = false, D = { regex = "x+" } }'
        )
    )
    wanted = config.routes[0].headers
    assert [(p.equals, p.present, p.regex) for p in wanted.values()] == [
        ("2", None, None),
        (None, True, None),
        (None, False, None),
        (None, None, "x+"),
    ]


def test_trusted_proxies_are_networks() -> None:
    config = load('gateway.trusted_proxies = ["10.0.0.0/8", "::1"]')
    assert config.gateway.trusted_proxies == (
        ipaddress.ip_network("10.0.0.0/8"),
        ipaddress.ip_network("::1/128"),
    )


def test_hosts_are_normalised() -> None:
    hosts = '["API.example.com.", "*.Example.com", "[::1]"]'
    config = load(route(f'path = "/"\nservice = "users"\nhost = {hosts}'))
    assert config.routes[0].host == ("api.example.com", "*.example.com", "[::1]")


def test_python_and_toml_say_the_same() -> None:
    assert load(service("")) == GatewayConfig(
        services={"a": ServiceConfig.model_validate({"instances": ["http://h"]})},
        routes=(RouteConfig(path="/", service="a"),),
    )


def test_overrides_beat_the_file() -> None:
    config = load(gateway('listen = ":1"\nworkers = 3\nlog_level = "debug"'))
    assert config.with_overrides(Overrides()) is config
    changed = config.with_overrides(
        Overrides(listen=(":2", ":3"), workers="auto", reload=False, access_log="stdout")
    )
    assert [item.address for item in changed.gateway.listen] == ["127.0.0.1:2", "127.0.0.1:3"]
    assert (changed.gateway.workers, changed.gateway.reload) == ("auto", False)
    assert (changed.gateway.access_log, changed.gateway.log_level) == ("stdout", "debug")
    assert changed.routes == config.routes
    with pytest.raises(ValueError, match="not an address"):
        config.with_overrides(Overrides(listen=("x",)))


# --- what is said about mistakes ------------------------------------------------------------------


@pytest.mark.parametrize(
    ("line", "path", "message", "hint"),
    [
        ('listen = "8000"', "listen", "is not an address", 'write ":8000" (this machine) or "0.0.0.0:8000" (all)'),
        ("listen = 8000", "listen", "must be an address", 'write ":8000" (this machine) or "0.0.0.0:8000"'),
        ('listen = "localhost"', "listen", "is not an address", 'add the port: "localhost:8000"'),
        ('listen = "http://h:1/"', "listen", "is not an address", 'leave out the scheme: "h:1"'),
        ('listen = "*:80"', "listen", "is not an address", 'to listen on every interface, write "0.0.0.0:80"'),
        ('listen = "::1:80"', "listen", "is not an address", 'an IPv6 address stands in brackets: "[::1]:8000"'),
        ('listen = "[::g]:80"', "listen", "has a malformed IPv6 address", ""),
        ('listen = "1.2.3:80"', "listen", "has a malformed IPv4 address", ""),
        ('listen = "1.2.3.4:99999"', "listen", "has a malformed port", "a number from 0 to 65535"),
        ('listen = "h:٣"', "listen", "has a malformed port", "a number from 0 to 65535"),
        ('listen = "-h:1"', "listen", "is not a host name", ""),
        ('listen = "bücher.example:1"', "listen", "must be in ASCII", 'did you mean "xn--bcher-kva.example"?'),
        ('listen = "unix:run.sock"', "listen", "needs an absolute path", 'one slash: "unix:/run.sock"'),
        ('listen = "unix:///run.sock"', "listen", "needs an absolute path", 'one slash: "unix:/run.sock"'),
        (f'listen = "unix:/{"x" * 200}"', "listen", "is longer than 103 bytes, the system's limit", ""),
        ("listen = []", "listen", "must not be empty", ""),
        ('listen = [":1", "127.0.0.1:1"]', "listen[1]", "is there twice", "it is listen[0] already"),
        ('listen = [{ adress = ":1" }]', "listen[0].address", "is required", 'for example address = "127.0.0.1:8443"'),
        ('listen = { address = ":1", port = 2 }', "listen.port", "is not a key here", 'one key for both: address = "127.0.0.1:8000"'),
        ("workers = 0", "workers", "must be from 1 to 1024", '"auto" takes one for each processor'),
        ('workers = "many"', "workers", 'must be a whole number or "auto"', ""),
        ('workers = "4"', "workers", 'must be a whole number or "auto"', "without the quotes: 4"),
        ("timeouts = 5", "timeouts", "must be a table", "write { head = …, idle = … }"),
        ("timeouts.idle = 0", "timeouts.idle", "must be more than zero", ""),
        ("timeouts.total = 0", "timeouts.total", "must be more than zero", 'to wait without a limit, write "none"'),
        ('limits.max_head_bytes = "1B"', "limits.max_head_bytes", "must be from 1KiB to 1MiB", ""),
        ('limits.max_target_bytes = "1MiB"', "limits", "must allow a larger head (max_head_bytes) than target (max_target_bytes)", ""),
        ('trusted_proxies = ["10.0.0.1/8"]', "trusted_proxies[0]", "has host bits set", 'did you mean "10.0.0.0/8"?'),
        ('trusted_proxies = ["proxy"]', "trusted_proxies[0]", "is not a network", 'for example "10.0.0.0/8" or "::1"'),
        ("trusted_proxies = [1]", "trusted_proxies[0]", "must be a network", 'for example "10.0.0.0/8"'),
        ('via = "a b"', "via", "must be a token of HTTP", "letters, digits and any of !#$%&'*+-.^_`|~"),
        ('request_id = "X-Id:"', "request_id", "is not a field name", "leave out the colon"),
        ('request_id = ":path"', "request_id", "is not a field name", "pseudo-fields of HTTP/2 are not fields"),
        ('access_log = "STDOUT"', "access_log", "is neither a place nor a path", 'did you mean "stdout"?'),
        ('access_log = ""', "access_log", "must name a place", '"off", "stdout", "stderr" or the path of a file'),
        ("access_log = true", "access_log", "must be text", '"off", "stdout", "stderr" or the path of a file'),
        ('log_level = "warn"', "log_level", "must be one of debug, info, warning, error", 'did you mean "warning"?'),
        ('filters = ["a.b.c"]', "filters[0]", "is not the path of a Python object", 'did you mean "a.b:c"?'),
        ('filters = ["a b"]', "filters[0]", "is not the path of a Python object", 'write "package.module:name"'),
        ('reload = "no"', "reload", "must be true or false", ""),
    ],
)  # fmt: skip
def test_a_mistake_in_gateway(line: str, path: str, message: str, hint: str) -> None:
    found = [p for p in problems(gateway(line)) if p.path == f"gateway.{path}"]
    assert [(p.line, p.message, p.hint) for p in found] == [(2, message, hint)]


@pytest.mark.parametrize(
    ("instances", "message", "hint"),
    [
        ('["h:9001"]', "is not the URL of an instance", 'add the scheme: "http://h:9001"'),
        ('["h"]', "is not the URL of an instance", 'add the scheme: "http://h"'),
        ('["/run/a.sock"]', "is not the URL of an instance", 'for a Unix socket: "unix:/run/a.sock"'),
        ('["http:/h"]', "is not the URL of an instance", 'two slashes: "http://h"'),
        ('["htpp://h"]', "is not the URL of an instance", 'did you mean "http"?'),
        ('["wss://h"]', "is not the URL of an instance", 'WebSockets pass over HTTP: "https://h"'),
        ('["grpc://h"]', "is not the URL of an instance", "grpc is not spoken; instances speak HTTP/1.1"),
        ('["?"]', "is not the URL of an instance", 'for example "http://127.0.0.1:9001", "unix:/run/app.sock" or "asgi:module:app"'),
        ('["http://h/a"]', "has a path", 'write "http://h"; a route\'s rewrite changes paths'),
        ('["http://h?a"]', "has a query or a fragment", 'leave it out: "http://h"'),
        ('["http://h/#a"]', "has a query or a fragment", 'leave it out: "http://h"'),
        ('["http://u:p@h"]', "has credentials in it", "send credentials in a field: request_headers = { set = { Authorization = … } }"),
        ('["http://:80"]', "has no host", ""),
        ('["http://h:0"]', "has a malformed port", "a number from 1 to 65535"),
        ('["http://h:+80"]', "has a malformed port", "a number from 1 to 65535"),
        ('["http://[::1"]', "is not a host name", ""),
        ('["http://h h"]', "is not a host name", ""),
        ('["unix://run"]', "needs an absolute path", 'one slash: "unix:/run"'),
        ('["asgi:module"]', "is not the path of a Python object", 'write "package.module:name"'),
        ('["asgi:a.b.app"]', "is not the path of a Python object", 'did you mean "a.b:app"?'),
        ("[5]", "must be a table", "write { url = …, weight = … }"),
        ('"http://h"', "must be a list", "put it in brackets: [ … ]"),
        ("[]", "must not be empty", 'for example instances = ["http://127.0.0.1:9001"], or discover = ["registry"]'),
        ('["http://h", "HTTP://h/"]', "is there twice", "it is instances[0] already; for a larger share, give it a weight"),
        ('[{ url = "http://h", weight = 0 }]', "must be from 1 to 1000000", ""),
        ('[{ url = "http://h", weight = 1.5 }]', "must be a whole number", ""),
        ("[{ weight = 1 }]", "is required", 'for example url = "http://127.0.0.1:9001"'),
    ],
)  # fmt: skip
def test_a_mistake_in_instances(instances: str, message: str, hint: str) -> None:
    found = the_problem(service("", instances))
    assert (found.line, found.message, found.hint) == (2, message, hint)
    assert found.path.startswith("services.a.instances")


@pytest.mark.parametrize(
    ("line", "path", "message", "hint"),
    [
        ('balancer = "weighted"', "balancer", "must be one of least-requests, round-robin, random, ewma, consistent-hash, sticky-cookie, custom", ""),
        ('balancer = "round_robin"', "balancer", "must be one of least-requests, round-robin, random, ewma, consistent-hash, sticky-cookie, custom", 'did you mean "round-robin"?'),
        ('balancer = { kind = "consistent-hash", key = "heder:X" }', "balancer.key", "is not a part of a request", 'did you mean "header"?'),
        ('balancer = { kind = "consistent-hash", key = "header:" }', "balancer.key", "lacks the name", 'write "header:NAME"'),
        ('balancer = { kind = "consistent-hash", key = "ip" }', "balancer.key", "is not a part of a request", 'one of "client", "path", "header:NAME", "cookie:NAME", "query:NAME"'),
        ('balancer = { kind = "consistent-hash", key = "header:a b" }', "balancer.key", "must be a token of HTTP", "letters, digits and any of !#$%&'*+-.^_`|~"),
        ('health = "http://h/x"', "health", "must be a path", "only the path: the host is each instance's own"),
        ('health = "health"', "health", "must be a path", 'did you mean "/health"?'),
        ('health = "/a b"', "health", "has a character that a path cannot have", "percent-encode it"),
        ("health = true", "health", "must be a table", "write { path = …, method = … }"),
        ('health = { path = "/", status = "2xx" }', "health.status", "is not a range of statuses", 'did you mean "200-299"?'),
        ('health = { path = "/", status = 99 }', "health.status", "must be from 100 to 599, the lower first", 'for example 200, "200-299" or [200, 204]'),
        ('health = { path = "/", status = "299-200" }', "health.status", "must be from 100 to 599, the lower first", 'for example 200, "200-299" or [200, 204]'),
        ('health = { path = "/", status = [] }', "health.status", "must not be empty", ""),
        ('health = { path = "/", status = [true] }', "health.status", "must be a status, a range or a list of them", 'for example 200, "200-299" or [200, 204]'),
        ("pool = { max_connections = 1, max_idle = 2 }", "pool.max_idle", "must not be more than max_connections", ""),
        ('timeout = "5"', "timeout", "is not a duration", 'add the unit: "5s" or "5ms"'),
        ("timeout = true", "timeout", "must be a table", "write { connect = …, first_byte = … }"),
        ("tls = { verify = false }", "tls", "has no effect: no instance is https", "write https:// in the URLs"),
        ('host = "a/b"', "", "is not a host name", ""),
        ('discover = [{ kind = "dns", host = "http://x", port = 1 }]', "discover[0].host", "is not a name in DNS", "a name only: no scheme, no path"),
        ('discover = ["registrie"]', "discover[0]", "must be one of file, dns, registry, consul, kubernetes, http, custom", 'did you mean "registry"?'),
        ("breaker = { failure_ratio = 2.0 }", "breaker.failure_ratio", "must be at most 1", ""),
        ("retry = { attempts = 3, retries = 2 }", "retry.retries", "is not a key here", "the key is attempts; it counts the first try: retries + 1"),
        ('bulkhead = "adaptve"', "bulkhead", 'must be a whole number or "adaptive"', ""),
        ("outlier = { failures = 0 }", "outlier.failures", "must be from 1 to 1000", ""),
        ("flavour = 3", "flavour", "is not a key here", "the keys here are instances, discover, balancer, health, pool, timeout, outlier, retry, breaker, bulkhead, hedge, deadline, tls, host, max_response_head_bytes"),
    ],
)  # fmt: skip
def test_a_mistake_in_a_service(line: str, path: str, message: str, hint: str) -> None:
    found = the_problem(service(line))
    assert found.path == f"services.a.{path}".rstrip(".")
    assert (found.message, found.hint) == (message, hint)
    assert found.line == (3 if path else 1)


@pytest.mark.parametrize(
    ("lines", "path", "message", "hint"),
    [
        ('service = "users"', "path", "is required", 'for example path = "/users/{id}"'),
        ('path = "users"\nservice = "users"', "path", "is not a path template", "does not start with '/'; write '/users'"),
        ('path = 5\nservice = "users"', "path", "must be a path template", 'for example "/users/{id}"'),
        ('path = "/"', "", "does nothing: it needs service, split, redirect or respond", 'for example service = "NAME"'),
        ('path = "/"\nservice = "users"\nrespond = 200', "respond", "is a second action of the route", "it has service already; keep one of the two"),
        ('path = "/"\nservice = "user"', "service", "names a service that does not exist", 'did you mean "users"?'),
        ('path = "/"\nservice = "zzz"', "service", "names a service that does not exist", "the services are users"),
        ('path = "/"\nsplit = [{ service = "user" }]', "split[0].service", "names a service that does not exist", 'did you mean "users"?'),
        ('path = "/"\nsplit = [{ service = "users", weight = 0 }]', "split", "sends every request nowhere", "one weight must be more than 0"),
        ('path = "/"\nsplit = [{ service = "users" }, { service = "users" }]', "split[1].service", "is there twice", "it is split[0] already; add the weights"),
        ('path = "/"\nsplit = []', "split", "must not be empty", ""),
        ('path = "/{a}"\nservice = "users"\nrewrite = "/{b}"', "rewrite", "uses a parameter that the path does not have", "{b}: the path has {a}"),
        ('path = "/{user}"\nservice = "users"\nrewrite = "/{usr}"', "rewrite", "uses a parameter that the path does not have", "{usr}: did you mean {user}?"),
        ('path = "/"\nservice = "users"\nrewrite = "/{b}"', "rewrite", "uses a parameter that the path does not have", "{b}: the path has none"),
        ('path = "/a/*"\nservice = "users"\nrewrite = "/*"', "rewrite", "ends in a * that has no value", "name it in path and here: {rest:path}"),
        ('path = "/"\nredirect = "/{b}"', "redirect", "uses a parameter that the path does not have", "{b}: the path has none"),
        ('path = "/"\nredirect = { to = "https://h/{b}" }', "redirect.to", "uses a parameter that the path does not have", "{b}: the path has none"),
        ('path = "/"\nredirect = "//h"', "redirect", "is read as another host by browsers", "write the scheme, or a single slash"),
        ('path = "/"\nredirect = "h"', "redirect", "must be a URL or a path", 'begin with "/", "https://" or "http://"'),
        ('path = "/"\nredirect = "javascript:x"', "redirect", "must be a URL or a path", 'begin with "/", "https://" or "http://"'),
        ('path = "/{a}"\nredirect = "https://{a}"', "redirect", "must be a URL or a path", 'begin with "/", "https://" or "http://"'),
        ('path = "/"\nredirect = "/a b"', "redirect", "has a character that a URL cannot have", "percent-encode it"),
        ('path = "/"\nredirect = { to = "/", status = 200 }', "redirect.status", "must be one of 301, 302, 303, 307, 308", ""),
        ('path = "/"\nrespond = 100', "respond", "must be from 200 to 599", ""),
        ('path = "/"\nrespond = { status = 204, body = "x" }', "respond.body", "cannot be sent with this status (RFC 9110 §6.4.1)", ""),
        ('path = "/"\nrespond = { content_type = "a/b", headers = { Content-Type = "c/d" } }', "respond.headers.Content-Type", "is said by content_type", ""),
        ('path = "/"\nrespond = 200\nrewrite = "/"', "rewrite", "has no effect", "this route answers without a service"),
        ('path = "/a/b"\nservice = "users"\nstrip_prefix = "/b"', "strip_prefix", "is not how the path begins", 'the path begins with "/a/b"'),
        ('path = "/ab"\nservice = "users"\nstrip_prefix = "/a"', "strip_prefix", "is not how the path begins", 'the path begins with "/ab"'),
        ('path = "/{a}"\nservice = "users"\nstrip_prefix = true', "strip_prefix", "has nothing to strip", "the path begins with a parameter"),
        ('path = "/a"\nservice = "users"\nstrip_prefix = "a"', "strip_prefix", "is not a path", 'for example "/api"'),
        ('path = "/a"\nservice = "users"\nstrip_prefix = 1', "strip_prefix", "must be true or a path", 'for example true or "/api"'),
        ('path = "/a"\nservice = "users"\nstrip_prefix = true\nrewrite = "/"', "strip_prefix", "cannot stand beside rewrite", "rewrite alone is enough"),
        ('path = "/"\nservice = "users"\nmethods = ["get"]', "methods[0]", "is not a method", 'methods are case-sensitive: "GET"'),
        ('path = "/"\nservice = "users"\nmethods = ["POTS"]', "methods[0]", "is not a method", 'did you mean "POST"?'),
        ('path = "/"\nservice = "users"\nmethods = "A B"', "methods", "is not a method", 'for example "GET"'),
        ('path = "/"\nservice = "users"\nmethods = ["CONNECT"]', "methods[0]", "is not a method that a gateway serves", ""),
        ('path = "/"\nservice = "users"\nmethods = ["GET", "GET"]', "methods[1]", "is there twice", ""),
        ('path = "/"\nservice = "users"\nmethods = []', "methods", "must not be empty", ""),
        ('path = "/"\nservice = "users"\nhost = "h:80"', "host", "is not a host name", "leave out the port"),
        ('path = "/"\nservice = "users"\nhost = "https://h"', "host", "is not a host name", "a host only: no scheme, no path"),
        ('path = "/"\nservice = "users"\nhost = "*"', "host", "is not a host name", "leave it out to match every host"),
        ('path = "/"\nservice = "users"\nhost = "a.*.b"', "host", "has a wildcard that is not its first label", 'write "*.example.com"'),
        ('path = "/"\nservice = "users"\nheaders = { A = 2 }', "headers.A", "must be a table", 'put it in quotes: "2"'),
        ('path = "/"\nservice = "users"\nheaders = { "A:" = "2" }', 'headers."A:"', "is not a field name", "leave out the colon"),
        ('path = "/"\nservice = "users"\nquery = { a = { regex = "(" } }', "query.a.regex", "is not a regular expression of Python", "missing ), unterminated subpattern at position 0"),
        ('path = "/"\nservice = "users"\nquery = { a = {} }', "query.a", "must say one of equals, regex and present", "or write the value alone"),
        ('path = "/"\nservice = "users"\nquery = { a = { equals = "1", present = true } }', "query.a", "must say one of equals, regex and present", "or write the value alone"),
        ('path = "/"\nservice = "users"\nrequest_headers = { set = { Host = "h" } }', "request_headers.set.Host", "is a field that the gateway itself decides", "a service's host decides it"),
        ('path = "/"\nservice = "users"\nrequest_headers = { remove = ["Content-Length"] }', "request_headers.remove[0]", "is a field that the gateway itself decides", "it follows from the body"),
        ('path = "/"\nservice = "users"\nrequest_headers = { add = { TE = "trailers" } }', "request_headers.add.TE", "is a field that the gateway itself decides", "it belongs to one connection, not to the message"),
        ('path = "/"\nservice = "users"\nrequest_headers = { rename = { A = "Connection" } }', "request_headers.rename.A", "is a field that the gateway itself decides", "it belongs to one connection; each side has its own"),
        ('path = "/"\nservice = "users"\nrequest_headers = { set = { A = "1", a = "2" } }', "request_headers.set.a", "is there twice", "it is A already: case makes no difference"),
        ('path = "/"\nservice = "users"\nrequest_headers = { set = { A = "1" }, remove = ["a"] }', "request_headers.remove[0]", "is also set", "set alone replaces what was there"),
        ('path = "/"\nservice = "users"\nrequest_headers = { X-A = "1" }', "request_headers.X-A", "is not a key here", "fields stand one level deeper: set = { X-A = … }"),
        ('path = "/"\nservice = "users"\nname = ""', "name", "must not be empty", ""),
        ('path = "/"\nservice = "users"\npriority = "1"', "priority", "must be a whole number", "without the quotes: 1"),
    ],
)  # fmt: skip
def test_a_mistake_in_a_route(lines: str, path: str, message: str, hint: str) -> None:
    found = [p for p in problems(route(lines)) if p.severity == "error"]
    assert [(p.path, p.message, p.hint) for p in found] == [
        (f"routes[0].{path}".rstrip("."), message, hint)
    ]
    assert found[0].line is not None


@pytest.mark.parametrize(
    ("text", "path", "message", "hint"),
    [
        ('listen = ":1"', "listen", "is not a key here", "it belongs under [gateway]"),
        ("workers = 1", "workers", "is not a key here", "it belongs under [gateway]"),
        ('[routes]\npath = "/"', "routes", "must be a list", "write [[name]] with double brackets, once for each element"),
        ("[[services]]\na = 1", "services", "must be a table", 'write { name = "value" }'),
        ("[[gateway]]\nworkers = 1", "gateway", "must be a table, not a list", "write [name], with single brackets"),
        ('[services."a b"]\ninstances = ["http://h"]', 'services."a b"', "is not a name", "letters, digits, hyphen, underscore and dot"),
        ("schema = 1", "schema", "is not a key here", 'the key is "$schema", in quotes'),
    ],
)  # fmt: skip
def test_a_mistake_at_the_top(text: str, path: str, message: str, hint: str) -> None:
    found = [(p.path, p.message, p.hint) for p in problems(text)]
    assert (path, message, hint) in found


def test_two_routes_must_not_share_a_name() -> None:
    text = "".join(f'[[routes]]\nname = "a"\npath = "/{n}"\nrespond = 200\n' for n in range(3))
    found = [(p.line, p.path, p.message, p.hint) for p in problems(text)]
    assert found == [
        (6, "routes[1].name", "is the name of two routes", "routes[0] has it already"),
        (10, "routes[2].name", "is the name of two routes", "routes[0] has it already"),
    ]


def test_an_unused_service_is_a_warning_and_the_configuration_is_good() -> None:
    report = check_text(
        '[services.a]\ninstances = ["http://h"]\n[[routes]]\npath = "/"\nrespond = 200\n',
        filename="g.toml",
        env={},
    )
    assert report.config is not None
    (warning,) = report.problems
    assert (warning.severity, warning.line, warning.message) == (
        "warning",
        1,
        "is not used by any route",
    )
    assert warning.hint == 'a route reaches it with service = "a"'


def test_a_service_that_is_wrong_still_exists() -> None:
    found = the_problem('[services.a]\ninstances = []\n[[routes]]\npath = "/"\nservice = "a"')
    assert found.path == "services.a.instances"


def test_the_report_reads_well() -> None:
    with pytest.raises(InvalidConfig) as caught:
        load_text(
            '[gateway]\nlisten = "8000"\n[services.a]\ninstances = ["http://h"]\nurl = "x"',
            filename="gateway.toml",
            env={},
        )
    assert str(caught.value) == (
        "2 problems in gateway.toml\n"
        '  gateway.toml:2: gateway.listen = "8000" is not an address\n'
        '      write ":8000" (this machine) or "0.0.0.0:8000" (all)\n'
        "  gateway.toml:5: services.a.url is not a key here\n"
        '      the key is instances: instances = ["http://127.0.0.1:9001"]'
    )


# --- TLS files ------------------------------------------------------------------------------------


@pytest.fixture
def tls(tmp_path: Path) -> Path:
    authority = trustme.CA()
    leaf = authority.issue_cert("example.com")
    other = authority.issue_cert("other.example.com")
    authority.cert_pem.write_to_path(tmp_path / "ca.pem")
    leaf.cert_chain_pems[0].write_to_path(tmp_path / "cert.pem")
    leaf.private_key_pem.write_to_path(tmp_path / "key.pem")
    other.private_key_pem.write_to_path(tmp_path / "other.pem")
    (tmp_path / "junk.pem").write_text("junk")
    return tmp_path


def tls_problems(directory: Path, table: str) -> list[tuple[str, str, str]]:
    text = gateway(f'listen = [{{ address = ":8443", tls = {{ {table} }} }}]')
    report = check_text(text, filename=str(directory / "gateway.toml"), env={})
    return [(p.path.removeprefix("gateway.listen[0]."), p.message, p.hint) for p in report.problems]


def test_certificates_are_looked_for_beside_the_file(tls: Path) -> None:
    good = 'certificate = "cert.pem", key = "key.pem"'
    assert tls_problems(tls, good) == []
    assert tls_problems(tls, f'{good}, client_ca = "ca.pem", client_auth = "required"') == []
    assert tls_problems(tls, f"{good}, sni = {{ '*.example.org' = {{ {good} }} }}") == []
    absolute = good.replace('"c', f'"{tls}/c').replace('"k', f'"{tls}/k')
    assert tls_problems(Path("/"), absolute) == []


_MISMATCH = (
    "tls",
    "has a certificate and a key that OpenSSL cannot use together",
    "both are PEM, the key is not encrypted and belongs to the certificate",
)


@pytest.mark.parametrize(
    ("table", "expected"),
    [
        ('certificate = "crt.pem", key = "key.pem"', ("tls.certificate", "names a file that does not exist", 'did you mean "cert.pem"?')),
        ('certificate = "zzzzzzzzz", key = "key.pem"', ("tls.certificate", "names a file that does not exist", "it is looked for beside the configuration")),
        ('certificate = ".", key = "key.pem"', ("tls.certificate", "names a directory, not a file", "")),
        ('certificate = "cert.pem"', ("tls.key", "is required", 'for example key = "tls/server.key"')),
        ('certificate = "cert.pem", key = ""', ("tls.key", "must be the path of a file", "")),
        ('certificate = "cert.pem", key = "\\u0000"', ("tls.key", "is not the path of a file", "")),
        ('certificate = "cert.pem", key = "other.pem"', _MISMATCH),
        ('certificate = "junk.pem", key = "key.pem"', _MISMATCH),
        ('certificate = "cert.pem", key = "key.pem", client_ca = "junk.pem", client_auth = "required"', ("tls", "names authorities that OpenSSL cannot read: junk.pem", "")),
        ('certificate = "cert.pem", key = "key.pem", client_auth = "required"', ("tls.client_auth", "needs client_ca", "name the file of the authorities")),
        ('certificate = "cert.pem", key = "key.pem", client_ca = "ca.pem"', ("tls.client_ca", "has no effect", 'add client_auth = "required" or "optional"')),
        ('certificate = "cert.pem", key = "key.pem", ciphers = "NOPE"', ("tls.ciphers", "has no cipher that OpenSSL knows", "")),
        ('certificate = "cert.pem", key = "key.pem", min_version = "1.1"', ("tls.min_version", "must be one of 1.2, 1.3", 'did you mean "1.3"?')),
        ('certificate = "cert.pem", key = "key.pem", cert = "x"', ("tls.cert", "is not a key here", "the key is certificate")),
        ('certificate = "cert.pem", key = "key.pem", sni = { "a:1" = {} }', ('tls.sni."a:1"', "is not a host name", "leave out the port")),
    ],
)  # fmt: skip
def test_a_mistake_in_tls(tls: Path, table: str, expected: tuple[str, str, str]) -> None:
    assert expected in tls_problems(tls, table)


def test_an_encrypted_key_is_a_problem_and_not_a_prompt(tls: Path) -> None:
    from cryptography.hazmat.primitives import serialization as s

    key = s.load_pem_private_key((tls / "key.pem").read_bytes(), None)
    encrypted = key.private_bytes(
        s.Encoding.PEM, s.PrivateFormat.PKCS8, s.BestAvailableEncryption(b"secret")
    )
    (tls / "key.pem").write_bytes(encrypted)
    assert tls_problems(tls, 'certificate = "cert.pem", key = "key.pem"') == [_MISMATCH]


@pytest.mark.parametrize(
    ("table", "expected"),
    [
        ('ca = "junk.pem"', ("tls", "names authorities that OpenSSL cannot read: junk.pem", "")),
        ('certificate = "cert.pem"', ("tls.certificate", "needs key beside it", "")),
        ('key = "key.pem"', ("tls.key", "needs certificate beside it", "")),
        ('certificate = "cert.pem", key = "other.pem"', _MISMATCH),
        ('ca = "ca.pem", verify = false', ("tls.ca", "has no effect without verification", "leave out verify = false")),
        ("insecure_skip_verify = true", ("tls.insecure_skip_verify", "is not a key here", "the key is verify = false")),
    ],
)  # fmt: skip
def test_a_mistake_in_tls_to_a_service(
    tls: Path, table: str, expected: tuple[str, str, str]
) -> None:
    text = service(f"tls = {{ {table} }}", '["https://h"]')
    report = check_text(text, filename=str(tls / "gateway.toml"), env={})
    found = [(p.path.removeprefix("services.a."), p.message, p.hint) for p in report.problems]
    assert found == [expected]


# --- every section --------------------------------------------------------------------------------


def every_section() -> Iterator[type[Section]]:
    for place in _places(GatewayConfig, "", set()):
        yield place.model


FOREIGN = [
    pytest.param(model, key, hint, id=f"{model.__name__}-{key}")
    for model in every_section()
    for key, hint in model.foreign.items()
]


@pytest.mark.parametrize(("model", "key", "hint"), FOREIGN)
def test_the_words_of_other_gateways_lead_home(model: type[Section], key: str, hint: str) -> None:
    assert key not in set(model.keys()), "a key of ours needs no hint"
    assert key == key.casefold()
    assert model.hint_for_unknown(key) in (hint, "it belongs under [gateway]")
    assert model.hint_for_unknown(key.upper()) == hint
    if named := re.match(r"the keys? (?:is|are) (?P<keys>[\w.]+(?:(?: and |, )[\w.]+)*)", hint):
        for dotted in re.split(r" and |, ", named["keys"]):
            if dotted == "a":  # "…, a table: …"
                continue
            assert _leads_to_a_key(model, dotted), f"{dotted} is no key of {model.__name__}"


def _leads_to_a_key(model: type[Section], dotted: str) -> bool:
    first, _, _ = dotted.partition(".")
    return first in {*model.keys(), *GatewayConfig.keys()}


@pytest.mark.parametrize("model", [*every_section()], ids=lambda model: model.__name__)
def test_every_key_says_what_it_means(model: type[Section]) -> None:
    assert model.__doc__
    assert model.__doc__ != Section.__doc__
    for name, field in model.model_fields.items():
        assert field.description, f"{model.__name__}.{name} has no docstring"


@pytest.mark.parametrize("model", [*every_section()], ids=lambda model: model.__name__)
def test_every_default_passes_its_own_validation(model: type[Section]) -> None:
    for name, field in model.model_fields.items():
        if field.is_required() or field.default is None:
            continue
        required = {
            "path": "/",
            "url": "http://h",
            "to": "/",
            "service": "a",
            "instances": ["http://h"],
            "address": ":1",
        }
        needed = {
            key: required[key]
            for key, other in model.model_fields.items()
            if other.is_required() and key in required
        }
        if model is ServiceConfig:
            if name == "instances":
                continue  # one is needed, here or from discover
            needed["instances"] = required["instances"]
        if model is FileConfig:
            needed["path"] = "instances.toml"
        if any(f.is_required() and k not in needed for k, f in model.model_fields.items()):
            continue  # needs files; tested above
        extra = {"respond": 200} if issubclass(model, RouteConfig) else {}
        if name == "weight" and model.__name__ == "SplitConfig":
            needed["service"] = "a"
        checked = model.model_validate({**needed, **extra, name: field.default})
        assert getattr(checked, name) == field.default


def test_the_reference_page_is_current() -> None:
    page = Path(__file__).parents[3] / "docs" / "reference" / "configuration.md"
    assert page.read_text("utf-8") == markdown(GatewayConfig), (
        "run: python -m nexgate.config.reference > docs/reference/configuration.md"
    )
    assert f"{GatewayConfig.__module__}:{GatewayConfig.__name__}" == ROOT


def test_the_links_of_the_reference_page_lead_somewhere() -> None:
    page = markdown(GatewayConfig)
    headings = re.findall(r"^## (.*)$", page, re.MULTILINE)
    anchors = {re.sub(r"[^a-z0-9_ -]", "", h.lower()).replace(" ", "-") for h in headings}
    assert set(re.findall(r"\]\(#([^)]*)\)", page)) <= anchors


# --- JSON Schema ----------------------------------------------------------------------------------


def test_the_schema_knows_every_key_and_no_other() -> None:
    schema = GatewayConfig.json_schema()
    assert schema["$schema"] == "https://json-schema.org/draft/2020-12/schema"
    assert set(schema["properties"]) == {"$schema", "gateway", "services", "plugins", "routes"}
    for name, definition in schema["$defs"].items():
        assert definition["additionalProperties"] is False, name
        for key, field in definition["properties"].items():
            # pydantic leaves it out where the table it refers to says the same
            assert "description" in field or "$ref" in field or key == "kind", f"{name}.{key}"


def test_the_schema_knows_short_forms_and_variables() -> None:
    schema = GatewayConfig.json_schema()
    definitions = schema["$defs"]
    duration = definitions["TimeoutsConfig"]["properties"]["idle"]["anyOf"]
    pattern = re.compile(duration[0]["pattern"])
    assert pattern.search("1m30s")
    assert not pattern.search("5sec")
    assert not pattern.search("")
    assert {"type": "string", "pattern": r"^\$\{[^}]+\}$"} in duration
    service = definitions["ServiceConfig"]["properties"]
    assert any(form.get("type") == "string" for form in service["health"]["anyOf"])
    assert any("oneOf" in form for form in service["balancer"]["anyOf"])
    section = definitions["GatewaySection"]["properties"]
    assert any(form.get("type") == "array" for form in section["listen"]["anyOf"])


def test_nothing_secret_is_in_the_models_of_others() -> None:
    assert not [
        name
        for model in every_section()
        for name, field in model.model_fields.items()
        if re.search("password|secret|token(?!_file)", name)
        and "SecretText" not in repr(field.annotation)
    ]


def test_a_service_that_registers_has_a_name_that_a_registry_takes() -> None:
    """Else a reload would find out when it is too late to refuse it."""
    for name in ("a" * 65, "api-"):
        text = f'[services.{name}]\ndiscover = ["registry"]\n'
        (problem,) = [
            p for p in check_text(text, filename="g.toml", env={}).problems if p.line == 1
        ]
        assert problem.message == "is not a name in a registry"
        named = text.replace('["registry"]', '[{ kind = "registry", name = "api" }]')
        report = check_text(named, filename="g.toml", env={})
        assert not [p for p in report.problems if "registry" in p.message]


def test_a_thousand_routes_with_a_thousand_problems_are_one_report() -> None:
    text = "".join(f'[[routes]]\npath = "{n}"\nservise = "a"\n' for n in range(1000))
    report = check_text(text, filename="g.toml", env={})
    assert len(report.problems) == 2000
    assert report.problems[-1].line == 3000


def test_gateway_defaults_are_those_documented() -> None:
    section = GatewaySection()
    assert (section.limits.max_head_bytes, section.limits.max_body_bytes) == (32768, 104857600)
    assert (section.timeouts.head, section.timeouts.idle, section.timeouts.total) == (10, 75, None)
    assert (section.via, section.underscores, section.on_change) == ("nexgate", "drop", "keep")
