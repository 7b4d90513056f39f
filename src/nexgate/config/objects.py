"""Objects that a configuration names: ``package.module:name``."""

from __future__ import annotations

import importlib
from typing import Any

from nexgate.errors import ConfigError

__all__ = ["import_object"]


def import_object(path: str) -> Any:
    """``package.module:name`` → the object. Raises ``ConfigError`` saying what is missing."""
    module_name, _, name = path.partition(":")
    try:
        found: Any = importlib.import_module(module_name)
    except ImportError as error:
        raise ConfigError(f"{path}: cannot import {module_name}: {error}") from error
    for part in name.split("."):
        try:
            found = getattr(found, part)
        except AttributeError:
            raise ConfigError(f"{path}: {module_name} has no {name}") from None
    return found
