"""Plugins as the tutorial has them, and what becomes of them when something goes wrong."""

from __future__ import annotations

import asyncio
import gc
import logging
import sys
import weakref
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from nexgate.di import Container
from nexgate.events import Event, EventBus
from nexgate.plugins import (
    Plugin,
    PluginConfig,
    PluginConfigError,
    PluginError,
    PluginManager,
    on,
)
from nexgate.testing import wait_until

Told = list[str]


class Telling(Plugin):
    """Writes down what happens to it."""

    told: Told

    def __init__(self, told: Told, label: str) -> None:
        self.told = told
        self.label = label

    def initialize(self, app: Any) -> None:
        self.told.append(f"+{self.label}")

    async def cleanup(self) -> None:
        self.told.append(f"-{self.label}")


def telling(told: Told, label: str, **attributes: Any) -> Telling:
    return type("Made", (Telling,), {"__module__": __name__, **attributes})(told, label)


Write = Callable[[str, str], Path]


SIMPLE = """
from nexgate.plugins import Plugin
told = []
class P(Plugin):
    version = "{version}"
    def initialize(self, app):
        app.append("+{version}")
        self.app = app
    def cleanup(self):
        self.app.append("-{version}")
    def answer(self):
        return "{version}"
"""

# --- the tutorial's calls -------------------------------------------------------------------------


async def test_plugins_start_in_order_and_end_in_reverse() -> None:
    told: Told = []
    manager = PluginManager()
    manager.register("a", telling(told, "a"))
    manager.register("b", telling(told, "b"))
    await manager.initialize(None)
    assert [each.state for each in manager.status()] == ["running", "running"]
    await manager.cleanup()
    assert told == ["+a", "+b", "-b", "-a"]


async def test_those_that_others_require_start_first() -> None:
    told: Told = []
    manager = PluginManager()
    manager.register("a", telling(told, "a", requires=("b>=1.0",)))
    manager.register("b", telling(told, "b", version="1.2", requires=("c",)))
    manager.register("c", telling(told, "c"))
    await manager.initialize(None)
    await manager.cleanup()
    assert told == ["+c", "+b", "+a", "-a", "-b", "-c"]


def test_get_returns_the_plugin_and_suggests_another_for_a_typo() -> None:
    manager = PluginManager()
    plugin = telling([], "a")
    manager.register("cache", plugin)
    assert manager.get("cache") is plugin
    with pytest.raises(KeyError, match="did you mean"):
        manager.get("cahce")


@pytest.mark.parametrize(
    ("attributes", "message"),
    [
        ({"requires": ("nothing",)}, "requires nothing, which is not there"),
        ({"requires": ("other>=2",)}, "requires other>=2, and other is 1.0"),
        ({"requires": ("made",)}, "needs itself: made → made"),
        ({"requires": ("not a name!",)}, "its manifest is wrong"),
        ({"version": "one"}, "its manifest is wrong"),
        ({"api": "2.0"}, "it was written for plugin API 2.0"),
        ({"api": "1.9"}, "it was written for plugin API 1.9"),
    ],
)
async def test_what_a_manifest_can_have_wrong(attributes: dict[str, Any], message: str) -> None:
    manager = PluginManager()
    with pytest.raises(PluginError, match=message):
        manager.register("other", telling([], "o", version="1.0"))
        manager.register("made", telling([], "m", **attributes))
        await manager.initialize(None)


async def test_a_circle_of_needs_is_drawn() -> None:
    manager = PluginManager()
    for name, needs in (("a", "b"), ("b", "c"), ("c", "a")):
        manager.register(name, telling([], name, requires=(needs,)))
    with pytest.raises(PluginError, match="a → b → c → a"):
        await manager.initialize(None)


@pytest.mark.parametrize("name", ["", "A", "a-b", "1a", "a.b", "é"])
def test_a_name_is_a_word(name: str) -> None:
    with pytest.raises(PluginError, match="is not a name"):
        PluginManager().register(name, telling([], "a"))


def test_a_name_is_taken_once() -> None:
    manager = PluginManager()
    manager.register("a", telling([], "a"))
    with pytest.raises(PluginError, match="taken"):
        manager.register("a", telling([], "a"))


# --- finding --------------------------------------------------------------------------------------


