""" "Did you mean": the nearest of the words that would have been right."""

from __future__ import annotations

from collections.abc import Iterable
from difflib import get_close_matches


def nearest(word: str, known: Iterable[str]) -> str | None:
    """The one of ``known`` that ``word`` was probably meant to be; ``None`` when nothing is close.

    Case and ``-``/``_`` are forgiven first: they are what people mix up between systems.
    """
    choices = list(known)
    # A longer word is a typo of nothing here. Comparing is slow, quadratic in the length of the
    # word; among very many names it would make a report with many problems take minutes.
    if len(word) > 64 or len(choices) > 1000:
        return None
    plain = {_plain(choice): choice for choice in choices}
    if (same := plain.get(_plain(word))) is not None:
        return same
    close = get_close_matches(_plain(word), list(plain), n=1, cutoff=0.6)
    return plain[close[0]] if close else None


def did_you_mean(word: str, known: Iterable[str], *, otherwise: str = "") -> str:
    """A hint: the nearest word, or ``otherwise`` followed by all of them."""
    choices = list(known)
    if (near := nearest(word, choices)) is not None:
        return f'did you mean "{near}"?'
    if not otherwise or not choices:
        return ""
    shown = ", ".join(choices[:20])
    return f"{otherwise} {shown}{', …' if len(choices) > 20 else ''}"


def _plain(word: str) -> str:
    return word.casefold().replace("_", "-")
