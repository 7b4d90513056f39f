"""One exchange at one service, from its first attempt to its answer: where resilience meets.

From outside in: the deadline, the bulkhead, then for each attempt the breaker, an instance, and
perhaps a hedge. What follows a failure:

    nothing was sent          →  an instance that was not tried, whatever the method
    sent, and not a byte came →  again if that is harmless and the budget has it, elsewhere first
    too slow, or nonsense     →  the same, where the operator asked for retries
    an answer to be retried   →  the same, after a pause, with Retry-After
    anything else             →  the fallback, or a problem

A call is made only for a service that needs one, or when an attempt has failed. It creates no task;
its pauses are timers of the loop, because they are rare.
"""

from __future__ import annotations

import asyncio
from random import random
from typing import TYPE_CHECKING, Any, Final

from nexgate.clock import NEVER
from nexgate.errors import Cause
from nexgate.exchange import Exchange, Failure, Reach
from nexgate.http import ResponseHead, make_field
from nexgate.resilience import (
    Bulkhead,
    CircuitBreaker,
    Priority,
    Quantile,
    Ticket,
    format_timeout_header,
    parse_timeout_header,
)
from nexgate.resilience.config import DeadlineConfig
from nexgate.upstream._arm import Arm
from nexgate.upstream._guard import GATEWAY_FAILURES

if TYPE_CHECKING:
    from nexgate.upstream._forward import Forward

__all__ = ["Call"]

_MOST_MOVES: Final = 10
"""Instances that may turn out to be unreachable before the client is told."""


