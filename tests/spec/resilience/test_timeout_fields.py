"""``X-Request-Timeout`` and ``grpc-timeout``: what is understood, and what says nothing."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nexgate.resilience import format_timeout_header, parse_grpc_timeout, parse_timeout_header


@pytest.mark.parametrize(
    ("value", "seconds"),
    [
        (b"1.5", 1.5),
        (b"2", 2.0),
        (b"2s", 2.0),
        (b" 1500ms\t", 1.5),
        (b"0", 0.0),
        (b"0.001", 0.001),
        (b"999999999999999", 316224000.0),
    ],
)
def test_seconds_and_units_are_understood(value: bytes, seconds: float) -> None:
    assert parse_timeout_header(value) == pytest.approx(seconds)


@pytest.mark.parametrize(
    "value",
    [
        *(b"", b"-1", b"+1", b"1e3", b"1,5", b".5", b"5.", b"nan", b"inf", b"0x1", b"9" * 16),
        *(b"1 s", b"1m", b"1h", b"1S", b"1\n", b"1, 2", b"\xb2"),
    ],
)
def test_what_is_malformed_says_nothing(value: bytes) -> None:
    assert parse_timeout_header(value) is None


@pytest.mark.parametrize(
    ("seconds", "value"),
    [
        (1.5, b"1.5"),
        (2.0, b"2"),
        (10.0, b"10"),
        (0.0014, b"0.001"),
        (0.0009, b"0"),
        (0.0, b"0"),
        (-1.0, b"0"),
        (float("nan"), b"0"),
        (float("inf"), b"316224000"),
    ],
)
def test_what_is_left_is_written_rounded_down(seconds: float, value: bytes) -> None:
    assert format_timeout_header(seconds) == value


@settings(derandomize=True)
@given(st.floats(0.0, 1e6))
def test_what_is_written_is_read_and_promises_nothing(seconds: float) -> None:
    read = parse_timeout_header(format_timeout_header(seconds))
    assert read is not None
    assert seconds - 0.0011 <= read <= seconds + 1e-9


@settings(derandomize=True)
@given(st.binary(max_size=20))
def test_no_bytes_raise(value: bytes) -> None:
    parse_timeout_header(value)
    parse_grpc_timeout(value)


@pytest.mark.parametrize(
    ("value", "seconds"),
    [
        (b"1H", 3600.0),
        (b"2M", 120.0),
        (b"3S", 3.0),
        (b"100m", 0.1),
        (b"50u", 50e-6),
        (b"99999999n", 0.099999999),
        (b"0S", 0.0),
    ],
)
def test_grpc_units_are_understood(value: bytes, seconds: float) -> None:
    assert parse_grpc_timeout(value) == pytest.approx(seconds)


@pytest.mark.parametrize("value", [b"", b"1", b"S", b"100000000n", b"1s", b"1.5S", b"-1S", b"1S "])
def test_malformed_grpc_timeouts_say_nothing(value: bytes) -> None:
    assert parse_grpc_timeout(value) is None
