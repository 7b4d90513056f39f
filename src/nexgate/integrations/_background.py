"""``nexgate.tasks.BackgroundTasks`` as a dependency."""

from __future__ import annotations

from nexgate.di import Container
from nexgate.tasks import BackgroundTasks

from ._connection import Connection

__all__ = ["register_background"]


def register_background(container: Container) -> None:
    """Let handlers ask for the ``BackgroundTasks`` of their request."""

    def make(connection: Connection) -> BackgroundTasks:
        made = BackgroundTasks()
        connection.background.append(made)
        return made

    if BackgroundTasks not in container:
        container.register_factory(BackgroundTasks, make, lifetime="scoped")
