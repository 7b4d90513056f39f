"""When a circuit opens, for how long, what it tries, and what it forgets."""

from __future__ import annotations

import logging
import math
import pickle
from typing import Any

import pytest
from tests.unit.resilience.clocks import FakeClock

from nexgate.resilience import (
    CallRecorded,
    CallRefused,
    CircuitBreaker,
    CircuitConfig,
    CircuitEvent,
    CircuitOpenError,
    CircuitState,
    StateChanged,
)


def breaker_with(clock: FakeClock | None = None, **settings: Any) -> CircuitBreaker:
    settings.setdefault("jitter", 0.0)
    return CircuitBreaker(CircuitConfig(**settings), "users", clock=clock or FakeClock())


def end(breaker: CircuitBreaker, ok: bool, now: float = 1000.0, seconds: float = 0.01) -> None:
    permit = breaker.acquire(now)
    assert permit
    breaker.record(permit, ok, seconds, now)


def opened(breaker: CircuitBreaker, now: float = 1000.0) -> CircuitBreaker:
    for _ in range(breaker.config.failure_threshold or 1):
        end(breaker, False, now)
    assert breaker.state is CircuitState.OPEN
    return breaker


# --- opening --------------------------------------------------------------------------------------


def test_the_tutorials_three_settings_are_enough() -> None:
    config = CircuitConfig(failure_threshold=5, recovery_timeout=30, half_open_calls=3)
    assert config == CircuitConfig(5, 30, 3) == CircuitConfig()
    breaker = CircuitBreaker(config)
    assert breaker.state is CircuitState.CLOSED


def test_failures_in_a_row_open_and_a_success_starts_the_row_anew() -> None:
    breaker = breaker_with(failure_threshold=3)
    for ok in (False, False, True, False, False):
        end(breaker, ok)
    assert (breaker.state, breaker.failures) == (CircuitState.CLOSED, 2)
    end(breaker, False)
    assert (breaker.state, breaker.failures) == (CircuitState.OPEN, 3)
    assert breaker.acquire(1000.0) == 0


@pytest.mark.parametrize("window", [{"window_calls": 10}, {"window_seconds": 10.0}, {}])
def test_a_ratio_opens_when_it_is_reached_not_passed(window: dict[str, Any]) -> None:
    breaker = breaker_with(failure_threshold=None, failure_ratio=0.5, minimum_calls=10, **window)
    for _ in range(5):
        end(breaker, True)
    for _ in range(4):
        end(breaker, False)
    assert breaker.state is CircuitState.CLOSED
    assert breaker.statistics(1000.0).failure_ratio is None
    end(breaker, False)
    assert breaker.state is CircuitState.OPEN


def test_seven_of_a_hundred_is_seven_hundredths() -> None:
    breaker = breaker_with(
        failure_threshold=None, failure_ratio=0.07, minimum_calls=100, window_calls=100
    )
    for n in range(100):
        end(breaker, n >= 7)
    assert breaker.state is CircuitState.OPEN


def test_a_success_that_makes_the_ratio_known_opens() -> None:
    breaker = breaker_with(failure_threshold=None, failure_ratio=0.5, minimum_calls=4)
    for ok in (False, False, True):
        end(breaker, ok)
    assert breaker.state is CircuitState.CLOSED
    end(breaker, True)
    assert breaker.state is CircuitState.OPEN


def test_slow_successes_open() -> None:
    breaker = breaker_with(
        failure_threshold=None, slow_call_ratio=1.0, slow_call=1.0, minimum_calls=3
    )
    for seconds in (1.0, 1.1, 1.1, 1.1):
        end(breaker, True, seconds=seconds)
    assert breaker.state is CircuitState.CLOSED  # the first was not longer than a second
    breaker = breaker_with(
        failure_threshold=None, slow_call_ratio=1.0, slow_call=1.0, minimum_calls=3
    )
    for _ in range(3):
        end(breaker, True, seconds=1.1)
    assert breaker.state is CircuitState.OPEN


def test_a_window_of_fewer_calls_than_the_minimum_lowers_it() -> None:
    breaker = breaker_with(
        failure_threshold=None, failure_ratio=0.5, minimum_calls=100, window_calls=4
    )
    for _ in range(4):
        end(breaker, False)
    assert breaker.state is CircuitState.OPEN


