"""``nexgate explain``: which route, and why not the others."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from nexgate.cli._exit import ExitCode
from nexgate.cli._source import FileOption, source

if TYPE_CHECKING:
    from nexgate.routing import Explanation, Route

_EPILOG = (
    "[bold]Examples[/bold]\n\n"
    "  [cyan]nexgate explain GET /users/42[/cyan]\n\n"
    "  [cyan]nexgate explain POST https://api.example.com/orders?dry=1 -H 'X-Version: 2'[/cyan]\n\n"
    "Exit codes: 0 a route matches, 1 none does (404 or 405), 2 usage. Nothing is sent anywhere."
)


def register(app: typer.Typer) -> None:
    """Add the command to ``app``."""
    app.command(epilog=_EPILOG)(explain)


def explain(
    method: Annotated[str, typer.Argument(metavar="METHOD", help="GET, POST, … in capitals.")],
    url: Annotated[
        str,
        typer.Argument(metavar="URL", help="A path with or without query, or a URL for its host."),
    ],
    header: Annotated[
        list[str] | None,
        typer.Option(
            "--header", "-H", metavar="'NAME: VALUE'", help="A field. May be given several times."
        ),
    ] = None,
    file: FileOption = None,
    output: Annotated[
        Literal["text", "json"], typer.Option("--format", help="Form of the answer.")
    ] = "text",
) -> None:
    """Say which route a request gets, and for each other candidate what failed."""
    from nexgate.cli._backend import load_gateway
    from nexgate.cli._console import print_json
    from nexgate.errors import Refused

    headers = [_field(text) for text in header or ()]
    gateway = load_gateway(source(file))
    try:
        explanation = gateway.explain(method, url, headers)
    except Refused as refused:
        # The request would not get as far as a route: that is an answer, too.
        if output == "json":
            print_json({"matched": None, "status": refused.cause.status, "refused": str(refused)})
        else:
            _print_refused(method, url, refused)
        raise typer.Exit(ExitCode.NO) from None
    if output == "json":
        print_json(_as_dict(explanation))
    else:
        _print(method, url, explanation)
    raise typer.Exit(ExitCode.OK if explanation.matched is not None else ExitCode.NO)


def _field(text: str) -> tuple[str, str]:
    name, colon, value = text.partition(":")
    if not colon or not name.strip():
        raise typer.BadParameter(f"{text!r} is not 'Name: value'", param_hint="-H")
    return name.strip(), value.strip(" \t")


def _does(route: Route[Any]) -> str:
    handler = getattr(route.payload, "handler", None)
    return str(handler.describe()) if handler is not None else ""


def _further(route: Route[Any]) -> list[tuple[str, str]]:
    """What stands between the route and the instances, as names and words."""
    handler = getattr(route.payload, "handler", None)
    describe = getattr(handler, "describe_further", None)
    return describe() if describe is not None else []


def _as_dict(explanation: Explanation[Any]) -> dict[str, Any]:
    from nexgate.routing import Match

    outcome = explanation.outcome
    answer: dict[str, Any] = {"matched": None}
    if isinstance(outcome, Match):
        answer["matched"] = _route(outcome.route)
        answer["params"] = {name: str(value) for name, value in outcome.params.items()}
        answer["service"] = dict(_further(outcome.route))
    else:
        answer["status"] = 405 if outcome.allow else 404
        answer["allow"] = [method.decode("latin-1") for method in outcome.allow]
    answer["candidates"] = [
        {**_route(candidate.route), "reasons": list(candidate.reasons)}
        for candidate in explanation.candidates
    ]
    answer["omitted"] = explanation.omitted
    return answer


def _route(route: Route[Any]) -> dict[str, Any]:
    return {"name": route.name, "path": route.template.text, "does": _does(route)}


def _print_refused(method: str, url: str, refused: Any) -> None:
    from rich.text import Text

    from nexgate.cli._console import stdout

    line = Text.assemble(
        (f"{method} {url}", "bold"), " → ", (str(refused.cause.status), "bold red")
    )
    stdout().print(line.append(f" {refused.detail or refused.cause.title}"), soft_wrap=True)


def _print(method: str, url: str, explanation: Explanation[Any]) -> None:
    from rich.text import Text

    from nexgate.cli._console import stdout
    from nexgate.routing import Match

    console = stdout()
    outcome = explanation.outcome
    head = Text.assemble((f"{method} {url}", "bold"), " → ")
    if isinstance(outcome, Match):
        route = outcome.route
        head.append(route.name, "bold green").append(f"  {_does(route)}".rstrip())
        console.print(head, soft_wrap=True)
        facts = [("path", route.template.text)]
        facts += [(f"{{{name}}}", str(value)) for name, value in outcome.params.items()]
        facts += _further(route)
        width = max(len(name) for name, _ in facts)
        for name, value in facts:
            console.print(
                Text(f"  {name:<{width}}  ", "dim").append(value, "default"), soft_wrap=True
            )
    else:
        allow = ", ".join(method.decode("latin-1") for method in outcome.allow)
        head.append("405" if allow else "404", "bold red")
        head.append(f"  no route for this method; allowed are {allow}" if allow else "  no route")
        console.print(head, soft_wrap=True)
    for candidate in explanation.candidates:
        console.print()
        route = candidate.route
        console.print(
            Text.assemble(("not ", "dim"), route.name, (f"  {route.template.text}", "dim")),
            soft_wrap=True,
        )
        for reason in candidate.reasons:
            console.print(Text.assemble(("  ✗ ", "red"), reason), soft_wrap=True)
    if explanation.omitted:
        console.print()
        console.print(Text(f"and {explanation.omitted} more that are further away", "dim"))