async def test_a_folder_is_discovered_with_its_packages(folder: Path, write: Write) -> None:
    write("one.py", SIMPLE.format(version="1.0"))
    write("two/__init__.py", "from .inner import P\n")
    write("two/inner.py", SIMPLE.format(version="2.0"))
    write("_not.py", "raise RuntimeError")
    write("notes.txt", "")
    manager = PluginManager()
    assert manager.discover(folder) == ["one", "two"]
    app: list[str] = []
    await manager.initialize(app)
    assert app == ["+1.0", "+2.0"]
    await manager.cleanup()
    assert app == ["+1.0", "+2.0", "-2.0", "-1.0"]
    assert not list(folder.rglob("*.pyc"))


async def test_a_package_is_discovered_by_its_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    package = tmp_path / "my_plugins_found"
    package.mkdir()
    (package / "__init__.py").write_text("")
    (package / "base.py").write_text(
        "from nexgate.plugins import Plugin\n"
        "class Base(Plugin):\n"
        "    def initialize(self, app): app.append(self.word)\n"
        "    def cleanup(self): pass\n"
        "    word = 'base'\n"
    )
    (package / "cache.py").write_text(
        "from .base import Base\nclass Cache(Base):\n    word = 'cache'\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    manager = PluginManager()
    assert manager.discover("my_plugins_found") == ["base", "cache"]
    app: list[str] = []
    await manager.initialize(app)
    assert app == ["base", "cache"]
    await manager.cleanup()
    for name in [n for n in sys.modules if n.startswith("my_plugins_found")]:
        del sys.modules[name]


def test_a_package_that_is_not_there_is_a_failure_that_is_kept() -> None:
    manager = PluginManager()
    assert manager.discover("no_such_package_anywhere") == []
    assert "cannot be imported" in str(manager.failures["no_such_package_anywhere"])


def test_a_plugin_that_raises_at_import_is_left_out_with_its_own_traceback(
    folder: Path, write: Write, caplog: pytest.LogCaptureFixture
) -> None:
    write("good.py", SIMPLE.format(version="1.0"))
    path = write("bad.py", "def broken():\n    return 1 / 0\nbroken()\n")
    manager = PluginManager()
    assert manager.discover(folder) == ["good"]
    told = str(manager.failures["bad"])
    assert "ZeroDivisionError" in told
    assert f'File "{path}", line 3' in told
    assert "importlib" not in told
    assert "ZeroDivisionError" in caplog.text
    assert [each.state for each in manager.status()] == ["waiting", "failed"]
    with pytest.raises(KeyError, match="could not be used"):
        manager.get("bad")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("x = 1\n", "has no subclass of Plugin"),
        ("class (:\n", "SyntaxError"),
        ("raise SystemExit(3)\n", "SystemExit"),
        (
            (
                "from nexgate.plugins import Plugin\n"
                "class P(Plugin):\n    def initialize(self, app): pass\n"
            ),
            "has P, which lacks cleanup",
        ),
        ("", "has no subclass of Plugin"),
        (
            (
                "from nexgate.plugins import Plugin\n"
                "class A(Plugin):\n    initialize = cleanup = lambda *a: None\n"
                "class B(A): pass\n"
            ),
            "several plugins: add one of :A, B",
        ),
        (
            (
                "from nexgate.plugins import Plugin\n"
                "class P(Plugin):\n"
                "    initialize = cleanup = lambda *a: None\n"
                "    def __init__(self): raise LookupError('no')\n"
            ),
            "it cannot be made",
        ),
    ],
)
def test_files_that_are_no_plugins(folder: Path, write: Write, text: str, message: str) -> None:
    write("p.py", text)
    manager = PluginManager()
    before = set(sys.modules)
    assert manager.discover(folder) == []
    assert message in str(manager.failures["p"])
    assert set(sys.modules) == before


# --- configuration --------------------------------------------------------------------------------


class Configured(Telling):
    class Config(PluginConfig):
        database: str
        """Where."""
        retries: int = 3
        """How often."""

    config: Config


def test_a_configuration_is_validated_into_the_plugins_own_type() -> None:
    manager = PluginManager()
    manager.register("geo", Configured([], "g"), config={"database": "x", "retries": 5})
    plugin = manager.get("geo")
    assert (plugin.config.database, plugin.config.retries) == ("x", 5)


