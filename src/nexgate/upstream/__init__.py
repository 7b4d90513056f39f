"""The service's side: services, instances, connection pools, balancers, probes."""

from nexgate.upstream._asgi import AsgiInstance, AsgiStartupError
from nexgate.upstream._encode import DROP_ALWAYS
from nexgate.upstream._forward import Forward, Split
from nexgate.upstream._guard import GUARDED, Guard
from nexgate.upstream._instance import Address, InstanceState, PoolLimits, UpstreamTimeouts
from nexgate.upstream._membership import (
    MadeBalancer,
    Membership,
    client_context,
    first_byte_limit,
    make_balancer,
    upstream_timeouts,
)
from nexgate.upstream._service import ServiceState
from nexgate.upstream._votes import Votes

__all__ = [
    "DROP_ALWAYS",
    "GUARDED",
    "Address",
    "AsgiInstance",
    "AsgiStartupError",
    "Forward",
    "Guard",
    "InstanceState",
    "MadeBalancer",
    "Membership",
    "PoolLimits",
    "ServiceState",
    "Split",
    "UpstreamTimeouts",
    "Votes",
    "client_context",
    "first_byte_limit",
    "make_balancer",
    "upstream_timeouts",
]
