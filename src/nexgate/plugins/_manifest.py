"""What a plugin says of itself, and whether that fits what is here."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Final

from packaging.requirements import InvalidRequirement, Requirement
from packaging.version import InvalidVersion, Version

from ._errors import PluginError

__all__ = ["API_VERSION", "Manifest", "check_plugin_name"]

API_VERSION: Final = "1.0"
"""Of the interface between Nexgate and plugins. The first number changes when plugins must."""

_NAME: Final = re.compile(r"[a-z][a-z0-9_]{0,63}")


def check_plugin_name(name: str) -> str:
    """``name``, when it is one. Raises ``ValueError``.

    Lower-case letters, digits and underscores: it is a key in TOML, a command, and stands before
    the colon where a configuration names something that the plugin has.
    """
    if not _NAME.fullmatch(name):
        raise ValueError(f"{name!r} is not a name: lower-case letters, digits and underscores")
    return name


@dataclass(frozen=True, slots=True)
class Manifest:
    """Name, version and needs of a plugin."""

    name: str
    version: str = "0.0.0"
    api: str = API_VERSION
    """Version of Nexgate's plugin interface that it was written for."""
    requires: tuple[str, ...] = ()
    """Other plugins that must run before it: ``"cache"`` or ``"cache>=1.2"``."""
    description: str = ""

    def check(self) -> None:
        """Raise ``PluginError`` for what does not make sense or does not fit."""
        try:
            check_plugin_name(self.name)
            if not isinstance(self.requires, (tuple, list)):
                raise ValueError(f"requires is {self.requires!r}, and no tuple of names")
            Version(self.version)
            theirs, ours = Version(self.api), Version(API_VERSION)
            for each in self.requirements:
                check_plugin_name(each.name)
        except (ValueError, TypeError, InvalidVersion, InvalidRequirement) as error:
            raise PluginError(self.name, "manifest", f"its manifest is wrong: {error}") from None
        if theirs.major != ours.major or theirs > ours:
            message = f"it was written for plugin API {self.api}, this Nexgate has {API_VERSION}"
            raise PluginError(self.name, "manifest", message)

    @property
    def requirements(self) -> list[Requirement]:
        """``requires``, parsed."""
        return [Requirement(each) for each in self.requires]