def test_a_window_of_calls_forgets_the_oldest() -> None:
    breaker = breaker_with(
        failure_threshold=None, failure_ratio=0.75, minimum_calls=4, window_calls=4
    )
    for ok in (False, True, True, False, False, True, False):
        end(breaker, ok)
    statistics = breaker.statistics()
    assert (statistics.calls, statistics.failed) == (4, 3)
    assert breaker.state is CircuitState.OPEN


def test_a_window_of_seconds_forgets_even_when_nothing_follows() -> None:
    clock = FakeClock()
    breaker = breaker_with(
        clock, failure_threshold=None, failure_ratio=0.5, minimum_calls=2, window_seconds=60.0
    )
    end(breaker, False, clock.now)
    assert breaker.statistics(clock.now + 53.9).failed == 1
    assert breaker.statistics(clock.now + 60.0).failed == 0
    clock.advance(4000.0)
    end(breaker, True, clock.now)
    end(breaker, True, clock.now)
    assert breaker.statistics().failed == 0
    assert breaker.state is CircuitState.CLOSED


# --- trying again ---------------------------------------------------------------------------------


def test_half_open_admits_exactly_its_trials_however_many_ask() -> None:
    breaker = opened(breaker_with(half_open_calls=3))
    permits = [breaker.acquire(1030.0) for _ in range(1000)]
    assert [bool(p) for p in permits] == [True] * 3 + [False] * 997
    assert breaker.state is CircuitState.HALF_OPEN
    for permit in permits[:2]:
        breaker.record(permit, True, 0.1, 1030.0)
        assert breaker.acquire(1030.0) == 0  # a trial that ended makes no room for another
    breaker.record(permits[2], True, 0.1, 1030.0)
    assert breaker.state is CircuitState.CLOSED


def test_without_a_ratio_one_failed_trial_reopens() -> None:
    breaker = opened(breaker_with(half_open_calls=3))
    permits = [breaker.acquire(1030.0) for _ in range(3)]
    breaker.record(permits[0], False, 0.1, 1031.0)
    assert breaker.state is CircuitState.OPEN
    for permit in permits[1:]:  # too late: they belong to a period that is over
        breaker.record(permit, True, 0.1, 1031.0)
    assert breaker.state is CircuitState.OPEN


def test_with_a_ratio_trials_are_judged_as_a_set() -> None:
    breaker = opened(breaker_with(half_open_calls=4, failure_ratio=0.5))
    permits = [breaker.acquire(1030.0) for _ in range(4)]
    breaker.record(permits[0], False, 0.1, 1030.0)
    breaker.record(permits[1], True, 0.1, 1030.0)
    breaker.record(permits[2], True, 0.1, 1030.0)
    assert breaker.state is CircuitState.HALF_OPEN
    breaker.record(permits[3], True, 0.1, 1030.0)
    assert breaker.state is CircuitState.CLOSED
    opened(breaker, 1040.0)
    permits = [breaker.acquire(1070.0) for _ in range(4)]
    breaker.record(permits[0], False, 0.1, 1070.0)
    breaker.record(permits[1], False, 0.1, 1070.0)  # certain now: half of four
    assert breaker.state is CircuitState.OPEN


def test_slow_trials_reopen() -> None:
    breaker = opened(breaker_with(half_open_calls=2, slow_call_ratio=0.5, slow_call=1.0))
    permit = breaker.acquire(1030.0)
    breaker.record(permit, True, 2.0, 1032.0)
    assert breaker.state is CircuitState.OPEN


def test_a_released_trial_makes_room_for_another_and_only_once() -> None:
    breaker = opened(breaker_with(half_open_calls=1))
    permit = breaker.acquire(1030.0)
    assert breaker.acquire(1030.0) == 0
    for _ in range(3):
        breaker.release(permit)
    again = breaker.acquire(1030.0)
    assert again
    assert breaker.acquire(1030.0) == 0
    breaker.record(again, True, 0.1, 1030.0)
    assert breaker.state is CircuitState.CLOSED


def test_an_outcome_of_before_the_opening_is_no_trial() -> None:
    breaker = breaker_with(failure_threshold=1, half_open_calls=1)
    early, late = breaker.acquire(1000.0), breaker.acquire(1000.0)
    end(breaker, False)
    trial = breaker.acquire(1030.0)
    breaker.record(early, True, 30.0, 1030.0)
    breaker.record(late, False, 30.0, 1030.0)
    breaker.release(early)
    assert breaker.state is CircuitState.HALF_OPEN
    assert breaker.acquire(1030.0) == 0
    breaker.record(trial, True, 0.1, 1030.0)
    assert breaker.state is CircuitState.CLOSED
    assert breaker.failures == 0


