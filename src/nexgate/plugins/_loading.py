"""From a source to a plugin that is configured and not yet running."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, fields, is_dataclass, replace
from functools import partial
from pathlib import Path
from types import ModuleType
from typing import Any
from weakref import WeakSet

from pydantic import BaseModel, TypeAdapter, ValidationError

from nexgate.config import Finding, did_you_mean, findings

from ._errors import Phase, PluginConfigError, PluginError, their_traceback
from ._manifest import Manifest
from ._plugin import Plugin
from ._source import Source, forget, is_within

__all__ = ["Loaded", "PluginSpec", "config_schema", "given", "load", "plugin_classes"]


@dataclass(frozen=True, slots=True)
class PluginSpec:
    """A plugin that is wanted."""

    name: str
    source: Source
    config: Mapping[str, Any] = field(default_factory=dict)
    """As written; its ``Config`` validates it."""
    required: bool = True
    """Whether the program cannot do without it: its failure is then the program's."""
    timeout: float = 10.0
    """Seconds that ``initialize`` may take, and ``cleanup``."""


@dataclass(slots=True, eq=False)
class Loaded:
    """One version of a plugin: made, configured, and not yet running."""

    spec: PluginSpec
    plugin: Plugin
    manifest: Manifest
    digest: str = ""
    """Of its code. Empty for one that was given as an object: it is never replaced by itself."""
    module: str = ""
    files: tuple[Path, ...] = ()
    is_needed: bool = False
    """Whether something of it is named by a configuration."""
    is_over: bool = False
    """Its code was forgotten."""
    _lent: WeakSet[partial[Any]] = field(default_factory=WeakSet)

    @property
    def name(self) -> str:
        return self.spec.name

    def is_same(self, spec: PluginSpec, digest: str) -> bool:
        """Whether loading ``spec`` would make this again."""
        return bool(digest) and not self.is_over and self.spec == spec and self.digest == digest

    def lend(self, thing: Callable[..., Any]) -> Callable[..., Any]:
        """``thing``, as something whose last user can be noticed."""
        lent = partial(thing)
        self._lent.add(lent)
        return lent

    @property
    def is_used(self) -> bool:
        """Whether somebody has what was lent."""
        return bool(self._lent)

    def discard(self) -> None:
        """It is not going to be used, or not any more."""
        self.is_over = bool(self.digest)
        forget(self.module)


def load(spec: PluginSpec, previous: Loaded | None = None) -> Loaded:
    """The plugin as its text is now: ``previous`` itself, if nothing changed. Raises
    ``PluginError``, and ``PluginConfigError`` for its configuration; nothing is left behind then.
    """
    with _as_failure(spec.name, "find", "it cannot be looked for"):
        try:
            digest, files = spec.source.digest(), spec.source.files()
        except (ImportError, OSError, ValueError) as error:
            raise PluginError(spec.name, "find", str(error)) from error
    if previous is not None and previous.is_same(spec, digest):
        return previous
    with _as_failure(spec.name, "import", "it cannot be imported", files):
        module = spec.source.load()
    try:
        cls = _class_in(module, spec)
        manifest, config = _read(cls, spec, files)
        with _as_failure(spec.name, "import", "it cannot be made", files):
            plugin = cls()
    except BaseException:
        forget(module.__name__)
        raise
    plugin._name, plugin._config = spec.name, config
    return Loaded(spec, plugin, manifest, digest, module.__name__, files)


def given(
    name: str,
    plugin: Plugin,
    config: Mapping[str, Any],
    *,
    required: bool = True,
    timeout: float = 10.0,
) -> Loaded:
    """A plugin that is there as an object. Raises ``PluginError`` and ``PluginConfigError``."""
    source = Source(module=type(plugin).__module__, attribute=type(plugin).__qualname__)
    spec = PluginSpec(name, source, config, required, timeout)
    manifest, plugin._config = _read(type(plugin), spec)
    plugin._name = name
    return Loaded(spec, plugin, manifest)


