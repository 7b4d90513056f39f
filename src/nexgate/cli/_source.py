"""Which configuration a command is about."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from nexgate.config import Report
    from nexgate.gateway_config import GatewayConfig

DEFAULT_NAMES = ("gateway.toml", "gateway.py")

FileArgument = Annotated[
    Path | None,
    typer.Argument(
        metavar="FILE",
        exists=True,
        dir_okay=False,
        readable=True,
        help="The configuration, .toml or .py. Default: gateway.toml, else gateway.py, here.",
    ),
]

FileOption = Annotated[
    Path | None,
    typer.Option(
        "--file",
        "-f",
        metavar="FILE",
        exists=True,
        dir_okay=False,
        readable=True,
        help="The configuration, .toml or .py. Default: gateway.toml, else gateway.py, here.",
    ),
]


def source(path: Path | None) -> Path:
    """The file that was named, or the default one. A usage error if there is none."""
    if path is None:
        path = next((Path(name) for name in DEFAULT_NAMES if Path(name).is_file()), None)
    if path is None:
        raise typer.BadParameter(
            "there is neither gateway.toml nor gateway.py here; name a file, or run: nexgate init",
            param_hint="FILE",
        )
    if path.suffix not in (".toml", ".py"):
        raise typer.BadParameter(f"{path.name} is neither .toml nor .py", param_hint="FILE")
    return path


def examine_file(path: Path) -> Report[GatewayConfig]:
    """Read a file and report everything about it. For ``.py``, this runs it."""
    from nexgate.cli._backend import load_gateway
    from nexgate.config import InvalidConfig, Problem, Report, read_text
    from nexgate.errors import ConfigError
    from nexgate.gateway_config import check_text

    try:
        if path.suffix == ".toml":
            report = check_text(read_text(path), filename=str(path), env=os.environ)
            if report.config is None:
                return report
        gateway = load_gateway(path)
        gateway.build()
    except InvalidConfig as invalid:
        return Report(None, invalid.problems)
    except ConfigError as error:
        # What only compiling finds: a filter or an application that cannot be imported.
        return Report(None, (Problem(path="", message=str(error), file=str(path)),))
    return Report(gateway.config, report.problems if path.suffix == ".toml" else ())
