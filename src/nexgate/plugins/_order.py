"""In which order plugins start: those that others need come first."""

from __future__ import annotations

from collections.abc import Mapping

from packaging.version import Version

from nexgate.config import did_you_mean

from ._errors import PluginError
from ._manifest import Manifest

__all__ = ["dependents", "start_order"]


def start_order(manifests: Mapping[str, Manifest]) -> list[str]:
    """Names, each after what it requires, otherwise as given. Raises ``PluginError`` for what is
    missing, too old or needs itself.
    """
    done: list[str] = []
    path: list[str] = []

    def visit(name: str) -> None:
        if name in done:
            return
        if name in path:
            circle = " → ".join([*path[path.index(name) :], name])
            raise PluginError(name, "manifest", f"it needs itself: {circle}")
        path.append(name)
        for need in manifests[name].requirements:
            found = manifests.get(need.name)
            if found is None:
                hint = did_you_mean(need.name, [n for n in manifests if n != name])
                message = f"it requires {need}, which is not there" + (f"; {hint}" if hint else "")
                raise PluginError(name, "manifest", message)
            if not need.specifier.contains(Version(found.version), prereleases=True):
                message = f"it requires {need}, and {need.name} is {found.version}"
                raise PluginError(name, "manifest", message)
            visit(need.name)
        done.append(path.pop())

    for name in manifests:
        visit(name)
    return done


def dependents(manifests: Mapping[str, Manifest], changed: set[str]) -> set[str]:
    """``changed``, and all that require them, directly or not."""
    found = set(changed)
    grew = True
    while grew:
        more = {
            name
            for name, manifest in manifests.items()
            if name not in found and any(need.name in found for need in manifest.requirements)
        }
        found |= more
        grew = bool(more)
    return found
