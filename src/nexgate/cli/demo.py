"""``nexgate demo``: see it work."""

from __future__ import annotations

from typing import Annotated

import typer

_EPILOG = (
    "[bold]Examples[/bold]\n\n"
    "  [cyan]nexgate demo[/cyan]             until Ctrl-C\n\n"
    "  [cyan]nexgate demo --for 10s[/cyan]   for scripts"
)


def register(app: typer.Typer) -> None:
    """Add the command to ``app``."""
    app.command(epilog=_EPILOG)(demo)


def demo(
    port: Annotated[
        int, typer.Option(min=0, max=65535, help="Port of the gateway; 0 takes a free one.")
    ] = 8000,
    for_: Annotated[
        str | None,
        typer.Option(
            "--for", metavar="TIME", help='How long: "10s", or seconds. Default: for ever.'
        ),
    ] = None,
) -> None:
    """Run a gateway in front of three sample services, with traffic."""
    from nexgate.cli._backend import run_demo

    raise typer.Exit(run_demo(port, None if for_ is None else _seconds(for_)))


def _seconds(text: str) -> float:
    from nexgate.config import FromEnv, parse_duration

    try:
        # As from the environment: on a command line, 10 and "10" are the same.
        return parse_duration(FromEnv(text))
    except ValueError as error:
        raise typer.BadParameter(str(error), param_hint="--for") from None
