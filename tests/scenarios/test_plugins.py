"""Plugins in a gateway: found, configured, named in routes, replaced while it serves."""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import pytest
from tests.scenarios.shell import nexgate
from tests.scenarios.support import Load, Origin, Running, get

from nexgate.testing import wait_until

PLUGIN = '''
"""Stamps answers."""
import asyncio
from pathlib import Path
from nexgate import Request, Response
from nexgate.plugins import Plugin, PluginConfig

class Stamp(Plugin):
    """Stamps answers."""
    version = "{version}"

    class Config(PluginConfig):
        word: str
        """What is stamped."""
        told: str = ""
        """Where its life is written down."""

    def initialize(self, app):
        self.began = True
        self.tell("+{version}")

    def cleanup(self):
        self.tell("-{version}")

    def tell(self, text):
        if self.config.told:
            with Path(self.config.told).open("a") as file:
                file.write(text + "\\n")

    def stamp(self, request: Request, response: Response, *, suffix: str = ""):
        response.headers["X-Stamp"] = self.config.word + suffix + "{version}"

    async def slow(self, request: Request, call_next):
        while Path(self.config.told + ".hold").exists():
            await asyncio.sleep(0.01)
        response = await call_next(request)
        response.headers["X-Slow"] = "{version}"
        return response

    def last(self):
        assert self.began
        return self.Last()

    class Last:
        """Picks the last instance."""
        def rebuild(self, instances, available):
            self.available = list(available)
        def pick(self, exchange):
            return self.available[-1]
        def on_response(self, exchange, response, instance):
            pass

    def source(self, service, *, urls):
        from nexgate.discovery import ServiceInstance
        class Fixed:
            name = "fixed"
            async def watch(self):
                yield tuple(
                    ServiceInstance(id=str(n), name=service, url=u) for n, u in enumerate(urls)
                )
                await asyncio.Event().wait()
        return Fixed()

    async def app(self, scope, receive, send):
        if scope["type"] == "lifespan":
            while True:
                message = await receive()
                await send({{"type": message["type"] + ".complete"}})
                if message["type"] == "lifespan.shutdown":
                    return
        await send({{"type": "http.response.start", "status": 200, "headers": []}})
        await send({{"type": "http.response.body", "body": b"app {version}"}})
'''

GATEWAY = """
[gateway]
listen = "127.0.0.1:0"
workers = {workers}

[plugins.stamp]
source = "plugins/stamp.py"
config = {{ word = "{word}", told = "{told}" }}

[services.s]
instances = ["{url}"]

[services.app]
instances = ["asgi:stamp:app"]

[[routes]]
path = "/slow"
service = "s"
filters = ["stamp:slow"]

[[routes]]
path = "/app"
service = "app"

[[routes]]
path = "/*"
service = "s"
filters = [{{ use = "stamp:stamp", options = {{ suffix = "-" }} }}]
"""


def put(tmp_path: Path, version: str) -> Path:
    path = tmp_path / "plugins" / "stamp.py"
    path.parent.mkdir(exist_ok=True)
    path.write_text(PLUGIN.format(version=version))
    return path


def gateway(tmp_path: Path, url: str, *, word: str = "w", workers: int = 1) -> str:
    return GATEWAY.format(url=url, word=word, told=tmp_path / "told", workers=workers)


async def stamped(port: int) -> str:
    response = await get(port, "/x")
    return response.value("x-stamp") or ""


async def until_stamped(port: int, wanted: str, timeout: float = 10.0) -> float:
    began = time.monotonic()
    while await stamped(port) != wanted:
        assert time.monotonic() - began < timeout
        await asyncio.sleep(0.02)
    return time.monotonic() - began


