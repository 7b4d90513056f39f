"""Stores that are named on a command line, and asked in one go."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Protocol, TypeVar

import typer

__all__ = ["Opened", "ask", "named_store"]


class Opened(Protocol):
    """What a store has besides what it is asked."""

    async def open(self) -> None:
        """Be ready."""

    async def aclose(self) -> None:
        """Let go of everything."""


S = TypeVar("S", bound=Opened)
T = TypeVar("T")


def named_store(place: str, hint: str, load: Callable[[str], S], at: Callable[[str], S]) -> S:
    """What ``load`` makes of ``module:name``, or ``at`` of a URL or of the file that is there.
    ``hint`` is the argument's name.
    """
    if "://" in place or Path(place).exists():
        return at(place)
    if ":" in place:
        return load(place)
    # Opening would make it, and a typo would be an empty store.
    raise typer.BadParameter(f"there is no file {place}", param_hint=hint)


def ask(store: S, question: Callable[[S], Awaitable[T]]) -> T:
    """Open it, ask, close it."""
    import asyncio

    async def asked() -> T:
        await store.open()
        try:
            return await question(store)
        finally:
            await store.aclose()

    return asyncio.run(asked())
