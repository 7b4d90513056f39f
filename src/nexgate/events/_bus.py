"""The bus: who hears of what."""

from __future__ import annotations

import asyncio
import inspect
import logging
from collections import deque
from collections.abc import Callable, Iterable
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any, Final, Self, TypeVar
from weakref import WeakSet

from ._consumer import Consumers
from ._errors import DeadLetter, Delivery, EventError, HandlerFailed, failure_of
from ._event import Event, as_event, topic_of
from ._inbox import Inbox
from ._listener import Listener, Overflow
from ._owner import BusOwner
from ._recorder import Recorder
from ._routes import Route
from ._store import DurableOptions, EventStore
from ._subscription import ErrorPolicy, Handler, Options, Retry, Subscription
from ._topics import check_pattern, check_topic

__all__ = ["BusStatistics", "EventBus", "current_event"]

F = TypeVar("F", bound=Callable[..., Any])
Middleware = Callable[[Event], Any]

_log = logging.getLogger("nexgate.events")

current_event: Final[ContextVar[Event | None]] = ContextVar("nexgate_event", default=None)
"""The event that is being handled."""

_MOST_ROUTES: Final = 4096
_MOST_LETTERS: Final = 1000


@dataclass(frozen=True, slots=True)
class BusStatistics:
    """Counts since the bus was made."""

    published: int
    failed: int
    """Calls of handlers that raised, after their last attempt."""
    subscriptions: int
    dead_letters: int


