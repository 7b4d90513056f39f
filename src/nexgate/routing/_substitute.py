"""Texts with ``{name}`` in them, filled with the parameters of a match as the client sent them."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

from nexgate.routing._route import Match

__all__ = ["substitution"]


def substitution(text: str) -> Callable[[Match[Any] | None], bytes]:
    """Compile ``text``. The result takes a match and returns bytes.

    Values go in byte for byte: they come from a normalised path, so a value of one segment has no
    slash in it, and nothing is decoded or encoded twice.
    """
    # Literal texts and names in turn; a type after the name is of no interest here.
    parts = re.split(r"\{([^{}:]+)(?::[^{}]*)?\}", text)
    literals = [part.encode() for part in parts[::2]]
    names = parts[1::2]
    if not names:
        fixed = literals[0]
        return lambda match: fixed

    def render(match: Match[Any] | None) -> bytes:
        values: dict[str, bytes] = {}
        if match is not None:
            values = dict(zip(match.route.template.names, match.raw_params, strict=True))
        out = [literals[0]]
        for name, literal in zip(names, literals[1:], strict=True):
            out.append(values.get(name, b""))
            out.append(literal)
        return b"".join(out)

    return render
