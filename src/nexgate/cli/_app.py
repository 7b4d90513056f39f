"""The commands under one name, and what happens to the errors they raise."""

from __future__ import annotations

from typing import Any

import typer
from typer.core import TyperGroup
from typer.main import get_command

from nexgate.cli import (
    check,
    demo,
    di,
    events,
    explain,
    init,
    plugins,
    routes,
    run,
    sidecar,
    tasks,
    version,
    worker,
)
from nexgate.cli._exit import ExitCode

app = typer.Typer(
    name="nexgate",
    help="Nexgate, the API gateway you program in Python.",
    epilog=(
        "[bold]Begin with[/bold]\n\n"
        "  [cyan]nexgate demo[/cyan]                    see it work, no files needed\n\n"
        "  [cyan]nexgate init[/cyan]                    write a commented gateway.toml\n\n"
        "  [cyan]nexgate check[/cyan]                   every problem, with line and hint\n\n"
        "  [cyan]nexgate explain GET /users/42[/cyan]   which route, and why not the others\n\n"
        "  [cyan]nexgate run[/cyan]                     serve\n\n"
        "Exit codes: 0 done, 1 problems or no match, 2 usage, 3 could not be done."
    ),
    no_args_is_help=True,
    add_completion=True,
    rich_markup_mode="rich",
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
for _module in (
    run,
    check,
    routes,
    explain,
    init,
    plugins,
    di,
    worker,
    tasks,
    events,
    demo,
    sidecar,
    version,
):
    _module.register(app)


@app.callback()
def _root() -> None:
    """Nexgate, the API gateway you program in Python."""


def invoke(argv: list[str]) -> int:
    """Run one command line. Errors of ours become a message and an exit code, never a traceback."""
    try:
        _command(argv).main(argv, prog_name="nexgate")
    except SystemExit as stop:
        return stop.code if isinstance(stop.code, int) else ExitCode.OK
    except KeyboardInterrupt:
        return ExitCode.INTERRUPTED
    except Exception as error:
        code = _report(error)
        if code is None:
            raise  # a defect of ours: its traceback is what we need to see
        return code
    return ExitCode.OK


def _command(argv: list[str]) -> Any:
    """What ``argv`` is for: our commands, and that of a plugin when none of ours has the name."""
    command = get_command(app)
    assert isinstance(command, TyperGroup)
    name = argv[0] if argv else "-"
    if not name.startswith("-") and name not in command.commands:
        found = plugins.command_of(name)
        if found is not None:
            command.add_command(found, name)
    return command


def _report(error: Exception) -> ExitCode | None:
    """Tell the user; ``None`` if the error is not one of those that are theirs to know."""
    from nexgate.cli._console import stderr
    from nexgate.config.problems import InvalidConfig, render, summary
    from nexgate.errors import ConfigError, NexgateError

    console = stderr()
    if isinstance(error, InvalidConfig):
        render(error.problems, console)
        console.print(summary(error.problems), markup=False)
        return ExitCode.NO
    if isinstance(error, ConfigError):
        console.print(f"[bold red]error[/]: {_plain(error)}", soft_wrap=True)
        return ExitCode.NO
    if isinstance(error, (NexgateError, OSError)):
        console.print(f"[bold red]error[/]: {_plain(error)}", soft_wrap=True)
        return ExitCode.FAILED
    return None


def _plain(error: Exception) -> str:
    from rich.markup import escape

    if isinstance(error, OSError) and error.strerror:
        return escape(f"{error.filename}: {error.strerror}" if error.filename else error.strerror)
    return escape(str(error))
