"""``nexgate demo``: see it work."""

from __future__ import annotations

from typing import Annotated

import typer

_EPILOG = (
    "[bold]Examples[/bold]\n\n"
    "  [cyan]nexgate demo[/cyan]             until Ctrl-C\n\n"
    "  [cyan]nexgate demo --for 10s[/cyan]   for scripts\n\n"
    "  [cyan]nexgate demo --drill[/cyan]     scale, kill, fail and heal under load; ends by itself"
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
    drill: Annotated[
        bool,
        typer.Option(
            "--drill",
            help="Under load: from one instance to three and back, one killed, a circuit that "
            "opens and closes. Exit code 1 when a request failed.",
        ),
    ] = False,
) -> None:
    """Run a gateway in front of three sample services, with traffic."""
    from nexgate.cli._backend import run_demo, run_drill

    if drill:
        raise typer.Exit(run_drill(port))
    raise typer.Exit(run_demo(port, None if for_ is None else _seconds(for_)))


def _seconds(text: str) -> float:
    from nexgate.config import FromEnv, parse_duration

    try:
        # As from the environment: on a command line, 10 and "10" are the same.
        return parse_duration(FromEnv(text))
    except ValueError as error:
        raise typer.BadParameter(str(error), param_hint="--for") from None
