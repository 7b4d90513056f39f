"""The proxies that are compared, one module each, configured to do the same work.

One worker or thread; upstream connections kept alive; no access log; Host passed on;
X-Forwarded-For, -Proto, -Host and Via added; no limit, timeout or retry that could fire.
"""

from bench.peers.caddy import Caddy
from bench.peers.envoy import Envoy
from bench.peers.haproxy import HAProxy
from bench.peers.nexgate import Nexgate
from bench.peers.nginx import Nginx
from bench.peers.peer import Peer, Site, UnsupportedError

PEERS: dict[str, type[Peer]] = {peer.name: peer for peer in (Nexgate, Nginx, HAProxy, Envoy, Caddy)}

__all__ = ["PEERS", "Peer", "Site", "UnsupportedError"]
