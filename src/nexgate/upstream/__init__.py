"""The service's side: services, instances, connection pools, balancers, probes."""

from nexgate.upstream._asgi import AsgiInstance, AsgiStartupError
from nexgate.upstream._forward import Forward, Split
from nexgate.upstream._guard import Guard
from nexgate.upstream._instance import Address, InstanceState, PoolLimits, UpstreamTimeouts
from nexgate.upstream._service import ServiceState

__all__ = [
    "Address",
    "AsgiInstance",
    "AsgiStartupError",
    "Forward",
    "Guard",
    "InstanceState",
    "PoolLimits",
    "ServiceState",
    "Split",
    "UpstreamTimeouts",
]
