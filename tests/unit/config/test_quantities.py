"""Durations and sizes: what is accepted, what it means, and what is said otherwise."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nexgate.config import FromEnv, Section, Size, Timeout, parse_duration, parse_size
from nexgate.config.quantities import spell_duration, spell_size


class Sample(Section):
    """For types that only exist as annotations."""

    wait: Timeout = 1.0
    """A timeout."""
    room: Size = 1
    """A size."""


def refusal(parse: Any, value: object) -> tuple[str, str]:
    with pytest.raises(ValueError) as caught:
        parse(value)
    return str(caught.value), caught.value.context["hint"]  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    ("written", "seconds"),
    [
        ("5s", 5),
        ("250ms", 0.25),
        ("1m30s", 90),
        ("2h", 7200),
        ("1d", 86400),
        ("1d2h3m4s5ms6us", 93784.005006),
        ("1.5h", 5400),
        ("0s", 0),
        (5, 5),
        (2.5, 2.5),
        (0, 0),
        (FromEnv("5"), 5),
        (FromEnv("0.5"), 0.5),
        (FromEnv("5s"), 5),
    ],
)
def test_a_duration_is_seconds(written: object, seconds: float) -> None:
    assert parse_duration(written) == pytest.approx(seconds)


@pytest.mark.parametrize(
    ("written", "message", "hint"),
    [
        ("5sec", "is not a duration", 'did you mean "5s"?'),
        ("5 seconds", "is not a duration", 'did you mean "5s"?'),
        ("5 S", "is not a duration", 'did you mean "5s"?'),
        ("2 hours, 30 minutes", "is not a duration", 'did you mean "2h30m"?'),
        ("1,5h", "is not a duration", 'did you mean "1.5h"?'),
        ("100 millis", "is not a duration", 'did you mean "100ms"?'),
        ("5", "is not a duration", 'add the unit: "5s" or "5ms"'),
        ("-5s", "is not a duration", "a duration is not negative"),
        ("30s1m", "is not a duration", 'write for example "5s", "250ms" or "1m30s"'),
        ("5s5s", "is not a duration", 'write for example "5s", "250ms" or "1m30s"'),
        ("", "is not a duration", 'write for example "5s", "250ms" or "1m30s"'),
        ("soon", "is not a duration", 'write for example "5s", "250ms" or "1m30s"'),
        ("٣s", "is not a duration", 'write for example "5s", "250ms" or "1m30s"'),
        ("5s\n", "is not a duration", 'did you mean "5s"?'),
        ("1_0s", "is not a duration", 'write for example "5s", "250ms" or "1m30s"'),
        ("+5s", "is not a duration", 'write for example "5s", "250ms" or "1m30s"'),
        ("1e3s", "is not a duration", 'write for example "5s", "250ms" or "1m30s"'),
        (-1, "must not be negative", ""),
        (float("nan"), "is not a number", ""),
        (float("inf"), "is too long", "at most ten years"),
        (10**400, "is too long", "at most ten years"),
        ("99999d", "is too long", "at most ten years"),
        (True, "must be a duration", 'write for example "5s" or "1m30s"'),
        (None, "must be a duration", 'write for example "5s" or "1m30s"'),
        ([5], "must be a duration", 'write for example "5s" or "1m30s"'),
    ],
)
def test_what_is_not_a_duration_is_told_why(written: object, message: str, hint: str) -> None:
    assert refusal(parse_duration, written) == (message, hint)


def test_a_timeout_may_be_none_but_not_zero() -> None:
    assert Sample(wait="none").wait is None  # type: ignore[arg-type]
    assert Sample(wait=None).wait is None
    with pytest.raises(ValueError, match="more than zero"):
        Sample(wait=0)


@pytest.mark.parametrize(
    ("written", "count"),
    [
        ("64KiB", 65536),
        ("64kib", 65536),
        ("1MB", 1_000_000),
        ("10k", 10_000),
        ("10 kB", 10_000),
        ("1Ki", 1024),
        ("1.5MiB", 1_572_864),
        ("0.1GB", 100_000_000),
        ("512", 512),
        ("512B", 512),
        ("1TiB", 2**40),
        (0, 0),
        (65536, 65536),
        (FromEnv("65536"), 65536),
    ],
)
def test_a_size_is_bytes(written: object, count: int) -> None:
    assert parse_size(written) == count


@pytest.mark.parametrize(
    ("written", "message", "hint"),
    [
        ("1.3B", "is not a whole number of bytes", ""),
        ("64Kib.", "is not a size", 'write for example "64KiB", "1MB" or 65536'),
        ("-1k", "is not a size", 'write for example "64KiB", "1MB" or 65536'),
        ("٣k", "is not a size", 'write for example "64KiB", "1MB" or 65536'),
        ("5mo", "has an unknown unit", 'did you mean "5M"?'),
        ("5xyz", "has an unknown unit", "the units are B, kB, KiB, MB, MiB, GB, GiB"),
        (-1, "must not be negative", ""),
        (2**51, "is too large", "at most 1024TiB"),
        (1.5, "must be a size in whole bytes", 'write for example "64KiB" or 65536'),
        (True, "must be a size in whole bytes", 'write for example "64KiB" or 65536'),
    ],
)
def test_what_is_not_a_size_is_told_why(written: object, message: str, hint: str) -> None:
    assert refusal(parse_size, written) == (message, hint)


@given(st.integers(0, 10**12))
def test_a_spelt_duration_reads_back(micros: int) -> None:
    seconds = micros / 1_000_000
    assert parse_duration(spell_duration(seconds)) == pytest.approx(seconds)


@given(st.integers(0, 2**50))
def test_a_spelt_size_reads_back(count: int) -> None:
    assert parse_size(spell_size(count)) == count


@given(st.text() | st.floats() | st.integers() | st.none() | st.binary())
def test_anything_is_a_quantity_or_a_value_error(value: object) -> None:
    for parse in (parse_duration, parse_size):
        try:
            assert parse(value) >= 0
        except ValueError:
            pass
