"""``nexgate check``: is the configuration usable?"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from nexgate.cli._exit import ExitCode
from nexgate.cli._source import FileArgument, examine_file, source

_EPILOG = (
    "[bold]Examples[/bold]\n\n"
    "  [cyan]nexgate check[/cyan]                          gateway.toml, or gateway.py\n\n"
    "  [cyan]nexgate check edge.toml --format json[/cyan]  for scripts and editors\n\n"
    "  [cyan]nexgate check --schema > schema.json[/cyan]   JSON Schema, for editors\n\n"
    "Exit codes: 0 usable, 1 problems, 2 usage. Warnings alone are 0.\n\n"
    "Checking a .py file runs it, but starts nothing."
)


def register(app: typer.Typer) -> None:
    """Add the command to ``app``."""
    app.command(epilog=_EPILOG)(check)


def check(
    file: FileArgument = None,
    schema: Annotated[
        bool, typer.Option("--schema", help="Print the JSON Schema of gateway.toml instead.")
    ] = False,
    output: Annotated[
        Literal["text", "json"], typer.Option("--format", help="Form of the report.")
    ] = "text",
) -> None:
    """Report every problem at once, with its line and a hint.

    Values that come from the environment are not shown.
    """
    from nexgate.cli._console import print_json, stderr, stdout
    from nexgate.config.problems import render, summary

    if schema:
        from nexgate.gateway_config import GatewayConfig

        print_json(GatewayConfig.json_schema(_schemas(file)))
        return
    path = source(file)
    report = examine_file(path)
    is_valid = report.config is not None
    if output == "json":
        problems = [problem.as_dict() for problem in report.problems]
        print_json({"valid": is_valid, "problems": problems})
    else:
        render(report.problems, stderr())
        if report.config is None:
            stderr().print(summary(report.problems), markup=False)
        else:
            services, routes = len(report.config.services), len(report.config.routes)
            counts = f"{_count(services, 'service')}, {_count(routes, 'route')}"
            stdout().print(f"{path} is valid: {counts}", markup=False, soft_wrap=True)
    raise typer.Exit(ExitCode.OK if is_valid else ExitCode.NO)


def _schemas(file: Path | None) -> dict[str, tuple[dict[str, Any], dict[str, Any]]]:
    """What the plugins of a file may be configured with; without a file there are none."""
    if file is None:
        return {}
    from nexgate.cli._backend import load_gateway
    from nexgate.plugins import config_schema

    loaded = load_gateway(file).build().plugins.loaded
    return {name: config_schema(each) for name, each in loaded.items()}


def _count(number: int, word: str) -> str:
    return f"{number} {word}{'' if number == 1 else 's'}"
