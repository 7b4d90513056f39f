"""A part of a container that comes and goes as one: a plugin's registrations."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from ._cells import run_now
from ._ending import end
from ._errors import ContainerClosed

if TYPE_CHECKING:
    from ._cells import Cell
    from ._container import Container
    from ._registration import Registration

__all__ = ["Owner"]


class Owner:
    """Has what ``Container`` has. What is registered here goes before what others registered for
    the same type, and is taken back by ``aclose``; theirs is in force again then.
    """

    def __init__(self, container: Container, name: str) -> None:
        self._container = container
        self._id = f"{name}#{next(_owners)}"
        self._name = name
        self._numbers: set[int] = set()
        self._is_closed = False

    def _add(self, made: Registration, *, collect: bool = False) -> Registration:
        if self._is_closed:  # nobody would take it back any more
            raise ContainerClosed(f"{self._name} has ended and registers nothing any more")
        added = self._container._add(made, collect=collect, owner=self._id)
        self._numbers.add(added.number)
        return added

    def __getattr__(self, name: str) -> Any:
        found = getattr(self._container, name)
        # The container's own methods, with our way of adding.
        function: Callable[..., Any] | None = getattr(found, "__func__", None)
        if function is not None and name in _ADDING:
            return function.__get__(self)
        return found

    async def aclose(self) -> None:
        """Take back everything that was registered here, and tear down the singletons that were
        made of it, those of others that hold one of them included: they are made anew when they
        are needed. Raises as ``Container.aclose``.
        """
        await end(self._take_back())

    def close(self) -> None:
        """The same, where no teardown is ``async``."""
        run_now(end(self._take_back()), "a singleton's teardown")

    def _take_back(self) -> list[Cell]:
        self._is_closed = True
        numbers, self._numbers = frozenset(self._numbers), set()
        return self._container._remove(numbers) if numbers else []

    def __contains__(self, type: Any) -> bool:
        return type in self._container


_owners = itertools.count(1)

_ADDING = frozenset(
    {
        "alias",
        "factory",
        "register",
        "register_context",
        "register_factory",
        "register_settings",
    }
)
