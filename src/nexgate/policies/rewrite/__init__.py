"""Changes to the path that a service sees."""

from nexgate.policies.rewrite._rewrite import PathChange, rewrite, strip_literal, strip_prefix

__all__ = ["PathChange", "rewrite", "strip_literal", "strip_prefix"]
