"""Where a plugin's code is: a file, a folder that is a package, or a module of an installed
package. And how it is loaded anew.

``importlib.reload`` runs the *old* bytecode when an edit falls into the same second and leaves the
size as it was (CPython issues 75953 and 120932), and leaves submodules as they were. So modules of
plugins are compiled from their text, never from bytecode and without writing any, and each version
of a file or folder gets a name of its own: both versions can be in use at the same time.
"""

from __future__ import annotations

import hashlib
import importlib
import importlib.abc
import importlib.machinery
import importlib.util
import itertools
import linecache
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import CodeType, ModuleType
from typing import Any, Final

__all__ = ["Source", "forget", "is_within"]

_PREFIX: Final = "_nexgate_plugin_"
_numbers = itertools.count(1)


class _TextLoader(importlib.machinery.SourceFileLoader):
    """Compiles from the text, always."""

    def get_code(self, fullname: str) -> CodeType:
        path = self.get_filename(fullname)
        linecache.checkcache(path)  # tracebacks show the lines that run
        code: CodeType = compile(self.get_data(path), path, "exec", dont_inherit=True)
        return code


class _Finder(importlib.abc.MetaPathFinder):
    """Finds the modules of plugins, and what is inside their packages, for ``_TextLoader``."""

    def __init__(self) -> None:
        self.files: dict[str, Path] = {}
        """By the name of a version."""
        self.anew: set[str] = set()
        """Installed modules that are being loaded anew."""

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> importlib.machinery.ModuleSpec | None:
        file = self.files.get(fullname)
        if file is not None:
            return _spec(fullname, file)
        if fullname.startswith(_PREFIX) or any(is_within(fullname, each) for each in self.anew):
            found = importlib.machinery.PathFinder.find_spec(fullname, path, target)
            if found is not None and isinstance(found.loader, importlib.machinery.SourceFileLoader):
                found.loader = _TextLoader(fullname, found.loader.path)
                found.cached = None
            return found
        return None


def _spec(name: str, file: Path) -> importlib.machinery.ModuleSpec | None:
    is_package = file.name == "__init__.py"
    return importlib.util.spec_from_file_location(
        name,
        file,
        loader=_TextLoader(name, str(file)),
        submodule_search_locations=[str(file.parent)] if is_package else None,
    )


_finder: Final = _Finder()


def is_within(name: str, module: str) -> bool:
    """Whether ``name`` is the module or a submodule of it."""
    return name == module or name.startswith(f"{module}.")


@dataclass(frozen=True, slots=True)
class Source:
    """The code of a plugin."""

    path: Path | None = None
    """A ``.py`` file, or a folder with ``__init__.py``."""
    module: str = ""
    """Or the name of an importable module."""
    attribute: str = ""
    """The class in it. Empty: its only ``Plugin``."""

    @classmethod
    def parse(cls, text: str, folder: Path) -> Source:
        """``"plugins/geo.py"``, ``"plugins/geo"``, ``"package.module"``, each with ``":Class"`` or
        without. Files are found from ``folder``.
        """
        place, _, attribute = text.partition(":")
        is_file = "/" in place or place.endswith(".py")
        if is_file:
            return cls(path=(folder / place).absolute(), attribute=attribute)
        return cls(module=place, attribute=attribute)

    def __str__(self) -> str:
        place = str(self.path) if self.path is not None else self.module
        return f"{place}:{self.attribute}" if self.attribute else place

    @property
    def name(self) -> str:
        """What the place calls it."""
        return self.path.stem if self.path is not None else self.module.rpartition(".")[2]

    def files(self) -> tuple[Path, ...]:
        """Every file whose change makes another version; none for what is built in. Raises
        ``ImportError`` when there is nothing.
        """
        if self.path is not None:
            if self.path.is_dir():
                if not (self.path / "__init__.py").is_file():
                    raise ImportError(f"{self.path} has no __init__.py")
                return _modules_in(self.path)
            if not self.path.is_file():
                raise ImportError(f"{self.path} does not exist")
            return (self.path,)
        importlib.invalidate_caches()
        spec = importlib.util.find_spec(self.module)
        if spec is None:
            raise ImportError(f"there is no module {self.module}")
        if not spec.origin or not spec.has_location:
            return ()
        origin = Path(spec.origin)
        if origin.name == "__init__.py":
            return _modules_in(origin.parent)
        return (origin,)

    def digest(self) -> str:
        """Another one for another text. Raises ``ImportError`` and ``OSError``."""
        told = hashlib.blake2b(digest_size=16)
        for file in self.files():
            text = file.read_bytes()
            told.update(f"{file} {len(text)} ".encode())
            told.update(text)
        return told.hexdigest()

    def load(self) -> ModuleType:
        """A module made from the text as it is now. Raises whatever its code raises."""
        _install()
        importlib.invalidate_caches()
        if self.path is not None:
            return self._load_file(self.path)
        return self._load_module()

    def _load_file(self, path: Path) -> ModuleType:
        # A dot in the name of a file is none between packages.
        name = f"{_PREFIX}{next(_numbers)}_{path.stem.replace('.', '_')}"
        _finder.files[name] = path / "__init__.py" if path.is_dir() else path
        try:
            return importlib.import_module(name)
        except BaseException:
            forget(name)
            raise

    def _load_module(self) -> ModuleType:
        with _set_aside(self.module):
            _finder.anew.add(self.module)
            try:
                return importlib.import_module(self.module)
            finally:
                _finder.anew.discard(self.module)


def _modules_in(folder: Path) -> tuple[Path, ...]:
    """Of a package: without what is hidden, such as the locks of editors, which are no files."""
    return tuple(
        sorted(
            path
            for path in folder.rglob("*.py")
            if path.is_file()
            and not any(part.startswith(".") for part in path.relative_to(folder).parts)
        )
    )


@contextmanager
def _set_aside(module: str) -> Iterator[None]:
    """Take a module and its submodules out of ``sys.modules``; put them back on an error."""
    before = {name: m for name, m in list(sys.modules.items()) if is_within(name, module)}
    parent, _, name = module.rpartition(".")
    missing: Any = object()
    attribute = getattr(sys.modules.get(parent), name, missing) if parent else missing
    for each in before:
        del sys.modules[each]
    try:
        yield
    except BaseException:
        for each in [each for each in sys.modules if is_within(each, module)]:
            del sys.modules[each]
        sys.modules.update(before)
        if attribute is not missing:
            setattr(sys.modules[parent], name, attribute)
        raise


def _install() -> None:
    if _finder not in sys.meta_path:
        sys.meta_path.insert(0, _finder)


def forget(module: str) -> None:
    """Drop a version, so that what is imported no more is not kept. Installed modules stay: others
    may use them.
    """
    if module.startswith(_PREFIX):
        _finder.files.pop(module, None)
        for name in [name for name in sys.modules if is_within(name, module)]:
            del sys.modules[name]
