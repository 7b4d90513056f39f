"""One handler and how it is called."""

from __future__ import annotations

import asyncio
import inspect
import random
from collections.abc import Callable
from dataclasses import dataclass, is_dataclass
from typing import TYPE_CHECKING, Any, Literal, Self

from pydantic import BaseModel

from nexgate.resilience import Backoff

from ._errors import HandlerFailed, failure_of
from ._event import Event
from ._topics import matcher
from ._turns import Turns

if TYPE_CHECKING:
    from ._bus import EventBus
    from ._inbox import Inbox

__all__ = ["ErrorPolicy", "Handler", "Options", "Retry", "Subscription"]

Handler = Callable[..., Any]
ErrorPolicy = Literal["log", "collect", "raise"]


@dataclass(frozen=True, slots=True)
class Retry:
    """How often a handler is tried for one event, and how long it waits in between."""

    attempts: int = 3
    """All of them, the first included."""
    backoff: Backoff = Backoff(base=0.05, cap=5.0)


@dataclass(frozen=True, slots=True)
class Options:
    """How a handler is called."""

    priority: int = 0
    """Higher ones first; those of one priority run side by side, and the next when they are
    done."""
    once: bool = False
    where: Callable[[Event], bool] | None = None
    timeout: float | None = None
    """Seconds that one attempt of an async handler may take."""
    retry: Retry | None = None
    concurrency: int | None = None
    """Most events that are handled at once."""
    in_order: bool = False
    """One after the other for each key."""
    errors: ErrorPolicy | None = None
    inbox: Inbox | None = None

    @property
    def is_plain(self) -> bool:
        """Whether calling the handler is all there is to do."""
        return (
            not self.once
            and self.where is None
            and self.timeout is None
            and self.retry is None
            and self.concurrency is None
            and not self.in_order
            and self.inbox is None
        )


class Subscription:
    """The handle of a subscription: ``cancel`` ends it. A context manager, too."""

    __slots__ = (
        "__weakref__",
        "_bus",
        "_handling",
        "_is_used",
        "_limit",
        "_turns",
        "active",
        "call",
        "failures",
        "group",
        "is_active",
        "is_async",
        "is_plain",
        "matches",
        "name",
        "options",
        "owner",
        "topic",
    )

    def __init__(
        self,
        bus: EventBus,
        topic: str,
        handler: Handler,
        options: Options,
        *,
        group: str | None = None,
        owner: object = None,
        wants: type[Any] | None = None,
        name: str | None = None,
    ) -> None:
        self._bus = bus
        self.topic = topic
        self.matches = matcher(topic)
        self.name = name or _name(handler)
        self.options = options
        self.group = group
        self.owner = owner
        self.is_active = True
        self.is_async = _is_async(handler)
        wanted = wants or _wanted(handler)
        self.call: Handler = _converting(handler, wanted) if wanted is not None else handler
        self.is_plain = options.is_plain and not self.is_async
        self.active = 0
        """How many calls are under way."""
        self.failures = 0
        self._is_used = False
        self._limit = asyncio.Semaphore(options.concurrency) if options.concurrency else None
        self._turns = Turns()
        self._handling = Turns()

    def cancel(self) -> None:
        """End it. What it is handling goes on."""
        if self.is_active:
            self.is_active = False
            self._bus._ended(self)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self.cancel()

    async def handle(self, event: Event) -> HandlerFailed | None:
        """Call the handler as its options say. What it raises is returned."""
        options = self.options
        if options.where is not None:
            try:
                if not options.where(event):
                    return None
            except Exception as error:
                return self._failed(event, error, 1)
        if options.once:
            if self._is_used:
                return None
            self._is_used = True
            self.cancel()
        self.active += 1
        try:
            if options.in_order and event.key is not None:
                async with self._turns.of(event.key):
                    return await self._limited(event)
            return await self._limited(event)
        finally:
            self.active -= 1
            if not self.active:
                self._bus._idled(self)

    async def _limited(self, event: Event) -> HandlerFailed | None:
        if self._limit is None:
            return await self._attempts(event)
        async with self._limit:
            return await self._attempts(event)

    async def _attempts(self, event: Event) -> HandlerFailed | None:
        retry = self.options.retry
        attempt = 0
        while True:
            attempt += 1
            try:
                if self.options.inbox is None:
                    await self._once(event)
                else:
                    await self._first_time(event, self.options.inbox)
                return None
            except BaseException as raised:
                error = failure_of(raised)
                if retry is None or attempt >= retry.attempts:
                    return self._failed(event, error, attempt)
            await asyncio.sleep(retry.backoff.delay(attempt, random.random))

    def _failed(self, event: Event, error: Exception, attempts: int) -> HandlerFailed:
        self.failures += 1
        return HandlerFailed(event, self.name, error, attempts, self)

    async def _first_time(self, event: Event, inbox: Inbox) -> None:
        async with self._handling.of(event.id):  # twice at once is once, too
            if not await inbox.has(self.name, event):
                await self._once(event)
                await inbox.add(self.name, event)

    async def _once(self, event: Event) -> None:
        timeout = self.options.timeout
        if timeout is None:
            result = self.call(event)
            if inspect.isawaitable(result):
                await result
            return
        try:
            async with asyncio.timeout(timeout) as limit:
                result = self.call(event)
                if inspect.isawaitable(result):
                    await result
        except TimeoutError as error:
            if limit.expired():
                raise TimeoutError(f"{self.name} took longer than {timeout:g}s") from error
            raise

    def __repr__(self) -> str:
        return f"<Subscription {self.topic} → {self.name}>"


def _name(handler: Handler) -> str:
    module = getattr(handler, "__module__", "")
    name = getattr(handler, "__qualname__", None) or type(handler).__qualname__
    return f"{module}.{name}" if module else name


def _is_async(handler: Handler) -> bool:
    plain = inspect.unwrap(handler)
    return inspect.iscoroutinefunction(plain) or inspect.iscoroutinefunction(
        getattr(plain, "__call__", None)  # noqa: B004  # an object with an async __call__
    )


def _wanted(handler: Handler) -> type[Any] | None:
    """The typed event that the first parameter is annotated with."""
    try:
        signature = inspect.signature(handler, eval_str=True)
    except (TypeError, ValueError, NameError):
        return None
    first = next(iter(signature.parameters.values()), None)
    said = first.annotation if first is not None else None
    if not inspect.isclass(said) or said is Event:
        return None
    return said if is_dataclass(said) or issubclass(said, BaseModel) else None


def _converting(handler: Handler, wanted: type[Any]) -> Handler:
    def call(event: Event) -> Any:
        return handler(event.as_type(wanted))

    return call