def test_a_configuration_with_mistakes_has_them_all_with_their_paths_and_hints() -> None:
    with pytest.raises(PluginConfigError) as caught:
        PluginManager().register(
            "geo", Configured([], "g"), config={"databse": "x", "retries": "y"}
        )
    found = {(p.path, p.message, p.hint) for p in caught.value.problems}
    assert ("plugins.geo.config.databse", "is not a key here", 'did you mean "database"?') in found
    assert any(p.path == "plugins.geo.config.database" for p in caught.value.problems)
    assert any(p.path == "plugins.geo.config.retries" for p in caught.value.problems)


def test_a_plugin_without_a_configuration_takes_none() -> None:
    with pytest.raises(PluginConfigError, match="takes no configuration"):
        PluginManager().register("a", telling([], "a"), config={"x": 1})


def test_a_dataclass_is_a_configuration_too() -> None:
    @dataclass
    class Settings:
        size: int = 1

    manager = PluginManager()
    manager.register("a", telling([], "a", Config=Settings), config={"size": 4})
    assert manager.get("a").config == Settings(4)
    with pytest.raises(PluginConfigError):
        PluginManager().register("a", telling([], "a", Config=Settings), config={"siz": 4})


# --- failures -------------------------------------------------------------------------------------


class Failing(Telling):
    async def initialize(self, app: Any) -> None:
        self.told.append(f"+{self.label}")
        self.bus.subscribe("x", lambda event: self.told.append("heard"))
        self.container.register(int, 7)
        self.tasks.start(asyncio.sleep, 3600)
        self.exit_stack.callback(self.told.append, f"closed {self.label}")
        await asyncio.sleep(0)
        raise LookupError("half-way")


async def test_a_required_plugin_that_fails_ends_those_that_were_started() -> None:
    told: Told = []
    container, bus = Container(), EventBus()
    manager = PluginManager(container, bus)
    manager.register("a", telling(told, "a"))
    manager.register("b", Failing(told, "b"))
    manager.register("c", telling(told, "c"))
    before = len(asyncio.all_tasks())
    with pytest.raises(PluginError, match="LookupError: half-way"):
        await manager.initialize(None)
    assert told == ["+a", "+b", "closed b", "-a"]
    await bus.publish(Event("x"))
    assert "heard" not in told
    with pytest.raises(Exception):  # noqa: B017  # whatever a container says of what it has not
        container.resolve(int)
    assert len(asyncio.all_tasks()) == before
    assert all(each.state == "waiting" for each in manager.status())


async def test_an_optional_plugin_that_fails_is_done_without(
    caplog: pytest.LogCaptureFixture,
) -> None:
    told: Told = []
    manager = PluginManager()
    manager.register("a", Failing(told, "a"), required=False)
    manager.register("b", telling(told, "b", requires=("a",)), required=False)
    manager.register("c", telling(told, "c"))
    await manager.initialize(None)
    assert [e.name for e in manager.status() if e.state == "running"] == ["c"]
    assert "requires a, which failed" in str(manager.failures["b"])
    assert "half-way" in caplog.text
    await manager.cleanup()
    assert told == ["+a", "closed a", "+c", "-c"]


async def test_a_plugin_that_hangs_is_given_up_after_its_time() -> None:
    class Hanging(Telling):
        async def initialize(self, app: Any) -> None:
            await asyncio.Event().wait()

    manager = PluginManager()
    manager.register("slow", Hanging([], "s"), timeout=0.02)
    with pytest.raises(PluginError, match=r"initialize took longer than 0\.02s"):
        await manager.initialize(None)


async def test_cancelling_the_start_ends_what_was_started() -> None:
    told: Told = []
    reached = asyncio.Event()

    class Waiting(Telling):
        async def initialize(self, app: Any) -> None:
            self.exit_stack.callback(told.append, "closed")
            reached.set()
            await asyncio.Event().wait()

    manager = PluginManager()
    manager.register("a", telling(told, "a"))
    manager.register("b", Waiting(told, "b"))
    starting = asyncio.create_task(manager.initialize(None))
    await reached.wait()
    starting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await starting
    assert told == ["+a", "closed", "-a"]


async def test_a_cleanup_that_raises_or_hangs_keeps_nobody_from_theirs(
    caplog: pytest.LogCaptureFixture,
) -> None:
    told: Told = []

    class Raising(Telling):
        async def cleanup(self) -> None:
            raise LookupError("in cleanup")

    class Hanging(Telling):
        async def cleanup(self) -> None:
            await asyncio.Event().wait()

    manager = PluginManager()
    manager.register("a", telling(told, "a"))
    manager.register("b", Raising(told, "b"))
    manager.register("c", Hanging(told, "c"), timeout=0.02)
    manager.register("d", telling(told, "d"))
    await manager.initialize(None)
    await manager.cleanup()
    assert told == ["+a", "+b", "+c", "+d", "-d", "-a"]
    assert "in cleanup" in caplog.text
    assert "cleanup took longer" in caplog.text


