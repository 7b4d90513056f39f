"""The end of what lives: every teardown runs, whatever becomes of the others."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from dishka import AsyncContainer

    from ._cells import Cell

__all__ = ["end", "unwind"]


async def unwind(scope: AsyncContainer, error: BaseException | None = None) -> None:
    """Run the teardowns of one scope, the last made first; generators see ``error``.

    One that is cancelled in the middle ends where it was, and the others run. Exceptions come as
    one ``ExceptionGroup``; a cancellation goes before them.
    """
    errors: list[Exception] = []
    stopped: BaseException | None = None
    while True:  # each turn ends at least one of them
        try:
            await scope.close(error)
        except ExceptionGroup as group:
            errors.extend(group.exceptions)
        except GeneratorExit:
            raise  # thrown away by whoever could not await it
        except BaseException as stop:
            stopped = stop
            continue
        break
    if stopped is not None:
        raise stopped
    if errors:
        raise ExceptionGroup("teardown of a scope", errors)


async def end(cells: Iterable[Cell]) -> None:
    """The same for singletons."""
    errors: list[Exception] = []
    stopped: BaseException | None = None
    for cell in cells:
        try:
            await cell.aclose()
        except ExceptionGroup as group:
            errors.extend(group.exceptions)
        except GeneratorExit:
            raise
        except BaseException as stop:
            stopped = stop
    if stopped is not None:
        raise stopped
    if errors:
        raise ExceptionGroup("teardown of singletons", errors)
