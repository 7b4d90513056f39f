"""What others answered, fit for a log."""

from __future__ import annotations

__all__ = ["excerpt"]


def excerpt(body: bytes, longest: int = 200) -> str:
    """The beginning of an answer, on one line."""
    text = body[: 4 * longest].decode("utf-8", "replace")
    line = " ".join(text.split())
    plain = "".join(c if c.isprintable() else "\N{REPLACEMENT CHARACTER}" for c in line)
    return plain if len(plain) <= longest else f"{plain[:longest]}…"
