"""The faces of a circuit breaker: ``call``, a decorator, ``with`` and ``async with``.

All stand on ``acquire``, ``record`` and ``release``, and agree about outcomes:

======================================  ==========================================
the call …                              the circuit …
======================================  ==========================================
returned                                records a success, unless ``fails(result)``
raised what ``counts``                  records a failure
raised what does not count              is given its permit back
was cancelled, closed or interrupted    is given its permit back
======================================  ==========================================
"""

from __future__ import annotations

import functools
import inspect
import random as _random
import time
from collections.abc import Awaitable, Callable, Coroutine
from types import CoroutineType, TracebackType
from typing import Any, Literal, ParamSpec, TypeVar, cast, overload

from ._circuit import Circuit
from ._circuit_config import CircuitConfig
from ._entered import Entered

__all__ = ["CircuitBreaker", "Guard"]

P = ParamSpec("P")
R = TypeVar("R")


class CircuitBreaker(Circuit):
    """Stops calling what keeps failing, and finds out when it works again.

    ``counts`` says which exceptions are failures (default: every ``Exception``); what it denies
    says nothing about the service and counts neither way. ``fails`` says which results are
    failures nevertheless, such as a response with status 503. Cancellation, ``GeneratorExit`` and
    ``KeyboardInterrupt`` never count.

    One breaker is for one service, shared by all calls to it, of one event loop.
    """

    __slots__ = ("_counts", "_entered", "_fails")

    def __init__(
        self,
        config: CircuitConfig | None = None,
        name: str = "",
        *,
        clock: Callable[[], float] = time.monotonic,
        random: Callable[[], float] = _random.random,
        counts: Callable[[BaseException], bool] | None = None,
        fails: Callable[[Any], bool] | None = None,
    ) -> None:
        super().__init__(config, name, clock=clock, random=random)
        self._counts = counts
        self._fails = fails
        self._entered: Entered[Guard] = Entered()

    def __repr__(self) -> str:
        return f"<CircuitBreaker {self._name!r} {self._state.value}>"

    # --- call -------------------------------------------------------------------------------------

    @overload
    def call(
        self,
        func: Callable[..., Awaitable[R]],
        /,
        *args: Any,
        fallback: Callable[..., Any] | None = None,
        **kwargs: Any,
    ) -> Coroutine[Any, Any, R]: ...

    @overload
    def call(
        self,
        func: Callable[..., R],
        /,
        *args: Any,
        fallback: Callable[..., Any] | None = None,
        **kwargs: Any,
    ) -> Coroutine[Any, Any, R]: ...

    def call(
        self,
        func: Callable[..., Any],
        /,
        *args: Any,
        fallback: Callable[..., Any] | None = None,
        **kwargs: Any,
    ) -> Coroutine[Any, Any, Any]:
        """Call ``func``, and await it if it is to be awaited: ``await breaker.call(fetch, url)``.

        ``fallback`` gets the same arguments and answers instead when the circuit is open or the
        call failed; what does not count as a failure passes it by. Without it an open circuit
        raises ``CircuitOpenError`` and ``func`` is not called.
        """
        return self._call(func, args, kwargs, fallback)

    async def _call(
        self,
        func: Callable[..., Any],
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
        fallback: Callable[..., Any] | None,
    ) -> Any:
        started = self._clock()
        permit = self.acquire(started)
        if not permit:
            if fallback is None:
                raise self._refusal(started)
        else:
            try:
                result = func(*args, **kwargs)
                if hasattr(result, "__await__"):
                    result = await result
            except BaseException as error:
                if not self._ended_with(error, permit, started) or fallback is None:
                    raise
            else:
                if not self._ended_well(result, permit, started) or fallback is None:
                    return result
        result = fallback(*args, **kwargs)
        return await result if hasattr(result, "__await__") else result

    # --- decorator --------------------------------------------------------------------------------

    @overload
    def __call__(self, func: Callable[P, R], /) -> Callable[P, R]: ...

    @overload
    def __call__(
        self, /, *, fallback: Callable[..., Any] | None = None
    ) -> Callable[[Callable[P, R]], Callable[P, R]]: ...

    def __call__(
        self,
        func: Callable[..., Any] | None = None,
        /,
        *,
        fallback: Callable[..., Any] | None = None,
    ) -> Any:
        """Decorate a function, async or not: ``@breaker`` or ``@breaker(fallback=…)``.

        See ``call``. The fallback of a plain function must be a plain function. A generator is
        refused with ``TypeError``: nobody could say when its call ends. Use ``guard`` within it.
        """
        if func is None:
            return lambda func: self._decorated(func, fallback)
        return self._decorated(func, fallback)

    def _decorated(
        self, func: Callable[..., Any], fallback: Callable[..., Any] | None
    ) -> Callable[..., Any]:
        if inspect.isasyncgenfunction(func) or inspect.isgeneratorfunction(func):
            raise TypeError(
                f"{func.__qualname__} is a generator, whose call never clearly ends: "
                "write `with breaker.guard():` around what may fail in it"
            )
        if _is_async(func):

            @functools.wraps(func)
            async def async_call(*args: Any, **kwargs: Any) -> Any:
                return await self._call(func, args, kwargs, fallback)

            return async_call

        @functools.wraps(func)
        def plain_call(*args: Any, **kwargs: Any) -> Any:
            started = self._clock()
            permit = self.acquire(started)
            if not permit:
                if fallback is None:
                    raise self._refusal(started)
                return fallback(*args, **kwargs)
            try:
                result = func(*args, **kwargs)
            except BaseException as error:
                if not self._ended_with(error, permit, started) or fallback is None:
                    raise
                return fallback(*args, **kwargs)
            if isinstance(result, CoroutineType):
                # A plain function that made a coroutine, as a lambda or another decorator does.
                return self._finished(result, permit, started, fallback, args, kwargs)
            if self._ended_well(result, permit, started) and fallback is not None:
                return fallback(*args, **kwargs)
            return result

        return plain_call

    async def _finished(
        self,
        coroutine: Awaitable[Any],
        permit: int,
        started: float,
        fallback: Callable[..., Any] | None,
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
    ) -> Any:
        try:
            result = await coroutine
        except BaseException as error:
            if not self._ended_with(error, permit, started) or fallback is None:
                raise
        else:
            if not self._ended_well(result, permit, started) or fallback is None:
                return result
        result = fallback(*args, **kwargs)
        return await result if hasattr(result, "__await__") else result

    # --- with -------------------------------------------------------------------------------------

    def guard(self) -> Guard:
        """One call, as a context manager of its own: ``async with breaker.guard() as call:``.

        Unlike ``async with breaker:`` it is right in async generators and wherever else entering
        and leaving may happen in different tasks, and it can say how the call went.
        """
        return Guard(self)

    def __enter__(self) -> Guard:
        guard = Guard(self).__enter__()
        self._entered.push(guard)
        return guard

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> Literal[False]:
        guard = self._entered.pop()
        return guard.__exit__(kind, error, trace) if guard is not None else False

    async def __aenter__(self) -> Guard:
        return self.__enter__()

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> Literal[False]:
        return self.__exit__(kind, error, trace)

    # --- outcomes ---------------------------------------------------------------------------------

    def _ended_with(self, error: BaseException, permit: int, started: float) -> bool:
        """Record what was raised; true when it counted as a failure."""
        is_failure = False
        try:
            # What is no Exception ends the program, the task or the generator: not the service.
            counts = self._counts
            is_failure = isinstance(error, Exception) and (counts is None or counts(error))
        finally:
            if is_failure:
                now = self._clock()
                self.record(permit, False, now - started, now)
            else:
                self.release(permit)
        return is_failure

    def _ended_well(self, result: object, permit: int, started: float) -> bool:
        """Record what was returned; true when it counted as a failure all the same."""
        is_failure = False
        if self._fails is not None:
            try:
                is_failure = self._fails(result)
            except BaseException:
                self.release(permit)
                raise
        now = self._clock()
        self.record(permit, not is_failure, now - started, now)
        return is_failure


