"""Caddy: Go with GOMAXPROCS=1."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

from bench.peers.peer import Peer, Site, UnsupportedError, output_of


class Caddy(Peer):
    name = "caddy"

    @classmethod
    def binary(cls) -> str | None:
        return shutil.which("caddy")

    @classmethod
    def version(cls) -> str:
        return output_of(cls.binary() or "", "version").split(" ")[0].removeprefix("v")

    @classmethod
    def command(cls, site: Site, folder: Path) -> list[str]:
        if site.is_caching:
            raise UnsupportedError("it has no cache of its own")
        if site.routes:
            raise UnsupportedError("it walks a list of matchers; nobody configures it like this")
        proxy = {
            "handler": "reverse_proxy",
            "upstreams": [{"dial": f"127.0.0.1:{site.origin}"}],
            "headers": {"request": {"set": {"Via": ["1.1 bench"]}}},
            "transport": {
                "protocol": "http",
                "keep_alive": {"idle_timeout": "1h", "max_idle_conns_per_host": 128},
            },
        }
        server = {
            "listen": [f"127.0.0.1:{site.listen}"],
            "automatic_https": {"disable": True},
            "idle_timeout": "1h",
            "routes": [{"handle": [proxy]}],
        }
        conf = folder / "caddy.json"
        conf.write_text(
            json.dumps(
                {
                    "admin": {"disabled": True, "config": {"persist": False}},
                    "logging": {"logs": {"default": {"level": "ERROR"}}},
                    "apps": {"http": {"servers": {"bench": server}}},
                }
            )
        )
        return [cls.binary() or "", "run", "--config", str(conf)]

    @classmethod
    def environment(cls, folder: Path) -> dict[str, str]:
        # Certificates and saved configurations would go to the home directory otherwise.
        home = str(folder)
        return {"GOMAXPROCS": "1", "HOME": home, "XDG_CONFIG_HOME": home, "XDG_DATA_HOME": home}
