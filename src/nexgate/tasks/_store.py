"""What a store of jobs is."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, Literal, Protocol

__all__ = ["PRIORITIES", "Claim", "JobRecord", "JobState", "NewJob", "Priority", "TaskStore"]

JobState = Literal["waiting", "running", "done", "dead", "cancelled"]
"""``waiting``: also for its time, or for another attempt. ``dead``: after its last attempt."""

Priority = Literal["high", "normal", "low"]

PRIORITIES: Final[dict[Priority, float]] = {"high": 60.0, "normal": 0.0, "low": -60.0}
"""A head start in seconds, before those of equal age. So a low one is never starved: it is
overtaken by what comes within the two minutes after it, and by nothing later."""

MOST_CLAIMS: Final = 10
"""Workers that may die of a job before it is dead."""


@dataclass(frozen=True, slots=True)
class NewJob:
    """A job to be stored."""

    id: str
    task: str
    body: bytes
    due: float
    """Unix time from which it may run."""
    priority: Priority = "normal"
    key: str | None = None
    """Another with this key, as long as it is kept, is this one."""


@dataclass(frozen=True, slots=True)
class JobRecord:
    """A job as it is."""

    id: str
    task: str
    state: JobState
    priority: str
    due: float
    failures: int
    created: float
    begun: float | None = None
    ended: float | None = None
    key: str | None = None
    error: str = ""
    progress: dict[str, Any] | None = None
    result: bytes | None = None
    """JSON."""
    body: bytes = b""


@dataclass(slots=True, eq=False)
class Claim:
    """A job that this worker has for the length of a lease."""

    id: str
    task: str
    body: bytes
    failures: int
    token: str
    is_lost: bool = False
    """Another may have it: its outcome is nobody's business any more."""
    is_cancelled: bool = False
    """Somebody wants it to end."""
    more: dict[str, Any] = field(default_factory=dict)
    """The store's own."""


class TaskStore(Protocol):
    """Keeps jobs. Between ``claim`` and an outcome a job is one worker's, as long as its lease is
    extended; an outcome that comes with an old token is refused. Times are Unix times, leases are
    durations.
    """

    async def open(self) -> None:
        """Be ready, or raise why not."""

    async def aclose(self) -> None:
        """Let go of everything."""

    async def enqueue(self, job: NewJob) -> str:
        """Store it; its id, or that of the one with its key. Raises ``QueueFull``."""

    async def claim(self, limit: int, lease: float, skip: Collection[str]) -> list[Claim]:
        """Jobs that are due, the first in rank first, none of the tasks in ``skip``."""

    async def extend(self, claims: Sequence[Claim], lease: float) -> None:
        """Keep them; sets ``is_lost`` and ``is_cancelled``."""

    async def complete(self, claim: Claim, result: bytes | None, keep: float) -> bool:
        """It is done; keep the result for so many seconds. False when it was not ours."""

    async def retry(self, claim: Claim, delay: float, error: str) -> bool:
        """It failed; again in ``delay`` seconds."""

    async def bury(self, claim: Claim, error: str) -> bool:
        """It failed for the last time."""

    async def give_back(self, claims: Sequence[Claim], error: str = "") -> None:
        """They were not finished, and it is not their fault: others may have them now."""

    async def cancelled(self, claim: Claim, keep: float) -> bool:
        """It was cancelled while it ran."""

    async def cancel(self, id: str, keep: float) -> JobState | None:
        """Cancel a waiting job, ask a running one to end. Its state now; ``None`` for no job."""

    async def progress(self, claim: Claim, said: dict[str, Any]) -> None:
        """How far it is."""

    async def get(self, id: str) -> JobRecord | None:
        """A job."""

    async def jobs(self, state: JobState | None = None, limit: int = 100) -> list[JobRecord]:
        """The newest first, without results and bodies."""

    async def revive(self, ids: Sequence[str]) -> int:
        """Let dead and cancelled jobs wait again. Returns how many."""

    async def drop(self, ids: Sequence[str]) -> int:
        """Forget jobs that do not run. Returns how many."""

    async def counts(self) -> dict[str, int]:
        """Jobs by state."""

    async def wait(self, timeout: float) -> None:
        """Until there may be something to claim."""

    async def wait_job(self, id: str, timeout: float) -> JobRecord | None:
        """Until the job has ended, or ``timeout`` seconds."""
