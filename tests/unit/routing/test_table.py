"""The compiled table: precedence, misses, conflicts, and equality with a scan of all routes."""

from __future__ import annotations

import re
import sys
import time
from collections.abc import Sequence

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nexgate.errors import ConfigError
from nexgate.routing import (
    Absent,
    CookiePredicate,
    Exact,
    HeaderPredicate,
    Match,
    Miss,
    PathRules,
    Present,
    QueryPredicate,
    Regex,
    Route,
    RouteTable,
    Subject,
    Template,
    _leaf,
    _table,
    matching_key,
)


def route(
    template: str,
    name: str = "",
    *,
    hosts: Sequence[bytes] = (),
    methods: Sequence[bytes] = (),
    predicates: Sequence[HeaderPredicate | QueryPredicate | CookiePredicate] = (),
    priority: int = 0,
) -> Route[str]:
    name = name or template
    return Route(
        Template.parse(template),
        name,
        name,
        tuple(hosts),
        frozenset(methods),
        tuple(predicates),
        priority,
    )


def answer(
    routes: Sequence[Route[str]],
    path: str,
    *,
    method: bytes = b"GET",
    host: bytes = b"",
    query: bytes = b"",
    headers: dict[bytes, list[bytes]] | None = None,
) -> str | tuple[bytes, ...]:
    subject = Subject(method, host, path.encode(), query, headers or {})
    found = RouteTable(routes).match(subject)
    return found.allow if isinstance(found, Miss) else found.route.name


# --- precedence -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("templates", "path", "expected"),
    [
        (["/{x}", "/me"], "/me", "/me"),
        (["/{x}", "/{x:int}", "/1"], "/1", "/1"),
        (["/{x}", "/{x:int}", "/v{x}"], "/1", "/{x:int}"),
        (["/{x}", "/{x:slug}", "/v{x}"], "/v1", "/v{x}"),
        (["/{x}.json", "/a{x}.json"], "/ab.json", "/a{x}.json"),
        (["/v{x}", "/v{x:int}"], "/v1", "/v{x:int}"),
        (["/{x:slug}", "/{x:int}"], "/12", "/{x:int}"),
        (["/*", "/{rest:path}"], "/a", "/{rest:path}"),
        (["/*", "/a/*", "/a/b/*", "/a"], "/a/b/c", "/a/b/*"),
        (["/*", "/a/*", "/a/b/*"], "/a/x", "/a/*"),
        (["/a/*", "/a"], "/a", "/a"),
        (["/a/*", "/a/"], "/a/", "/a/"),
        (["/a/*", "/a/{x}"], "/a/", "/a/*"),
        (["/*", "/a/{x}", "/a/{x:int}"], "/a/", "/*"),
        (["/{x}/b/c", "/a/{y}/c", "/a/b/{z}"], "/a/b/c", "/a/b/{z}"),
        (["/a/{y}/d", "/{x}/b/c"], "/a/b/c", "/{x}/b/c"),
        (["/{a}", "/{b}"], "/x", "/{a}"),
    ],
)
def test_the_more_specific_path_wins_wherever_it_is_declared(
    templates: list[str], path: str, expected: str
) -> None:
    routes = [route(template) for template in templates]
    assert answer(routes, path) == expected
    if expected != "/{a}":
        assert answer(routes[::-1], path) == expected


def test_priority_beats_every_rule_of_specificity() -> None:
    routes = [
        route("/a/b", hosts=[b"api.example.com"], methods=[b"GET"]),
        route("/*", "maintenance", priority=1),
    ]
    assert answer(routes, "/a/b", host=b"api.example.com") == "maintenance"


