"""Dead letters in a stream, for stores that have one: listed, revived and dropped one by one."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from typing import Any

from .._store import Dead

__all__ = ["LetterStream"]


class LetterStream(ABC):
    """``dead``, ``revive`` and ``drop`` of a store, on what it can do with one letter."""

    @abstractmethod
    def _letters(self, group: str) -> AsyncGenerator[tuple[Any, Dead], None]:
        """Every letter with its place in the stream, the oldest first."""

    @abstractmethod
    async def _again(self, letter: Dead) -> None:
        """Append its event once more, for its group only."""

    @abstractmethod
    async def _forget_letter(self, group: str, place: Any) -> None:
        """Delete it from the stream."""

    async def dead(self, group: str, limit: int = 100) -> list[Dead]:
        letters: list[Dead] = []
        async with aclosing(self._letters(group)) as found:
            async for _, letter in found:
                letters.append(letter)
                if len(letters) >= limit:
                    break
        return letters

    async def revive(self, group: str, ids: Sequence[str]) -> int:
        return await self._take_letters(group, ids, is_revived=True)

    async def drop(self, group: str, ids: Sequence[str]) -> int:
        return await self._take_letters(group, ids, is_revived=False)

    async def _take_letters(self, group: str, ids: Sequence[str], *, is_revived: bool) -> int:
        wanted, count = set(ids), 0
        async for place, letter in self._letters(group):
            if letter.id not in wanted or (is_revived and letter.event is None):
                continue
            # Not one step: who dies in between revives it twice, and loses it never.
            if is_revived:
                await self._again(letter)
            await self._forget_letter(group, place)
            count += 1
        return count
