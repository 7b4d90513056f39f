"""Whatever the code of a plugin does, the plugin fails and the program goes on."""

from __future__ import annotations

import asyncio
import logging
import os
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from nexgate.events import Event, EventBus, EventError
from nexgate.plugins import Plugin, PluginError, PluginManager
from nexgate.testing import wait_until

Write = Callable[[str, str], Path]

PLUGIN = """
import asyncio, sys
from nexgate.plugins import Plugin, PluginConfig, on
{top}
class P(Plugin):
    {body}
    def __init__(self):
        self.told = []
        {init}
    async def initialize(self, app):
        {begin}
    async def cleanup(self):
        {end}
    def handle(self, event):
        pass
"""


def plugin(**parts: str) -> str:
    return PLUGIN.format(
        **{"top": "", "body": "", "init": "", "begin": "pass", "end": "pass", **parts}
    )


@asynccontextmanager
async def watched(manager: PluginManager) -> AsyncIterator[asyncio.Task[None]]:
    await manager.initialize()
    watching = asyncio.create_task(manager.watch(0.02))
    await asyncio.sleep(0)
    try:
        yield watching
    finally:
        watching.cancel()
        await asyncio.wait({watching})
        await manager.cleanup()


HOSTILE = ["raise SystemExit(3)", "raise asyncio.CancelledError", "raise LookupError('no')"]

FAILING = [
    *({part: what} for what in HOSTILE for part in ("top", "init", "begin")),
    {"body": "requires = 'cache'"},
    {"body": "requires = None"},
    {"body": "requires = (5,)"},
    {"body": "manifest = classmethod(lambda cls, name='': 1 / 0)"},
    {"body": "class Config: pass"},
    {"body": "hears = on('a..b')(lambda self, event: None)"},
    {"body": "hears = on('a.b', prio=1)(lambda self, event: None)"},
    {"begin": "self.bus.subscribe('a.b', self.handle, group='g')"},  # a bus without a store
    {"begin": "self.bus.add_middleware(print)"},  # which could not be taken back
]


@pytest.mark.parametrize("parts", FAILING, ids=str)
async def test_a_plugin_that_cannot_be_had_leaves_the_others_alone(
    folder: Path, write: Write, parts: dict[str, str]
) -> None:
    write("bad.py", plugin(**parts))
    write("good.py", plugin())
    manager = PluginManager()
    manager.discover(folder)
    await manager.initialize()
    states = {each.name: (each.state, bool(each.error)) for each in manager.status()}
    assert states == {"good": ("running", False), "bad": ("failed", True)}
    await manager.cleanup()


@pytest.mark.parametrize("parts", FAILING, ids=str)
async def test_an_edit_that_cannot_be_had_does_not_end_the_watching(
    folder: Path, write: Write, parts: dict[str, str], caplog: pytest.LogCaptureFixture
) -> None:
    write("p.py", plugin())
    manager = PluginManager()
    manager.discover(folder)
    async with watched(manager) as watching:
        first = manager.get("p")
        write("p.py", plugin(**parts))
        await wait_until(lambda: "the version before stays in force" in caplog.text)
        assert manager.get("p") is first
        write("p.py", plugin(body="version = '2.0'"))
        await wait_until(lambda: manager.get("p").version == "2.0")
        assert not watching.done()


STUBBORN = """
        for _ in range(2):
            try:
                await asyncio.sleep(3600)
            except asyncio.CancelledError:
                pass
"""


@pytest.mark.parametrize("end", [*HOSTILE, "await asyncio.sleep(3600)", STUBBORN])
async def test_whatever_a_cleanup_does_what_the_plugin_has_is_given_back(
    folder: Path, write: Write, end: str, caplog: pytest.LogCaptureFixture
) -> None:
    given_back: list[str] = []
    bus = EventBus()

    class Bad(Plugin):
        def initialize(self, app: Any) -> None:
            self.exit_stack.callback(given_back.append, "stack")
            self.container.register(Bad, self)
            self.bus.subscribe("a.b", print)

        async def cleanup(self) -> None:
            await ends(self)

    write("end.py", plugin(end=end))
    source = PluginManager()
    source.discover(folder)
    ends: Any = type(source.get("end")).cleanup
    manager = PluginManager(bus=bus)
    manager.register("bad", Bad(), timeout=0.05)
    await manager.initialize()
    await manager.cleanup()
    assert given_back == ["stack"]
    assert Bad not in manager.program.container
    assert bus.statistics().subscriptions == 0
    assert "plugin bad: cleanup" in caplog.text