def test_lost_trials_are_given_up() -> None:
    breaker = opened(breaker_with(half_open_calls=2, half_open_timeout=5.0))
    assert breaker.acquire(1030.0)
    assert breaker.acquire(1034.0)
    assert breaker.acquire(1038.9) == 0
    assert breaker.state is CircuitState.HALF_OPEN
    assert breaker.acquire(1039.0) == 0
    assert breaker.state is CircuitState.OPEN
    assert breaker.acquire(1039.0 + 60.0)


def test_a_quiet_service_is_not_punished_for_being_quiet() -> None:
    breaker = opened(breaker_with(half_open_calls=3, half_open_timeout=5.0))
    for now in (1030.0, 1090.0, 1150.0):
        end(breaker, True, now)
    assert breaker.state is CircuitState.CLOSED


# --- how long -------------------------------------------------------------------------------------


def test_openings_in_a_row_last_longer_up_to_the_longest_and_a_close_forgets() -> None:
    breaker = breaker_with(
        failure_threshold=1, recovery_timeout=10, max_recovery_timeout=35, half_open_calls=1
    )
    now, waits = 0.0, []
    end(breaker, False, now)
    for _ in range(4):
        waits.append(breaker.retry_after(now))
        now += waits[-1]
        end(breaker, False, now)
    assert waits == [10.0, 20.0, 35.0, 35.0]
    assert breaker.statistics(now).openings == 5
    now += 35.0
    end(breaker, True, now)
    assert breaker.state is CircuitState.CLOSED
    end(breaker, False, now)
    assert breaker.retry_after(now) == 10.0


def test_a_first_opening_longer_than_the_longest_is_not_cut() -> None:
    breaker = opened(breaker_with(recovery_timeout=600.0))
    assert breaker.retry_after(1000.0) == 600.0
    end(breaker, False, 1600.0)
    assert breaker.retry_after(1600.0) == 600.0


def test_jitter_only_shortens() -> None:
    for draw, seconds in ((0.0, 30.0), (0.5, 28.5), (0.999, 27.003)):
        breaker = CircuitBreaker(
            CircuitConfig(jitter=0.1), clock=FakeClock(), random=lambda draw=draw: draw
        )
        opened(breaker)
        assert breaker.retry_after(1000.0) == pytest.approx(seconds)


def test_thousands_of_openings_do_not_overflow() -> None:
    breaker = breaker_with(failure_threshold=1, backoff=1e300, max_recovery_timeout=60.0)
    now = 0.0
    for _ in range(3000):
        end(breaker, False, now)
        now += breaker.retry_after(now)
    assert breaker.retry_after(now - 60.0) == 60.0


def test_retry_after_says_when_asking_makes_sense() -> None:
    breaker = breaker_with(half_open_calls=1, half_open_timeout=60.0)
    assert breaker.retry_after(1000.0) == 0.0
    opened(breaker)
    assert breaker.retry_after(1010.0) == 20.0
    assert breaker.retry_after(5000.0) == 0.0
    permit = breaker.acquire(5000.0)
    assert breaker.retry_after(5000.0) == 1.0  # its trial ends, nobody knows when
    assert breaker.retry_after(5059.5) == 0.5
    breaker.release(permit)
    assert breaker.retry_after(5000.0) == 0.0
    breaker.force_open()
    assert breaker.retry_after(5000.0) == 30.0


# --- clocks ---------------------------------------------------------------------------------------


def test_a_clock_that_goes_back_does_not_keep_the_circuit_open_for_ever() -> None:
    breaker = opened(breaker_with(half_open_calls=1, half_open_timeout=5.0), 1e9)
    assert breaker.acquire(50.0) == 0
    assert breaker.retry_after(50.0) == 30.0
    trial = breaker.acquire(80.0)
    assert trial
    assert breaker.acquire(10.0) == 0
    assert breaker.acquire(15.0) == 0
    assert breaker.state is CircuitState.OPEN
    assert breaker.acquire(15.0 + 60.0)


