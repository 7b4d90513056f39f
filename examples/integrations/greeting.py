"""What the four applications share."""

from __future__ import annotations

from collections.abc import Iterator

from nexgate.di import Container
from nexgate.integrations import Connection


class Greeter:
    """One for the program."""

    def __init__(self) -> None:
        self.greeted = 0

    def greet(self, name: str) -> str:
        self.greeted += 1
        return f"hello {name}"


class Visit:
    """One for each request."""

    def __init__(self, path: str) -> None:
        self.path = path


def visit(connection: Connection) -> Iterator[Visit]:
    yield Visit(connection.scope["path"])


def build() -> Container:
    """A container for one application."""
    container = Container()
    container.register_factory(Greeter, Greeter)
    container.register_context(Connection)
    container.register_factory(Visit, visit, lifetime="scoped")
    return container
