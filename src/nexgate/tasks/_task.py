"""A function that can be run later, elsewhere."""

from __future__ import annotations

import functools
from collections.abc import Callable, Coroutine
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final, Generic, ParamSpec, TypeVar

from nexgate.config import parse_duration
from nexgate.resilience import Backoff

from ._errors import TaskError
from ._job import Job
from ._store import PRIORITIES, Priority

if TYPE_CHECKING:
    from ._queue import TaskQueue

__all__ = ["Calling", "Task", "TaskOptions", "seconds_of"]

P = ParamSpec("P")
R = TypeVar("R")

_BACKOFF = Backoff(base=1.0, cap=300.0)
_LATEST: Final = 253402300799.0
"""The end of the year 9999; a time in milliseconds is after it."""


@dataclass(frozen=True, slots=True)
class TaskOptions:
    """How a task is run."""

    name: str
    retries: int = 0
    """Attempts after the first."""
    backoff: Backoff = _BACKOFF
    timeout: float | None = None
    """Seconds for one attempt. A plain function runs in a thread, which nothing can stop: its
    attempt is over, the thread goes on."""
    priority: Priority = "normal"
    keep: float | None = None
    """Seconds for which results are kept; unset: the queue's."""
    max_running: int | None = None
    """Most that one worker runs at once."""

    def __post_init__(self) -> None:
        _check_priority(self.priority)
        if self.timeout is not None and self.timeout <= 0:
            raise TaskError(f"{self.name}: no attempt is over in {self.timeout:g}s")
        if self.max_running is not None and self.max_running < 1:
            raise TaskError(f"{self.name}: at least one may run, not {self.max_running}")
        if self.retries < 0:
            raise TaskError(f"{self.name}: {self.retries} retries are none: say 0")


@dataclass(frozen=True, slots=True)
class Calling(Generic[P, R]):
    """A task with options for one call; made by ``Task.options``."""

    task: Task[P, R]
    delay_by: float = 0.0
    at: float | None = None
    key: str | None = None
    priority: Priority | None = None
    labels: dict[str, Any] = field(default_factory=dict)

    async def delay(self, *args: P.args, **kwargs: P.kwargs) -> Job[R]:
        """As ``Task.delay``."""
        return await self.task._queue._enqueue(self, args, kwargs)


class Task(Generic[P, R]):
    """Made by ``TaskQueue.task``. Calling it calls the function, here and now."""

    def __init__(
        self,
        queue: TaskQueue,
        function: Callable[P, R] | Callable[P, Coroutine[Any, Any, R]],
        options: TaskOptions,
    ) -> None:
        self.options_of_all = options
        self.function = function
        self._queue = queue
        functools.update_wrapper(self, function)

    @property
    def name(self) -> str:
        return self.options_of_all.name

    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> Any:
        return self.function(*args, **kwargs)

    async def delay(self, *args: P.args, **kwargs: P.kwargs) -> Job[R]:
        """Run it in a worker. When this returns, the job is stored. Raises ``TaskError`` for
        arguments that are not JSON, ``QueueFull``, and what the store raises.
        """
        return await self._queue._enqueue(Calling(self), args, kwargs)

    def options(
        self,
        *,
        delay: float | str = 0.0,
        at: float | None = None,
        key: str | None = None,
        priority: Priority | None = None,
    ) -> Calling[P, R]:
        """Options for one call: ``task.options(delay="10m").delay(…)``. ``delay`` in seconds or as
        ``"10m"``, or ``at`` a Unix time; ``key``: as long as a job with it is kept, ``delay``
        returns that one, and no other. Raises ``TaskError`` for what is none of these.
        """
        if at is not None and not 0 <= at <= _LATEST:
            raise TaskError(f"{self.name}: {at!r} is no Unix time; it is in seconds")
        if key is not None and not _is_key(key):
            raise TaskError(f"{self.name}: a key is text, and not empty; {key!r} is not")
        if priority is not None:
            _check_priority(priority)
        return Calling(self, seconds_of(f"{self.name}: delay", delay), at, key, priority)

    def __repr__(self) -> str:
        return f"<Task {self.name}>"


def _is_key(said: str) -> bool:
    try:
        return bool(said.encode())
    except (AttributeError, UnicodeEncodeError):
        return False


def seconds_of(what: str, said: float | str) -> float:
    """``said`` as seconds; ``what`` it is, for people."""
    try:
        return parse_duration(said)
    except ValueError as error:
        raise TaskError(f"{what}: {said!r} {error}") from None


def _check_priority(said: str) -> None:
    if said not in PRIORITIES:  # a store would keep it where nobody looks
        raise TaskError(f"there is no priority {said!r}: {', '.join(PRIORITIES)}")
