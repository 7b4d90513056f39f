"""``nexgate run``: serve."""

from __future__ import annotations

from typing import Annotated, Literal

import typer

from nexgate.cli._source import FileArgument, source

_EPILOG = (
    "[bold]Examples[/bold]\n\n"
    "  [cyan]nexgate run[/cyan]                                  gateway.toml, or gateway.py\n\n"
    "  [cyan]nexgate run edge.toml --workers auto[/cyan]         one worker for each processor\n\n"
    "  [cyan]nexgate run --listen 0.0.0.0:80 --listen [::]:80[/cyan]\n\n"
    "A change of the file is taken over without losing a request; one with problems is reported "
    "and changes nothing. SIGHUP reads the file again.\n\n"
    "Ctrl-C or SIGTERM finishes what is under way; a second one does not wait."
)


def register(app: typer.Typer) -> None:
    """Add the command to ``app``."""
    app.command(epilog=_EPILOG)(run)


def run(
    file: FileArgument = None,
    listen: Annotated[
        list[str] | None,
        typer.Option(metavar="ADDRESS", help="Listen here instead. May be given several times."),
    ] = None,
    workers: Annotated[
        str | None, typer.Option(metavar="N|auto", help="Number of worker processes.")
    ] = None,
    log_level: Annotated[
        Literal["debug", "info", "warning", "error"] | None,
        typer.Option(help="Least severe message that is logged."),
    ] = None,
    access_log: Annotated[
        str | None,
        typer.Option(metavar="off|stdout|stderr|FILE", help="Where the access log goes."),
    ] = None,
    no_reload: Annotated[
        bool, typer.Option("--no-reload", help="Do not watch the file for changes.")
    ] = False,
) -> None:
    """Serve, until told to stop.

    Options beat the file, also when it is read again.
    """
    from nexgate.cli._backend import run_gateway
    from nexgate.config import Overrides

    overrides = Overrides(
        listen=tuple(listen) if listen else None,
        workers=_workers(workers),
        log_level=log_level,
        access_log=access_log,
        reload=False if no_reload else None,
    )
    _check(overrides)
    raise typer.Exit(run_gateway(source(file), overrides))


def _workers(text: str | None) -> int | Literal["auto"] | None:
    if text is None or text == "auto":
        return text  # type: ignore[return-value]  # mypy does not narrow str by ==
    if text.isascii() and text.isdigit():
        return int(text[:9])
    raise typer.BadParameter('must be a whole number or "auto"', param_hint="--workers")


def _check(overrides: object) -> None:
    """Wrong options are a usage error, not a problem of the file."""
    from pydantic import ValidationError

    from nexgate.config import Overrides, problems_of
    from nexgate.gateway_config import GatewayConfig

    assert isinstance(overrides, Overrides)
    try:
        GatewayConfig().with_overrides(overrides)
    except ValidationError as error:
        problem = problems_of(error)[0]
        option = "--" + problem.path.partition("[")[0].replace("_", "-")
        hint = f"; {problem.hint}" if problem.hint else ""
        raise typer.BadParameter(f"{problem.message}{hint}", param_hint=option) from None
