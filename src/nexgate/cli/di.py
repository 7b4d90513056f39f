"""``nexgate di``: what a container holds, drawn and checked."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from nexgate.cli._exit import ExitCode
from nexgate.cli._group import command_group
from nexgate.cli._object import load_object

if TYPE_CHECKING:
    from nexgate.di import Container

_EPILOG = (
    "[bold]Examples[/bold]\n\n"
    "  [cyan]nexgate di check shop.app:container[/cyan]                 all that is wrong\n\n"
    "  [cyan]nexgate di graph shop.app:container[/cyan]                 a Mermaid chart\n\n"
    "  [cyan]nexgate di graph shop.app:container -o graph.svg[/cyan]    a picture\n\n"
    "The module is imported, so it must be safe to import; nothing in the container is made."
)

ContainerArgument = Annotated[
    str,
    typer.Argument(metavar="MODULE:CONTAINER", help="A container, or a function that returns one."),
]


def register(app: typer.Typer) -> None:
    """Add the commands to ``app``."""
    group = command_group("Dependencies of a program.", _EPILOG)
    group.command()(check)
    group.command()(graph)
    app.add_typer(group, name="di")


def check(path: ContainerArgument) -> None:
    """Print everything that is wrong with the dependencies; exit code 1 when something is."""
    from nexgate.cli._console import stderr, stdout
    from nexgate.di import InvalidGraph

    container = _container(path)
    try:
        container.validate()
    except InvalidGraph as error:
        console = stderr()
        for problem in error.problems:
            console.print(f"[bold red]problem[/]: {_plain(problem.message)}", soft_wrap=True)
        count = len(error.problems)
        console.print(f"{count} problem{'' if count == 1 else 's'}", markup=False)
        raise typer.Exit(ExitCode.NO) from None
    stdout().print(f"{len(container.graph().nodes)} dependencies, no problems", markup=False)


def graph(
    path: ContainerArgument,
    form: Annotated[
        Literal["mermaid", "svg"] | None,
        typer.Option("--format", help="[default: as the file's name says, else mermaid]"),
    ] = None,
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="Write it here instead of to stdout.")
    ] = None,
) -> None:
    """Draw who needs whom, and how long each lives."""
    drawing = _container(path).graph()
    if form is None:
        form = "svg" if output is not None and output.suffix == ".svg" else "mermaid"
    text = drawing.svg() if form == "svg" else drawing.mermaid()
    if output is None:
        sys.stdout.write(text)
    else:
        output.write_text(text, encoding="utf-8")


def _container(path: str) -> Container:
    from nexgate.di import Container
    from nexgate.errors import ConfigError

    found = load_object(path, "MODULE:CONTAINER")
    if callable(found) and not isinstance(found, Container):
        found = found()
    if not isinstance(found, Container):
        raise ConfigError(f"{path} is no container but {type(found).__name__}")
    return found


def _plain(text: str) -> str:
    from rich.markup import escape

    return escape(text)
