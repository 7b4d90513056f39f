"""The state machine of a circuit breaker: it decides at once and does no I/O.

::

                 failures, a ratio                opening is over
        CLOSED ─────────────────────▶  OPEN  ────────────────────▶  HALF_OPEN
           ▲                             ▲                             │  │
           │                             └──── a trial failed ─────────┘  │
           └────────────────────── all trials passed ────────────────────┘

    an operator:  any ──▶ FORCED_OPEN | DISABLED | METRICS_ONLY ──reset()──▶ CLOSED

The trap of every breaker is the call that overlaps a change of state: it began when the circuit
was closed and ends when it is half-open, and its outcome is counted as that of a trial. So every
state period has a number, which is the permit that its calls get. An outcome that comes with
another number says nothing about this period.

Nothing here waits. An opening ends, and lost trials are given up, when the next call asks.
"""

from __future__ import annotations

import logging
import random as _random
import time
from collections.abc import Callable
from typing import Final

from ._circuit_config import CircuitConfig
from ._circuit_events import (
    CallRecorded,
    CallRefused,
    CircuitEvent,
    CircuitOpenError,
    CircuitState,
    CircuitStatistics,
    StateChanged,
)
from ._windows import FAILED, SLOW, CountWindow, TimeWindow, Window

__all__ = ["Circuit"]

_CLOSED: Final = CircuitState.CLOSED
_OPEN: Final = CircuitState.OPEN
_HALF_OPEN: Final = CircuitState.HALF_OPEN
_FORCED_OPEN: Final = CircuitState.FORCED_OPEN
_DISABLED: Final = CircuitState.DISABLED
_METRICS_ONLY: Final = CircuitState.METRICS_ONLY

_DEFAULT_WINDOW: Final = 10.0
_TRIALS_TAKE: Final = 1.0
"""Seconds after which to ask a half-open circuit again: its trials end, but nobody knows when."""

_Listener = Callable[[CircuitEvent], None]
_log = logging.getLogger("nexgate")


