"""What the gateway tells about itself."""

from nexgate.observability._access_log import AccessLog, access_log
from nexgate.observability._logging import configure_logging

__all__ = ["AccessLog", "access_log", "configure_logging"]
