"""The toolkit in a web application, in one call.

``Toolkit`` wraps any ASGI application. ``nexgate.integrations.nexios``, ``.starlette``,
``.fastapi`` and ``.litestar`` have ``install(app, …)``, which puts it inside an application of
theirs; none is imported here. See ``docs/reference/integrations.md``.
"""

from __future__ import annotations

from ._connection import Connection, current_request_id
from ._metrics import Metrics
from ._parts import Part, Plugins
from ._provided import provided
from ._request_id import RequestIdFilter
from ._toolkit import Toolkit

__all__ = [
    "Connection",
    "Metrics",
    "Part",
    "Plugins",
    "RequestIdFilter",
    "Toolkit",
    "current_request_id",
    "provided",
]
