"""What is tried again, and after which wait."""

from __future__ import annotations

import math
import random
from typing import Any

import pytest

from nexgate.resilience import Backoff, RetryPolicy


def test_the_bound_doubles_up_to_the_cap_and_the_jitter_comes_after_it() -> None:
    backoff = Backoff(0.025, 1.0, 2.0)
    bounds = [0.025, 0.05, 0.1, 0.2, 0.4, 0.8, 1.0, 1.0]
    assert [backoff.delay(n, lambda: 1.0) for n in range(1, 9)] == pytest.approx(bounds)
    assert [backoff.delay(n, lambda: 0.0) for n in range(1, 9)] == [0.0] * 8
    draw = random.Random(1).random
    delays = [backoff.delay(50, draw) for _ in range(1000)]
    # At the cap they still spread over all of it.
    assert 0.4 < sum(delays) / 1000 < 0.6
    assert max(delays) <= 1.0
    assert len(set(delays)) > 900


@pytest.mark.parametrize("attempt", [0, -5, 10**9, 10**400])
def test_absurd_attempts_have_a_delay(attempt: int) -> None:
    assert 0.0 < Backoff(factor=10.0).delay(attempt, lambda: 0.5) <= 1.0


@pytest.mark.parametrize(
    ("settings", "names"),
    [
        ({"base": -1}, "base"),
        ({"base": 2}, "more than cap"),
        ({"cap": math.inf}, "cap"),
        ({"factor": 0.9}, "factor"),
        ({"factor": math.nan}, "factor"),
    ],
)
def test_a_backoff_that_cannot_work_is_refused_by_name(settings: Any, names: str) -> None:
    with pytest.raises(ValueError, match=names):
        Backoff(**settings)


def test_by_default_only_what_is_idempotent_and_only_gateway_errors() -> None:
    policy = RetryPolicy()
    assert b"POST" not in policy.methods
    assert b"PATCH" not in policy.methods
    assert b"PUT" in policy.methods
    assert policy.statuses == {502, 503, 504}
    assert policy.max_replay_bytes == 0


def test_attempts_counts_the_first() -> None:
    policy = RetryPolicy(attempts=3)
    assert policy.delay(1, random=lambda: 1.0) == 0.025
    assert policy.delay(2, random=lambda: 1.0) == 0.05
    assert policy.delay(3, random=lambda: 1.0) is None
    assert RetryPolicy(attempts=1).delay(1, random=lambda: 1.0) is None


def test_a_retry_after_is_waited_for_in_full_and_the_jitter_comes_on_top() -> None:
    policy = RetryPolicy(max_retry_after=5.0)
    assert policy.delay(1, retry_after=2.0, random=lambda: 0.0) == 2.0
    assert policy.delay(1, retry_after=5.0, random=lambda: 1.0) == 5.025
    assert policy.delay(1, retry_after=5.1, random=lambda: 0.0) is None
    assert policy.delay(1, retry_after=math.nan, random=lambda: 0.0) is None
    assert policy.delay(1, retry_after=-3.0, random=lambda: 0.0) == 0.0
    deaf = RetryPolicy(respect_retry_after=False)
    assert deaf.delay(1, retry_after=3600.0, random=lambda: 0.0) == 0.0


@pytest.mark.parametrize(
    ("settings", "names"),
    [
        ({"attempts": 0}, "attempts"),
        ({"attempts": 1.5}, "attempts"),
        ({"per_try_timeout": 0}, "per_try_timeout"),
        ({"max_replay_bytes": -1}, "max_replay_bytes"),
        ({"max_retry_after": math.inf}, "max_retry_after"),
    ],
)
def test_a_policy_that_cannot_work_is_refused_by_name(settings: Any, names: str) -> None:
    with pytest.raises(ValueError, match=names):
        RetryPolicy(**settings)
