"""Plugins: code that extends a program, is found by itself, configured, and replaced while it runs.

``Plugin`` is what one is, ``PluginManager`` runs them in any program. In a gateway they are
``[plugins.NAME]`` of its configuration, and extend it: see ``docs/how-to/write-plugins.md``.
"""

from __future__ import annotations

from ._discovery import ENTRY_POINTS, in_folder, in_package, installed
from ._errors import PluginConfigError, PluginError
from ._loading import Loaded, PluginSpec, config_schema, given
from ._loading import load as load_plugin
from ._manager import PluginManager, PluginStatus
from ._manifest import API_VERSION, Manifest, check_plugin_name
from ._plan import PluginPlan
from ._plugin import Plugin, PluginConfig, on
from ._program import Program
from ._source import Source

__all__ = [
    "API_VERSION",
    "ENTRY_POINTS",
    "Loaded",
    "Manifest",
    "Plugin",
    "PluginConfig",
    "PluginConfigError",
    "PluginError",
    "PluginManager",
    "PluginPlan",
    "PluginSpec",
    "PluginStatus",
    "Program",
    "Source",
    "check_plugin_name",
    "config_schema",
    "given",
    "in_folder",
    "in_package",
    "installed",
    "load_plugin",
    "on",
]
