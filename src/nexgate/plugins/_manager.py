"""Plugins of one program: found, started in order, replaced while it runs, ended in reverse.

A change is made in three steps, so that it happens as a whole or not at all:

1. ``load`` reads code and configuration, and makes plugins; nothing of the running ones changes.
   It may run in a thread.
2. ``start`` initialises those that are new, beside the ones that they replace.
3. ``commit`` swaps them, in one step of the event loop. The old ones end when their last user is
   done. Or ``abandon`` ends the new ones.

``initialize``, ``reload`` and ``watch`` are these three in one.
"""

from __future__ import annotations

import asyncio
import logging
import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Literal

from nexgate.config import did_you_mean, stamp

from ._discovery import in_folder, in_package, installed
from ._errors import PluginConfigError, PluginError
from ._loading import Loaded, PluginSpec, given, load
from ._manifest import Manifest
from ._order import dependents, start_order
from ._plan import PluginPlan
from ._plugin import Plugin
from ._program import Program
from ._running import Running, to_the_end
from ._source import Source

if TYPE_CHECKING:
    from nexgate.di import Container
    from nexgate.events import EventBus

__all__ = ["PluginManager", "PluginStatus"]

_log = logging.getLogger("nexgate.plugins")

_DRAIN: Final = 30.0
_TELL: Final = 10.0
"""Seconds that those who hear of the end of plugins may take."""


@dataclass(frozen=True, slots=True)
class PluginStatus:
    """One plugin, for people and dashboards."""

    name: str
    state: Literal["waiting", "running", "failed"]
    version: str
    source: str
    requires: tuple[str, ...] = ()
    description: str = ""
    since: float | None = None
    """Unix time at which this version was started."""
    error: str = ""


