"""The end of singletons."""

from __future__ import annotations

from collections.abc import Iterable

from ._cells import Cell

__all__ = ["end"]


async def end(cells: Iterable[Cell]) -> None:
    """Run every teardown, whatever becomes of the others, also when we are cancelled meanwhile.

    Exceptions come as one ``ExceptionGroup``; a cancellation goes before them.
    """
    errors: list[Exception] = []
    stopped: BaseException | None = None
    for cell in cells:
        try:
            await cell.aclose()
        except Exception as error:
            errors.append(error)
        except BaseException as error:
            stopped = error
    if stopped is not None:
        raise stopped
    if errors:
        raise ExceptionGroup("teardown of singletons", errors)