async def test_what_a_plugin_uses_is_there_from_initialize_to_cleanup_only() -> None:
    plugin = telling([], "a")
    with pytest.raises(RuntimeError, match="is not running"):
        _ = plugin.bus
    manager = PluginManager()
    manager.register("a", plugin)
    await manager.initialize(None)
    assert plugin.bus is not None
    await manager.cleanup()
    with pytest.raises(RuntimeError, match="is not running"):
        _ = plugin.container


# --- events ---------------------------------------------------------------------------------------


async def test_marked_methods_handle_events_while_the_plugin_runs() -> None:
    told: Told = []

    class Listening(Telling):
        @on("user.*")
        async def heard(self, event: Event) -> None:
            self.told.append(event.name)

    bus = EventBus()
    manager = PluginManager(bus=bus)
    manager.register("l", Listening(told, "l"))
    await bus.publish(Event("user.early"))
    await manager.initialize(None)
    await bus.publish(Event("user.created"))
    await manager.cleanup()
    await bus.publish(Event("user.late"))
    assert told == ["+l", "user.created", "-l"]


async def test_the_bus_hears_of_plugins() -> None:
    bus = EventBus()
    heard: list[tuple[str, Any]] = []
    bus.subscribe("plugin.*", lambda event: heard.append((event.name, event.data["name"])))
    manager = PluginManager(bus=bus)
    manager.register("a", telling([], "a"))
    await manager.initialize(None)
    await manager.cleanup()
    assert heard == [("plugin.started", "a"), ("plugin.stopped", "a")]


# --- replacing ------------------------------------------------------------------------------------


async def test_an_edit_replaces_the_plugin_and_ends_the_old_one(folder: Path, write: Write) -> None:
    write("p.py", SIMPLE.format(version="1.0"))
    manager = PluginManager()
    manager.discover(folder)
    app: list[str] = []
    await manager.initialize(app)
    write("p.py", SIMPLE.format(version="2.0"))
    assert await manager.reload() == ["p"]
    assert manager.get("p").answer() == "2.0"  # type: ignore[attr-defined]
    await wait_until(lambda: "-1.0" in app)
    assert app == ["+1.0", "+2.0", "-1.0"]
    await manager.cleanup()
    assert app[-1] == "-2.0"


async def test_a_hundred_edits_within_a_second_of_the_same_size_are_all_taken(
    folder: Path, write: Write
) -> None:
    """The trap of bytecode: same second, same size."""
    write("p.py", SIMPLE.format(version="100"))
    manager = PluginManager()
    before = set(sys.modules)
    manager.discover(folder)
    app: list[str] = []
    await manager.initialize(app)
    for number in range(101, 200):
        write("p.py", SIMPLE.format(version=str(number)))
        await manager.reload()
        assert manager.get("p").answer() == str(number)  # type: ignore[attr-defined]
    await manager.cleanup()
    assert len([each for each in app if each.startswith("+")]) == 100
    assert sorted(each[1:] for each in app if each[0] == "+") == sorted(
        each[1:] for each in app if each[0] == "-"
    )
    assert not {each for each in set(sys.modules) - before if each.startswith("_nexgate_plugin_")}


async def test_an_edit_of_a_submodule_replaces_the_package(folder: Path, write: Write) -> None:
    write("two/__init__.py", "from .inner import P\n")
    write("two/inner.py", SIMPLE.format(version="1.0"))
    manager = PluginManager()
    manager.discover(folder)
    await manager.initialize([])
    write("two/inner.py", SIMPLE.format(version="2.0"))
    assert await manager.reload() == ["two"]
    assert manager.get("two").answer() == "2.0"  # type: ignore[attr-defined]
    await manager.cleanup()


async def test_nothing_that_did_not_change_is_replaced(folder: Path, write: Write) -> None:
    write("a.py", SIMPLE.format(version="1.0"))
    write("b.py", SIMPLE.format(version="1.0"))
    manager = PluginManager()
    manager.register("object", telling([], "o"))
    manager.discover(folder)
    await manager.initialize([])
    before = manager.get("a"), manager.get("object")
    write("b.py", SIMPLE.format(version="2.0"))
    assert await manager.reload() == ["b"]
    assert (manager.get("a"), manager.get("object")) == before
    assert await manager.reload() == []
    await manager.cleanup()


