"""``nexgate plugins``: what extends the gateway; and the commands that plugins bring."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from dataclasses import replace
from keyword import iskeyword
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final, Literal

import typer

from nexgate.cli._exit import ExitCode
from nexgate.cli._group import command_group
from nexgate.cli._source import DEFAULT_NAMES, FileArgument

if TYPE_CHECKING:
    from nexgate.plugins import Loaded, PluginSpec

_EPILOG = (
    "[bold]Examples[/bold]\n\n"
    "  [cyan]nexgate plugins new geo[/cyan]               writes plugins/geo.py\n\n"
    "  [cyan]nexgate plugins check[/cyan]                 does each load, start and end?\n\n"
    "  [cyan]nexgate plugins check plugins/geo.py[/cyan]  only this one\n\n"
    "  [cyan]nexgate plugins list[/cyan]                  those of gateway.toml, and installed ones"
)

TEMPLATE: Final = '''\
"""What {name} does, in a sentence."""

from nexgate import Request, Response
from nexgate.plugins import Plugin, PluginConfig, on


class {cls}(Plugin):
    """What {name} does, in a sentence."""

    name = "{name}"
    version = "0.1.0"

    class Config(PluginConfig):
        """What may stand in [plugins.{name}.config]."""

        greeting: str = "hello"
        """What is said."""

    config: Config

    async def initialize(self, app):
        """Begin. self.container, self.bus and self.tasks are the program's; what is taken from
        them here is given back when the plugin ends or is replaced."""
        self.log.info("%s is here", self.name)

    async def cleanup(self):
        """End: close what initialize opened."""

    # In gateway.toml: filters = ["{name}:greet"]
    def greet(self, request: Request, response: Response):
        response.headers["X-{cls}"] = self.config.greeting

    @on("gateway.*")
    def heard(self, event):
        self.log.info("%s: %s", event.name, event.data)
'''


def register(app: typer.Typer) -> None:
    """Add the commands to ``app``."""
    group = command_group("What extends the gateway.", _EPILOG)
    group.command(name="list")(list_plugins)
    group.command()(new)
    group.command()(check)
    app.add_typer(group, name="plugins")


def list_plugins(
    file: FileArgument = None,
    output: Annotated[
        Literal["table", "json"], typer.Option("--format", help="Form of the list.")
    ] = "table",
) -> None:
    """List the plugins of the configuration, if there is one here, and those that are installed."""
    from nexgate.cli._console import print_json, stdout

    rows = [_row(spec, is_used=is_used) for spec, is_used in _specs(file)]
    if output == "json":
        print_json(rows)
        return
    console = stdout()
    if not rows:
        console.print("there are no plugins; begin with: nexgate plugins new NAME", markup=False)
        return
    from rich import box
    from rich.table import Table
    from rich.text import Text

    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for heading in ("name", "version", "used", "from", "requires", "has", "is"):
        table.add_column(heading, overflow="fold")
    for row in rows:
        cells = (
            row["name"],
            row["version"],
            "yes" if row["used"] else "no",
            row["source"],
            " ".join(row["requires"]),
            " ".join([*row["provides"], *(f"on:{topic}" for topic in row["events"])]),
        )
        told = Text(row["problem"], "red") if row["problem"] else Text(row["description"])
        table.add_row(*(Text(cell) for cell in cells), told)
    console.print(table)


def new(
    name: Annotated[str, typer.Argument(metavar="NAME", help="Lower-case letters, digits, _.")],
    folder: Annotated[
        Path, typer.Option(metavar="DIR", file_okay=False, help="Where to write.")
    ] = Path("plugins"),
) -> None:
    """Write a plugin to begin with."""
    from nexgate.cli._console import stdout
    from nexgate.plugins import check_plugin_name

    try:
        check_plugin_name(name)
    except ValueError as error:
        raise typer.BadParameter(str(error), param_hint="NAME") from None
    path = folder / f"{name}.py"
    folder.mkdir(parents=True, exist_ok=True)
    cls = "".join(part.capitalize() for part in name.split("_"))
    if iskeyword(cls):
        cls = f"{cls}Plugin"  # None, True, False
    try:
        with path.open("x", encoding="utf-8") as file:
            file.write(TEMPLATE.format(name=name, cls=cls))
    except FileExistsError:
        message = f"{path} is there already and stays as it is"
        raise typer.BadParameter(message, param_hint="NAME") from None
    console = stdout()
    console.print(f"wrote {path}", markup=False, soft_wrap=True)
    console.print(f"next: nexgate plugins check {path}", markup=False, soft_wrap=True)
    console.print(
        f'and in gateway.toml: [plugins.{name}] with source = "{path}"',
        markup=False,
        soft_wrap=True,
    )


def check(
    what: Annotated[
        Path | None,
        typer.Argument(
            metavar="[FILE]", help="A configuration, or a plugin's file or folder. Default: here."
        ),
    ] = None,
) -> None:
    """Load, start and end each plugin with those that it requires, without a gateway, and report
    every problem. A plugin's file has the configuration and the needs that gateway.toml says, if
    there is one here.

    Their own code runs.
    """
    from nexgate.cli._console import stderr, stdout
    from nexgate.errors import ConfigError

    if what is not None and (what.is_dir() or what.suffix == ".py") and not _is_gateway(what):
        known = _known_here()
        specs = [_spec_of(what, known)]
    else:
        used = [spec for spec, is_used in _specs(what) if is_used]
        known, specs = {spec.name: spec for spec in used}, used
    if not specs:
        stdout().print("there are no plugins")
        return
    failed = 0
    for spec in specs:
        try:
            loaded = _tried(spec, known)
        except ConfigError as error:
            failed += 1
            stderr().print(f"✗ {error}", markup=False, soft_wrap=True)
        else:
            manifest = loaded.manifest
            stdout().print(f"✓ {spec.name} {manifest.version}  {spec.source}", markup=False)
    raise typer.Exit(ExitCode.NO if failed else ExitCode.OK)


def _is_gateway(path: Path) -> bool:
    return path.name in DEFAULT_NAMES


def command_of(name: str) -> Any:
    """The command that the plugin ``name`` brings; ``None`` where there is no such thing."""
    from typer.main import get_command

    from nexgate.errors import ConfigError
    from nexgate.plugins import load_plugin

    try:
        spec = next((spec for spec, _ in _specs(None) if spec.name == name), None)
    except ConfigError:
        return None  # an unknown command beside a broken file is an unknown command
    if spec is None:
        return None
    commands = type(load_plugin(spec).plugin).commands
    if commands is not None and not isinstance(commands, typer.Typer):
        raise ConfigError(f"plugin {name}: its commands are {commands!r}, and no typer.Typer")
    return get_command(commands) if commands is not None else None


def _specs(file: Path | None) -> list[tuple[PluginSpec, bool]]:
    """Plugins of the configuration, which are used, and installed ones that are not."""
    from nexgate.plugins import PluginSpec, installed
    from nexgate.plugins.config import plugin_specs

    config = _config(file)
    used = plugin_specs(config.plugins, config.gateway.plugin_folders) if config is not None else []
    names = {spec.name for spec in used}
    return [
        *((spec, True) for spec in used),
        *(
            (PluginSpec(name, source), False)
            for name, source in installed().items()
            if name not in names
        ),
    ]


def _config(file: Path | None) -> Any:
    """The configuration, without asking its plugins; ``None`` where there is none."""
    import os

    from nexgate.cli._backend import load_gateway
    from nexgate.config import read_text
    from nexgate.gateway_config import load_text

    if file is None:
        file = next((Path(name) for name in DEFAULT_NAMES if Path(name).is_file()), None)
        if file is None:
            return None
    if file.suffix == ".py":
        return load_gateway(file).config
    return load_text(read_text(file), filename=str(file), env=os.environ)


def _row(spec: PluginSpec, *, is_used: bool) -> dict[str, Any]:
    from nexgate.errors import ConfigError
    from nexgate.plugins import load_plugin

    row: dict[str, Any] = {
        "name": spec.name,
        "version": "",
        "used": is_used,
        "source": _short(str(spec.source)),
        "requires": [],
        "provides": [],
        "events": [],
        "description": "",
        "problem": "",
    }
    try:
        loaded = load_plugin(spec)
    except ConfigError as error:
        return {**row, "problem": str(error).partition("\n")[0]}
    cls = type(loaded.plugin)
    loaded.discard()
    return {
        **row,
        "version": loaded.manifest.version,
        "requires": list(loaded.manifest.requires),
        "provides": list(cls.provides()),
        "events": sorted({getattr(topic, "__name__", topic) for _, topic, _ in cls.handlers()}),
        "description": loaded.manifest.description,
    }


def _short(path: str) -> str:
    here = f"{Path.cwd()}/"
    return path.removeprefix(here)


def _known_here() -> dict[str, PluginSpec]:
    """Plugins of the configuration that is here, if it is one."""
    from nexgate.errors import ConfigError

    try:
        return {spec.name: spec for spec, _ in _specs(None)}
    except ConfigError:
        return {}


def _spec_of(path: Path, known: Mapping[str, PluginSpec]) -> PluginSpec:
    from nexgate.plugins import PluginSpec, Source

    source = Source(path=path.absolute())
    said = (spec for spec in known.values() if spec.source.path == source.path)
    return next(said, PluginSpec(source.name, source))


def _with_needs(spec: PluginSpec, known: Mapping[str, PluginSpec]) -> list[PluginSpec]:
    """It, and those of ``known`` that it requires, directly or not."""
    from nexgate.plugins import load_plugin

    found: dict[str, PluginSpec] = {}
    waiting = [spec]
    while waiting:
        each = waiting.pop()
        found[each.name] = replace(each, required=True)  # here everything must work
        loaded = load_plugin(each)
        loaded.discard()
        needs = {need.name for need in loaded.manifest.requirements}
        waiting += [known[name] for name in needs & known.keys() - found.keys()]
    return list(found.values())


def _tried(spec: PluginSpec, known: Mapping[str, PluginSpec]) -> Loaded:
    """Load it, start it, end it. Raises ``ConfigError``."""
    import asyncio

    from nexgate.plugins import PluginManager

    async def live() -> Loaded:
        manager = PluginManager()
        plan = manager.load(_with_needs(spec, known))
        await manager.start(plan, None)
        manager.commit(plan)
        await manager.cleanup()
        return plan.loaded[spec.name]

    sys.path.insert(0, str(Path.cwd()))
    try:
        return asyncio.run(live())
    finally:
        sys.path.remove(str(Path.cwd()))
