"""The face of a store that answers at once: nothing in it is ever waited for."""

from __future__ import annotations

from abc import ABC, abstractmethod

__all__ = ["AnswersAtOnce"]


class AnswersAtOnce(ABC):
    """Six of the operations of ``State``, from those that do not wait."""

    __slots__ = ()

    @abstractmethod
    def get_now(self, key: str) -> bytes | None:
        """The value, or ``None``."""

    @abstractmethod
    def set_now(self, key: str, value: bytes, *, ttl: float | None = None) -> None:
        """Store the value."""

    @abstractmethod
    def add_now(self, key: str, value: bytes, *, ttl: float | None = None) -> bool:
        """Store the value if the key is absent."""

    @abstractmethod
    def replace_now(
        self, key: str, expected: bytes, value: bytes, *, ttl: float | None = None
    ) -> bool:
        """Store the value if the present one is ``expected``."""

    @abstractmethod
    def delete_now(self, key: str, *, expected: bytes | None = None) -> bool:
        """Remove the key."""

    @abstractmethod
    def scan_now(self, prefix: str) -> dict[str, bytes]:
        """Every live key under the prefix, in order."""

    async def get(self, key: str) -> bytes | None:
        """The value, or ``None``."""
        return self.get_now(key)

    async def set(self, key: str, value: bytes, *, ttl: float | None = None) -> None:
        """Store the value."""
        self.set_now(key, value, ttl=ttl)

    async def add(self, key: str, value: bytes, *, ttl: float | None = None) -> bool:
        """Store the value if the key is absent."""
        return self.add_now(key, value, ttl=ttl)

    async def replace(
        self, key: str, expected: bytes, value: bytes, *, ttl: float | None = None
    ) -> bool:
        """Store the value if the present one is ``expected``."""
        return self.replace_now(key, expected, value, ttl=ttl)

    async def delete(self, key: str, *, expected: bytes | None = None) -> bool:
        """Remove the key."""
        return self.delete_now(key, expected=expected)

    async def scan(self, prefix: str) -> dict[str, bytes]:
        """Every live key under the prefix, in order."""
        return self.scan_now(prefix)
