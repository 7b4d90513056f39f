"""Objects that a configuration names: ``package.module:name``, or ``plugin:name`` for something
that a plugin has.
"""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from typing import Any, Final, Protocol

from nexgate.errors import ConfigError

__all__ = ["MODULES", "Objects", "Provider", "import_object"]


class Provider(Protocol):
    """Something with a name of its own that has objects: a plugin."""

    @property
    def version(self) -> object:
        """Equal to itself as long as the same objects are found."""

    def find(self, name: str) -> Any:
        """Raises ``ConfigError`` saying what is missing."""


class Objects:
    """Finds what paths name. A plugin goes before a module of the same name: the configuration
    that names both is the one that named the plugin.
    """

    __slots__ = ("_plugins",)

    def __init__(self, plugins: Mapping[str, Provider] | None = None) -> None:
        self._plugins = plugins or {}

    def find(self, path: str) -> Any:
        """The object. Raises ``ConfigError`` saying what is missing."""
        place, _, name = path.partition(":")
        plugin = self._plugins.get(place)
        return plugin.find(name) if plugin is not None else import_object(path)

    def is_of_plugin(self, path: str) -> bool:
        """Whether a plugin has it, or should have."""
        return path.partition(":")[0] in self._plugins

    def version(self, path: str) -> object:
        """Equal to itself as long as ``find`` has the same object."""
        plugin = self._plugins.get(path.partition(":")[0])
        return plugin.version if plugin is not None else path


MODULES: Final = Objects()
"""Without plugins."""


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