async def test_a_start_that_takes_no_notice_of_its_limit_is_left_behind() -> None:
    class Stubborn(Plugin):
        async def initialize(self, app: Any) -> None:
            for _ in range(2):
                try:
                    await asyncio.sleep(3600)
                except asyncio.CancelledError:
                    continue

        def cleanup(self) -> None: ...

    manager = PluginManager()
    manager.register("p", Stubborn(), timeout=0.05)
    with pytest.raises(PluginError, match="initialize took longer than"):
        await manager.initialize()


async def test_cancelling_the_cleanup_ends_every_plugin_all_the_same() -> None:
    told: list[str] = []
    going, go_on = asyncio.Event(), asyncio.Event()

    class Ending(Plugin):
        def __init__(self, name: str) -> None:
            self.label = name

        def initialize(self, app: Any) -> None: ...

        async def cleanup(self) -> None:
            going.set()
            await go_on.wait()
            told.append(self.label)

    manager = PluginManager()
    for name in ("a", "b", "c"):
        manager.register(name, Ending(name))
    await manager.initialize()
    ending = asyncio.create_task(manager.cleanup())
    await going.wait()
    ending.cancel()
    await asyncio.sleep(0)
    go_on.set()
    with pytest.raises(asyncio.CancelledError):
        await ending
    assert told == ["c", "b", "a"]


