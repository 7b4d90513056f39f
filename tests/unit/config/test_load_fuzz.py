"""Whatever the text, the answer is a configuration or ``InvalidConfig``."""

from __future__ import annotations

import random
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from nexgate.config import InvalidConfig, parse
from nexgate.edge.config import GatewaySection
from nexgate.gateway_config import GatewayConfig, RouteConfig, load_text
from nexgate.policies.headers.config import HeaderRules
from nexgate.upstream.config import InstanceConfig, ServiceConfig, TimeoutConfig

VALID = """\
"$schema" = "schema.json"
[gateway]
listen = ["127.0.0.1:8000", { address = "unix:/run/nexgate.sock", trusted = true }]
workers = "auto"
trusted_proxies = ["10.0.0.0/8", "::1"]
limits = { max_head_bytes = "32KiB", max_body_bytes = "unlimited" }
timeouts = { head = "10s", total = "none" }
request_id = { header = "X-Request-Id", trust = true }
filters = ["package.module:function"]
[services.users]
instances = ["http://127.0.0.1:9001", { url = "https://[::1]:9002", weight = 2, zone = "a" }]
balancer = { kind = "consistent-hash", key = "header:X-User" }
health = { path = "/health", status = [200, "300-399"] }
pool = { max_idle = 10 }
timeout = "10s"
tls = { verify = false }
[services.orders]
instances = ["unix:/run/orders.sock", "asgi:a.b:c"]
balancer = "ewma"
[[routes]]
name = "user"
path = "/users/{id:int}"
host = ["example.com", "*.example.com"]
methods = ["GET", "POST"]
headers = { X-A = "2", X-B = true, X-C = { regex = "a+" } }
service = "users"
rewrite = "/u/{id}"
request_headers = { set = { Authorization = "Bearer ${TOKEN}" }, remove = ["X-D"] }
[[routes]]
path = "/canary/*"
split = [{ service = "users", weight = 9 }, { service = "orders" }]
strip_prefix = "/canary"
[[routes]]
path = "/old/{rest:path}"
redirect = "https://example.com/{rest}"
[[routes]]
path = "/alive"
respond = { status = 200, body = "yes", headers = { X-E = "1" } }
"""
ENV = {"TOKEN": "t"}


def must_not_crash_tree(tree: dict[str, Any]) -> None:
    try:
        GatewayConfig.model_validate(tree)
    except ValidationError:
        pass


def must_not_crash(text: str) -> None:
    try:
        load_text(text, filename="g.toml", env=ENV)
    except InvalidConfig as invalid:
        problems = invalid.problems
    else:
        return
    assert problems
    for problem in problems:
        assert problem.message
        assert "\n" not in problem.statement + problem.hint + problem.excerpt
        assert problem.line is None or 1 <= problem.line <= text.count("\n") + 1


def test_the_sample_is_valid() -> None:
    assert load_text(VALID, filename="g.toml", env=ENV).routes


@given(st.text())
@settings(max_examples=300, deadline=None)
def test_any_text(text: str) -> None:
    must_not_crash(text)


@given(st.randoms(use_true_random=False))
@settings(max_examples=400, deadline=None)
def test_a_valid_configuration_with_pieces_moved_doubled_and_lost(chance: random.Random) -> None:
    text = VALID
    for _ in range(chance.randint(1, 4)):
        a, b = sorted(chance.randrange(len(text) + 1) for _ in range(2))
        b = min(b, a + 30)
        piece = chance.choice(
            ["", "=", '"', "[", "]", "}", "\n", "${", "{", "\\", "0", "-", "\0", "é"]
        )
        text = text[:a] + chance.choice(["", piece, text[a:b] * 2]) + text[b:]
    must_not_crash(text)


_LEAVES = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.floats(),
    st.text(max_size=8),
    st.sampled_from(["/", "/{a}", "/*", "users", "5s", "http://h", "1.2", "none", "${X}", "*"]),
)
_SECTIONS = (GatewaySection, ServiceConfig, RouteConfig, InstanceConfig, TimeoutConfig, HeaderRules)
_KEYS = st.sampled_from(
    sorted({"a", *(key for section in _SECTIONS for key in list(section.keys()))})
)
_TREES = st.recursive(
    _LEAVES,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(_KEYS, inner, max_size=4),
    max_leaves=25,
)


@given(st.dictionaries(st.sampled_from(["gateway", "services", "routes", "a"]), _TREES))
@settings(max_examples=500, deadline=None)
def test_any_shape_of_data_is_a_configuration_or_a_validation_error(tree: dict[str, Any]) -> None:
    must_not_crash_tree(tree)


@given(
    st.sampled_from(["gateway", "services", "routes"]),
    st.dictionaries(st.sampled_from(["users", "orders"]), st.dictionaries(_KEYS, _TREES)),
    st.lists(st.dictionaries(_KEYS, _TREES, max_size=6), max_size=3),
    st.dictionaries(_KEYS, _TREES, max_size=5),
)
@settings(max_examples=300, deadline=None)
def test_near_misses_are_a_configuration_or_a_validation_error(
    missing: str, services: dict[str, Any], routes: list[Any], gateway: dict[str, Any]
) -> None:
    tree: dict[str, Any] = {"services": services, "routes": routes, "gateway": gateway}
    tree.pop(missing)
    must_not_crash_tree(tree)


def test_parse_needs_no_environment_and_no_name() -> None:
    assert parse("", GatewayConfig) == GatewayConfig()
