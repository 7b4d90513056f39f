"""``[plugins.NAME]``: what extends the gateway."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Annotated, Any, ClassVar

from pydantic import PlainSerializer, PlainValidator, ValidationInfo, WithJsonSchema

from nexgate.config import Finding, Flag, PositiveDuration, Section, wrong

from ._discovery import in_folder, installed
from ._errors import PluginConfigError
from ._loading import PluginSpec
from ._source import Source

__all__ = ["PluginSection", "plugin_specs"]


def _source(value: object, info: ValidationInfo) -> Source:
    if isinstance(value, Source):
        return value
    if not isinstance(value, (str, Path)) or not str(value):
        raise wrong("must be text", 'for example "plugins/geo.py" or "package.module"')
    text = str(value)
    place, colon, name = text.partition(":")
    if "\0" in text or not place or (colon and not name.isidentifier()):
        raise wrong("is not the place of a plugin", 'for example "plugins/geo.py:Geo"')
    source = Source.parse(text, (info.context or {}).get("directory") or Path())
    if source.path is None and not all(part.isidentifier() for part in place.split(".")):
        hint = "a file has a slash in it or ends in .py"
        raise wrong("is neither a file nor a module", hint)
    if source.path is not None and not source.path.exists():
        raise wrong("names a file that does not exist", f"it is looked for at {source.path}")
    return source


class PluginSection(Section):
    """One plugin. Objects that it has are named ``"NAME:object"`` wherever a Python object can
    stand: filters, balancers, sources of instances, applications.
    """

    foreign: ClassVar[Mapping[str, str]] = {
        "path": "the key is source",
        "file": "the key is source",
        "module": "the key is source",
        "use": "the key is source",
        "class": 'the key is source: "package.module:Class"',
        "options": "the key is config: [plugins.NAME.config]",
        "settings": "the key is config: [plugins.NAME.config]",
        "optional": "the key is required",
        "enabled": "a plugin that is not to run is left out",
    }

    source: (
        Annotated[
            Source,
            PlainValidator(_source),
            PlainSerializer(str, return_type=str),
            WithJsonSchema({"type": "string", "examples": ["plugins/geo.py", "package.module"]}),
        ]
        | None
    ) = None
    """A ``.py`` file, a folder with ``__init__.py``, or ``"package.module"``, with ``":Class"``
    where there are several plugins. Unset: the one of this name in ``gateway.plugin_folders``, or
    among those that installed packages bring."""

    required: Flag = True
    """Whether the gateway refuses to go without it. ``false`` logs its failure and goes on, unless
    something of it is used."""

    timeout: PositiveDuration = 10.0
    """How long it may take to begin, and to end."""

    config: dict[str, Any] = {}
    """Its own configuration: the plugin says what may stand here."""


def plugin_specs(
    sections: Mapping[str, PluginSection], folders: Iterable[Path]
) -> list[PluginSpec]:
    """Every plugin that is wanted: those with a section, in order, then the others of the folders.
    Raises ``PluginConfigError`` for those that are nowhere, or in two places.
    """
    found: dict[str, Source] = {}
    wrong: list[Finding] = []
    for each in (each for folder in folders for each in in_folder(folder)):
        first = found.setdefault(each.name, each)
        has_place = each.name in sections and sections[each.name].source is not None
        if first != each and not has_place:
            what = f"have two plugins named {each.name}: {first} and {each}"
            wrong.append(Finding(("gateway", "plugin_folders"), what, "rename one of them"))
    specs: list[PluginSpec] = []
    for name, section in sections.items():
        source = section.source or found.get(name) or installed().get(name)
        if source is None:
            hint = 'add source = "plugins/…", or install the package that brings it'
            wrong.append(Finding(("plugins", name), "is not to be found", hint, is_about_key=True))
            continue
        specs.append(PluginSpec(name, source, section.config, section.required, section.timeout))
    if wrong:
        raise PluginConfigError(wrong)
    named = {spec.name for spec in specs}
    specs += [PluginSpec(name, each) for name, each in found.items() if name not in named]
    return specs