def test_a_clock_that_goes_back_does_not_keep_calls_for_ever() -> None:
    breaker = breaker_with(failure_threshold=None, failure_ratio=0.9, window_seconds=10.0)
    end(breaker, False, 1e9)
    end(breaker, True, 100.0)
    assert breaker.statistics(100.0).calls == 1
    assert breaker.statistics(110.0).calls == 0


@pytest.mark.parametrize("now", [1e18, -1e18, 1e308, math.inf, -math.inf, math.nan])
def test_absurd_clocks_raise_nothing(now: float) -> None:
    breaker = breaker_with(failure_ratio=0.5, minimum_calls=2, half_open_calls=1)
    for at in (now, 1000.0, now):
        for _ in range(6):
            breaker.record(breaker.acquire(at), False, 0.1, at)
        breaker.statistics(at)
        breaker.retry_after(at)
    for at in (2000.0, 2400.0, 2800.0, 3200.0):
        breaker.record(breaker.acquire(at), True, 0.1, at)
    assert breaker.state is CircuitState.CLOSED


# --- the operator ---------------------------------------------------------------------------------


def test_forced_open_refuses_until_reset_whatever_the_time() -> None:
    breaker = breaker_with()
    breaker.force_open()
    assert breaker.acquire(1e9) == 0
    assert breaker.state is CircuitState.FORCED_OPEN
    breaker.reset()
    assert breaker.acquire(1000.0)


def test_disabled_passes_everything_and_counts_nothing() -> None:
    breaker = opened(breaker_with(window_calls=10))
    breaker.disable()
    for _ in range(50):
        end(breaker, False)
    statistics = breaker.statistics()
    assert (statistics.calls, statistics.failures) == (0, 0)
    assert breaker.state is CircuitState.DISABLED


def test_metrics_only_passes_everything_and_counts_it() -> None:
    breaker = breaker_with()  # no window of its own
    breaker.metrics_only()
    for _ in range(50):
        end(breaker, False, seconds=61.0)
    statistics = breaker.statistics()
    assert (statistics.calls, statistics.failed, statistics.slow) == (50, 50, 50)
    assert (statistics.failure_ratio, statistics.slow_call_ratio) == (1.0, 1.0)
    assert breaker.state is CircuitState.METRICS_ONLY
    breaker.reset()
    assert breaker.failures == 0


def test_calls_that_were_under_way_when_the_operator_came_do_not_count() -> None:
    breaker = breaker_with(failure_threshold=1)
    permit = breaker.acquire(1000.0)
    breaker.reset()
    breaker.record(permit, False, 0.1, 1000.0)
    assert breaker.state is CircuitState.CLOSED


# --- reconfiguring --------------------------------------------------------------------------------


def test_new_settings_keep_state_and_counts() -> None:
    breaker = breaker_with(failure_threshold=5, window_calls=10)
    for _ in range(3):
        end(breaker, False)
    breaker.reconfigure(CircuitConfig(failure_threshold=4, window_calls=10, jitter=0.0))
    assert (breaker.failures, breaker.statistics().calls) == (3, 3)
    end(breaker, False)
    assert breaker.state is CircuitState.OPEN
    breaker.reconfigure(
        CircuitConfig(recovery_timeout=5.0, max_recovery_timeout=10.0, window_calls=10)
    )
    assert breaker.state is CircuitState.OPEN
    assert breaker.retry_after(1000.0) == 10.0


def test_a_window_of_another_size_starts_empty() -> None:
    breaker = breaker_with(window_calls=10)
    end(breaker, False)
    breaker.reconfigure(CircuitConfig(window_calls=20))
    assert (breaker.failures, breaker.statistics().calls) == (1, 0)


def test_fewer_trials_decide_at_once() -> None:
    breaker = opened(breaker_with(half_open_calls=3))
    end(breaker, True, 1030.0)
    breaker.reconfigure(CircuitConfig(half_open_calls=1))
    assert breaker.state is CircuitState.CLOSED


# --- events and errors ----------------------------------------------------------------------------