class EventBus:
    """Publish and subscribe, in this process, and durably with a ``store``.

    ``errors``: what becomes of an exception of a handler: ``"log"`` it, only ``"collect"`` it in
    the ``Delivery`` that ``publish`` returns, or ``"raise"`` all of them as an ``ExceptionGroup``.
    In each case the other handlers have run. ``dead_letter(letter)`` is called for each.
    ``tracer``: an OpenTelemetry tracer. ``invoker``: turns a handler into what is called, for
    dependencies: ``container.inject``.

    A bus with a store is opened by ``start`` (or ``async with``) and closed by ``aclose``. It
    belongs to one event loop.
    """

    def __init__(
        self,
        *,
        store: EventStore | None = None,
        errors: ErrorPolicy = "log",
        dead_letter: Callable[[DeadLetter], Any] | None = None,
        tracer: Any = None,
        invoker: Callable[[Handler], Handler] | None = None,
        source: str = "",
    ) -> None:
        self.store = store
        self.errors: ErrorPolicy = errors
        self.dead_letters: deque[DeadLetter] = deque(maxlen=_MOST_LETTERS)
        """The last thousand."""
        self.source = source
        """What events say of who published them, unless they say it themselves."""
        self._dead_letter = dead_letter
        self._invoker = invoker
        self._middleware: list[Middleware] = []
        self._subscriptions: list[Subscription] = []
        self._routes: dict[str, Route] = {}
        self._published = self._failed = 0
        self._idle: dict[Subscription, asyncio.Future[None]] = {}
        self._listeners: WeakSet[Listener] = WeakSet()
        self._is_closing = self._is_closed = False
        self._consumers = Consumers(self, store) if store is not None else None
        self._tracing: Any = None
        if tracer is not None:
            from ._tracing import Tracing

            self._tracing = Tracing(tracer)

    # ---------------------------------------------------------------- subscribing

    def subscribe(
        self,
        topic: str | type[Any],
        handler: Handler | None = None,
        *,
        priority: int = 0,
        once: bool = False,
        where: Callable[[Event], bool] | None = None,
        timeout: float | None = None,
        retry: Retry | int | None = None,
        concurrency: int | None = None,
        in_order: bool = False,
        errors: ErrorPolicy | None = None,
        inbox: Inbox | None = None,
        name: str | None = None,
        group: str | None = None,
        durable: DurableOptions | None = None,
        owner: object = None,
    ) -> Any:
        """Call ``handler`` for every event of a topic, a pattern (``"user.*"``, ``"user.**"``) or a
        type. Returns a ``Subscription``; without a handler, a decorator.

        The handler gets the ``Event``, or the typed event that its first parameter is annotated
        with. ``timeout`` in seconds is of one attempt; ``retry`` a number of attempts or a
        ``Retry``; ``concurrency`` the most events handled at once; ``in_order`` one after the other
        for each key. ``inbox`` skips what was handled before, as it remembers it under ``name``: by
        default the function's.

        ``group`` makes it durable: each group of a bus with a store handles each event at least
        once, in order for each key; ``durable`` says how.

        Raises ``EventError`` on a bus that is closed, and for two handlers of one name and inbox.
        """
        if handler is None:

            def decorate(function: F) -> F:
                self.subscribe(
                    topic,
                    function,
                    priority=priority,
                    once=once,
                    where=where,
                    timeout=timeout,
                    retry=retry,
                    concurrency=concurrency,
                    in_order=in_order,
                    errors=errors,
                    inbox=inbox,
                    name=name,
                    group=group,
                    durable=durable,
                    owner=owner,
                )
                return function

            return decorate
        if self._is_closing:
            raise EventError("the bus is closed")
        wants = None if isinstance(topic, str) else topic
        pattern = check_pattern(topic) if isinstance(topic, str) else topic_of(topic)
        said = Retry(retry) if isinstance(retry, int) else retry
        options = Options(
            priority, once, where, timeout, said, concurrency, in_order, errors, inbox
        )
        called = self._invoker(handler) if self._invoker is not None else handler
        made = Subscription(
            self, pattern, called, options, group=group, owner=owner, wants=wants, name=name
        )
        if inbox is not None:
            self._check_name(made, inbox)
        if group is not None:
            if self._consumers is None:
                raise EventError(f"group {group!r} needs a bus with a store")
            self._consumers.add(made, durable or DurableOptions())
            return made
        self._subscriptions.append(made)
        self._routes.clear()
        return made

    def _check_name(self, made: Subscription, inbox: Inbox) -> None:
        others = (*self._subscriptions, *(self._consumers or ()))
        # Another owner's is another version of a plugin: the same handler.
        if any(
            each.options.inbox is inbox and each.name == made.name and each.owner is made.owner
            for each in others
        ):
            raise EventError(
                f"the inbox knows {made.name} already, and could not tell the two apart: say name="
            )

    def on(self, topic: str | type[Any], **options: Any) -> Callable[[F], F]:
        """Decorator: ``subscribe``."""
        found: Callable[[F], F] = self.subscribe(topic, None, **options)
        return found

    def add_middleware(self, middleware: Middleware) -> None:
        """Let every event pass through a function, sync or async, before anybody handles it. It
        returns the event, another one, or ``None``, which stops it. One that raises stops it, too:
        ``publish`` raises that on a bus with a store, because nothing is stored, and where
        ``errors`` is ``"raise"``.
        """
        self._middleware.append(middleware)

    def listen(
        self, topic: str | type[Any], *, buffer: int = 256, overflow: Overflow = "drop_oldest"
    ) -> Listener:
        """Events as an asynchronous iterator, from now on. When more than ``buffer`` wait, the
        oldest or the newest are dropped, or publishers are made to wait.
        """
        return Listener(self, topic, buffer, overflow)

    def record(self, topic: str = "**") -> Recorder:
        """Keep what is published, for tests."""
        return Recorder(self, topic)

    def owner(self, name: str) -> BusOwner:
        """A view whose subscriptions can be ended together."""
        return BusOwner(self, name)

    def _ended(self, subscription: Subscription) -> None:
        if subscription.group is not None:
            assert self._consumers is not None
            self._consumers.remove(subscription)
        elif subscription in self._subscriptions:
            self._subscriptions.remove(subscription)
        self._routes.clear()

    def _idled(self, subscription: Subscription) -> None:
        waiting = self._idle.pop(subscription, None)
        if waiting is not None and not waiting.done():
            waiting.set_result(None)

    # ---------------------------------------------------------------- publishing

    async def publish(self, event: Any, *, within: Any = None) -> Delivery:
        """Tell everybody who subscribed; returns when their handlers are done, and, with a store,
        the event is stored. ``event`` is an ``Event``, or a dataclass or model (a typed event).

        ``within``: the caller's own connection to the store's database, in a transaction: the event
        is stored when that is committed, and never if it is not. Cancelling this cancels handlers
        that are under way. Raises ``ExceptionGroup`` where a policy says so, and what the store
        raises.
        """
        if self._is_closed:
            raise EventError("the bus is closed")
        if type(event) is not Event:
            event = as_event(event)
        self._published += 1
        cause = current_event.get()
        if cause is not None and event.causation is None:
            event.causation = cause.id
            event.correlation = event.correlation or cause.correlation or cause.id
            event.traceparent = event.traceparent or cause.traceparent
        if self._middleware or self.store is not None or self._tracing is not None:
            return await self._publish_through(event, within)
        route = self._routes.get(event.name) or self._route(event.name)
        if route.plain is None:
            return await self._deliver(event, route)
        # The common path: plain functions, nothing to wait for.
        current_event.set(event)
        failures: list[HandlerFailed] | None = None
        try:
            for number, call in enumerate(route.plain):
                try:
                    result = call(event)
                    if result is not None and inspect.isawaitable(result):
                        await result
                except BaseException as raised:
                    error = failure_of(raised)
                    if failures is None:
                        failures = []
                    failures.append(route.subscriptions[number]._failed(event, error, 1))
        finally:
            current_event.set(cause)
        return route.done if failures is None else self._failed_with(route, failures)

    async def _publish_through(self, event: Event, within: Any) -> Delivery:
        """Middleware, store, tracing, then handlers."""
        passed = await self._pass(event)
        if isinstance(passed, Delivery):
            return passed
        if not passed.source and self.source:
            passed.source = self.source
        if self._tracing is None:
            return await self._store_and_deliver(passed, within)
        with self._tracing.publishing(passed):
            return await self._store_and_deliver(passed, within)

    async def _pass(self, event: Event) -> Event | Delivery:
        for middleware in self._middleware:
            try:
                result = middleware(event)
                if inspect.isawaitable(result):
                    result = await result
            except BaseException as raised:
                error = failure_of(raised)
                name = getattr(middleware, "__qualname__", repr(middleware))
                failure = HandlerFailed(event, name, error)
                self._report(failure, self.errors)
                if self.errors == "raise" or self.store is not None:
                    raise ExceptionGroup(f"middleware for {event.name}", [error]) from None
                return Delivery(0, (failure,), is_stopped=True)
            if result is None:
                return Delivery(is_stopped=True)
            event = result
        return event

    async def _store_and_deliver(self, event: Event, within: Any) -> Delivery:
        if self.store is not None:
            await self.store.append([event], within=within)
        return await self._deliver(event, self._routes.get(event.name) or self._route(event.name))

    def _route(self, topic: str) -> Route:
        check_topic(topic)
        if len(self._routes) >= _MOST_ROUTES:  # topics made of ids
            self._routes.clear()
        route = self._routes[topic] = Route.of(self._subscriptions, topic)
        return route

    async def _deliver(self, event: Event, route: Route) -> Delivery:
        failures: list[HandlerFailed] = []
        for level in route.levels:
            failures += await self._level(event, level)
        return route.done if not failures else self._failed_with(route, failures)

    async def _level(
        self, event: Event, level: tuple[Subscription, ...]
    ) -> Iterable[HandlerFailed]:
        """Handlers of one priority, side by side."""
        if len(level) == 1:
            failure = await self._handle(event, level[0])
            return () if failure is None else (failure,)
        tasks: list[asyncio.Task[HandlerFailed | None]] = []
        failures: list[HandlerFailed] = []
        try:
            for each in level:
                if each.is_plain:
                    failure = await self._handle(event, each)
                    if failure is not None:
                        failures.append(failure)
                else:
                    tasks.append(asyncio.create_task(self._handle(event, each)))
            for task in tasks:
                failure = await task
                if failure is not None:
                    failures.append(failure)
        except BaseException:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            raise
        return failures

    async def _handle(self, event: Event, subscription: Subscription) -> HandlerFailed | None:
        before = current_event.get()
        current_event.set(event)
        try:
            if self._tracing is None:
                return await subscription.handle(event)
            with self._tracing.handling(event, subscription.name):
                return await subscription.handle(event)
        finally:
            current_event.set(before)

    # ---------------------------------------------------------------- failures

    def _failed_with(self, route: Route, failures: list[HandlerFailed]) -> Delivery:
        raised: list[Exception] = []
        for failure in failures:
            subscription = failure.subscription
            said = subscription.options.errors if subscription is not None else None
            policy = said or self.errors
            self._report(failure, policy)
            if policy == "raise":
                raised.append(failure.error)
        if raised:
            raise ExceptionGroup(f"handlers of {failures[0].event.name}", raised)
        return Delivery(route.done.handled, tuple(failures))

    def _report(self, failure: HandlerFailed, policy: ErrorPolicy) -> None:
        self._failed += 1
        self.dead_letters.append(failure)
        if policy == "log":
            _log.error(
                "%s failed on %s (%s)",
                failure.handler,
                failure.event.name,
                failure.event.id,
                exc_info=failure.error,
            )
        if self._dead_letter is not None:
            try:
                self._dead_letter(failure)
            except Exception:
                _log.exception("the dead-letter function failed")

    async def redeliver(self, letter: DeadLetter) -> Delivery:
        """Give the event of a dead letter to the handler that failed, once more; when that has
        ended, to one of the same name. Those of groups are the store's: ``store.revive``.
        """
        failed = letter.subscription
        if failed is not None and failed.group is not None:
            raise EventError(f"it is a letter of group {failed.group!r}: revive it in the store")
        if failed not in self._subscriptions:
            failed = next(
                (
                    each
                    for each in self._subscriptions
                    if each.name == letter.handler and each.matches(letter.event.name)
                ),
                None,
            )
        if failed is None:
            raise EventError(f"{letter.handler} does not handle {letter.event.name} any more")
        failure = await self._handle(letter.event, failed)
        if letter in self.dead_letters:
            self.dead_letters.remove(letter)
        if failure is None:
            return Delivery(1)
        self._report(failure, failed.options.errors or self.errors)
        return Delivery(1, (failure,))

    async def replay(self, events: Iterable[Any]) -> list[Delivery]:
        """Publish recorded events again, in order, as they were: for tests."""
        return [await self.publish(event) for event in events]

    # ---------------------------------------------------------------- its life

    async def start(self) -> None:
        """Open the store and begin to handle what it has. Nothing to do without one. One that was
        closed may be started again.
        """
        self._is_closing = self._is_closed = False
        if self._consumers is not None:
            await self._consumers.start()

    async def aclose(self, timeout: float = 10.0) -> None:
        """Take no new subscriptions, let handlers that are under way finish for at most ``timeout``
        seconds (those of groups are cut then, and what they handled is handled again), close
        listeners and the store. From then on ``publish`` raises ``EventError``.
        """
        self._is_closing = True
        for listener in list(self._listeners):
            listener.close()
        stopping = [self._wait_idle(self._subscriptions, timeout)]
        if self._consumers is not None:
            stopping.append(self._consumers.stop(timeout))
        await asyncio.gather(*stopping)
        self._is_closed = True  # not before: what finishes may publish what follows from it
        if self.store is not None:
            await self.store.aclose()

    async def _wait_idle(self, subscriptions: Iterable[Subscription], timeout: float) -> None:
        loop = asyncio.get_running_loop()
        waiting = []
        for each in subscriptions:
            if each.active:
                waiting.append(self._idle.setdefault(each, loop.create_future()))
        if waiting:
            await asyncio.wait(waiting, timeout=timeout)

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(self, *exc: object) -> None:
        await self.aclose()

    def statistics(self) -> BusStatistics:
        """Counts since it was made."""
        return BusStatistics(
            self._published, self._failed, len(self._subscriptions), len(self.dead_letters)
        )

    def __repr__(self) -> str:
        return f"<EventBus {len(self._subscriptions)} subscriptions>"
