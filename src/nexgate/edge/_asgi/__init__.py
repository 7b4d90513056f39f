"""The gateway as an ASGI application, in any ASGI server or mounted in a framework.

==============  =================================================================
``_entry``      ``AsgiEntry``: a scope becomes an exchange
``_head``       a scope read with the strictness of a head from the wire
``_outbox``     the messages on their way out, bounded
``_downstream`` the ``Downstream`` of an exchange over ``receive`` and ``send``
``_websocket``  the same for WebSockets: messages here, a tunnel of frames there
==============  =================================================================
"""

from nexgate.edge._asgi._entry import AsgiEdge, AsgiEntry
from nexgate.edge._asgi._outbox import BrokenResponseError

__all__ = ["AsgiEdge", "AsgiEntry", "BrokenResponseError"]