def test_listeners_hear_what_they_asked_for_until_they_leave() -> None:
    breaker = breaker_with(failure_threshold=1, half_open_calls=1)
    everything: list[CircuitEvent] = []
    changes: list[CircuitEvent] = []
    leave = breaker.on_event(everything.append)
    breaker.on_event(changes.append, StateChanged)
    opened(breaker)
    breaker.acquire(1010.0)
    leave()
    leave()
    end(breaker, True, 1030.0)
    closed, open_, half = CircuitState.CLOSED, CircuitState.OPEN, CircuitState.HALF_OPEN
    assert everything == [
        CallRecorded("users", False, 0.01, False, 1000.0),
        StateChanged("users", closed, open_, 1000.0, "failures"),
        CallRefused("users", open_, 1010.0, 20.0),
    ]
    assert changes == [
        StateChanged("users", closed, open_, 1000.0, "failures"),
        StateChanged("users", open_, half, 1030.0, "recovery-timeout"),
        StateChanged("users", half, closed, 1030.0, "trials-passed"),
    ]


def test_a_failing_listener_is_logged_and_breaks_nothing(caplog: pytest.LogCaptureFixture) -> None:
    breaker = breaker_with(failure_threshold=1)
    heard: list[CircuitEvent] = []

    def fails(event: CircuitEvent) -> None:
        raise LookupError("not mine")

    breaker.on_event(fails)
    breaker.on_event(heard.append, StateChanged)
    with caplog.at_level(logging.ERROR):
        opened(breaker)
    assert "a listener of circuit 'users' failed" in caplog.text
    assert len(heard) == 1


@pytest.mark.parametrize("operate", ["reset", "force_open", "disable", "metrics_only"])
@pytest.mark.parametrize("ratio", [None, 0.5])
def test_a_listener_may_operate_the_breaker_it_hears(operate: str, ratio: float | None) -> None:
    for kind in (CallRecorded, CallRefused, StateChanged):
        breaker = breaker_with(
            failure_threshold=1, failure_ratio=ratio, minimum_calls=1, half_open_calls=1
        )
        is_first = True

        def act(event: CircuitEvent, kind: type = kind, breaker: CircuitBreaker = breaker) -> None:
            nonlocal is_first
            if isinstance(event, kind) and is_first:
                is_first = False
                getattr(breaker, operate)()

        breaker.on_event(act)
        for now in (1000.0, 1000.0, 1030.0, 1030.0, 1100.0):
            breaker.record(breaker.acquire(now), False, 0.1, now)
        assert not is_first
        if operate != "reset":
            assert breaker.state.value.startswith(operate[:5])


def test_the_error_says_until_when_and_what_to_do() -> None:
    error = CircuitOpenError("users", CircuitState.OPEN, 12.34)
    assert "'users' is open for another 12.3 s" in str(error)
    assert "call again" in str(error)
    assert "its trials" in str(CircuitOpenError("", CircuitState.HALF_OPEN, 1.0))
    assert "reset()" in str(CircuitOpenError("", CircuitState.FORCED_OPEN, 30.0))
    copy = pickle.loads(pickle.dumps(error))
    assert (copy.name, copy.state, copy.retry_after) == ("users", CircuitState.OPEN, 12.34)


@pytest.mark.parametrize(
    ("settings", "names"),
    [
        ({"failure_threshold": None}, "nothing would open"),
        ({"failure_threshold": 0}, "failure_threshold"),
        ({"failure_threshold": 2.5}, "failure_threshold"),
        ({"recovery_timeout": 0}, "recovery_timeout"),
        ({"recovery_timeout": math.nan}, "recovery_timeout"),
        ({"max_recovery_timeout": math.inf}, "max_recovery_timeout"),
        ({"half_open_calls": 0}, "half_open_calls"),
        ({"half_open_timeout": -1}, "half_open_timeout"),
        ({"failure_ratio": 0.0}, "failure_ratio"),
        ({"failure_ratio": 50}, "failure_ratio"),
        ({"slow_call_ratio": 1.1}, "slow_call_ratio"),
        ({"slow_call": 0}, "slow_call"),
        ({"minimum_calls": 0}, "minimum_calls"),
        ({"window_calls": 0}, "window_calls"),
        ({"window_seconds": 0}, "window_seconds"),
        ({"window_calls": 1, "window_seconds": 1}, "exclude each other"),
        ({"backoff": 0.5}, "backoff"),
        ({"jitter": 1}, "jitter"),
    ],
)
def test_settings_that_cannot_work_are_refused_by_name(
    settings: dict[str, Any], names: str
) -> None:
    with pytest.raises(ValueError, match=names):
        CircuitConfig(**settings)