class Call:
    """See the module's docstring. ``exchange.call`` while the exchange lasts."""

    __slots__ = (
        "_arm",
        "_attempt_at",
        "_attempts",
        "_breaker",
        "_bulkhead",
        "_died",
        "_epoch",
        "_failed",
        "_failure",
        "_forward",
        "_guard",
        "_inside",
        "_pause",
        "_permit",
        "_seconds",
        "_ticket",
        "_timer",
        "_tried",
        "_was_dropped",
        "exchange",
        "is_hurried",
    )

    def __init__(self, forward: Forward, exchange: Exchange, *, attempts: int = 0) -> None:
        self.exchange = exchange
        self._forward = forward
        self._guard = forward.guard
        self._attempts = attempts
        self._attempt_at = exchange.started
        self._tried: list[Any] | None = None
        """Instances of which is known that they cannot be reached."""
        self._died: list[Any] | None = None
        """Instances that failed later than that: asked again only when there is no other."""
        self._permit = 0
        self._breaker: CircuitBreaker | None = None
        """Whose permit that is: a reload may give the guard another."""
        self._bulkhead: Bulkhead | None = None
        self._inside = False
        self._ticket: Ticket | None = None
        self._seconds: float | None = None
        self._was_dropped = False
        self._timer: asyncio.TimerHandle | None = None
        self._pause: float | None = None
        """Before the next attempt, when an answer was dropped; None for the fallback."""
        self._arm: Arm | None = None
        self._failure: Failure | None = None
        """Of the latest attempt that failed; its hedge may still be under way."""
        self._failed: Any = None
        """The instance that it failed on."""
        self._epoch = exchange._epoch
        self.is_hurried = False
        """The client waits for less than the operator allows. That it did not get an answer in its
        time says nothing about the service, or five who wait for a millisecond would close it.
        """
        exchange.call = self

    @property
    def attempts(self) -> int:
        """Those in which something may have reached an instance; without hedges."""
        return self._attempts

    # ---------------------------------------------------------------- beginning

    def begin(self) -> None:
        guard = self._guard
        exchange = self.exchange
        loop = exchange.down.loop
        if guard.replay_bytes and exchange.head.has_body:
            exchange.keep_for_replay(guard.replay_bytes)
        if guard.deadline is not None and guard.deadline.accept:
            self._meet_deadline(guard.deadline_field)
        bulkhead = guard.bulkhead
        if bulkhead is None:
            self.attempt()
            return
        priority = Priority(exchange.plan.importance)
        self._bulkhead = bulkhead
        if bulkhead.try_enter(priority):
            self._inside = True
            self.attempt()
            return
        ticket = bulkhead.enqueue(priority, self._admitted, self._refused)
        if ticket is None:
            self._refused()
        elif ticket.state == "waiting":
            self._ticket = ticket
            self._timer = loop.call_later(bulkhead.wait, self._refused)

    def _meet_deadline(self, name: bytes) -> None:
        """A client that says how long it will wait is not worked for any longer than that."""
        exchange = self.exchange
        said = exchange.header_values(name)
        seconds = parse_timeout_header(said[-1]) if said else None
        if seconds is not None and exchange.started + seconds <= exchange.deadline:
            exchange.down.wheel.set(exchange, exchange.started + seconds)
            self.is_hurried = True

    def _admitted(self) -> None:
        self._ticket = None
        self._stop_timer()
        self._inside = True
        self.attempt()
        self.exchange.down.flush()

    def _refused(self) -> None:
        self._leave_queue()
        self._give_up(Failure(Cause.OVERLOADED, "too many requests are under way", retry_after=1.0))
        self.exchange.down.flush()

    # ---------------------------------------------------------------- attempts

    def attempt(self) -> None:
        """Ask an instance: the first, or another one."""
        self._timer = None
        exchange = self.exchange
        if exchange.ended or exchange.response is not None or exchange._epoch != self._epoch:
            return  # answered meanwhile
        guard = self._guard
        now = exchange.down.loop.time()
        if guard.deadline is not None and not self._tell_deadline(guard.deadline, now):
            return
        breaker = self._breaker = guard.breaker
        if breaker is not None:
            self._permit = breaker.acquire(now)
            if not self._permit:
                after = breaker.retry_after(now)
                self._give_up(Failure(Cause.CIRCUIT_OPEN, retry_after=after, is_ours=True))
                return
        service = self._forward.service
        if self._tried is None and self._died is None:
            instance = service.only or service.pick(exchange)
        else:
            instance = service.pick_other(exchange, self._tried or (), self._died or ())
        if instance is None:
            self._release_permit()
            failure = self._failure
            if failure is None:
                name = service.name
                detail = f"every instance of {name} is unhealthy"
                if not service.instances:
                    detail = f"{name} has no instance at the moment"
                failure = Failure(Cause.NO_INSTANCE, detail, retry_after=1.0)
            self._give_up(failure)
            return
        self._attempts += 1
        self._attempt_at = now
        if guard.hedge is not None and exchange.is_idempotent and not exchange.head.has_body:
            if exchange.head.upgrade is None:  # of two tunnels, one would be nobody's
                self._plan_hedge()
        instance.start(exchange)

    def _tell_deadline(self, deadline: DeadlineConfig, now: float) -> bool:
        """Pass on how much time is left. False: none is."""
        exchange = self.exchange
        left = exchange.deadline - now
        if left <= 0:
            self._give_up(Failure(Cause.TOTAL_TIMEOUT))
            return False
        guard = self._guard
        fields = [f for f in exchange.own_fields() if f.name != guard.deadline_field]
        if deadline.propagate and left < NEVER:
            fields.append(make_field(guard.deadline_name, format_timeout_header(left)))
        exchange.fields = fields
        return True

    def attempt_failed(self, source: Exchange, instance: Any, failure: Failure) -> None:
        """One attempt is over; ``source`` is the exchange, or the arm of a hedge."""
        if source is not self.exchange:
            self._arm_failed()
            return
        if failure.is_ours:
            self._release_permit()
        else:
            self._record(ok=False, is_overload=failure.reach is Reach.SILENCE)
        self._failure = failure
        self._failed = instance
        if self._arm is None:  # else the hedge may still save it
            self._go_on(failure)

    def _go_on(self, failure: Failure) -> None:
        """What follows a failure; see the module's docstring."""
        instance = self._failed
        self._stop_timer()
        if failure.reach is Reach.NOTHING:
            self._attempts -= 1  # it was none: nobody has been asked
        if failure.is_ours or self.exchange._epoch != self._epoch:
            self._give_up(failure)
        elif failure.reach is Reach.NOTHING:
            if self._tried is None:
                self._tried = []
            self._tried.append(instance)
            if len(self._tried) < _MOST_MOVES:
                self.exchange.rewind()
                self.attempt()
            else:
                self._give_up(failure)
        elif (
            failure.cause is not Cause.APP_FAILED  # which it would do again
            and self._may_retry(failure.reach)
            and (pause := self._pause_before_retry(None)) is not None
        ):
            self._mark(instance)
            if failure.reach is Reach.REQUEST:
                self.exchange.wants_new_connection = True
                if self._attempts == 1:
                    pause = 0.0  # a connection that died as it was picked: nobody is overloaded
            self._retry(pause)
        else:
            self._give_up(failure)

    def _mark(self, instance: Any) -> None:
        if self._died is None:
            self._died = []
        self._died.append(instance)

    def _may_retry(self, reach: Reach) -> bool:
        policy = self._guard.policy
        exchange = self.exchange
        return (
            self._attempts < policy.attempts
            and (reach is Reach.REQUEST or self._guard.is_retry_asked_for)
            and exchange.method in policy.methods
            and exchange.is_replayable
            and exchange.head.upgrade is None
        )

    def _pause_before_retry(self, retry_after: float | None) -> float | None:
        """Seconds, or None: the policy, the deadline or the budget is against it."""
        exchange = self.exchange
        pause = self._guard.policy.delay(self._attempts, retry_after=retry_after, random=random)
        now = exchange.down.loop.time()
        if pause is None or now + pause >= exchange.deadline:
            return None
        if not self._forward.service.try_retry(now):
            return None
        return pause

    def _retry(self, pause: float) -> None:
        exchange = self.exchange
        exchange.rewind()
        if pause > 0.0:
            self._timer = exchange.down.loop.call_later(pause, self._attempt_late)
        else:
            self.attempt()

    def _attempt_late(self) -> None:
        self.attempt()
        if not self.exchange.ended:
            self.exchange.down.flush()

    def _give_up(self, failure: Failure) -> None:
        exchange = self.exchange
        fallback = self._forward.fallback
        if fallback is not None and exchange.response is None and self._is_unspent:
            self._leave()
            exchange.call = None
            exchange.rewind()
            fallback.start(exchange)
            return
        exchange.on_failed(failure.cause, failure.detail, failure.retry_after)

    @property
    def _is_unspent(self) -> bool:
        """The request can still be sent somewhere: nothing of it is lost."""
        exchange = self.exchange
        return self._attempts == 0 or (exchange.is_replayable and exchange.is_idempotent)

    # ---------------------------------------------------------------- answers

    def answered(self, source: Exchange, instance: Any, head: ResponseHead, seconds: float) -> bool:
        """Whether the answer is the one: see ``Caller.attempt_answered``."""
        guard = self._guard
        status = head.status
        failed = guard.is_failure(status)
        if source is not self.exchange:
            # The first of two; a bad one only if there is nothing else to wait for.
            return not failed or self.exchange.instance is None
        self._stop_timer()
        self._drop_arm()
        if isinstance(guard.hedge, Quantile) and not failed:
            guard.hedge.observe(seconds)
        self._record(ok=not failed, is_overload=status in (429, 503))
        pause = None
        if status in guard.policy.statuses and self._may_retry(Reach.ANSWER):
            pause = self._pause_before_retry(guard.retry_after_of(head))
        if pause is None and not self._falls_back_from(status):
            return True
        self._mark(instance)
        self._pause = pause
        return False

    def _falls_back_from(self, status: int) -> bool:
        """Whether somebody else can do better than this answer."""
        statuses = self._guard.policy.statuses or GATEWAY_FAILURES
        return self._forward.fallback is not None and status in statuses and self._is_unspent

    def answered_locally(self, status: int) -> None:
        """The answer of an application in this process: there is nothing to decide."""
        self._record(ok=not self._guard.is_failure(status))

    def dropped(self, source: Exchange) -> None:
        """The attempt has let go of an answer that was not wanted."""
        if source is not self.exchange:
            self._arm_failed()
        elif self._pause is None:
            self._give_up(Failure(Cause.NO_INSTANCE, "its answer was that it cannot work"))
        else:
            self._retry(self._pause)

    def _record(self, *, ok: bool, is_overload: bool = False) -> None:
        now = self.exchange.down.loop.time()
        seconds = now - self._attempt_at
        permit, self._permit = self._permit, 0
        if permit and self._breaker is not None:
            self._breaker.record(permit, ok, seconds, now)
        # An adaptive limit learns from what took its time. A quick failure says nothing of load.
        self._seconds = seconds if ok or is_overload else None
        self._was_dropped = is_overload

    def timed_out(self) -> None:
        """The exchange ran out of time while an instance was at it."""
        if self.exchange.instance is not None or self._permit:
            self._record(ok=False, is_overload=True)

    # ---------------------------------------------------------------- hedging

    def _plan_hedge(self) -> None:
        delay = self._guard.hedge_after()
        if delay is not None and self._arm is None:
            self._timer = self.exchange.down.loop.call_later(delay, self._hedge)

    def _hedge(self) -> None:
        """The first attempt takes longer than most: ask another instance as well."""
        self._timer = None
        exchange = self.exchange
        first = exchange.instance
        service = self._forward.service
        if exchange.ended or exchange.response is not None or first is None:
            return
        not_asked = [i for i in service.available if i is first or i.is_local]
        if len(not_asked) == len(service.available):
            return
        if not service.try_retry(exchange.down.loop.time()):
            return
        service.hedges += 1
        self._arm = arm = Arm(exchange, self._forward)
        arm.call = self
        service.pick_other(exchange, not_asked, ()).start(arm)

    def adopt(self, arm: Arm, attempt: Any) -> Exchange:
        """The hedge answered first: its attempt goes on as the exchange's own."""
        exchange = self.exchange
        self._arm = None
        if isinstance(self._guard.hedge, Quantile):
            # The first took at least so long: without it only the quick would be counted.
            self._guard.hedge.observe(exchange.down.loop.time() - self._attempt_at)
        self._record(ok=True)
        first = exchange.attempt
        exchange.attempt = None
        if first is not None:
            first.cancel()
        elif exchange.instance is not None:
            exchange.instance.finished(exchange)
        exchange.instance, arm.instance = arm.instance, None
        exchange.served_by = arm.served_by
        exchange.attempt = attempt
        arm.attempt = None
        arm.call = None
        return exchange

    def _arm_failed(self) -> None:
        self._drop_arm()
        if self.exchange.instance is None and self._failure is not None:  # both have failed now
            self._go_on(self._failure)
            if not self.exchange.ended:
                self.exchange.down.flush()

    def _drop_arm(self) -> None:
        arm, self._arm = self._arm, None
        if arm is not None:
            arm.call = None
            arm.drop()

    # ---------------------------------------------------------------- the end

    def abandon(self) -> None:
        """Nobody wants the attempt under way any more. Says nothing about the service."""
        self._stop_timer()
        self._drop_arm()
        self._release_permit()
        self._leave_queue()

    def _leave_queue(self) -> None:
        self._stop_timer()
        ticket, self._ticket = self._ticket, None
        if ticket is not None and self._bulkhead is not None:
            self._bulkhead.cancel(ticket)

    def ended(self) -> None:
        """The exchange is over."""
        self.abandon()
        self._leave()

    def _leave(self) -> None:
        if self._inside:
            self._inside = False
            assert self._bulkhead is not None
            self._bulkhead.leave(self._seconds, dropped=self._was_dropped)

    def _release_permit(self) -> None:
        permit, self._permit = self._permit, 0
        if permit and self._breaker is not None:
            self._breaker.release(permit)

    def _stop_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
