"""Where output goes: answers to stdout, everything else to stderr, colours to terminals only."""

from __future__ import annotations

import sys
from collections.abc import Sequence
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


def print_table(headings: Sequence[str], rows: Sequence[Sequence[str]], empty: str) -> None:
    """Rows of plain text on stdout, or ``empty`` when there are none."""
    from rich import box
    from rich.table import Table
    from rich.text import Text

    if not rows:
        stdout().print(empty, markup=False)
        return
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for heading in headings:
        table.add_column(heading, overflow="fold")
    for row in rows:
        table.add_row(*(Text(cell) for cell in row))
    stdout().print(table)


def local_time(at: float) -> str:
    """A Unix time for people."""
    from datetime import UTC, datetime

    try:
        return datetime.fromtimestamp(at, UTC).astimezone().isoformat(" ", "seconds")
    except (ValueError, OverflowError):  # after the year 9999
        return f"{at:g}"
