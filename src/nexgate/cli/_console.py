"""Where output goes: answers to stdout, everything else to stderr, colours to terminals only."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rich.console import Console

_WIDE = 200
"""Columns when nobody's window limits them: files and pipes should not wrap at 80."""


def stdout() -> Console:
    """The console of answers."""
    return _console(sys.stdout)


def stderr() -> Console:
    """The console of problems and progress."""
    return _console(sys.stderr)


def _console(stream: Any) -> Console:
    from rich.console import Console

    # rich itself obeys NO_COLOR and leaves colours out where the stream is not a terminal.
    width = None if stream.isatty() else _WIDE
    # The words of others go through here, and "module:x:" is no emoji.
    return Console(file=stream, highlight=False, emoji=False, width=width, soft_wrap=False)


def print_json(value: object) -> None:
    """One JSON document on stdout, the same on a terminal and in a pipe."""
    import json

    sys.stdout.write(json.dumps(value, indent=2, ensure_ascii=False, default=str) + "\n")
