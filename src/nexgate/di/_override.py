"""Stand-ins for tests."""

from __future__ import annotations

import inspect
from types import TracebackType
from typing import TYPE_CHECKING, Any

from ._cells import run_now
from ._ending import end
from ._keys import Key
from ._registration import Kind, Registration, kind_of, wishes_of

if TYPE_CHECKING:
    from ._container import Container

__all__ = ["Override"]


class Override:
    """A context manager, ``with`` and ``async with``, for one block."""

    def __init__(self, container: Container, key: Key, to: Any) -> None:
        self._container = container
        self._key = key
        self._to = to
        self._number: int | None = None

    def _begin(self) -> None:
        key, to, container = self._key, self._to, self._container
        is_factory = (inspect.isclass(to) or inspect.isroutine(to)) and not _is_instance(to, key)
        replaced = container._graph().find(key)
        while replaced is not None and replaced.registration.kind is Kind.ALIAS:
            replaced = replaced.needs.get("target")
        lifetime = replaced.lifetime if replaced is not None else "singleton"
        made = (
            Registration(key, kind_of(to), lifetime, to, wishes_of(to))
            if is_factory
            else Registration(key, Kind.INSTANCE, "singleton", to)
        )
        self._number = container._add(made, owner=f"#override {id(self)}").number

    def _take_back(self) -> Any:
        assert self._number is not None
        return self._container._remove(frozenset({self._number}))

    def __enter__(self) -> None:
        self._begin()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None
    ) -> None:
        run_now(end(self._take_back()), "the teardown of what was made in the override")

    async def __aenter__(self) -> None:
        self._begin()

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None
    ) -> None:
        await end(self._take_back())


def _is_instance(value: Any, key: Key) -> bool:
    """Whether it is itself what is asked for, and not what makes it."""
    try:
        return isinstance(value, key.type) and not inspect.isclass(value)
    except TypeError:
        return False
