"""Commands under one word, such as ``nexgate tasks …``."""

from __future__ import annotations

from typing import Annotated, Literal

import typer

__all__ = ["Form", "command_group"]

Form = Annotated[Literal["table", "json"], typer.Option("--format", help="Form of the answer.")]


def command_group(summary: str, epilog: str) -> typer.Typer:
    """A group that says what it has when nothing is asked of it; ``epilog``: its examples."""
    return typer.Typer(
        help=summary,
        epilog=epilog,
        no_args_is_help=True,
        rich_markup_mode="rich",
        context_settings={"help_option_names": ["-h", "--help"]},
    )