def test_an_exact_host_beats_a_longer_wildcard_beats_a_shorter_one_beats_none() -> None:
    routes = [
        route("/deep/path", "any"),
        route("/*", "com", hosts=[b"*.example.com"]),
        route("/*", "eu", hosts=[b"*.eu.example.com"]),
        route("/*", "exact", hosts=[b"A.eu.Example.com."]),
    ]
    assert answer(routes, "/deep/path", host=b"a.eu.example.com") == "exact"
    assert answer(routes, "/deep/path", host=b"b.eu.example.com") == "eu"
    assert answer(routes, "/deep/path", host=b"x.y.eu.example.com") == "eu"
    assert answer(routes, "/deep/path", host=b"eu.example.com") == "com"
    assert answer(routes, "/deep/path", host=b"example.com") == "any"
    assert answer(routes, "/deep/path", host=b".example.com") == "any"
    assert answer(routes, "/deep/path", host=b"badexample.com") == "any"
    assert answer(routes, "/deep/path") == "any"


def test_a_host_without_the_path_falls_back_to_wider_hosts() -> None:
    routes = [
        route("/only", "exact", hosts=[b"a.example.com"]),
        route("/wild", "wildcard", hosts=[b"*.example.com"]),
        route("/any"),
    ]
    host = b"a.example.com"
    assert answer(routes, "/wild", host=host) == "wildcard"
    assert answer(routes, "/any", host=host) == "/any"
    assert answer(routes, "/none", host=host) == ()


def test_methods_then_headers_then_query_then_cookies_then_declaration_decide() -> None:
    h, q, c = (
        HeaderPredicate(b"h", Exact("1")),
        QueryPredicate("q", Exact("1")),
        CookiePredicate("c", Exact("1")),
    )
    routes = [
        route("/", "first"),
        route("/", "second"),
        route("/", "c", predicates=[c]),
        route("/", "q", predicates=[q]),
        route("/", "qc", predicates=[q, c]),
        route("/", "h", predicates=[h]),
        route("/", "hq", predicates=[h, q]),
        route("/", "get", methods=[b"GET"]),
    ]
    everything = {b"h": [b"1"], b"cookie": [b"c=1"]}
    assert answer(routes, "/", query=b"q=1", headers=everything) == "get"
    assert answer(routes[:-1], "/", query=b"q=1", headers=everything) == "hq"
    assert answer(routes, "/", method=b"PUT", headers=everything) == "h"
    assert answer(routes, "/", method=b"PUT", query=b"q=1", headers={b"cookie": [b"c=1"]}) == "qc"
    assert answer(routes, "/", method=b"PUT", query=b"q=1") == "q"
    assert answer(routes, "/", method=b"PUT") == "first"


# --- misses -----------------------------------------------------------------------------------


def test_a_wrong_method_is_answered_with_the_methods_that_would_have_matched() -> None:
    beta = HeaderPredicate(b"beta", Present())
    routes = [
        route("/a", methods=[b"GET"]),
        route("/{x}", methods=[b"PUT", b"POST"]),
        route("/a", "beta", methods=[b"DELETE"], predicates=[beta]),
        route("/a", "host", methods=[b"PATCH"], hosts=[b"x.example.com"]),
    ]
    assert answer(routes, "/a", method=b"OPTIONS") == (b"GET", b"HEAD", b"POST", b"PUT")
    assert answer(routes, "/a", method=b"DELETE", headers={b"beta": [b""]}) == "beta"
    assert answer(routes, "/b", method=b"GET") == (b"POST", b"PUT")
    assert answer(routes, "/b/c", method=b"GET") == ()
    allow = answer(routes, "/a", method=b"OPTIONS", host=b"x.example.com")
    assert allow == (b"GET", b"HEAD", b"PATCH", b"POST", b"PUT")


def test_get_implies_head_but_methods_are_case_sensitive() -> None:
    routes = [route("/a", methods=[b"GET"])]
    assert answer(routes, "/a", method=b"HEAD") == "/a"
    assert answer(routes, "/a", method=b"get") == (b"GET", b"HEAD")


def test_a_route_that_fails_a_predicate_is_a_404_not_a_405() -> None:
    routes = [route("/a", methods=[b"GET"], predicates=[HeaderPredicate(b"x", Present())])]
    assert answer(routes, "/a", method=b"POST") == ()


def test_an_empty_table_misses_everything() -> None:
    assert RouteTable[str]([]).match(Subject()) == Miss()


