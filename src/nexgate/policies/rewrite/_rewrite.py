"""Stripping a prefix and rewriting. Runs once per exchange, after every filter, before the first
attempt.
"""

from __future__ import annotations

from collections.abc import Callable

from nexgate.exchange import Exchange
from nexgate.routing import Template, substitution

__all__ = ["PathChange", "rewrite", "strip_literal", "strip_prefix"]

PathChange = Callable[[Exchange], None]


def strip_literal(template: Template) -> PathChange:
    """Take away the literal segments in front of the template's first parameter."""
    prefix = template.literal_prefix.rstrip(b"/")

    def change(exchange: Exchange) -> None:
        exchange.path = template.strip(exchange.path)
        _tell(exchange, prefix)

    return change


def strip_prefix(prefix: str) -> PathChange:
    """Take away ``prefix``, which the configuration made sure the path begins with, segment by
    segment.
    """
    segments = prefix.rstrip("/").count("/")
    shown = prefix.rstrip("/").encode("latin-1")

    def change(exchange: Exchange) -> None:
        # By segments, not bytes: an encoded or differently cased spelling may have another length.
        rest = exchange.path.split(b"/", segments + 1)[segments + 1 :]
        exchange.path = b"/" + (rest[0] if rest else b"")
        _tell(exchange, shown)

    return change


def rewrite(target: str) -> PathChange:
    """Fill ``target`` with the parameters of the route, byte for byte as the client sent them."""
    render = substitution(target)

    def change(exchange: Exchange) -> None:
        exchange.path = render(exchange.match)

    return change


def _tell(exchange: Exchange, prefix: bytes) -> None:
    """X-Forwarded-Prefix lets a service build links that work outside."""
    if prefix and exchange.forward_base:
        exchange.forward_base = exchange.forward_base + b"\r\nX-Forwarded-Prefix: " + prefix
