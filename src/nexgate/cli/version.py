"""``nexgate version``: which one is this?"""

from __future__ import annotations

from typing import Annotated

import typer

_PACKAGES = ("pydantic", "typer", "rich", "uvloop", "wsproto")


def register(app: typer.Typer) -> None:
    """Add the command to ``app``."""
    app.command()(version)


def version(
    verbose: Annotated[
        bool,
        typer.Option("--verbose", "-v", help="Also Python, the system and the packages in use."),
    ] = False,
) -> None:
    """Print the version."""
    from importlib.metadata import PackageNotFoundError
    from importlib.metadata import version as installed

    typer.echo(f"nexgate {installed('nexgate')}")
    if not verbose:
        return
    import platform
    import ssl

    typer.echo(f"python {platform.python_version()} ({platform.python_implementation()})")
    typer.echo(f"system {platform.system()} {platform.release()} {platform.machine()}")
    typer.echo(f"tls {ssl.OPENSSL_VERSION}")
    for name in _PACKAGES:
        try:
            typer.echo(f"{name} {installed(name)}")
        except PackageNotFoundError:
            typer.echo(f"{name} is not installed")
