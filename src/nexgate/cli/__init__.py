"""The command line: ``nexgate run | check | routes | explain | init | demo | version``.

One file a command. What a command needs is imported when it runs, so ``nexgate version`` does not
wait for the data plane. Exit codes are part of the interface: see ``_exit.py``.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from typing import NoReturn

__all__ = ["main"]


def main(argv: Sequence[str] | None = None) -> NoReturn:
    """Run the command line and exit with its code. A mistake of the user's is never a traceback."""
    from nexgate.cli._app import invoke

    _prepare_streams()
    raise SystemExit(int(invoke(list(sys.argv[1:] if argv is None else argv))))


def _prepare_streams() -> None:
    for stream in (sys.stdout, sys.stderr):
        # A terminal that cannot show "│" gets "?" instead of a traceback.
        reconfigure = getattr(stream, "reconfigure", None)
        if reconfigure is not None:
            reconfigure(errors="replace")
    if not sys.stdout.isatty() and not os.environ.get("FORCE_COLOR"):
        # typer colours its help in CI logs on its own account; colours are for terminals.
        os.environ.setdefault("_TYPER_FORCE_DISABLE_TERMINAL", "1")