async def test_one_who_hears_of_plugins_and_does_not_end_keeps_nobody_waiting(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("nexgate.plugins._manager._TELL", 0.05)
    bus = EventBus(errors="raise")
    hearing = asyncio.Event()

    @bus.on("plugin.started")
    async def never(event: Event) -> None:
        hearing.set()
        await asyncio.Event().wait()

    @bus.on("plugin.stopped")
    async def broken(event: Event) -> None:
        raise LookupError("not mine")

    class Simple(Plugin):
        def initialize(self, app: Any) -> None: ...

        def cleanup(self) -> None: ...

    manager = PluginManager(bus=bus)
    manager.register("p", Simple())
    async with asyncio.timeout(3):
        await manager.initialize()
        await hearing.wait()
        await manager.cleanup()
    await wait_until(lambda: "plugin.stopped could not be told" in caplog.text)


async def test_after_its_end_a_plugin_subscribes_to_nothing() -> None:
    class Late(Plugin):
        def initialize(self, app: Any) -> None:
            self.hears = self.bus

        def cleanup(self) -> None:
            self.bus.subscribe("a.b", print)

    plugin, bus = Late(), EventBus()
    manager = PluginManager(bus=bus)
    manager.register("p", plugin)
    await manager.initialize()
    await manager.cleanup()
    with pytest.raises(EventError, match="plugin p has ended"):
        plugin.hears.subscribe("a.b", print)
    assert bus.statistics().subscriptions == 0


async def test_state_may_be_handed_over_by_an_async_hook(folder: Path, write: Write) -> None:
    hands = "async def hand_over(self): return 41\n    def take_over(self, state): self.got = state"
    write("p.py", plugin(body=hands))
    manager = PluginManager()
    manager.discover(folder)
    await manager.initialize()
    write("p.py", plugin(body=f"version = '2.0'\n    {hands}"))
    await manager.reload()
    assert manager.get("p").got == 41  # type: ignore[attr-defined]
    await manager.cleanup()


async def test_plugins_that_ended_can_begin_anew(folder: Path, write: Write) -> None:
    write("p/__init__.py", plugin(begin="from . import late; late.told.append(self)"))
    write("p/late.py", "told = []")
    manager = PluginManager()
    manager.discover(folder)
    await manager.initialize()
    first = manager.get("p")
    await manager.cleanup()
    await manager.initialize()
    assert manager.get("p") is not first
    assert [each.state for each in manager.status()] == ["running"]
    await manager.cleanup()
    (folder / "p" / "__init__.py").write_text("raise LookupError")
    await manager.initialize()
    assert [each.state for each in manager.status()] == ["failed"]
    await manager.cleanup()


async def test_of_two_with_one_name_the_first_stays(
    folder: Path, write: Write, caplog: pytest.LogCaptureFixture
) -> None:
    write("geo/__init__.py", plugin(body="version = '1.0'"))
    write("geo.py", plugin(body="version = '2.0'"))
    manager = PluginManager()
    assert manager.discover(folder) == ["geo"]
    assert "geo.py is left out" in caplog.text
    await manager.initialize()
    assert await manager.reload() == []
    assert manager.get("geo").version == "1.0"
    await manager.cleanup()


async def test_a_new_plugin_with_a_wrong_configuration_keeps_no_edit_from_being_taken(
    folder: Path, write: Write
) -> None:
    write("p.py", plugin())
    manager = PluginManager()
    manager.discover(folder)
    await manager.initialize()
    write("q.py", plugin(body="class Config(PluginConfig):\n        url: str"))
    write("p.py", plugin(body="version = '2.0'"))
    assert await manager.reload() == ["p"]
    assert "url" in str(manager.failures["q"])
    await manager.cleanup()


async def test_what_an_editor_hides_beside_a_module_is_no_part_of_the_plugin(
    folder: Path, write: Write
) -> None:
    write("p/__init__.py", plugin())
    manager = PluginManager()
    manager.discover(folder)
    await manager.initialize()
    (folder / "p" / ".#sub.py").symlink_to("somebody@somewhere.1234")
    write("p/.saved/sub.py", "not python")
    assert await manager.reload() == []
    await manager.cleanup()


async def test_watching_sees_an_edit_that_came_before_it_began(folder: Path, write: Write) -> None:
    write("p.py", plugin())
    manager = PluginManager()
    manager.discover(folder)
    manager.discover(folder / "later")
    await manager.initialize()
    write("p.py", plugin(body="version = '2.0'"))
    write("later/q.py", plugin())
    watching = asyncio.create_task(manager.watch(0.02))
    await wait_until(lambda: manager.get("p").version == "2.0")
    assert manager.get("q").version == "0.0.0"
    watching.cancel()
    await asyncio.wait({watching})
    await manager.cleanup()


def test_a_folder_that_is_given_as_text_is_told_so(folder: Path) -> None:
    manager = PluginManager()
    assert manager.discover(str(folder)) == []
    assert "a folder is a Path" in str(manager.failures[str(folder)])


async def test_watching_sees_an_edit_that_keeps_size_and_time(folder: Path, write: Write) -> None:
    path = write("p.py", plugin(body="version = '1.0'"))
    kept = path.stat()
    manager = PluginManager()
    manager.discover(folder)
    async with watched(manager):
        write("p.py", plugin(body="version = '2.0'"))
        os.utime(path, ns=(kept.st_atime_ns, kept.st_mtime_ns))
        await wait_until(lambda: manager.get("p").version == "2.0")


async def test_watching_a_package_sees_what_is_mended_and_what_is_new(
    folder: Path, write: Write, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(folder)
    write("some_plugins/__init__.py", "")
    write("some_plugins/one.py", "this is not python")
    manager = PluginManager()
    manager.discover("some_plugins")
    async with watched(manager):
        write("some_plugins/one.py", plugin())
        await wait_until(lambda: [each.state for each in manager.status()] == ["running"])
        write("some_plugins/two.py", plugin())
        await wait_until(lambda: [each.state for each in manager.status()] == ["running"] * 2)
    for name in [name for name in sys.modules if name.startswith("some_plugins")]:
        del sys.modules[name]


def test_a_package_around_the_plugin_that_raises_is_a_failure_with_its_traceback(
    folder: Path, write: Write, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    from nexgate.plugins import PluginSpec, Source, load_plugin

    caplog.set_level(logging.ERROR)
    monkeypatch.syspath_prepend(folder)
    write("around/__init__.py", "raise LookupError('around')")
    with pytest.raises(PluginError, match="LookupError: around") as told:
        load_plugin(PluginSpec("p", Source(module="around.p")))
    assert "importlib" not in str(told.value).partition("LookupError")[0]


def test_a_dot_in_a_files_name_is_no_package(folder: Path, write: Write) -> None:
    from nexgate.plugins import PluginSpec, Source, load_plugin

    path = write("geo.v2.py", plugin())
    loaded = load_plugin(PluginSpec("geo", Source(path=path)))
    assert loaded.name == "geo"
    loaded.discard()