# --- matches ----------------------------------------------------------------------------------


def test_parameters_come_from_the_clients_bytes_also_when_case_is_ignored() -> None:
    table = RouteTable([route("/Users/{id}/v{n:int}/{rest:path}")], PathRules(ignore_case=True))
    found = table.match(Subject(path=b"/uSERS/Bob%40X/V7/A/b"))
    assert isinstance(found, Match)
    assert found.raw_params == (b"Bob%40X", b"7", b"A/b")
    assert found.params == {"id": "Bob@X", "n": 7, "rest": "A/b"}


def test_two_matches_of_one_route_do_not_share_their_parameters() -> None:
    table = RouteTable([route("/{x}")])
    first, second = table.match(Subject(path=b"/a")), table.match(Subject(path=b"/b"))
    assert isinstance(first, Match)
    assert isinstance(second, Match)
    assert (first.params, second.params) == ({"x": "a"}, {"x": "b"})


def test_an_encoded_reserved_character_cannot_slip_past_a_route() -> None:
    routes = [route("/@root"), route("/*")]
    assert answer(routes, "/%40root") == "/@root"


def test_a_host_pattern_or_method_that_cannot_match_is_a_configuration_error() -> None:
    for host in (b"*", b"a.example.com:80", b"a.*.com", b"*example.com", b"http://a", b"", b"a b"):
        with pytest.raises(ConfigError, match="not a host pattern"):
            route("/", hosts=[host])
    with pytest.raises(ConfigError, match="not a method"):
        route("/", methods=[b"GET POST"])


# --- conflicts --------------------------------------------------------------------------------


def shadowed(*routes: Route[str]) -> list[tuple[str, str]]:
    return [(a.name, b.name) for a, b in RouteTable(routes).conflicts()]


def test_a_route_shadowed_by_an_equivalent_one_is_a_conflict() -> None:
    h = HeaderPredicate(b"h", Exact("1"))
    assert shadowed(route("/a/{x}", "1"), route("/a/{y}", "2")) == [("1", "2")]
    assert shadowed(route("/@a", "1"), route("/%40a", "2")) == [("1", "2")]
    assert shadowed(route("/a", "1"), route("/a", "2", methods=[b"GET"], priority=-1)) == [
        ("1", "2")
    ]
    assert shadowed(route("/a", "1", priority=1), route("/a", "2", predicates=[h])) == [("1", "2")]
    assert shadowed(
        route("/a", "1", methods=[b"GET", b"PUT"]), route("/a", "2", methods=[b"HEAD"])
    ) == [("1", "2")]
    assert shadowed(
        route("/a", "1", hosts=[b"*.example.com"], priority=1),
        route("/a", "2", hosts=[b"x.y.example.com", b"*.z.example.com"]),
    ) == [("1", "2")]


def test_a_route_that_can_still_match_is_no_conflict() -> None:
    h = HeaderPredicate(b"h", Exact("1"))
    assert shadowed(route("/a/{x}"), route("/a/{x:int}")) == []
    assert shadowed(route("/a", methods=[b"GET"]), route("/a", methods=[b"GET", b"PUT"])) == []
    assert shadowed(route("/a", methods=[b"GET"]), route("/a")) == []
    assert shadowed(route("/a", predicates=[h]), route("/a")) == []
    assert shadowed(route("/a"), route("/a", hosts=[b"x.com"])) == []
    one = route("/a", hosts=[b"x.com"])
    assert shadowed(one, route("/a", hosts=[b"x.com", b"y.com"])) == []


# --- equality with a scan ---------------------------------------------------------------------

# A second implementation, as naive as possible: a regular expression per route, in sorted order.

_FORMS = [
    ("{id:int}", "[0-9]{1,18}"),
    ("{id:slug}", "[A-Za-z0-9_-]+"),
    ("{id}", "[^/]+"),
    ("v{id}", "v[^/]+"),
    ("v{id:int}", "v[0-9]{1,18}"),
    ("{id}.x", "[^/]+[.]x"),
]


