"""``nexgate sidecar``: discovery and resilience for a program in any language."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from nexgate.cli._exit import ExitCode

if TYPE_CHECKING:
    from nexgate.sidecar import SidecarConfig

_EPILOG = (
    "[bold]Examples[/bold]\n\n"
    "  [cyan]nexgate sidecar --egress :15001[/cyan]       for a program that only calls\n\n"
    "  [cyan]curl -H 'Host: users' http://127.0.0.1:15001/42[/cyan]\n\n"
    "  [cyan]nexgate sidecar --service orders --app http://127.0.0.1:9001[/cyan]\n\n"
    "  [cyan]    --egress :15001 --ingress 10.0.0.7:15443[/cyan]\n\n"
    "  [cyan]    --registry redis://10.0.0.2:6379/0[/cyan]\n\n"
    "  [cyan]    --cert orders.pem --key orders.key --ca mesh-ca.pem[/cyan]\n\n"
    "  [cyan]nexgate sidecar sidecar.toml --check[/cyan]  the same from a file: is it usable?\n\n"
    "SIGTERM takes the program out of the registry, finishes what is under way, and exits with 0; "
    "a second one does not wait. Certificates are read again when their files change."
)
_WORDS = {"certificate": "--cert"}
"""Options that are not named after their key."""


def register(app: typer.Typer) -> None:
    """Add the command to ``app``."""
    app.command(epilog=_EPILOG)(sidecar)


def sidecar(
    file: Annotated[
        Path | None,
        typer.Argument(
            metavar="FILE",
            exists=True,
            dir_okay=False,
            readable=True,
            help=r"A sidecar.toml: \[sidecar], \[defaults], \[services.NAME]. Options beat it.",
        ),
    ] = None,
    service: Annotated[
        str | None, typer.Option(metavar="NAME", help="Register the program under this name.")
    ] = None,
    app: Annotated[
        str | None,
        typer.Option(metavar="URL", help="Where the program listens, on this machine."),
    ] = None,
    egress: Annotated[
        str | None,
        typer.Option(
            metavar="ADDRESS", help="Where the program asks for others: Host names the service."
        ),
    ] = None,
    ingress: Annotated[
        str | None, typer.Option(metavar="ADDRESS", help="Where others reach the program.")
    ] = None,
    advertise: Annotated[
        str | None,
        typer.Option(metavar="URL", help="How others reach ingress. Default: its address."),
    ] = None,
    registry: Annotated[
        str | None,
        typer.Option(
            metavar="PLACE", help="local (this machine, the default), lmdb:/DIR or redis://HOST."
        ),
    ] = None,
    cert: Annotated[
        str | None, typer.Option(metavar="FILE", help="The program's certificate, PEM.")
    ] = None,
    key: Annotated[str | None, typer.Option(metavar="FILE", help="Its private key, PEM.")] = None,
    ca: Annotated[
        str | None, typer.Option(metavar="FILE", help="The authorities of all sidecars, PEM.")
    ] = None,
    allow: Annotated[
        list[str] | None,
        typer.Option(metavar="NAME,…", help="Let in only callers with these names."),
    ] = None,
    health: Annotated[
        str | None,
        typer.Option(
            metavar="PATH",
            help="Ask the program there whether it is well, and advertise it while it is. "
            "Default: /health.",
        ),
    ] = None,
    suffix: Annotated[
        str | None, typer.Option(metavar="DOMAIN", help="users.DOMAIN means users, too.")
    ] = None,
    lease: Annotated[
        str | None,
        typer.Option(metavar="TIME", help="How long a killed sidecar stays known. Default: 15s."),
    ] = None,
    drain: Annotated[
        str | None,
        typer.Option(metavar="TIME", help="How long a shutdown waits at most. Default: 30s."),
    ] = None,
    tls_only: Annotated[
        bool, typer.Option("--tls-only", help="Never call an instance over plain HTTP.")
    ] = False,
    insecure: Annotated[
        bool,
        typer.Option("--insecure", help="Let ingress speak plain HTTP, to anyone."),
    ] = False,
    egress_anywhere: Annotated[
        bool,
        typer.Option(
            "--egress-anywhere",
            help="Let egress listen where other machines reach it. They then speak in the "
            "program's name.",
        ),
    ] = False,
    access_log: Annotated[
        str | None,
        typer.Option(metavar="off|stdout|stderr|FILE", help="Where the access log goes."),
    ] = None,
    log_level: Annotated[
        str | None,
        typer.Option(
            metavar="debug|info|warning|error", help="Least severe message that is logged."
        ),
    ] = None,
    check: Annotated[
        bool, typer.Option("--check", help="Only say whether this would work.")
    ] = False,
) -> None:
    """Stand beside a program: find other services for it, and let others find it.

    The program calls others through egress, in plain HTTP, and gets retries, breakers and load
    balancing. Others call it through ingress, over mutual TLS.
    """
    from nexgate.cli._backend import run_sidecar

    config = _config(
        file,
        {
            "service": service,
            "app": app,
            "egress": egress,
            "ingress": ingress,
            "advertise": advertise,
            "registry": registry,
            "certificate": cert,
            "key": key,
            "ca": ca,
            "allow": _names(allow),
            "health": health,
            "suffix": suffix,
            "lease": lease,
            "drain": drain,
            "tls_only": tls_only or None,
            "insecure": insecure or None,
            "egress_anywhere": egress_anywhere or None,
            "access_log": access_log,
            "log_level": log_level,
        },
    )
    raise typer.Exit(_check(config) if check else run_sidecar(config))


def _names(allow: list[str] | None) -> list[str] | None:
    if allow is None:
        return None
    return [name.strip() for text in allow for name in text.split(",") if name.strip()]


def _config(file: Path | None, options: dict[str, Any]) -> SidecarConfig:
    """Wrong options are a usage error, everything else a problem of the configuration."""
    from pydantic import ValidationError

    from nexgate.config import FromEnv, problems_of
    from nexgate.sidecar import SidecarConfig, load_sidecar

    said = {name: value for name, value in options.items() if value is not None}
    for name in ("lease", "drain"):
        if name in said:  # on a command line, 10 and "10" are the same
            said[name] = FromEnv(said[name])
    config = load_sidecar(file, os.environ) if file is not None else SidecarConfig()
    try:
        config = config.with_options(said)
    except ValidationError as error:
        problem = problems_of(error)[0]
        name = problem.path.partition("[")[0].partition(".")[0]
        option = _WORDS.get(name, "--" + name.replace("_", "-"))
        is_beside = problem.hint.startswith("it is looked for")  # there is no file to be beside
        hint = f"; {problem.hint}" if problem.hint and not is_beside else ""
        raise typer.BadParameter(f"{problem.message}{hint}", param_hint=option) from None
    return config.complete(file=str(file) if file is not None else "")


def _check(config: SidecarConfig) -> ExitCode:
    from nexgate.cli._console import stderr, stdout
    from nexgate.sidecar import check

    fault = check(config)
    if fault is not None:
        stderr().print(f"other sidecars would not accept this certificate: {fault}", markup=False)
        return ExitCode.NO
    said = config.sidecar
    for text in (
        f"egress on {said.egress}" if said.egress else "",
        f"{said.service} on {said.ingress}, advertised as {said.advertised}"
        if said.ingress
        else "",
        f"registry {said.registry.partition('@')[2] or said.registry}",
    ):
        if text:
            stdout().print(text, markup=False, soft_wrap=True)
    return ExitCode.OK
