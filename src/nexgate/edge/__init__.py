"""The client's side: listeners, connections, tunnels, workers."""

from nexgate.edge._asgi import AsgiEntry
from nexgate.edge._server import Listener, Server
from nexgate.edge._worker import EdgeLimits, EdgeState, EdgeTimeouts

__all__ = ["AsgiEntry", "EdgeLimits", "EdgeState", "EdgeTimeouts", "Listener", "Server"]
