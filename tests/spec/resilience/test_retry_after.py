"""``Retry-After``: seconds or one of three forms of a date (RFC 9110 §10.2.3, §5.6.7)."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nexgate.resilience import parse_retry_after

NOW = datetime(2026, 11, 6, 8, 49, 0, tzinfo=UTC).timestamp()


@pytest.mark.parametrize(
    ("value", "seconds"),
    [
        (b"120", 120.0),
        (b"0", 0.0),
        (b" 007 ", 7.0),
        ("5", 5.0),
        (b"9" * 1000, 2.0**31),
        (b"Fri, 06 Nov 2026 08:49:37 GMT", 37.0),
        ("Fri, 06 Nov 2026 08:49:37 GMT", 37.0),
        (b"Friday, 06-Nov-26 08:49:37 GMT", 37.0),
        (b"Fri Nov  6 08:49:37 2026", 37.0),
        (b"Fri Nov 06 08:49:37 2026", 37.0),
        (b"Sun, 06 Nov 1994 08:49:37 GMT", 0.0),
        (b"Sunday, 06-Nov-94 08:49:37 GMT", 0.0),
        (b"Sun Nov  6 08:49:37 1994", 0.0),
        (b"Fri, 06 Nov 2026 08:49:60 GMT", 59.0),
        (b"Fri, 31 Dec 9999 23:59:59 GMT", 2.0**31),
    ],
)
def test_the_forms_are_understood(value: bytes | str, seconds: float) -> None:
    assert parse_retry_after(value, NOW) == seconds


@pytest.mark.parametrize(
    "value",
    [
        b"",
        b" ",
        b"-1",
        b"+1",
        b"1.5",
        b"1e3",
        b"1, 2",
        b"soon",
        b"\xb2",  # a digit in Latin-1, not in ASCII
        b"\xff\xfe",
        "\u0661",
        b"fri, 06 nov 2026 08:49:37 gmt",
        b"Fri, 06 Nov 2026 08:49:37",
        b"Fri, 06 Nov 2026 08:49:37 UTC",
        b"Fri, 06 Nov 2026 08:49:37 +0100",
        b"Fri, 6 Nov 2026 08:49:37 GMT",
        b"Fri, 31 Feb 2026 08:49:37 GMT",
        b"Fri, 06 Nov 2026 24:00:00 GMT",
        b"Fri, 06 Nov 2026 08:60:00 GMT",
        b"Fri, 06 Nov 2026 08:49:61 GMT",
        b"Fri, 06 Nov 0000 08:49:37 GMT",
        b"Fri Nov    08:49:37 2026",
        b"Fri, 06 Nov 2026 08:49:37 GMT\nX: y",
    ],
)
def test_what_is_malformed_says_nothing(value: bytes | str) -> None:
    assert parse_retry_after(value, NOW) is None


@pytest.mark.parametrize(
    ("year", "meant"), [("75", 2075), ("77", 1977), ("99", 1999), ("00", 2000), ("26", 2026)]
)
def test_two_digits_more_than_fifty_years_ahead_are_of_the_past(year: str, meant: int) -> None:
    moment = datetime(meant, 2, 28, tzinfo=UTC).timestamp()
    expected = min(max(moment - NOW, 0.0), 2.0**31)
    assert parse_retry_after(f"Monday, 28-Feb-{year} 00:00:00 GMT", NOW) == expected


def test_a_leap_day_of_two_digits_is_that_of_a_year_that_has_one() -> None:
    assert parse_retry_after("Tuesday, 29-Feb-00 00:00:00 GMT", NOW) == 0.0
    late = datetime(2080, 1, 1, tzinfo=UTC).timestamp()
    # 2104 is within fifty years of 2080.
    moment = datetime(2104, 2, 29, tzinfo=UTC).timestamp()
    assert parse_retry_after("Friday, 29-Feb-04 00:00:00 GMT", late) == moment - late


@settings(derandomize=True)
@given(st.binary(max_size=40))
def test_no_bytes_raise(value: bytes) -> None:
    result = parse_retry_after(value, NOW)
    assert result is None or 0.0 <= result <= 2.0**31