class PluginManager:
    """The plugins of one program.

    ``container`` and ``bus`` are what plugins register in and listen to; without them the manager
    has its own. ``drain``: seconds that a version which was replaced may still be used.
    """

    def __init__(
        self,
        container: Container | None = None,
        bus: EventBus | None = None,
        *,
        program: Program | None = None,
        drain: float = _DRAIN,
    ) -> None:
        self.program = program or Program(container, bus)
        self.drain = drain
        self.failures: dict[str, PluginError] = {}
        """Plugins that could not be loaded or started, and are done without."""
        self._registered: dict[str, Loaded] = {}
        self._places: list[tuple[str, Path | str, Mapping[str, Any]]] = []
        self._running: dict[str, Running] = {}
        self._retiring: set[asyncio.Task[None]] = set()
        self._telling: set[asyncio.Task[None]] = set()
        self._changing = asyncio.Lock()
        self._seen: dict[str, Any] = {}
        """Files as they were before they were loaded."""
        self._app: Any = None
        self._is_initialized = False

    # ---------------------------------------------------------------- registering

    def register(
        self,
        name: str,
        plugin: Plugin,
        *,
        config: Mapping[str, Any] | None = None,
        required: bool = True,
        timeout: float = 10.0,
    ) -> None:
        """Add a plugin that is there as an object; it is not reloaded. Raises ``PluginError`` for
        a name that is taken, a manifest that does not fit, a configuration that is wrong.
        """
        if name in self._registered:
            raise PluginError(name, "find", "the name is taken by another plugin")
        self._registered[name] = given(
            name, plugin, config or {}, required=required, timeout=timeout
        )

    def discover(
        self, place: str | Path, *, config: Mapping[str, Mapping[str, Any]] | None = None
    ) -> list[str]:
        """Load every plugin of an importable package (``"my_plugins"``) or a folder
        (``Path("plugins")``) and return their names. ``config`` has the configurations by name.

        One that cannot be loaded is logged, kept in ``failures`` and left out. ``reload`` and
        ``watch`` look again, and find new ones.
        """
        return self._discover(
            "folder" if isinstance(place, Path) else "package", place, config or {}
        )

    def discover_installed(
        self, *, config: Mapping[str, Mapping[str, Any]] | None = None
    ) -> list[str]:
        """The same for what installed distributions name in the group ``nexgate.plugins``."""
        return self._discover("installed", "", config or {})

    def _discover(self, kind: str, place: Path | str, config: Mapping[str, Any]) -> list[str]:
        self._places.append((kind, place, config))
        seen = self._stamps()
        names = self._take(self._found(kind, place, config))
        self._seen = self._stamps() | seen | self._seen
        return names

    def _found(
        self, kind: str, place: Path | str, config: Mapping[str, Any]
    ) -> Iterable[PluginSpec]:
        if kind == "installed":
            for name, source in installed().items():
                yield PluginSpec(name, source, config.get(name, {}), required=False)
            return
        try:
            sources = list(in_folder(Path(place)) if kind == "folder" else in_package(str(place)))
        except PluginError as error:
            self._fail(error)
            return
        for source in sources:
            name = source.name
            yield PluginSpec(name, source, config.get(name, {}), required=False)

    def _take(self, specs: Iterable[PluginSpec]) -> list[str]:
        names: list[str] = []
        for spec in specs:
            before = self._registered.get(spec.name)
            if before is not None and before.spec.source != spec.source:
                _log.error(
                    "plugin %s: %s is left out: %s has the name",
                    spec.name,
                    spec.source,
                    before.spec.source,
                )
                continue
            try:
                loaded = load(spec, before)
            except (PluginError, PluginConfigError) as error:
                self._fail(error, spec.name)
                continue
            self.failures.pop(spec.name, None)
            self._registered[spec.name] = loaded
            names.append(spec.name)
        return names

    def _fail(self, error: PluginError | PluginConfigError, name: str = "") -> None:
        told = _failure(error, name)
        self.failures[told.plugin] = told
        _log.error("%s", told)

    def get(self, name: str) -> Plugin:
        """The plugin that runs under ``name``, or is registered. Raises ``KeyError``."""
        running = self._running.get(name)
        if running is not None:
            return running.plugin
        loaded = self._registered.get(name)
        if loaded is None:
            failed = self.failures.get(name)
            if failed is not None:
                raise KeyError(f"plugin {name} could not be used: {failed.reason}")
            hint = did_you_mean(name, [*self._running, *self._registered])
            raise KeyError(f"there is no plugin {name}" + (f"; {hint}" if hint else ""))
        return loaded.plugin

    def __iter__(self) -> Any:
        return iter(dict.fromkeys([*self._running, *self._registered]))

    # ---------------------------------------------------------------- the three steps

    def load(
        self,
        specs: Sequence[PluginSpec],
        given: Mapping[str, Loaded] | None = None,
        *,
        program: Program | None = None,
    ) -> PluginPlan:
        """The set of plugins that ``specs`` describe, as their code is now, and those ``given`` as
        objects; those that did not change are the ones that run. In another ``program`` all begin
        anew. Raises ``PluginError`` and ``PluginConfigError``.
        """
        found: dict[str, Loaded] = dict(given or {})
        failed: dict[str, PluginError] = {}
        running = {name: each.loaded for name, each in self._running.items()}
        try:
            for spec in specs:
                try:
                    found[spec.name] = load(spec, running.get(spec.name))
                except PluginError as error:
                    if spec.required or spec.name in running:
                        raise  # the program cannot do without it, or has a version that works
                    failed[spec.name] = error
            return self._planned(found, failed, program)
        except BaseException:
            for name, each in found.items():
                if each is not running.get(name):
                    each.discard()
            raise

    def _planned(
        self,
        found: dict[str, Loaded],
        failed: dict[str, PluginError],
        program: Program | None = None,
    ) -> PluginPlan:
        """In order, without those that need what failed, and with new ones in place of those that
        need what changed.
        """
        running = {name: each.loaded for name, each in self._running.items()}
        while True:
            manifests = {name: each.manifest for name, each in found.items()}
            try:
                order = start_order(manifests)
                break
            except PluginError as error:
                if found[error.plugin].spec.required or error.plugin in running:
                    raise
                failed[error.plugin] = error
                lost = found.pop(error.plugin)
                if lost is not running.get(error.plugin):
                    lost.discard()
        changed = {name for name, each in found.items() if each is not running.get(name)}
        changed |= running.keys() - found.keys()
        if program is not None:
            changed |= running.keys()
        known: dict[str, Manifest] = {
            **{name: each.manifest for name, each in running.items()},
            **manifests,
        }
        fresh = dependents(known, changed) & found.keys()
        for name in fresh:
            # The same code, and a new object: it holds what it took from what goes.
            if found[name] is running.get(name) and found[name].digest:
                found[name] = load(found[name].spec)
        loaded = {name: found[name] for name in order}
        return PluginPlan(loaded, program or self.program, failed, frozenset(fresh))

    async def start(self, plan: PluginPlan, app: Any) -> None:
        """Initialise what is new. Raises ``PluginError`` when one fails that is required; then, or
        when this is cancelled, those that were started are ended again.
        """
        try:
            for name in list(plan.loaded):
                if name not in plan.fresh:
                    continue
                loaded = plan.loaded[name]
                before = self._running.get(name)
                try:
                    lost = next(
                        (n.name for n in loaded.manifest.requirements if n.name in plan.failed),
                        None,
                    )
                    if lost is not None:
                        raise PluginError(name, "manifest", f"it requires {lost}, which failed")
                    running = Running(loaded, plan.program)
                    await running.start(app, before.plugin if before is not None else None)
                except PluginError as error:
                    # What is used of it must not run without its initialize.
                    if loaded.spec.required or before is not None or loaded.is_needed:
                        raise
                    _log.error("%s", error)
                    plan.failed[name] = error
                    del plan.loaded[name]
                    loaded.discard()
                else:
                    plan.started.append(running)
        except BaseException:
            await self.abandon(plan)
            raise

    def commit(self, plan: PluginPlan) -> None:
        """Put a plan that was started into force. From here on the new plugins handle events, and
        the old ones end when they are used no more.
        """
        before = self._running
        plan.is_in_force = True
        self.program = plan.program
        new = {each.loaded.name: each for each in plan.started}
        self._running = {name: new.get(name) or before[name] for name in plan.loaded}
        gone = [each for name, each in before.items() if self._running.get(name) is not each]
        for each in gone:
            each.deactivate()
        for each in plan.started:
            each.activate()
        self.failures = dict(plan.failed)
        if gone:
            task = asyncio.get_running_loop().create_task(
                self._retire(list(reversed(gone))), name="nexgate-plugins-retire"
            )
            self._retiring.add(task)
            task.add_done_callback(self._retiring.discard)

    async def abandon(self, plan: PluginPlan) -> None:
        """End what ``start`` began; the plugins in force stay. Does nothing to a plan in force."""
        if plan.is_in_force:
            return
        started, plan.started = plan.started, []
        try:
            await to_the_end(_stop(reversed(started)))
        finally:
            plan.discard()

    async def _retire(self, gone: list[Running]) -> None:
        for each in gone:
            await each.retire(self.drain)
            each.loaded.discard()

    # ---------------------------------------------------------------- all in one

    async def initialize(self, app: Any = None) -> None:
        """Start every registered plugin, those that others need first; after ``cleanup`` anew, from
        their code as it is then. Raises ``PluginError`` when a required one fails; all are ended
        then. Those that are not required are logged, and kept in ``failures``.
        """
        async with self._changing:
            self._app = app
            for spec in [each.spec for each in self._registered.values() if each.is_over]:
                if not self._take([spec]):
                    del self._registered[spec.name]
            failed = dict(self.failures)
            plan = self._planned(dict(self._registered), failed)
            await self.start(plan, app)
            self.commit(plan)
            self._is_initialized = True
        self.announce(plan)

    async def cleanup(self) -> None:
        """End every plugin, in the reverse order of their start. An exception of one is logged."""
        async with self._changing:
            running, self._running = list(self._running.values()), {}
            self._is_initialized = False
            for each in running:
                each.deactivate()
            await to_the_end(_stop(reversed(running)))
            for each in running:
                each.loaded.discard()
            if self._retiring:
                await asyncio.wait(set(self._retiring))
        self._tell("plugin.stopped", [each.loaded for each in running])
        if self._telling:
            _, late = await asyncio.wait(set(self._telling), timeout=_TELL)
            for task in late:
                task.cancel()

    async def reload(self) -> list[str]:
        """Look at the code of every plugin, and replace those that changed, and those that require
        them. New ones in discovered folders and packages are started, those that are gone are
        ended. Returns the names of those that were started. Raises ``PluginError`` and
        ``PluginConfigError``; nothing has changed then.
        """
        async with self._changing:
            specs = self._specs()
            plan = await asyncio.to_thread(self._reloaded, specs)
            if self._is_initialized:
                await self.start(plan, self._app)
                self.commit(plan)
            self._registered = dict(plan.loaded)
            self.failures = dict(plan.failed)
        names = [each.loaded.name for each in plan.started]
        for name in names:
            _log.info("plugin %s %s is in force", name, plan.loaded[name].manifest.version)
        self.announce(plan)
        return names

    def _specs(self) -> list[PluginSpec]:
        found = {name: each.spec for name, each in self._registered.items() if not each.digest}
        for kind, place, config in self._places:
            for spec in self._found(kind, place, config):
                found.setdefault(spec.name, spec)
        return list(found.values())

    def _reloaded(self, specs: list[PluginSpec]) -> PluginPlan:
        found: dict[str, Loaded] = {}
        failed: dict[str, PluginError] = {}
        try:
            for spec in specs:
                before = self._registered.get(spec.name)
                if before is not None and not before.digest:
                    found[spec.name] = before  # an object
                    continue
                try:
                    found[spec.name] = load(spec, before)
                except (PluginError, PluginConfigError) as error:
                    if before is not None or spec.required:
                        raise  # the version before stays
                    failed[spec.name] = _failure(error, spec.name)
                    _log.error("%s", failed[spec.name])
            return self._planned(found, failed)
        except BaseException:
            for name, each in found.items():
                if each is not self._registered.get(name):
                    each.discard()
            raise

    async def watch(self, interval: float = 0.2) -> None:
        """Reload whenever a file of a plugin has changed since it was discovered, until cancelled.
        An edit that cannot be used is logged with its traceback; the version before stays.

        By ``stat``, every ``interval`` seconds: that works on every file system. A file that is
        still being written is left until it has been the same twice.
        """
        while True:
            await asyncio.sleep(interval)
            now = self._stamps()
            if now == self._seen:
                continue
            while True:
                await asyncio.sleep(interval / 2)
                settled = self._stamps()
                if settled == now:
                    break
                now = settled
            self._seen = now
            try:
                await self.reload()
            except (PluginError, PluginConfigError) as error:
                _log.error("%s\nthe version before stays in force", error)
            except Exception:
                _log.exception("plugins could not be looked at; those before stay in force")

    def _stamps(self) -> dict[str, Any]:
        files = [str(file) for each in self._registered.values() for file in each.files]
        for kind, place, _ in self._places:
            for folder in _folders(kind, place):
                files += [str(file) for each in in_folder(folder) for file in _files(each)]
        stamps: dict[str, Any] = {}
        for name in files:
            try:
                stamps[name] = stamp(name)
            except OSError:
                stamps[name] = None
        return stamps

    def announce(self, plan: PluginPlan) -> None:
        """Tell the bus of what a plan that is in force has started: ``plugin.started``. Nothing
        waits for those who hear of it.
        """
        self._tell("plugin.started", [each.loaded for each in plan.started])

    def _tell(self, topic: str, plugins: list[Loaded]) -> None:
        if not plugins:
            return
        task = asyncio.create_task(_publish(self.program.bus, topic, plugins))
        self._telling.add(task)
        task.add_done_callback(self._telling.discard)

    # ---------------------------------------------------------------- asking

    def status(self) -> list[PluginStatus]:
        """Every plugin, as it is."""
        found: list[PluginStatus] = []
        for name in self:
            running = self._running.get(name)
            loaded = running.loaded if running is not None else self._registered[name]
            manifest = loaded.manifest
            failure = self.failures.get(name) if running is None else None
            state: Literal["waiting", "running", "failed"] = "waiting"
            if running is not None:
                state = "running"
            elif failure is not None:
                state = "failed"
            found.append(
                PluginStatus(
                    name,
                    state,
                    manifest.version,
                    str(loaded.spec.source),
                    manifest.requires,
                    manifest.description,
                    running.since if running is not None else None,
                    failure.reason if failure is not None else "",
                )
            )
        for name, error in self.failures.items():
            if name not in {each.name for each in found}:
                found.append(PluginStatus(name, "failed", "", "", error=error.reason))
        return found


async def _stop(running: Iterable[Running]) -> None:
    for each in running:
        await each.stop()


async def _publish(bus: EventBus, topic: str, plugins: list[Loaded]) -> None:
    from nexgate.events import Event

    for each in plugins:
        data = {"name": each.name, "version": each.manifest.version}
        try:
            await bus.publish(Event(topic, data, source="nexgate"))
        except Exception:
            _log.exception("plugin %s: %s could not be told", each.name, topic)


def _failure(error: PluginError | PluginConfigError, name: str) -> PluginError:
    if isinstance(error, PluginError):
        return error
    return PluginError(name, "configure", f"its configuration is wrong\n{error}")


def _folders(kind: str, place: Path | str) -> list[Path]:
    """Where plugins of a place that were not there before would be."""
    if kind == "folder":
        return [Path(place)]
    return [Path(each) for each in getattr(sys.modules.get(str(place)), "__path__", ())]


def _files(source: Source) -> tuple[Path, ...]:
    try:
        return source.files()
    except ImportError:
        return ()
