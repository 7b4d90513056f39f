"""Finding plugins: in folders, in packages, among what pip installed."""

from __future__ import annotations

import importlib
import logging
import os
import pkgutil
from collections.abc import Iterator
from functools import cache
from importlib.metadata import entry_points
from pathlib import Path
from typing import Final

from ._errors import PluginError
from ._source import Source

__all__ = ["ENTRY_POINTS", "in_folder", "in_package", "installed"]

ENTRY_POINTS: Final = "nexgate.plugins"
"""The group in which distributions name their plugins: ``name = "package.module:Class"``."""

_log = logging.getLogger("nexgate.plugins")


def in_folder(folder: Path) -> Iterator[Source]:
    """Every ``.py`` file and every package in a folder, by name; those that begin with an
    underscore or a dot are not plugins. A folder that is not there has none.
    """
    if not folder.is_dir():
        return
    for path in sorted(folder.iterdir()):
        if path.name.startswith(("_", ".")):
            continue
        if path.suffix == ".py" or (path / "__init__.py").is_file():
            yield Source(path=path.absolute())


def in_package(package: str) -> Iterator[Source]:
    """Every module of an importable package. Raises ``PluginError`` when it is none."""
    try:
        found = importlib.import_module(package)
    except (Exception, SystemExit) as error:
        hint = "; a folder is a Path" if os.sep in package else ""
        message = f"the package cannot be imported: {error}{hint}"
        raise PluginError(package, "find", message) from error
    path = getattr(found, "__path__", None)
    if path is None:
        yield Source(module=package)
        return
    for each in pkgutil.iter_modules(path):
        if not each.name.startswith("_"):
            yield Source(module=f"{package}.{each.name}")


@cache
def installed() -> dict[str, Source]:
    """Plugins of installed distributions by name. Looked up once: it reads every distribution's
    metadata.
    """
    return {
        point.name: Source(module=point.module, attribute=point.attr or "")
        for point in entry_points(group=ENTRY_POINTS)
    }
