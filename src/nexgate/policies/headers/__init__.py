"""Changes to the fields of requests and responses."""

from nexgate.policies.headers._policy import request_hook, response_hook

__all__ = ["request_hook", "response_hook"]