async def test_an_edit_is_in_force_within_a_second_and_a_broken_one_never(tmp_path: Path) -> None:
    put(tmp_path, "1")
    async with (
        Origin() as origin,
        Running(tmp_path / "gateway.toml", gateway(tmp_path, origin.url)) as running,
    ):
        assert await stamped(running.port) == "w-1"
        assert (await get(running.port, "/app")).body == b"app 1"
        put(tmp_path, "2")
        took = await until_stamped(running.port, "w-2")
        print(f"in force after {took:.2f}s")
        assert took < 1.0
        assert (await get(running.port, "/app")).body == b"app 2"
        await wait_until(lambda: "-1" in (tmp_path / "told").read_text())
        assert (tmp_path / "told").read_text().split() == ["+1", "+2", "-1"]

        (tmp_path / "plugins" / "stamp.py").write_text("def f():\n    return 1 / 0\nf()\n")
        await running.says("ZeroDivisionError")
        await running.says("stays as it was")
        assert 'stamp.py", line 2, in f' in running.said
        assert await stamped(running.port) == "w-2"
        # The same with one that fails only where it is started.
        put(tmp_path, "3").write_text(
            PLUGIN.format(version="3").replace('self.tell("+3")', 'raise LookupError("not today")')
        )
        await running.says("not today")
        await running.says("stays as it was", 2)
        assert await stamped(running.port) == "w-2"
        # And with ones that would end a process, or a task.
        for count, ends in enumerate(("raise SystemExit(3)", "raise asyncio.CancelledError"), 3):
            put(tmp_path, "3").write_text(
                PLUGIN.format(version="3").replace('self.tell("+3")', ends)
            )
            await running.says("stays as it was", count)
            assert await stamped(running.port) == "w-2"
        put(tmp_path, "4")
        await until_stamped(running.port, "w-4")
        await wait_until(lambda: (tmp_path / "told").read_text().split()[-1] == "-2")
        assert (tmp_path / "told").read_text().split() == ["+1", "+2", "-1", "+4", "-2"]


async def test_an_edit_that_keeps_size_and_time_is_in_force(tmp_path: Path) -> None:
    path = put(tmp_path, "1")
    kept = path.stat()
    async with (
        Origin() as origin,
        Running(tmp_path / "gateway.toml", gateway(tmp_path, origin.url)) as running,
    ):
        assert await stamped(running.port) == "w-1"
        put(tmp_path, "2")
        os.utime(path, ns=(kept.st_atime_ns, kept.st_mtime_ns))
        assert path.stat().st_size == kept.st_size
        await until_stamped(running.port, "w-2")


async def test_a_request_under_way_ends_on_the_version_it_began_on(tmp_path: Path) -> None:
    put(tmp_path, "1")
    hold = tmp_path / "told.hold"
    async with (
        Origin() as origin,
        Running(tmp_path / "gateway.toml", gateway(tmp_path, origin.url)) as running,
    ):
        hold.touch()
        under_way = asyncio.create_task(get(running.port, "/slow"))
        await asyncio.sleep(0.1)
        put(tmp_path, "2")
        await until_stamped(running.port, "w-2")
        await asyncio.sleep(0.2)
        assert not under_way.done()
        assert "-1" not in (tmp_path / "told").read_text()
        hold.unlink()
        assert (await under_way).value("x-slow") == "1"
        await wait_until(lambda: "-1" in (tmp_path / "told").read_text())
        assert (await get(running.port, "/slow")).value("x-slow") == "2"


async def test_replacing_a_plugin_under_load_loses_no_request(tmp_path: Path) -> None:
    put(tmp_path, "0")
    async with (
        Origin() as origin,
        Running(tmp_path / "gateway.toml", gateway(tmp_path, origin.url, workers=2)) as running,
        Load(running.port, connections=8, requests=10**9) as load,
    ):
        for number in range(1, 6):
            put(tmp_path, str(number))
            await running.says("reloaded (", number)
        await load.stop()
        report = await load.report()
        assert report["kinds"] == {}
        assert set(report["statuses"]) == {"200"}
        told = tmp_path / "told"
        await wait_until(lambda: told.read_text().count("-") == 10)
        print(f"{report['asked']} requests, 5 replacements in 2 workers")


