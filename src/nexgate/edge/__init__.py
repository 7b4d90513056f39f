"""The client's side: listeners, connections, tunnels, workers."""

from nexgate.edge._asgi import AsgiEntry, BrokenResponseError
from nexgate.edge._listeners import listener_tls, open_listener, refresh_certificates
from nexgate.edge._process import (
    MemoryReturn,
    affordable_connections,
    allow_many_files,
    new_event_loop,
    tune_collector,
)
from nexgate.edge._protocol import EdgeConnection
from nexgate.edge._server import Listener, Server, bind, server_context
from nexgate.edge._worker import EdgeLimits, EdgeState, EdgeTimeouts

__all__ = [
    "AsgiEntry",
    "BrokenResponseError",
    "EdgeConnection",
    "EdgeLimits",
    "EdgeState",
    "EdgeTimeouts",
    "Listener",
    "MemoryReturn",
    "Server",
    "affordable_connections",
    "allow_many_files",
    "bind",
    "listener_tls",
    "new_event_loop",
    "open_listener",
    "refresh_certificates",
    "server_context",
    "tune_collector",
]
