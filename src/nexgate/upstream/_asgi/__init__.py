"""An ASGI application as an instance of a service.

=============  =========================================================================
``_instance``  what balancers and services see: ``AsgiInstance``
``_lifespan``  startup and shutdown
``_scope``     what the application is told about a request
``_call``      one run of the application for one exchange; how it answers
``_http``      the ``http`` scope: request content in, disconnects
``_websocket`` the ``websocket`` scope: handshake, messages, closing
=============  =========================================================================
"""

from nexgate.upstream._asgi._call import DisconnectedError
from nexgate.upstream._asgi._instance import AsgiInstance
from nexgate.upstream._asgi._lifespan import AsgiStartupError
from nexgate.upstream._asgi._scope import AsgiApp

__all__ = ["AsgiApp", "AsgiInstance", "AsgiStartupError", "DisconnectedError"]
