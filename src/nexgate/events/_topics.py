"""Names of events, and patterns for them: ``*`` is one word, ``**`` any number of them, none
included. ``user.*`` is ``user.created``; ``user.**`` is also ``user`` and ``user.address.changed``.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from functools import lru_cache
from typing import Final

__all__ = ["check_pattern", "check_topic", "is_pattern", "matcher"]

_WORD: Final = r"[A-Za-z0-9_-]+"
_TOPIC: Final = re.compile(rf"{_WORD}(\.{_WORD})*")
_PATTERN: Final = re.compile(rf"({_WORD}|\*\*?)(\.({_WORD}|\*\*?))*")
_LONGEST: Final = 255


@lru_cache(4096)
def check_topic(name: str) -> str:
    """``name``, when it is a topic. Raises ``ValueError``."""
    if len(name) > _LONGEST or not _TOPIC.fullmatch(name):
        raise ValueError(f"{name!r} is not a topic: words joined by dots, such as user.created")
    return name


def check_pattern(pattern: str) -> str:
    """``pattern``, when it is one or a topic. Raises ``ValueError``."""
    if len(pattern) > _LONGEST or not _PATTERN.fullmatch(pattern):
        raise ValueError(f"{pattern!r} is not a pattern: words, * and ** joined by dots")
    return pattern


def is_pattern(text: str) -> bool:
    """Whether it may match several topics."""
    return "*" in text


@lru_cache(4096)
def matcher(pattern: str) -> Callable[[str], bool]:
    """Whether a topic matches ``pattern``."""
    if not is_pattern(pattern):
        return pattern.__eq__
    if pattern == "**":
        return lambda topic: True
    text = ""
    for number, word in enumerate(re.sub(r"\*\*(\.\*\*)+", "**", pattern).split(".")):
        if word == "**":
            text += rf"({_WORD}(\.{_WORD})*)?" if number == 0 else rf"(\.{_WORD})*"
        else:
            # After a leading "**" that matched nothing there is no dot.
            dot = "" if number == 0 else r"\." if pattern[:2] != "**" or number > 1 else r"(^|\.)"
            text += dot + (_WORD if word == "*" else re.escape(word))
    compiled = re.compile(text)
    return lambda topic: compiled.fullmatch(topic) is not None