class Circuit:
    """The decisions of a circuit breaker, for callers that time and end their calls themselves.

    Call ``acquire``; then, for a permit that is not 0, exactly one of ``record`` and ``release``.
    Not for several threads at once.
    """

    __slots__ = (
        "_clock",
        "_config",
        "_done",
        "_failed",
        "_failures",
        "_is_passing",
        "_listeners",
        "_minimum",
        "_name",
        "_open_for",
        "_openings",
        "_period",
        "_random",
        "_refused",
        "_since",
        "_slow",
        "_slow_call",
        "_state",
        "_threshold",
        "_trial_at",
        "_under_way",
        "_until",
        "_wants_calls",
        "_wants_refusals",
        "_window",
    )

    def __init__(
        self,
        config: CircuitConfig | None = None,
        name: str = "",
        *,
        clock: Callable[[], float] = time.monotonic,
        random: Callable[[], float] = _random.random,
    ) -> None:
        self._name = name
        self._clock = clock
        self._random = random
        self._listeners: tuple[tuple[_Listener, tuple[type[CircuitEvent], ...]], ...] = ()
        self._wants_calls = self._wants_refusals = False
        self._state = _CLOSED
        self._is_passing = True
        self._period = 1
        self._since = clock()
        self._failures = 0
        self._refused = 0
        # The opening: when it ends, how long it was to last without jitter, how many in a row.
        self._until = 0.0
        self._open_for = 0.0
        self._openings = 0
        # The trials of a half-open period.
        self._under_way = self._done = self._failed = self._slow = 0
        self._trial_at = 0.0
        self._adopt(config or CircuitConfig())
        self._window = self._new_window()

    # --- the hot path -----------------------------------------------------------------------------

    def acquire(self, now: float) -> int:
        """Ask for a call: 0 refuses it, anything else is its permit."""
        if self._is_passing:
            return self._period
        return self._ask(now)

    def record(self, permit: int, ok: bool, seconds: float, now: float) -> None:
        """Tell how the call of ``permit`` ended. Without effect once its period is over."""
        if permit != self._period:
            return
        if self._state is not _CLOSED:
            self._record_elsewhere(ok, seconds, now)
            return
        if self._wants_calls and not self._told_call(ok, seconds, now):
            return
        if ok:
            self._failures = 0
        else:
            self._failures += 1
        window = self._window
        if window is not None:
            outcome = 0 if ok else FAILED
            if seconds > self._slow_call:
                outcome |= SLOW
            window.add(outcome, now)
            # A success can open the circuit: it may be the call that makes the ratio known.
            if window.calls >= self._minimum and (window.failed or window.slow):
                self._compare(window, now)
        if not ok and self._failures >= self._threshold and self._state is _CLOSED:
            self._open(now, "failures")

    def release(self, permit: int) -> None:
        """Give the permit back: the call was cancelled, or its outcome says nothing.

        A half-open circuit that is not told would wait for the trial until ``half_open_timeout``.
        """
        if permit == self._period and self._under_way:
            self._under_way -= 1

    # --- what it is like --------------------------------------------------------------------------

    @property
    def name(self) -> str:
        """What errors and events call it."""
        return self._name

    @property
    def config(self) -> CircuitConfig:
        """Its settings; see ``reconfigure``."""
        return self._config

    @property
    def state(self) -> CircuitState:
        """What it does with calls. An opening that is over stays ``OPEN`` until a call asks."""
        return self._state

    @property
    def failures(self) -> int:
        """Failures in a row, up to now."""
        return self._failures

    def retry_after(self, now: float) -> float:
        """Seconds until asking again makes sense; 0 when a call would pass."""
        if self._is_passing:
            return 0.0
        if self._state is _OPEN:
            left = self._until - now
            return min(max(left, 0.0), self._until - self._since)
        if self._state is _HALF_OPEN:
            if self._trials_left:
                return 0.0
            timeout = self._config.half_open_timeout
            if timeout is None:
                return _TRIALS_TAKE
            return min(max(self._trial_at + timeout - now, 0.0), _TRIALS_TAKE)
        return self._config.recovery_timeout  # an operator decides; this is a guess

    def statistics(self, now: float | None = None) -> CircuitStatistics:
        """The circuit at this moment."""
        if now is None:
            now = self._clock()
        calls = failed = slow = 0
        if self._window is not None:
            self._window.expire(now)
            calls, failed, slow = self._window.calls, self._window.failed, self._window.slow
        is_known = calls >= self._minimum
        return CircuitStatistics(
            name=self._name,
            state=self._state,
            since=self._since,
            failures=self._failures,
            calls=calls,
            failed=failed,
            slow=slow,
            failure_ratio=failed / calls if is_known else None,
            slow_call_ratio=slow / calls if is_known else None,
            openings=self._openings,
            refused=self._refused,
            trials_left=self._trials_left if self._state is _HALF_OPEN else 0,
            retry_after=self.retry_after(now),
        )

    # --- the operator -----------------------------------------------------------------------------

    def force_open(self) -> None:
        """Refuse every call until ``reset``."""
        self._operate(_FORCED_OPEN)

    def disable(self) -> None:
        """Let every call pass and count none, until ``reset``."""
        self._operate(_DISABLED)

    def metrics_only(self) -> None:
        """Let every call pass and count it, but never open, until ``reset``."""
        self._operate(_METRICS_ONLY)

    def trip(self, seconds: float, *, reason: str = "operator") -> None:
        """Open a closed circuit for ``seconds``: somebody else knows that the service fails.

        Tried again afterwards like any opening. Without effect unless the circuit is closed.
        """
        if self._state is _CLOSED:
            now = self._clock()
            self._open_for = seconds
            self._openings += 1
            self._until = now + seconds
            self._change(_OPEN, now, reason)

    def reset(self) -> None:
        """Close the circuit and forget what it counted. Calls under way no longer count."""
        self._operate(_CLOSED)

    def reconfigure(self, config: CircuitConfig) -> None:
        """Change the settings, keeping the state and what was counted.

        Three things cannot stay: a window of another size starts empty, an opening is cut to the
        new ``max_recovery_timeout``, and trials that already suffice decide at once.
        """
        before = self._config
        self._adopt(config)
        if (before.has_ratio, before.window_calls, before.window_seconds) != (
            config.has_ratio,
            config.window_calls,
            config.window_seconds,
        ):
            self._window = self._new_window()
        longest = max(config.recovery_timeout, config.max_recovery_timeout)
        self._open_for = min(self._open_for, longest)
        if self._state is _OPEN:
            self._until = min(self._until, self._since + longest)
        elif self._state is _HALF_OPEN:
            self._judge(self._clock())

    # --- events -----------------------------------------------------------------------------------

    def on_event(self, listener: _Listener, *kinds: type[CircuitEvent]) -> Callable[[], None]:
        """Call ``listener`` with each event of ``kinds``, or with every one.

        Returns what ends it. Listeners run inside the call they hear about: they must not block.
        One that raises is logged, and nothing else happens. ``CallRecorded`` costs every call a
        microsecond or so; name the kinds you need.
        """
        entry = (listener, kinds)
        self._listen((*self._listeners, entry))

        def unsubscribe() -> None:
            self._listen(tuple(other for other in self._listeners if other is not entry))

        return unsubscribe

    def _listen(
        self, listeners: tuple[tuple[_Listener, tuple[type[CircuitEvent], ...]], ...]
    ) -> None:
        self._listeners = listeners
        self._wants_calls = any(not kinds or CallRecorded in kinds for _, kinds in listeners)
        self._wants_refusals = any(not kinds or CallRefused in kinds for _, kinds in listeners)

    def _tell(self, event: CircuitEvent) -> None:
        for listener, kinds in self._listeners:
            if not kinds or type(event) in kinds:
                try:
                    listener(event)
                except Exception:
                    _log.exception("a listener of circuit %r failed", self._name)

    def _told_call(self, ok: bool, seconds: float, now: float) -> bool:
        """Tell of the call; false when a listener has ended the period that it belonged to."""
        period = self._period
        self._tell(CallRecorded(self._name, ok, seconds, seconds > self._slow_call, now))
        return period == self._period

    # --- inside -----------------------------------------------------------------------------------

    def _adopt(self, config: CircuitConfig) -> None:
        self._config = config
        self._threshold = config.failure_threshold or float("inf")
        self._slow_call = config.slow_call
        self._minimum = min(config.minimum_calls, config.window_calls or config.minimum_calls)

    def _new_window(self, *, is_needed: bool = False) -> Window | None:
        config = self._config
        if config.window_calls is not None:
            return CountWindow(config.window_calls)
        if config.window_seconds is not None:
            return TimeWindow(config.window_seconds)
        if config.has_ratio or is_needed or self._state is _METRICS_ONLY:
            return TimeWindow(_DEFAULT_WINDOW)
        return None

    @property
    def _trials_left(self) -> int:
        return max(0, self._config.half_open_calls - self._done - self._under_way)

    def _ask(self, now: float) -> int:
        """``acquire`` where calls do not simply pass."""
        if self._state is _OPEN:
            if now < self._since:
                # The clock went back. The opening lasts as long as it was to last, counted from
                # here: otherwise it would last until the clock has caught up.
                self._until -= self._since - now
                self._since = now
            if not now < self._until:
                self._change(_HALF_OPEN, now, "recovery-timeout")
        if self._state is _HALF_OPEN:
            if self._done + self._under_way < self._config.half_open_calls:
                self._under_way += 1
                self._trial_at = now
                return self._period
            # Only trials that are under way can get lost: a quiet service that sends one call a
            # minute is not to be punished for being quiet.
            self._trial_at = min(self._trial_at, now)
            timeout = self._config.half_open_timeout
            if timeout is not None and now - self._trial_at >= timeout:
                self._open(now, "trials-lost")
        elif self._is_passing:  # a listener of the change has closed it
            return self._period
        self._refused += 1
        if self._wants_refusals:
            self._tell(CallRefused(self._name, self._state, now, self.retry_after(now)))
        return 0

    def _refusal(self, now: float) -> CircuitOpenError:
        return CircuitOpenError(self._name, self._state, self.retry_after(now))

    def _record_elsewhere(self, ok: bool, seconds: float, now: float) -> None:
        state = self._state
        if state is _DISABLED or (state is _HALF_OPEN and not self._under_way):
            return
        if self._wants_calls and not self._told_call(ok, seconds, now):
            return
        self._failures = 0 if ok else self._failures + 1
        is_slow = seconds > self._slow_call
        if state is _METRICS_ONLY and self._window is not None:
            self._window.add((0 if ok else FAILED) | (SLOW if is_slow else 0), now)
        elif state is _HALF_OPEN:
            self._under_way -= 1
            self._done += 1
            self._failed += not ok
            self._slow += is_slow
            self._judge(now)

    def _compare(self, window: Window, now: float) -> None:
        """Open when a ratio of the window has reached its limit."""
        config, calls = self._config, window.calls
        # Divided, not multiplied: 7 / 100 is 0.07, but 0.07 * 100 is more than 7.
        if config.failure_ratio is not None and window.failed / calls >= config.failure_ratio:
            self._open(now, "failure-ratio")
        elif config.slow_call_ratio is not None and window.slow / calls >= config.slow_call_ratio:
            self._open(now, "slow-calls")

    def _judge(self, now: float) -> None:
        """Decide a half-open period, as soon as it is certain."""
        config = self._config
        trials = config.half_open_calls
        limit = config.failure_ratio
        if self._failed and (limit is None or self._failed / trials >= limit):
            self._open(now, "trials-failed")
        elif config.slow_call_ratio is not None and self._slow / trials >= config.slow_call_ratio:
            self._open(now, "trials-slow")
        elif self._done >= trials:
            self._change(_CLOSED, now, "trials-passed")

    def _open(self, now: float, reason: str) -> None:
        config = self._config
        longest = max(config.recovery_timeout, config.max_recovery_timeout)
        if self._openings:
            self._open_for = min(longest, self._open_for * config.backoff)
        else:
            self._open_for = config.recovery_timeout
        self._openings += 1
        self._until = now + self._open_for * (1.0 - config.jitter * self._random())
        self._change(_OPEN, now, reason)

    def _operate(self, state: CircuitState) -> None:
        self._change(state, self._clock(), "operator")

    def _change(self, state: CircuitState, now: float, reason: str) -> None:
        """The only place where the state changes, and with it the period."""
        before, self._state = self._state, state
        self._period += 1
        self._since = now
        self._is_passing = state in (_CLOSED, _DISABLED, _METRICS_ONLY)
        self._under_way = self._done = self._failed = self._slow = 0
        if self._is_passing:
            self._failures = self._openings = 0
            self._window = self._new_window(is_needed=state is _METRICS_ONLY)
        if before is not state:
            self._tell(StateChanged(self._name, before, state, now, reason))