class Guard:
    """One call through a circuit breaker, as a context manager for ``with`` or ``async with``."""

    __slots__ = ("_breaker", "_permit", "_said", "_started")

    def __init__(self, breaker: CircuitBreaker) -> None:
        self._breaker = breaker
        self._permit = -1
        self._started = 0.0
        self._said: Literal["", "failed", "nothing"] = ""

    def fail(self) -> None:
        """Count this call as a failure although nothing is raised: the answer was a bad one."""
        self._said = "failed"

    def ignore(self) -> None:
        """Count this call neither way, however it ends."""
        self._said = "nothing"

    def __enter__(self) -> Guard:
        if self._permit >= 0:
            raise RuntimeError("a guard is for one call: make another with breaker.guard()")
        breaker = self._breaker
        self._started = breaker._clock()
        self._permit = breaker.acquire(self._started)
        if not self._permit:
            raise breaker._refusal(self._started)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> Literal[False]:
        breaker = self._breaker
        permit, self._permit = self._permit, 0  # leaving twice says nothing twice
        if not permit:
            return False
        if self._said == "nothing":
            breaker.release(permit)
        elif error is not None:
            breaker._ended_with(error, permit, self._started)
        else:
            now = breaker._clock()
            breaker.record(permit, not self._said, now - self._started, now)
        return False

    async def __aenter__(self) -> Guard:
        return self.__enter__()

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> Literal[False]:
        return self.__exit__(kind, error, trace)


def _is_async(func: Callable[..., Any]) -> bool:
    return inspect.iscoroutinefunction(func) or inspect.iscoroutinefunction(
        cast("Any", getattr(func, "__call__", None))  # noqa: B004  # a callable object
    )
