"""What a consumer of a stream has in hand: in lanes, where an event waits for those before it."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Final

__all__ = ["WINDOW", "Entry", "Partition"]

WINDOW: Final = 256
"""Events of a partition that are read, not settled, and wait for nothing but their turn."""
_MOST_READ: Final = 4096
"""Those included that wait behind an event that is to be tried again: the other keys of the
partition go on."""


@dataclass(slots=True, eq=False)
class Entry:
    lane: str
    body: bytes
    failures: int = 0
    takeovers: int = 0
    due: float = 0.0
    is_claimed: bool = False


@dataclass(slots=True, eq=False)
class Partition:
    number: int
    lease: bytes
    entries: dict[bytes, Entry] = field(default_factory=dict)
    """Read and not settled, in order."""
    lanes: dict[str, deque[bytes]] = field(default_factory=dict)
    """Their names, those of each lane in order."""
    last: bytes = b"0-0"
    is_lost: bool = False

    def add(self, name: bytes, entry: Entry) -> None:
        self.entries[name] = entry
        self.lanes.setdefault(entry.lane, deque()).append(name)

    def remove(self, name: bytes) -> None:
        entry = self.entries.pop(name, None)
        if entry is not None:
            lane = self.lanes[entry.lane]
            lane.remove(name)  # it is the first, nearly always
            if not lane:
                del self.lanes[entry.lane]

    def heads(self) -> Iterator[Entry]:
        """The first of each lane: the others wait for it."""
        return (self.entries[lane[0]] for lane in self.lanes.values())

    def room(self, now: float) -> int:
        """How many more may be read."""
        parked = sum(len(lane) for lane in self.lanes.values() if self.entries[lane[0]].due > now)
        return min(WINDOW - len(self.entries) + parked, _MOST_READ - len(self.entries))