def _naive_pattern(template: str) -> str:
    pattern = ""
    for part in template[1:].split("/"):
        if part == "*":
            return pattern + "(/.*)?"
        if part == "{rest:path}":
            return pattern + "/.*"
        pattern += "/" + dict(_FORMS).get(re.sub(r"\d", "", part), re.escape(part))
    return pattern


def _naive_order(part: str) -> tuple[int, ...]:
    part = re.sub(r"\d", "", part) if "{" in part else part
    kinds = {
        "{id}.x": (1, -2),
        "v{id:int}": (1, -1, 1),
        "v{id}": (1, -1, 3),
        "{id:int}": (2, 1),
        "{id:slug}": (2, 2),
        "{id}": (3,),
        "{rest:path}": (5, 0),
        "*": (5, 1),
    }
    return kinds.get(part, (0,))


def _naive(routes: list[Route[str]], rules: PathRules, subject: Subject) -> str | set[bytes]:
    entries = []
    for position, candidate in enumerate(routes):
        for host in candidate.hosts or (b"",):
            path = [_naive_order(part) for part in candidate.template.text[1:].split("/")]
            count = [
                -sum(isinstance(p, kind) for p in candidate.predicates)
                for kind in (HeaderPredicate, QueryPredicate, CookiePredicate)
            ]
            host_order = (2, 0) if not host else (1, -len(host)) if b"*" in host else (0, 0)
            order = (-candidate.priority, host_order, [*path, (4,)], not candidate.methods, count)
            entries.append(((*order, position), host, candidate))
    allow: set[bytes] = set()
    for _, host, candidate in sorted(entries, key=lambda entry: entry[0]):
        flags = re.IGNORECASE if rules.ignore_case else 0
        path = re.sub("%40", "@", subject.path.decode())
        is_below = host.startswith(b"*") and subject.host.endswith(host[1:])
        if host and subject.host != host and not is_below:
            continue
        if not re.fullmatch(_naive_pattern(candidate.template.text), path, flags):
            continue
        if not all(predicate.matches(subject) for predicate in candidate.predicates):
            continue
        if not candidate.methods or subject.method in candidate.methods:
            return candidate.name
        allow |= candidate.methods
    return allow


_PARTS = st.sampled_from(["a", "b", "@", "v1", "A", *(form for form, _ in _FORMS)])
_LASTS = st.sampled_from([[], [""], ["*"], ["{rest:path}"]])


def _numbered(parts: list[str]) -> str:
    """Parameter names must differ within a template."""
    return "/" + "/".join(part.replace("{id", f"{{id{n}") for n, part in enumerate(parts))


_TEMPLATES = st.tuples(st.lists(_PARTS, max_size=3), _LASTS).map(
    lambda both: _numbered([*both[0], *both[1]] or [""])
)
_PREDICATES = st.sampled_from(
    [HeaderPredicate(b"h", Exact(value)) for value in "123"]
    + [HeaderPredicate(b"h", Absent()), HeaderPredicate(b"g", Regex("[12]"))]
    + [QueryPredicate("q", Exact("1")), CookiePredicate("c", Present())]
)
_HOSTS = st.sampled_from([b"a.b.c", b"x.b.c", b"*.b.c", b"*.c"])
# Some tables crowd on few paths, so that predicates and not paths decide.
_CROWDED = st.sampled_from(["/a", "/{id}"])
_ROUTES = st.sampled_from([_TEMPLATES, _CROWDED]).flatmap(
    lambda templates: st.lists(
        st.builds(
            route,
            templates,
            hosts=st.lists(_HOSTS, max_size=2),
            methods=st.lists(st.sampled_from([b"GET", b"PUT"]), max_size=1),
            predicates=st.lists(_PREDICATES, max_size=2, unique=True),
            priority=st.sampled_from([0, 0, 0, 1]),
        ),
        min_size=1,
        max_size=25,
    )
)
_SUBJECTS = st.builds(
    Subject,
    method=st.sampled_from([b"GET", b"HEAD", b"PUT", b"POST"]),
    host=st.sampled_from([b"", b"a.b.c", b"x.b.c", b"y.b.c", b"b.c", b"z.y.c", b"other"]),
    path=st.lists(
        st.sampled_from([b"a", b"b", b"%40", b"@", b"v1", b"v%40", b"1", b"A.x", b"a", b"V1"]),
        max_size=4,
    ).flatmap(
        lambda parts: st.sampled_from([b"", b"/"]).map(lambda end: b"/" + b"/".join(parts) + end)
    ),
    query=st.sampled_from([b"", b"q=1"]),
    headers=st.sampled_from(
        [{}, {b"h": [b"1"]}, {b"h": [b"2", b"3"], b"cookie": [b"c=1"]}, {b"g": [b"1"]}]
    ),
)