async def test_those_who_require_what_changed_are_replaced_with_it(
    folder: Path, write: Write
) -> None:
    write("a.py", SIMPLE.format(version="1.0"))
    write("b.py", SIMPLE.format(version="5.0") + "    requires = ('a',)\n")
    manager = PluginManager()
    manager.discover(folder)
    app: list[str] = []
    await manager.initialize(app)
    write("a.py", SIMPLE.format(version="2.0"))
    assert await manager.reload() == ["a", "b"]
    await wait_until(lambda: len(app) == 6)
    assert app == ["+1.0", "+5.0", "+2.0", "+5.0", "-5.0", "-1.0"]
    await manager.cleanup()


@pytest.mark.parametrize(
    "broken",
    [
        "class (:\n",
        "raise LookupError('broken edit')\n",
        SIMPLE.format(version="2.0") + "    requires = ('nobody',)\n",
        SIMPLE.format(version="2.0").replace("app.append", "app.no_such"),
        SIMPLE.format(version="2.0") + "    api = '9.0'\n",
    ],
)
async def test_a_broken_edit_keeps_the_version_that_works(
    folder: Path, write: Write, broken: str
) -> None:
    write("p.py", SIMPLE.format(version="1.0"))
    manager = PluginManager()
    manager.discover(folder)
    app: list[str] = []
    await manager.initialize(app)
    write("p.py", broken)
    with pytest.raises(PluginError):
        await manager.reload()
    assert manager.get("p").answer() == "1.0"  # type: ignore[attr-defined]
    assert app == ["+1.0"]
    write("p.py", SIMPLE.format(version="3.0"))
    assert await manager.reload() == ["p"]
    await manager.cleanup()


async def test_a_new_file_is_started_and_a_removed_one_ends(folder: Path, write: Write) -> None:
    write("a.py", SIMPLE.format(version="1.0"))
    manager = PluginManager()
    manager.discover(folder)
    app: list[str] = []
    await manager.initialize(app)
    write("b.py", SIMPLE.format(version="2.0"))
    assert await manager.reload() == ["b"]
    (folder / "a.py").unlink()
    assert await manager.reload() == []
    await wait_until(lambda: "-1.0" in app)
    assert [each.name for each in manager.status()] == ["b"]
    await manager.cleanup()


STATEFUL = """
from nexgate.plugins import Plugin
class P(Plugin):
    version = "{version}"
    def __init__(self):
        self.count = 0
    def initialize(self, app): pass
    def cleanup(self): pass
    def hand_over(self):
        return {{"count": self.count}}
    def take_over(self, state):
        {take}
"""


async def test_state_is_handed_over(folder: Path, write: Write) -> None:
    write("p.py", STATEFUL.format(version="1.0", take="self.count = state['count']"))
    manager = PluginManager()
    manager.discover(folder)
    await manager.initialize(None)
    manager.get("p").count = 41  # type: ignore[attr-defined]
    write("p.py", STATEFUL.format(version="2.0", take="self.count = state['count'] + 1"))
    await manager.reload()
    assert manager.get("p").count == 42  # type: ignore[attr-defined]
    write("p.py", STATEFUL.format(version="3.0", take="raise LookupError('not mine')"))
    with pytest.raises(PluginError, match="take over failed"):
        await manager.reload()
    assert manager.get("p").count == 42  # type: ignore[attr-defined]
    await manager.cleanup()


LISTENING = """
import asyncio
from nexgate.plugins import Plugin, on
class P(Plugin):
    version = "{version}"
    async def initialize(self, app):
        self.app = app
        await self.bus.publish(app["event"]("x.during"))
        self.tasks.start(asyncio.sleep, 3600)
    def cleanup(self): pass
    @on("x.*")
    async def heard(self, event):
        self.app["told"].append(("{version}", event.name))
"""


