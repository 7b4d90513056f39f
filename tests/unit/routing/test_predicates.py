"""Header, query and cookie predicates."""

from __future__ import annotations

import pytest

from nexgate.errors import ConfigError
from nexgate.routing import (
    Absent,
    CookiePredicate,
    Exact,
    HeaderPredicate,
    Present,
    QueryPredicate,
    Regex,
    Subject,
    parse_cookies,
    parse_query,
)

REQUEST = Subject(
    query=b"a=1&a=2&b&c=x%26y+z&%64=%C3%A9%ff",
    headers={
        b"x-version": [b"1", b"2"],
        b"x-empty": [b""],
        b"cookie": [b'beta=1; s="q"', b"beta=2"],
        b"authorization": [b"Bearer secret"],
    },
)


@pytest.mark.parametrize(
    ("predicate", "expected"),
    [
        (HeaderPredicate(b"X-Version", Exact("2")), True),
        (HeaderPredicate(b"x-version", Exact("3")), False),
        (HeaderPredicate(b"x-version", Regex("[0-9]")), True),
        (HeaderPredicate(b"x-version", Regex("")), False),
        (HeaderPredicate(b"x-empty", Present()), True),
        (HeaderPredicate(b"x-empty", Absent()), False),
        (HeaderPredicate(b"x-none", Absent()), True),
        (HeaderPredicate(b"x-none", Present()), False),
        (QueryPredicate("a", Exact("2")), True),
        (QueryPredicate("b", Exact("")), True),
        (QueryPredicate("c", Exact("x&y z")), True),
        (QueryPredicate("d", Exact("é�")), True),
        (QueryPredicate("%64", Present()), False),
        (CookiePredicate("beta", Exact("2")), True),
        (CookiePredicate("s", Exact("q")), True),
        (CookiePredicate("Beta", Present()), False),
    ],
)
def test_a_predicate_holds_if_any_value_does(predicate: HeaderPredicate, expected: bool) -> None:
    assert predicate.matches(REQUEST) is expected


def test_a_regex_must_match_the_whole_value() -> None:
    assert not Regex("1").holds(["12"])
    assert not Regex("1$").holds(["1\n"])


def test_a_regex_that_does_not_compile_is_a_configuration_error() -> None:
    with pytest.raises(ConfigError, match="unterminated"):
        Regex("(")


@pytest.mark.parametrize(
    ("predicate", "why"),
    [
        (HeaderPredicate(b"x-version", Exact("3")), "header x-version: is '1' and '2', not '3'"),
        (
            HeaderPredicate(b"x-version", Regex("x")),
            "header x-version: is '1' and '2', must match 'x'",
        ),
        (HeaderPredicate(b"x-none", Exact("3")), "header x-none: is absent, must be '3'"),
        (HeaderPredicate(b"x-none", Present()), "header x-none: is absent, must be present"),
        (HeaderPredicate(b"x-version", Absent()), "header x-version: is present, must be absent"),
        (QueryPredicate("a", Exact("9")), "query a: is '1' and '2', not '9'"),
        (CookiePredicate("beta", Exact("9")), "cookie beta: has another value (withheld)"),
        (
            HeaderPredicate(b"Authorization", Exact("x")),
            "header authorization: has another value (withheld)",
        ),
    ],
)
def test_why_not_says_what_was_found_and_what_was_wanted(
    predicate: HeaderPredicate, why: str
) -> None:
    assert predicate.why_not(REQUEST) == why


def test_a_long_value_is_cut_in_an_explanation() -> None:
    subject = Subject(headers={b"x": [b"v" * 9000] * 5})
    why = HeaderPredicate(b"x", Exact("1")).why_not(subject)
    assert len(why) < 300
    assert "2 more" in why


def test_describe_says_what_a_predicate_asks_for() -> None:
    assert HeaderPredicate(b"X-A", Exact("2")).describe() == "header x-a is '2'"
    assert QueryPredicate("q", Regex("x+")).describe() == "query q matches 'x+'"
    assert CookiePredicate("c", Present()).describe() == "cookie c is present"
    assert CookiePredicate("c", Absent()).describe() == "cookie c is absent"
    assert HeaderPredicate(b"authorization", Exact("key")).describe() == (
        "header authorization has a value (withheld)"
    )


def test_only_an_ampersand_separates_query_parameters() -> None:
    assert parse_query(b"a=1;b=2&&=3&c=d=e") == {"a": ["1;b=2"], "": ["3"], "c": ["d=e"]}


def test_cookies_are_read_from_every_field_and_not_decoded() -> None:
    assert parse_cookies([b"a=1;b = %20 ;junk; c=", b"a=2"]) == {
        "a": ["1", "2"],
        "b": ["%20"],
        "c": [""],
    }