async def test_a_configuration_change_replaces_only_the_plugins_it_is_about(tmp_path: Path) -> None:
    put(tmp_path, "1")
    async with (
        Origin() as origin,
        Running(tmp_path / "gateway.toml", gateway(tmp_path, origin.url)) as running,
    ):
        text = gateway(tmp_path, origin.url)
        await running.reload(text + '[[routes]]\npath = "/more"\nrespond = 200\n')
        assert (await get(running.port, "/more")).status == 200
        assert (tmp_path / "told").read_text().split() == ["+1"]
        await running.reload(gateway(tmp_path, origin.url, word="v"))
        assert await stamped(running.port) == "v-1"
        await wait_until(lambda: (tmp_path / "told").read_text().split() == ["+1", "+1", "-1"])


@pytest.mark.parametrize("balancer", ["Last", "last"])
async def test_a_balancer_and_a_source_of_instances_come_from_a_plugin(
    tmp_path: Path, balancer: str
) -> None:
    put(tmp_path, "1")
    async with Origin("a") as one, Origin("b") as two:
        text = (
            f'[gateway]\nlisten = "127.0.0.1:0"\n'
            f'[plugins.stamp]\nsource = "plugins/stamp.py"\nconfig = {{ word = "w" }}\n'
            f'[services.s]\nbalancer = "stamp:{balancer}"\n'
            f'discover = [{{ kind = "custom", use = "stamp:source",'
            f' options = {{ urls = ["{one.url}", "{two.url}"] }} }}]\n'
            f'[[routes]]\npath = "/*"\nservice = "s"\n'
        )
        async with Running(tmp_path / "gateway.toml", text) as running:
            for _ in range(4):
                assert (await get(running.port, "/")).body == b"b"


