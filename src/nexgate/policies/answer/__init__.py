"""Routes that answer by themselves: redirects and fixed answers."""

from nexgate.policies.answer._answer import Answer, Redirect

__all__ = ["Answer", "Redirect"]
