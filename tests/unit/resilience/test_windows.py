"""Windows forget what is too old, and nothing else."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nexgate.resilience._windows import FAILED, OK, SLOW, CountWindow, TimeWindow, Window

OUTCOMES = st.sampled_from([OK, FAILED, SLOW, FAILED | SLOW])


def counted(window: Window) -> tuple[int, int, int]:
    return window.calls, window.failed, window.slow


def expected(outcomes: list[int]) -> tuple[int, int, int]:
    return (
        len(outcomes),
        sum(bool(o & FAILED) for o in outcomes),
        sum(bool(o & SLOW) for o in outcomes),
    )


@settings(derandomize=True, deadline=None)
@given(size=st.integers(1, 9), outcomes=st.lists(OUTCOMES, max_size=60))
def test_the_last_calls_are_counted(size: int, outcomes: list[int]) -> None:
    window = CountWindow(size)
    for count, outcome in enumerate(outcomes, 1):
        window.add(outcome, 0.0)
        assert counted(window) == expected(outcomes[max(0, count - size) : count])
    window.clear()
    assert counted(window) == (0, 0, 0)


@settings(derandomize=True, deadline=None, max_examples=300)
@given(
    # Quarters of a bucket; mostly less than the window of forty, sometimes more.
    steps=st.lists(st.tuples(st.one_of(st.integers(0, 9), st.integers(0, 90)), OUTCOMES)),
    start=st.integers(-1000, 1000),
)
def test_the_last_seconds_are_counted_by_tenths(steps: list[tuple[int, int]], start: int) -> None:
    window, now = TimeWindow(10.0), start
    seen: list[tuple[int, int]] = []  # bucket, outcome
    anchor, bucket = start + (steps[0][0] if steps else 0), 0  # the first use
    for wait, outcome in steps:
        now += wait
        if (now - anchor) // 4 - bucket >= 10:
            anchor, bucket = now, 0
            seen.clear()
        bucket = (now - anchor) // 4
        window.expire(now / 4)
        assert counted(window) == expected([o for b, o in seen if b > bucket - 10])
        window.add(outcome, now / 4)
        seen.append((bucket, outcome))
        assert counted(window) == expected([o for b, o in seen if b > bucket - 10])


@pytest.mark.parametrize("back", [0.5, 1.0, 5.0, 9.0])
def test_a_clock_that_goes_back_a_little_stands_still(back: float) -> None:
    window = TimeWindow(10.0)
    window.add(FAILED, 100.0)
    window.add(OK, 103.0)
    window.add(SLOW, 103.0 - back)
    assert counted(window) == (3, 1, 1)
    window.expire(110.0)
    assert counted(window) == (2, 0, 1)