async def test_a_folder_of_plugins_is_watched_for_new_ones(tmp_path: Path) -> None:
    folder = tmp_path / "plugins"
    folder.mkdir()
    text = (
        '[gateway]\nlisten = "127.0.0.1:0"\nplugin_folders = ["plugins"]\n'
        '[[routes]]\npath = "/"\nrespond = 200\n'
    )
    async with Running(tmp_path / "gateway.toml", text) as running:
        (folder / "late.py").write_text(
            textwrap.dedent("""
                from nexgate.plugins import Plugin
                class Late(Plugin):
                    def initialize(self, app): self.log.info("late is here")
                    def cleanup(self): self.log.info("late is gone")
            """)
        )
        await running.says("late is here")
        (folder / "late.py").unlink()
        await running.says("late is gone")


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (('word = "w"', 'wrod = "w"'), "gateway.toml:8: error: plugins.stamp.config.wrod"),
        (("plugins/stamp.py", "plugins/stmp.py"), "names a file that does not exist"),
        (('source = "plugins/stamp.py"', ""), "is not to be found"),
        (('"stamp:slow"', '"stamp:slwo"'), 'did you mean "slow"?'),
        (('"asgi:stamp:app"', '"asgi:stamp:_tell"'), "has no _tell"),
        (('suffix = "-"', "suffix = 3"), "options of stamp:stamp: suffix must be text"),
        (('suffix = "-"', 'sufix = "-"'), "options of stamp:stamp: sufix"),
        (("[plugins.stamp]", "[plugins.Stamp]"), "is not a name"),
    ],
)
def test_a_mistake_is_found_before_anything_runs(
    tmp_path: Path, change: tuple[str, str], said: str
) -> None:
    put(tmp_path, "1")
    text = gateway(tmp_path, "http://127.0.0.1:1")
    assert change[0] in text
    (tmp_path / "gateway.toml").write_text(text.replace(*change, 1))
    done = subprocess.run(
        [sys.executable, "-m", "nexgate", "check", "gateway.toml"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=30,
        env={**os.environ, "NO_COLOR": "1"},
    )
    assert done.returncode == 1
    assert said in done.stderr
    assert not (tmp_path / "told").exists()


def test_a_new_plugin_passes_its_check_and_works_in_a_gateway(tmp_path: Path) -> None:
    done = nexgate(tmp_path, "plugins", "new", "geo_block")
    assert done.returncode == 0, done.stderr
    assert nexgate(tmp_path, "plugins", "new", "geo_block").returncode == 2
    for name in ("Geo-Block", "../geo", "a/b", "-", "", "geo\n"):
        assert nexgate(tmp_path, "plugins", "new", "--", name).returncode == 2
    assert nexgate(tmp_path, "plugins", "new", "none", "--folder", "odd").returncode == 0
    assert nexgate(tmp_path, "plugins", "check", "odd/none.py").returncode == 0
    done = nexgate(tmp_path, "plugins", "check", "plugins/geo_block.py")
    assert (done.returncode, done.stdout[:15]) == (0, "✓ geo_block 0.1"), done.stderr
    (tmp_path / "gateway.toml").write_text(
        '[gateway]\nplugin_folders = ["plugins"]\nfilters = ["geo_block:greet"]\n'
        '[[routes]]\npath = "/"\nrespond = 200\n'
    )
    assert nexgate(tmp_path, "check").returncode == 0
    done = nexgate(tmp_path, "plugins", "list", "--format", "json")
    (row,) = json.loads(done.stdout)
    assert (row["name"], row["version"], row["used"]) == ("geo_block", "0.1.0", True)
    assert "greet" in row["provides"]
    assert row["events"] == ["gateway.*"]
    assert "geo_block" in nexgate(tmp_path, "plugins", "list").stdout


def test_the_schema_of_a_file_knows_what_its_plugins_take(tmp_path: Path) -> None:
    put(tmp_path, "1")
    (tmp_path / "gateway.toml").write_text(gateway(tmp_path, "http://127.0.0.1:1"))
    schema = json.loads(nexgate(tmp_path, "check", "gateway.toml", "--schema").stdout)
    section = schema["properties"]["plugins"]["properties"]["stamp"]
    config = section["allOf"][1]["properties"]["config"]
    assert config["properties"]["word"]["description"] == "What is stamped."
    assert config["required"] == ["word"]


def test_a_plugin_of_an_installed_package_is_found_by_its_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    site = tmp_path / "site"
    info = site / "nexgate_geo-1.0.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: nexgate-geo\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text("[nexgate.plugins]\ngeo = nexgate_geo:Geo\n")
    (site / "nexgate_geo.py").write_text(
        textwrap.dedent("""
            from nexgate import Response
            from nexgate.plugins import Plugin
            class Geo(Plugin):
                version = "3.0"
                def initialize(self, app): pass
                def cleanup(self): pass
                def block(self, request): return Response(403)
        """)
    )
    monkeypatch.setenv("PYTHONPATH", f"{site}{os.pathsep}{os.environ.get('PYTHONPATH', '')}")
    (row,) = json.loads(nexgate(tmp_path, "plugins", "list", "--format", "json").stdout)
    assert (row["name"], row["version"], row["used"]) == ("geo", "3.0", False)
    (tmp_path / "gateway.toml").write_text(
        '[plugins.geo]\n[[routes]]\npath = "/"\nrespond = 200\nfilters = ["geo:block"]\n'
    )
    done = nexgate(tmp_path, "check")
    assert done.returncode == 0, done.stderr
    assert nexgate(tmp_path, "plugins", "check").stdout.startswith("✓ geo 3.0")


def test_checking_reports_every_plugin_that_fails_and_why(tmp_path: Path) -> None:
    folder = tmp_path / "plugins"
    folder.mkdir()
    head = "from nexgate.plugins import Plugin\nclass P(Plugin):\n"
    (folder / "a.py").write_text("raise LookupError('at import')\n")
    (folder / "b.py").write_text(
        head + "  def initialize(self, app): raise LookupError('at start')\n"
        "  def cleanup(self): pass\n"
    )
    (folder / "c.py").write_text(
        head + "  def initialize(self, app): pass\n  def cleanup(self): pass\n"
    )
    (tmp_path / "gateway.toml").write_text('[gateway]\nplugin_folders = ["plugins"]\n')
    done = nexgate(tmp_path, "plugins", "check")
    assert done.returncode == 1
    assert "at import" in done.stderr
    assert "at start" in done.stderr
    assert "✓ c" in done.stdout


def test_checking_a_plugin_starts_what_it_requires_with_the_configuration_of_both(
    tmp_path: Path,
) -> None:
    folder = tmp_path / "plugins"
    folder.mkdir()
    head = "from nexgate.plugins import Plugin, PluginConfig\nclass P(Plugin):\n"
    ends = "  def cleanup(self): pass\n"
    (folder / "a.py").write_text(
        head + "  version = '1.2'\n  class Config(PluginConfig):\n    url: str\n"
        "  def initialize(self, app): self.container.register(str, self.config.url)\n" + ends
    )
    (folder / "b.py").write_text(
        head + "  requires = ('a>=1',)\n"
        "  def initialize(self, app): assert self.container.resolve(str) == 'x'\n" + ends
    )
    (folder / "c.py").write_text("raise LookupError('optional')\n")
    (tmp_path / "gateway.toml").write_text(
        '[gateway]\nplugin_folders = ["plugins"]\n[plugins.a.config]\nurl = "x"\n'
        "[plugins.c]\nrequired = false\n"
    )
    done = nexgate(tmp_path, "plugins", "check")
    assert "optional" in done.stderr
    assert "✓ a 1.2" in done.stdout
    assert "✓ b 0.0.0" in done.stdout
    for name in ("a", "b"):
        done = nexgate(tmp_path, "plugins", "check", f"plugins/{name}.py")
        assert (done.returncode, done.stderr) == (0, "")
    (tmp_path / "gateway.toml").write_text("no toml")
    done = nexgate(tmp_path, "plugins", "check", "plugins/a.py")
    assert "plugins.a.config.url is required" in done.stderr


def test_a_plugin_brings_commands(tmp_path: Path) -> None:
    folder = tmp_path / "plugins"
    folder.mkdir()
    (folder / "geo.py").write_text(
        textwrap.dedent('''
            import typer
            from nexgate.plugins import Plugin

            commands = typer.Typer(help="Countries.")

            @commands.command()
            def country(address: str) -> None:
                """Tell the country of an address."""
                print(f"{address} is in XK")

            @commands.command()
            def update() -> None:
                """Fetch the database."""

            class Geo(Plugin):
                commands = commands
                def initialize(self, app): pass
                def cleanup(self): pass
        ''')
    )
    (tmp_path / "gateway.toml").write_text('[gateway]\nplugin_folders = ["plugins"]\n')
    assert nexgate(tmp_path, "geo", "country", "10.0.0.1").stdout == "10.0.0.1 is in XK\n"
    assert "Fetch the database" in nexgate(tmp_path, "geo", "--help").stdout
    done = nexgate(tmp_path, "goe", "country", "10.0.0.1")
    assert done.returncode == 2
    assert "No such command 'goe'" in done.stderr
    (folder / "geo.py").write_text(
        "from nexgate.plugins import Plugin\nclass Geo(Plugin):\n    commands = 'update'\n"
        "    def initialize(self, app): pass\n    def cleanup(self): pass\n"
    )
    done = nexgate(tmp_path, "geo", "update")
    assert done.returncode == 1
    assert "plugin geo: its commands are 'update', and no typer.Typer" in done.stderr
