"""Python objects that are named on a command line."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import typer

__all__ = ["load_object"]


def load_object(path: str, hint: str) -> Any:
    """What ``module:name`` is, with the current directory on the path as ``python -m`` has it.
    ``hint`` is the argument's name. Raises ``ConfigError``.
    """
    from nexgate.config import import_object, parse_object_path

    try:
        said = parse_object_path(path)
    except ValueError as error:
        raise typer.BadParameter(str(error), param_hint=hint) from None
    here = str(Path.cwd())
    if "" not in sys.path and here not in sys.path:
        sys.path.insert(0, here)
    return import_object(said)
