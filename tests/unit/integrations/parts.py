"""What the tests of all frameworks share: dependencies that tell, parts, and a client."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

from nexgate.di import Container
from nexgate.integrations import Connection


class Users:
    def names(self) -> list[str]:
        return ["ada", "grace"]


class Session:
    def __init__(self, path: str) -> None:
        self.path = path


class Failure(Exception):
    pass


class Told(list[str]):
    """What happened."""


def container(told: Told) -> Container:
    made = Container()
    made.register_factory(Users, Users)

    async def session(connection: Connection) -> AsyncIterator[Session]:
        told.append("session")
        try:
            yield Session(connection.scope["path"])
        except BaseException as error:
            told.append(f"rolled back: {type(error).__name__}")
            raise
        else:
            told.append("committed")

    made.register_context(Connection)
    made.register_factory(Session, session, lifetime="scoped")
    return made


class Part:
    def __init__(self, name: str, told: Told, fails: str = "") -> None:
        self.name, self.told, self.fails = name, told, fails

    async def start(self) -> None:
        self.told.append(f"+{self.name}")
        if self.fails == "start":
            raise Failure(self.name)

    async def aclose(self) -> None:
        self.told.append(f"-{self.name}")
        if self.fails == "aclose":
            raise Failure(self.name)

    initialize: Any
    cleanup: Any


class PluginPart(Part):
    async def initialize(self, app: Any = None) -> None:
        await self.start()

    async def cleanup(self) -> None:
        await self.aclose()
