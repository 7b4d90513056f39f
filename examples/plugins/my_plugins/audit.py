"""Writes down what the application does."""

from __future__ import annotations

from typing import Any

from nexgate.events import Event
from nexgate.plugins import Plugin, on


class AuditPlugin(Plugin):
    """Hears of every product that is looked at. Needs the cache, so it starts after it."""

    requires = ("cache>=1.0",)

    def __init__(self) -> None:
        self.lines: list[str] = []

    def initialize(self, app: Any) -> None:
        app.state["audit"] = self

    def cleanup(self) -> None:
        self.lines.clear()

    @on("product.*")
    def heard(self, event: Event) -> None:
        self.lines.append(f"{event.name} {event.data['id']}")