@pytest.mark.parametrize("max_trie_visits", [0, 256], ids=["rows", "trie"])
@settings(derandomize=True, deadline=None, max_examples=400)
@given(routes=_ROUTES, subjects=st.lists(_SUBJECTS, min_size=5, max_size=20), case=st.booleans())
def test_the_table_finds_what_a_scan_of_all_routes_finds(
    max_trie_visits: int, routes: list[Route[str]], subjects: list[Subject], case: bool
) -> None:
    rules = PathRules(ignore_case=case)
    named = [
        Route(r.template, str(n), str(n), r.hosts, r.methods, r.predicates, r.priority)
        for n, r in enumerate(routes)
    ]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(_table, "_MAX_TRIE_VISITS", max_trie_visits)
        patch.setattr(_leaf, "_SWITCH_FROM", 2)
        table = RouteTable(named, rules)
    conflicts = {loser.name for _, loser in table.conflicts()}
    for subject in subjects:
        if b"//" in subject.path:
            continue
        found = table.match(subject)
        outcome = set(found.allow) if isinstance(found, Miss) else found.route.name
        assert outcome == _naive(named, rules, subject)
        assert outcome not in conflicts if isinstance(outcome, str) else True
        if isinstance(found, Match):
            assert list(found.route.why_not(subject, rules)) == []
            assert len(found.raw_params) == len(found.route.template.names)
            assert set(found.params) == set(found.route.template.names)


# --- cost -------------------------------------------------------------------------------------


def best_us(table: RouteTable[str], subject: Subject, rounds: int = 30) -> float:
    best = float("inf")
    for _ in range(rounds):
        start = time.perf_counter()
        table.match(subject)
        best = min(best, time.perf_counter() - start)
    return best * 1e6


def test_every_combination_of_literal_and_parameter_is_not_exponential() -> None:
    depth = 12
    routes = [
        route(
            _numbered(["{id}" if number >> at & 1 else "a" for at in range(depth)]),
            f"r{number}",
            methods=[b"GET"],
        )
        for number in range(1 << depth)
    ]
    table = RouteTable(routes)
    miss = Subject(path=b"/a" * (depth - 1))
    assert table.match(miss) == Miss()
    wrong_method = Subject(b"PUT", path=b"/a" * depth)
    assert table.match(wrong_method) == Miss((b"GET", b"HEAD"))
    assert best_us(table, wrong_method) < 1000
    assert best_us(table, miss) < 1000
    assert best_us(table, Subject(path=b"/a" * (depth - 1) + b"/b")) < 1000


def test_200_segments_against_200_templates_of_200_segments_cost_less_than_a_millisecond() -> None:
    routes = [
        route("/" + "/".join("{x}" if at == hole else "a" for at in range(200)), f"r{hole}")
        for hole in range(200)
    ]
    table = RouteTable(routes)
    subject = Subject(path=b"/a" * 100 + b"/b" + b"/a" * 99)
    found = table.match(subject)
    assert isinstance(found, Match)
    assert found.route.name == "r100"
    assert best_us(table, subject) < 1000
    assert best_us(table, Subject(path=b"/a" * 199 + b"/b/b")) < 1000
    assert best_us(table, Subject(path=b"/a" * 198 + b"/b/b")) < 1000


