"""HAProxy: one process, one thread."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

from bench.peers.peer import Peer, Site, output_of


class HAProxy(Peer):
    name = "haproxy"

    @classmethod
    def binary(cls) -> str | None:
        return shutil.which("haproxy") or shutil.which("haproxy", path="/usr/sbin:/usr/local/sbin")

    @classmethod
    def version(cls) -> str:
        found = re.search(r"version ([\d.]+)", output_of(cls.binary() or "", "-v"))
        return found[1] if found else "?"

    @classmethod
    def command(cls, site: Site, folder: Path) -> list[str]:
        choose = "default_backend origin"
        if site.routes:
            # A map is a tree lookup and what HAProxy's manual recommends for many routes.
            table = folder / "routes.map"
            names = [*(f"svc{n}" for n in range(site.routes)), "json"]
            table.write_text("".join(f"{name} origin\n" for name in names))
            choose = f"use_backend %[path,field(2,/),map({table})]"
        conf = folder / "haproxy.cfg"
        conf.write_text(
            TEMPLATE.format(
                listen=site.listen,
                origin=site.origin,
                choose=choose,
                cache=CACHE if site.is_caching else "",
                use_cache=USE_CACHE if site.is_caching else "",
            )
        )
        return [cls.binary() or "", "-db", "-q", "-f", str(conf)]


CACHE = """
cache bench
  total-max-size 64
  max-age 300
"""
USE_CACHE = """
  http-request cache-use bench
  http-response cache-store bench
"""

TEMPLATE = """\
global
  nbthread 1
  maxconn 4000
defaults
  mode http
  timeout connect 5s
  timeout client 1h
  timeout server 1h
  timeout http-keep-alive 1h
  timeout http-request 1h
  timeout tunnel 1h
  option forwardfor
  http-reuse always
{cache}
frontend edge
  bind 127.0.0.1:{listen}
  http-request set-header X-Forwarded-Proto http
  http-request set-header X-Forwarded-Host %[req.hdr(Host)]
  http-request add-header Via "1.1 bench"
  {choose}
backend origin
  {use_cache}
  server one 127.0.0.1:{origin} pool-purge-delay 1h
"""
