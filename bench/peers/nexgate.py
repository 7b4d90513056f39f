"""Nexgate itself: one worker."""

from __future__ import annotations

import sys
from importlib.metadata import version
from pathlib import Path

from bench.peers.peer import Peer, Site
from bench.tokens import SECRET


class Nexgate(Peer):
    name = "nexgate"

    @classmethod
    def binary(cls) -> str | None:
        beside = Path(sys.executable).parent / "nexgate"
        return str(beside) if beside.exists() else None

    @classmethod
    def version(cls) -> str:
        return version("nexgate")

    @classmethod
    def command(cls, site: Site, folder: Path) -> list[str]:
        conf = folder / "gateway.toml"
        conf.write_text(configuration(site))
        return [cls.binary() or "", "run", str(conf)]


def configuration(site: Site) -> str:
    paths = ["/{rest:path}"]
    if site.routes:
        paths = [f"/svc{n}/items/{{id}}" for n in range(site.routes)] + ["/json"]
    extra = ""
    if site.is_caching:
        extra = 'cache = { ttl = "5m" }\n'
    routes = "".join(f'[[routes]]\npath = "{path}"\nservice = "bench"\n{extra}\n' for path in paths)
    service = ""
    if site.is_policing:
        service = POLICED_SERVICE
        routes = POLICED_ROUTES.replace("SECRET", SECRET)
    return BASE.format(listen=site.listen, origin=site.origin, service=service) + routes


BASE = """\
[gateway]
listen = "127.0.0.1:{listen}"
workers = 1

[gateway.limits]
max_body_bytes = "unlimited"

[services.bench]
instances = ["http://127.0.0.1:{origin}"]
{service}
"""

POLICED_SERVICE = """\
breaker = { failure_ratio = 0.5, window = "10s", minimum_calls = 20, open_for = "30s" }
retry = { attempts = 3, budget = 0.2 }
timeout = { connect = "1s", total = "30s" }
"""

# The route /json stays open, because the harness asks it whether the gateway is up.
POLICED_ROUTES = """\
[[routes]]
path = "/json"
service = "bench"

[[routes]]
path = "/items/{id}"
methods = ["GET"]
service = "bench"
rate_limit = { limit = "1000000000/minute", key = "client" }
auth = { jwt = { secret = "SECRET", algorithms = ["HS256"] } }
"""