def test_a_path_longer_than_every_template_is_not_split_to_its_end() -> None:
    table = RouteTable([route("/a/{x}"), route("/b/*")])
    assert best_us(table, Subject(path=b"/a" * 100_000)) < 1000
    assert answer([route("/a/{x}"), route("/b/*")], "/b" + "/a" * 1000) == "/b/*"


def work(table: RouteTable[str], path: str, **facts: object) -> int:
    """How many lines of Python one match executes: a cost that is the same on every machine."""
    lines = 0

    def trace(_frame: object, event: str, _argument: object) -> object:
        nonlocal lines
        lines += event == "line"
        return trace

    subject = Subject(path=path.encode(), **facts)  # type: ignore[arg-type]  # plain keywords
    sys.settrace(trace)  # type: ignore[arg-type]  # returns itself, which the type cannot say
    try:
        table.match(subject)
    finally:
        sys.settrace(None)
    return lines


@pytest.mark.parametrize(
    "shape",
    ["/api/s{n}", "/api/s{n}/{{id}}", "/s{n}/*", "/api/{{id}}/s{n}", "/api/v1/s{n}/u/{{id:int}}"],
)
def test_work_does_not_grow_with_the_number_of_routes(shape: str) -> None:
    def table(size: int) -> RouteTable[str]:
        return RouteTable([*(route(shape.format(n=n)) for n in range(size)), route("/*")])

    path = shape.format(n=5).replace("{id}", "7").replace("{id:int}", "7").replace("*", "x")
    assert work(table(10), path) == work(table(3000), path)
    assert work(table(10), "/api/none/none") == work(table(3000), "/api/none/none")


def test_work_does_not_grow_with_the_number_of_hosts() -> None:
    def table(size: int) -> RouteTable[str]:
        exact = [route("/{x}", f"e{n}", hosts=[b"h%d.example.com" % n]) for n in range(size)]
        wild = [route("/{x}", f"w{n}", hosts=[b"*.w%d.example.com" % n]) for n in range(size)]
        return RouteTable([*exact, *wild])

    for host in (b"h5.example.com", b"a.b.w5.example.com", b"none.example.org"):
        assert work(table(10), "/a", host=host) == work(table(2000), "/a", host=host)


def test_work_does_not_grow_with_routes_that_one_header_value_tells_apart() -> None:
    def table(size: int) -> RouteTable[str]:
        return RouteTable(
            [
                route(
                    "/{x}",
                    f"t{n}",
                    methods=[b"GET"],
                    predicates=[HeaderPredicate(b"tenant", Exact(str(n)))],
                )
                for n in range(size)
            ]
        )

    tenant = {b"tenant": [b"7"]}
    assert work(table(10), "/a", headers=tenant) == work(table(2000), "/a", headers=tenant)
    assert work(table(10), "/a", method=b"PUT", headers=tenant) == work(
        table(2000), "/a", method=b"PUT", headers=tenant
    )
    assert work(table(10), "/a") == work(table(2000), "/a")
    assert table(20).match(Subject(b"PUT", path=b"/a", headers=tenant)) == Miss((b"GET", b"HEAD"))
    found = table(2000).match(Subject(path=b"/a", headers={b"tenant": [b"1999", b"3"]}))
    assert isinstance(found, Match)
    assert found.route.name == "t3"


def test_a_route_without_the_shared_header_still_comes_first_by_priority() -> None:
    routes = [
        route("/a", f"t{n}", predicates=[HeaderPredicate(b"tenant", Exact(str(n)))])
        for n in range(20)
    ]
    beta = QueryPredicate("beta", Present())
    routes.append(route("/a", "beta", predicates=[beta], priority=1))
    routes.append(route("/a", "default", priority=-1))
    tenant = {b"tenant": [b"7"]}
    assert answer(routes, "/a", headers=tenant) == "t7"
    assert answer(routes, "/a", headers=tenant, query=b"beta") == "beta"
    assert answer(routes, "/a", headers={b"tenant": [b"x"]}) == "default"


def test_a_key_is_compared_in_one_form_by_table_and_template() -> None:
    assert matching_key(b"/%40A", PathRules(ignore_case=True)) == b"/@a"
