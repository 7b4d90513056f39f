"""What the exit code of a command says to a script."""

from __future__ import annotations

from enum import IntEnum


class ExitCode(IntEnum):
    """Documented in ``docs/reference/cli.md``; stable."""

    OK = 0
    """Done; for ``check``: usable, warnings or not; for ``explain``: a route matches."""

    NO = 1
    """The configuration has problems, or no route matches."""

    USAGE = 2
    """The command line makes no sense: unknown option, missing file."""

    FAILED = 3
    """All was asked for properly, and the system said no: a port in use, a file not writable."""

    INTERRUPTED = 130
    """Ctrl-C, as shells report it."""
