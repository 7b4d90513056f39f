"""A cache that handlers find in the application's state."""

from __future__ import annotations

from typing import Any

from nexgate.plugins import Plugin, PluginConfig


class CachePlugin(Plugin):
    """Keeps answers in memory."""

    version = "1.2.0"

    class Config(PluginConfig):
        """What may be configured."""

        size: int = 100
        """How many answers are kept."""

    config: Config

    def __init__(self) -> None:
        self.cache: dict[str, Any] | None = None

    async def initialize(self, app: Any) -> None:
        self.cache = {}
        app.state["cache"] = self
        self.container.register(CachePlugin, self)

    async def cleanup(self) -> None:
        self.cache = None

    def get(self, key: str) -> Any:
        """What is kept for ``key``."""
        assert self.cache is not None
        return self.cache.get(key)

    def put(self, key: str, value: Any) -> None:
        """Keep it; the oldest makes room."""
        assert self.cache is not None
        self.cache[key] = value
        while len(self.cache) > self.config.size:
            self.cache.pop(next(iter(self.cache)))
