"""How much work SQLite does: the same on every machine."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from nexgate.sqlite import Database


class Steps:
    """Hundreds of steps of SQLite's machine."""

    def __init__(self) -> None:
        self.hundreds = 0

    def count(self) -> None:
        self.hundreds += 1


@contextmanager
def steps_of(database: Database) -> Iterator[Steps]:
    """Those that ``database`` does within the block, on the loop."""
    steps = Steps()
    connection = database._usable()
    connection.set_progress_handler(steps.count, 100)
    try:
        yield steps
    finally:
        connection.set_progress_handler(None, 0)
