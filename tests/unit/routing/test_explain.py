"""Explanations: the routes that came close, and in words why they were not chosen."""

from __future__ import annotations

from nexgate.routing import (
    CookiePredicate,
    Exact,
    HeaderPredicate,
    Match,
    Miss,
    Route,
    RouteTable,
    Subject,
    Template,
    explain,
)

ROUTES = [
    Route(Template.parse("/api/orders/{id:int}"), 0, "order", methods=frozenset({b"GET"})),
    Route(
        Template.parse("/api/users/{id:int}"),
        1,
        "user-v2",
        predicates=(HeaderPredicate(b"x-version", Exact("2")),),
    ),
    Route(Template.parse("/api/users/{id:int}"), 2, "user-eu", hosts=(b"eu.example.com", b"*.de")),
    Route(Template.parse("/api/users"), 3, "users"),
    Route(
        Template.parse("/api/users/{id:int}"),
        4,
        "user-beta",
        methods=frozenset({b"GET"}),
        predicates=(CookiePredicate("beta", Exact("1")),),
    ),
    Route(Template.parse("/api/*"), 5, "fallback"),
]


def reasons(subject: Subject) -> dict[str, tuple[str, ...]]:
    found = explain(RouteTable(ROUTES), subject)
    return {candidate.route.name: candidate.reasons for candidate in found.candidates}


def test_every_route_that_lost_says_which_predicate_failed() -> None:
    subject = Subject(
        b"POST",
        b"us.example.com",
        b"/api/users/42",
        headers={b"x-version": [b"1"], b"cookie": [b"beta=secret"]},
    )
    assert reasons(subject) == {
        "order": (
            "path: segment 2 'users' is not 'orders'",
            "method: POST is not one of GET, HEAD",
        ),
        "user-v2": ("header x-version: is '1', not '2'",),
        "user-eu": ("host: 'us.example.com' is not 'eu.example.com' or '*.de'",),
        "users": ("path: segment 3 '42' is one too many",),
        "user-beta": (
            "method: POST is not one of GET, HEAD",
            "cookie beta: has another value (withheld)",
        ),
    }


def test_a_miss_has_an_explanation_too() -> None:
    found = explain(RouteTable(ROUTES[:1]), Subject(b"PUT", path=b"/api/orders/x"))
    assert found.matched is None
    assert isinstance(found.outcome, Miss)
    assert found.candidates[0].reasons == (
        "path: segment 3 'x' is not '{id:int}'",
        "method: PUT is not one of GET, HEAD",
    )


def test_a_path_that_is_too_short_says_what_must_follow() -> None:
    table = RouteTable([Route(Template.parse("/a/{x}"), 0, "a"), *ROUTES[:1]])
    close = explain(table, Subject(path=b"/a")).candidates[0]
    assert close.reasons == ("path: ends after segment 1, '{x}' must follow",)
    table = RouteTable([Route(Template.parse("/a/{x:path}"), 0, "a")])
    close = explain(table, Subject(path=b"/a")).candidates[0]
    assert close.reasons == ("path: ends after segment 1, '/' must follow",)


def test_a_route_that_matches_but_comes_later_says_who_was_first() -> None:
    subject = Subject(path=b"/api/users")
    found = explain(RouteTable(ROUTES), subject)
    assert isinstance(found.outcome, Match)
    assert found.matched is not None
    assert found.matched.name == "users"
    assert found.candidates[0].is_shadowed
    assert found.candidates[0].reasons == ("precedence: it matches, but 'users' comes first",)


def test_of_many_routes_the_closest_twenty_are_shown() -> None:
    many = [Route(Template.parse(f"/other/{n}/x"), n, f"r{n}") for n in range(500)]
    close = Route(Template.parse("/api/v1/users"), -1, "close", methods=frozenset({b"POST"}))
    found = explain(RouteTable([*many, close]), Subject(path=b"/api/v1/users"))
    assert found.candidates[0].route is close
    assert len(found.candidates) == 20
    assert found.omitted == 481