def _read(
    cls: type[Plugin], spec: PluginSpec, files: tuple[Path, ...] = ()
) -> tuple[Manifest, Any]:
    """What it says of itself, and its configuration."""
    with _as_failure(spec.name, "manifest", "its manifest cannot be read", files):
        manifest = replace(cls.manifest(spec.name), name=spec.name)
        manifest.check()
    with _as_failure(spec.name, "configure", "its configuration cannot be read", files):
        return manifest, _configured(cls, spec)


@contextmanager
def _as_failure(
    name: str, phase: Phase, message: str, files: tuple[Path, ...] = ()
) -> Iterator[None]:
    """Whatever the code of a plugin raises is the failure of this plugin and nobody else's."""
    try:
        yield
    except (PluginError, PluginConfigError, KeyboardInterrupt):
        raise
    except BaseException as error:
        trace = their_traceback(error, tuple(map(str, files)))
        raise PluginError(name, phase, message, trace=trace) from error


def plugin_classes(module: ModuleType) -> dict[str, type[Plugin]]:
    """The plugins that a module defines itself; those that it imports are another's."""
    return {
        name: each
        for name, each in vars(module).items()
        if inspect.isclass(each)
        and issubclass(each, Plugin)
        and not inspect.isabstract(each)
        and is_within(each.__module__, module.__name__)
    }


def _class_in(module: ModuleType, spec: PluginSpec) -> type[Plugin]:
    if spec.source.attribute:
        found = getattr(module, spec.source.attribute, None)
        if inspect.isclass(found) and issubclass(found, Plugin):
            return found
        what = "is no Plugin" if found is not None else "is not in it"
        hint = did_you_mean(spec.source.attribute, plugin_classes(module))
        message = f"{spec.source.attribute} {what}" + (f"; {hint}" if hint else "")
        raise PluginError(spec.name, "import", message)
    classes = plugin_classes(module)
    for each in classes.values():
        if each.name == spec.name:
            return each
    if len(classes) == 1:
        return next(iter(classes.values()))
    if not classes:
        raise PluginError(spec.name, "import", f"{spec.source} {_why_none(module)}")
    names = ", ".join(classes)
    raise PluginError(
        spec.name, "import", f"{spec.source} has several plugins: add one of :{names} to the source"
    )


def _why_none(module: ModuleType) -> str:
    for name, each in vars(module).items():
        if inspect.isabstract(each) and issubclass(each, Plugin) and each is not Plugin:
            missing = " and ".join(sorted(each.__abstractmethods__))
            return f"has {name}, which lacks {missing}"
    return "has no subclass of Plugin"


def _configured(cls: type[Plugin], spec: PluginSpec) -> Any:
    model = cls.Config
    if model is None:
        if spec.config:
            found = Finding((), "is configured, and takes no configuration", is_about_key=True)
            raise _wrong_config(spec.name, [found])
        return {}
    if not (inspect.isclass(model) and (issubclass(model, BaseModel) or is_dataclass(model))):
        message = "its Config is neither a pydantic model nor a dataclass"
        raise PluginError(spec.name, "configure", message)
    try:
        made = TypeAdapter(model).validate_python(dict(spec.config))
    except ValidationError as error:
        raise _wrong_config(spec.name, findings(error)) from None
    if is_dataclass(model):  # which takes and forgets what it does not know
        known = [each.name for each in fields(model)]
        unknown = [
            Finding((key,), "is not a key here", did_you_mean(key, known), is_about_key=True)
            for key in spec.config
            if key not in known
        ]
        if unknown:
            raise _wrong_config(spec.name, unknown)
    return made


def config_schema(loaded: Loaded) -> tuple[dict[str, Any], dict[str, Any]]:
    """The JSON Schema of its configuration, and the definitions that it refers to, under names of
    their own.
    """
    model = type(loaded.plugin).Config
    if model is None:
        return {"type": "object", "maxProperties": 0}, {}
    prefix = f"plugin_{loaded.name}_"
    schema = TypeAdapter(model).json_schema(ref_template=f"#/$defs/{prefix}{{model}}")
    definitions = schema.pop("$defs", {})
    return schema, {f"{prefix}{name}": each for name, each in definitions.items()}


def _wrong_config(plugin: str, found: list[Finding]) -> PluginConfigError:
    return PluginConfigError(
        replace(each, loc=("plugins", plugin, "config", *each.loc)) for each in found
    )