async def test_each_event_reaches_one_version_and_no_task_or_subscription_is_left(
    folder: Path, write: Write
) -> None:
    bus = EventBus()
    manager = PluginManager(bus=bus)
    write("p.py", LISTENING.format(version="1"))
    manager.discover(folder)
    app: dict[str, Any] = {"told": [], "event": Event}
    tasks = len(asyncio.all_tasks()) + 1  # the plugin's own
    await manager.initialize(app)
    for number in range(2, 30):
        await bus.publish(Event("x.before"))
        write("p.py", LISTENING.format(version=str(number)))
        await manager.reload()
        await bus.publish(Event("x.after"))
    expected = []
    for number in range(2, 30):
        old, new = str(number - 1), str(number)
        expected += [(old, "x.before"), (old, "x.during"), (new, "x.after")]
    assert app["told"] == expected
    await wait_until(lambda: len(asyncio.all_tasks()) == tasks)
    await manager.cleanup()
    await bus.publish(Event("x.end"))
    assert app["told"] == expected


async def test_watching_replaces_an_edited_plugin_within_a_second_and_survives_a_broken_edit(
    folder: Path, write: Write, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "nexgate.plugins")
    write("p.py", SIMPLE.format(version="1.0"))
    manager = PluginManager()
    manager.discover(folder)
    await manager.initialize([])
    watching = asyncio.create_task(manager.watch(0.05))
    loop = asyncio.get_running_loop()
    began = loop.time()
    await asyncio.sleep(0)
    write("p.py", SIMPLE.format(version="2.0"))
    await wait_until(lambda: manager.get("p").version == "2.0")
    assert loop.time() - began < 1.0
    write("p.py", "raise LookupError('broken edit')\n")
    await wait_until(lambda: "broken edit" in caplog.text)
    assert manager.get("p").version == "2.0"
    write("p.py", SIMPLE.format(version="3.0"))
    await wait_until(lambda: manager.get("p").version == "3.0")
    write("q.py", SIMPLE.format(version="9.0"))
    await wait_until(lambda: "q" in list(manager))
    watching.cancel()
    await asyncio.gather(watching, return_exceptions=True)
    await manager.cleanup()


async def test_a_version_whose_state_cannot_be_had_stays(folder: Path, write: Write) -> None:
    write(
        "p.py",
        STATEFUL.format(version="1.0", take="pass").replace(
            'return {"count": self.count}', "raise LookupError('in hand_over')"
        ),
    )
    manager = PluginManager()
    manager.discover(folder)
    await manager.initialize(None)
    write("p.py", STATEFUL.format(version="2.0", take="pass"))
    with pytest.raises(PluginError, match="in hand_over"):
        await manager.reload()
    assert manager.get("p").version == "1.0"
    await manager.cleanup()


async def test_a_handler_of_a_plugin_that_raises_ends_nothing(
    caplog: pytest.LogCaptureFixture,
) -> None:
    class Raising(Telling):
        @on("x")
        def heard(self, event: Event) -> None:
            self.told.append("heard")
            raise LookupError("in a handler")

    told: Told = []
    bus = EventBus()
    manager = PluginManager(bus=bus)
    manager.register("r", Raising(told, "r"))
    await manager.initialize(None)
    for _ in range(2):
        await bus.publish(Event("x"))
    assert "in a handler" in caplog.text
    assert [each.state for each in manager.status()] == ["running"]
    await manager.cleanup()
    assert told == ["+r", "heard", "heard", "-r"]


async def test_versions_that_were_replaced_are_forgotten(folder: Path, write: Write) -> None:
    write("p.py", LISTENING.format(version="0"))
    manager = PluginManager()
    manager.discover(folder)
    await manager.initialize({"told": [], "event": Event})
    old: list[weakref.ref[Any]] = []
    for number in range(1, 11):
        plugin: Any = manager.get("p")
        old += [weakref.ref(plugin), weakref.ref(type(plugin))]
        del plugin
        write("p.py", LISTENING.format(version=str(number)))
        await manager.reload()

    def are_gone() -> bool:
        gc.collect()
        return all(each() is None for each in old)

    await wait_until(are_gone)
    await manager.cleanup()


async def test_two_reloads_at_once_are_one_after_the_other(folder: Path, write: Write) -> None:
    write("p.py", SIMPLE.format(version="1.0"))
    manager = PluginManager()
    manager.discover(folder)
    app: list[str] = []
    await manager.initialize(app)
    write("p.py", SIMPLE.format(version="2.0"))
    assert sorted(await asyncio.gather(manager.reload(), manager.reload())) == [[], ["p"]]
    await manager.cleanup()
    assert app == ["+1.0", "+2.0", "-1.0", "-2.0"]
