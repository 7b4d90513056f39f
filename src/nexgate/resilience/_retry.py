"""Calling again in user code: the policy, the budget and the deadline, joined."""

from __future__ import annotations

import asyncio
import functools
import inspect
import random as _random
from collections.abc import Awaitable, Callable
from typing import Any, ParamSpec, TypeVar

from ._budget import RetryBudget
from ._deadline import Deadline, DeadlineExceeded, current_deadline
from ._retry_policy import RetryPolicy

__all__ = ["Retrier", "retry"]

P = ParamSpec("P")
R = TypeVar("R")


class Retrier:
    """Calls an async function until it succeeds or there is a reason to stop.

    A call is repeated when it raised one of ``on``, or took longer than the policy's
    ``per_try_timeout``. Reasons to stop: the policy's attempts, its ``max_retry_after`` (an error
    with a ``retry_after`` in seconds, as ``CircuitOpenError`` has, is heard), the ``budget``, and
    the deadline: it never starts a wait that the deadline would not let it finish. Then the last
    error is raised, with notes of the reason and of the errors before. An attempt under way when
    the deadline comes is cancelled and ends in ``DeadlineExceeded``.

    ``deadline`` is a moment, or seconds for each call with all its attempts; a
    ``current_deadline()`` is kept to as well. Only ``attempts`` and the wait of the policy apply
    here, not its methods and statuses, which are about HTTP.
    """

    __slots__ = ("_budget", "_deadline", "_on", "_policy", "_random", "_sleep")

    def __init__(
        self,
        policy: RetryPolicy | None = None,
        *,
        budget: RetryBudget | None = None,
        on: tuple[type[Exception], ...] | type[Exception] = (Exception,),
        deadline: Deadline | float | None = None,
        random: Callable[[], float] = _random.random,
        sleep: Callable[[float], Awaitable[object]] = asyncio.sleep,
    ) -> None:
        self._policy = policy or RetryPolicy()
        self._budget = budget
        self._on = on
        self._deadline = deadline
        self._random = random
        self._sleep = sleep

    async def call(
        self, func: Callable[P, Awaitable[R]], /, *args: P.args, **kwargs: P.kwargs
    ) -> R:
        """Call ``func`` with these arguments, again where that makes sense."""
        once = functools.partial(func, *args, **kwargs)
        earlier: list[Exception] = []
        deadline = self._until()
        if deadline is None:
            return await self._attempts(None, once, earlier)
        try:
            async with deadline as earliest:
                return await self._attempts(earliest, once, earlier)
        except DeadlineExceeded as error:
            if earlier and error not in earlier and not hasattr(error, "__notes__"):
                _note(error, "", earlier)
            raise

    def __call__(self, func: Callable[P, Awaitable[R]], /) -> Callable[P, Awaitable[R]]:
        """Decorate an async function; see ``retry``."""
        if inspect.isasyncgenfunction(func) or inspect.isgeneratorfunction(func):
            raise TypeError(f"{func.__qualname__} is a generator: what it yielded stays yielded")
        if not inspect.iscoroutinefunction(func):
            name = getattr(func, "__qualname__", repr(func))
            raise TypeError(f"{name} is not async: waiting between its tries would block the loop")

        @functools.wraps(func)
        async def retried(*args: P.args, **kwargs: P.kwargs) -> R:
            return await self.call(func, *args, **kwargs)

        return retried

    def _until(self) -> Deadline | None:
        given = self._deadline
        if given is None:
            return current_deadline()
        own = given if isinstance(given, Deadline) else Deadline.after(given)
        return own.earlier(current_deadline())

    async def _attempts(
        self,
        deadline: Deadline | None,
        once: Callable[[], Awaitable[R]],
        earlier: list[Exception],
    ) -> R:
        policy, budget = self._policy, self._budget
        if budget is not None:
            budget.deposit()
        for attempt in range(1, policy.attempts + 1):
            try:
                if policy.per_try_timeout is None:
                    return await once()
                async with asyncio.timeout(policy.per_try_timeout) as limit:
                    return await once()
            except Exception as error:
                is_late = (
                    isinstance(error, TimeoutError)
                    and policy.per_try_timeout is not None
                    and limit.expired()
                )
                if not is_late and not isinstance(error, self._on):
                    _note(error, "", earlier)
                    raise
                delay = policy.delay(attempt, retry_after=_asked_wait(error), random=self._random)
                stop = self._reason_to_stop(attempt, delay, deadline)
                if stop or delay is None:
                    _note(error, stop, earlier)
                    raise
                earlier.append(error)
            await self._sleep(delay)
        raise AssertionError("the policy always ends")

    def _reason_to_stop(self, attempt: int, delay: float | None, deadline: Deadline | None) -> str:
        if delay is None:
            if attempt < self._policy.attempts:
                return "it asks to wait for longer than max_retry_after"
            return f"that was attempt {attempt} of {self._policy.attempts}"
        if deadline is not None and deadline.remaining() <= delay:
            return "there is no time left before the deadline"
        # Asked last, because asking spends.
        if self._budget is not None and not self._budget.try_spend():
            return "the retry budget is spent"
        return ""


def retry(
    policy: RetryPolicy | None = None,
    *,
    budget: RetryBudget | None = None,
    on: tuple[type[Exception], ...] | type[Exception] = (Exception,),
    deadline: Deadline | float | None = None,
) -> Callable[[Callable[P, Awaitable[R]]], Callable[P, Awaitable[R]]]:
    """Decorate an async function that may be called again: ``@retry(on=(ConnectionError,))``.

    See ``Retrier`` for what stops it. Narrow ``on`` down: an ``Exception`` is mostly a mistake that
    repeats itself.
    """
    return Retrier(policy, budget=budget, on=on, deadline=deadline)


def _asked_wait(error: Exception) -> float | None:
    asked: Any = getattr(error, "retry_after", None)
    return float(asked) if isinstance(asked, (int, float)) else None


def _note(error: Exception, stop: str, earlier: list[Exception]) -> None:
    for number, other in enumerate(earlier, 1):
        if other is not error:
            error.add_note(f"attempt {number} failed with {type(other).__name__}: {other}")
    if stop and (earlier or not stop.startswith("that was")):
        error.add_note(f"not tried again: {stop}")
