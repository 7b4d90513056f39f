"""Greets."""

from __future__ import annotations

from typing import Any

from nexgate.events import Event
from nexgate.plugins import Plugin, PluginConfig, on


class Greeter(Plugin):
    """Greets, and counts whom it greeted."""

    version = "1.0.0"

    class Config(PluginConfig):
        """What may stand in ``plugins.json`` for it."""

        word: str = "Hello"
        """What is said."""

    config: Config

    def __init__(self) -> None:
        self.count = 0

    def initialize(self, app: Any) -> None:
        self.log.info("version %s", self.version)

    def cleanup(self) -> None:
        pass

    def hand_over(self) -> Any:
        return self.count

    def take_over(self, state: Any) -> None:
        self.count = state

    def greet(self, name: str) -> str:
        """What is said to ``name``."""
        return f"{self.config.word}, {name}!"

    @on("visitor.*")
    def met(self, event: Event) -> None:
        self.count += 1
