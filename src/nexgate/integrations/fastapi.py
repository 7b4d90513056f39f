"""The toolkit in FastAPI::

toolkit = install(app, container=container)

@app.get("/users")
async def users(users: Inject[Users]) -> list[str]: ...
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from typing import TYPE_CHECKING, Annotated, Any, TypeVar, Unpack

try:
    from fastapi import Depends, FastAPI
except ImportError as error:
    raise ImportError("nexgate.integrations.fastapi needs: pip install fastapi") from error

from nexgate.di import DependencyError, inject

from ._install import Options
from ._provided import present_scope
from ._toolkit import Toolkit
from .starlette import install_around

__all__ = ["Inject", "inject", "install", "provided"]

T = TypeVar("T")


def install(app: FastAPI, **options: Unpack[Options]) -> Toolkit:
    """Put the toolkit around everything that ``app`` does; call it before the first request.
    Options as of ``Toolkit``. Factories may ask for ``Request`` and ``WebSocket``.
    """
    return install_around(app, **options)


def provided(type: Any, name: str | None = None) -> Callable[[], AsyncIterator[Any]]:
    """For ``Depends(provided(Users))``. What the handler raises is seen by generator factories,
    also when FastAPI makes a response of it.
    """

    async def give() -> AsyncIterator[Any]:
        scope = present_scope()
        value = await scope.aresolve(type, name)
        try:
            yield value
        except Exception as error:
            scope.failure = error
            raise

    return give


if TYPE_CHECKING:
    Inject = Annotated[T, "injected"]
else:

    class Inject:
        """``Inject[Users]``: a parameter of a handler that the container fills. It is a
        ``Depends``, so it is no part of the OpenAPI document.
        """

        def __class_getitem__(cls, type: Any) -> Any:
            if type is Any:
                raise DependencyError("Inject needs a type")
            return Annotated[type, Depends(provided(type))]
