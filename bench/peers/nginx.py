"""nginx: one worker process."""

from __future__ import annotations

import os
import re
import shutil
from pathlib import Path

from bench.peers.peer import Peer, Site, output_of

HTTP_PRELUDE = """\
daemon off;
{user}
worker_processes 1;
pid {folder}/nginx.pid;
error_log stderr error;
events {{ worker_connections 8192; }}
http {{
  access_log off;
  server_tokens off;
  tcp_nodelay on;
  keepalive_timeout 1h;
  keepalive_requests 1000000000;
  client_max_body_size 0;
  client_body_temp_path {folder}/t1;
  proxy_temp_path {folder}/t2;
  fastcgi_temp_path {folder}/t3;
  uwsgi_temp_path {folder}/t4;
  scgi_temp_path {folder}/t5;
"""


def prelude(folder: Path) -> str:
    """The part that any nginx needs in order to run from a folder of its own."""
    return HTTP_PRELUDE.format(folder=folder, user="user root;" if os.geteuid() == 0 else "")


class Nginx(Peer):
    name = "nginx"

    @classmethod
    def binary(cls) -> str | None:
        return shutil.which("nginx") or shutil.which("nginx", path="/usr/sbin:/usr/local/sbin")

    @classmethod
    def version(cls) -> str:
        found = re.search(r"nginx/([\d.]+)", output_of(cls.binary() or "", "-v"))
        return found[1] if found else "?"

    @classmethod
    def command(cls, site: Site, folder: Path) -> list[str]:
        if site.routes:
            places = [f"location ^~ /svc{n}/ {{ {PASS} }}" for n in range(site.routes)]
            places.append(f"location = /json {{ {PASS} }}")
        else:
            places = [f"location / {{ {PASS} }}"]
        cache = ""
        if site.is_caching:
            cache = CACHE.format(folder=folder)
        conf = folder / "nginx.conf"
        conf.write_text(
            prelude(folder)
            + cache
            + SERVER.format(listen=site.listen, origin=site.origin, places="\n    ".join(places))
        )
        return [cls.binary() or "", "-p", str(folder), "-e", "stderr", "-c", str(conf)]


PASS = "proxy_pass http://origin;"

CACHE = """\
  proxy_cache_path {folder}/cache keys_zone=bench:10m;
  proxy_cache bench;
  proxy_cache_valid 200 5m;
"""

# Buffering of answers stays on: it is nginx's default and its faster way. Temporary files are off,
# so that the large body passes through memory as it does elsewhere.
SERVER = """\
  map $http_upgrade $connection_upgrade {{ default upgrade; '' ''; }}
  upstream origin {{
    server 127.0.0.1:{origin};
    keepalive 128;
    keepalive_requests 1000000000;
    keepalive_timeout 1h;
  }}
  server {{
    listen 127.0.0.1:{listen} backlog=1024;
    proxy_http_version 1.1;
    proxy_request_buffering off;
    proxy_max_temp_file_size 0;
    proxy_read_timeout 1h;
    proxy_send_timeout 1h;
    proxy_set_header Host $http_host;
    proxy_set_header Upgrade $http_upgrade;
    proxy_set_header Connection $connection_upgrade;
    proxy_set_header X-Forwarded-For $proxy_add_x_forwarded_for;
    proxy_set_header X-Forwarded-Proto $scheme;
    proxy_set_header X-Forwarded-Host $http_host;
    proxy_set_header Via "1.1 bench";
    {places}
  }}
}}
"""
