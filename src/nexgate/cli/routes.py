"""``nexgate routes``: what there is."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from nexgate.cli._source import FileArgument, examine_file, source

if TYPE_CHECKING:
    from nexgate.gateway_config import RouteConfig
    from nexgate.routing.config import PredicateConfig

_EPILOG = (
    "[bold]Examples[/bold]\n\n"
    "  [cyan]nexgate routes[/cyan]                 a table\n\n"
    "  [cyan]nexgate routes --format json[/cyan]   for scripts\n\n"
    "The order is that of the file. Which of two routes wins: [cyan]nexgate explain[/cyan]."
)


def register(app: typer.Typer) -> None:
    """Add the command to ``app``."""
    app.command(epilog=_EPILOG)(routes)


def routes(
    file: FileArgument = None,
    output: Annotated[
        Literal["table", "json"], typer.Option("--format", help="Form of the list.")
    ] = "table",
) -> None:
    """List the routes with what they ask for and what they do."""
    from nexgate.cli._console import print_json, stdout
    from nexgate.config import InvalidConfig

    report = examine_file(source(file))
    if report.config is None:
        raise InvalidConfig(report.problems)
    rows = [_row(route) for route in report.config.routes]
    if output == "json":
        print_json(rows)
        return
    console = stdout()
    if not rows:
        console.print("there are no routes")
        return
    from rich import box
    from rich.table import Table
    from rich.text import Text

    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for heading in ("name", "methods", "host", "path", "conditions", "does"):
        table.add_column(heading, overflow="fold")
    for row in rows:
        cells = (
            row["name"] or "",
            " ".join(row["methods"]) or "any",
            " ".join(row["hosts"]) or "any",
            row["path"],
            "\n".join(row["conditions"]),
            row["does"],
        )
        table.add_row(*(Text(cell) for cell in cells))
    console.print(table)


def _row(route: RouteConfig) -> dict[str, Any]:
    return {
        "name": route.name,
        "methods": list(route.methods or ()),
        "hosts": list(route.host or ()),
        "path": route.path,
        "conditions": [
            *_conditions("header", route.headers),
            *_conditions("query", route.query),
            *_conditions("cookie", route.cookies),
        ],
        "priority": route.priority,
        "does": _action(route),
    }


def _conditions(kind: str, predicates: dict[str, PredicateConfig]) -> list[str]:
    return [f"{kind} {name} {_condition(wanted)}" for name, wanted in predicates.items()]


def _condition(wanted: PredicateConfig) -> str:
    if wanted.equals is not None:
        return f"is {wanted.equals!r}"
    if wanted.regex is not None:
        return f"matches {wanted.regex!r}"
    return "is present" if wanted.present else "is absent"


def _action(route: RouteConfig) -> str:
    if route.service is not None:
        return f"service {route.service}"
    if route.split is not None:
        total = sum(part.weight for part in route.split)
        shares = (f"{part.service} {part.weight / total:.0%}" for part in route.split)
        return f"split {', '.join(shares)}"
    if route.redirect is not None:
        return f"redirect {route.redirect.status} {route.redirect.to}"
    assert route.respond is not None
    return f"respond {route.respond.status}"
