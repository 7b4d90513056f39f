"""Path templates: what they parse to, and what they say when they do not."""

from __future__ import annotations

import uuid

import pytest

from nexgate.errors import ConfigError
from nexgate.routing import PathRules, Template, TemplateError

RULES = PathRules()
AN_ID = "0f8fad5b-d9cb-469f-a165-70867728950e"


def matches(template: str, path: str, rules: PathRules = RULES) -> bool:
    return Template.parse(template).why_not(path.encode(), rules) is None


@pytest.mark.parametrize(
    ("template", "yes", "no"),
    [
        ("/", ["/"], ["/a"]),
        ("/users", ["/users"], ["/users/", "/user", "/users/a", "/Users"]),
        ("/users/", ["/users/"], ["/users", "/users/a"]),
        (
            "/users/{id}",
            ["/users/1", "/users/a;b", "/users/%2525"],
            ["/users/", "/users/1/", "/users"],
        ),
        ("/users/{id}/", ["/users/1/"], ["/users/1"]),
        (
            "/u/{id:int}",
            ["/u/0", "/u/007", "/u/" + "9" * 18],
            ["/u/-1", "/u/+5", "/u/1_0", "/u/1a"],
        ),
        ("/u/{id:int}", [], ["/u/" + "9" * 19, "/u/%D9%A1"]),
        ("/u/{id:uuid}", [f"/u/{AN_ID}", f"/u/{AN_ID.upper()}"], ["/u/" + AN_ID.replace("-", "")]),
        ("/u/{id:slug}", ["/u/a-B_9"], ["/u/a.b", "/u/%20"]),
        ("/u/{id:str}", ["/u/a.b"], ["/u/"]),
        ("/{name}.json", ["/a.json", "/a.b.json"], ["/.json", "/a.jsonx", "/a/b.json"]),
        ("/v{n:int}/x", ["/v1/x"], ["/v/x", "/vx/x", "/1/x"]),
        ("/pre-{x}-post", ["/pre-a-post"], ["/pre--post"]),
        ("/files/{rest:path}", ["/files/", "/files/a/b", "/files/a/"], ["/files", "/file/"]),
        ("/admin/*", ["/admin", "/admin/", "/admin/x/y"], ["/administrator", "/adm"]),
        ("/*", ["/", "/a/b"], []),
        ("/{rest:path}", ["/", "/a/b"], []),
        ("/café/a b", ["/caf%C3%A9/a%20b"], ["/caf%C3%A9/a+b"]),
        ("/@me", ["/@me", "/%40me"], []),
        ("/%40{n}", ["/@x", "/%40x"], ["/x"]),
        ("/{n}5x", ["/%255x"], ["/%25x"]),
        ("/{n}5x", [], ["/a%25x"]),
        ("/%2541", ["/%2541"], ["/A"]),
    ],
)
def test_a_template_matches_these_paths_and_not_those(
    template: str, yes: list[str], no: list[str]
) -> None:
    assert [path for path in yes if not matches(template, path)] == []
    assert [path for path in no if matches(template, path)] == []


def test_case_is_ignored_in_literals_when_the_rules_say_so() -> None:
    rules = PathRules(ignore_case=True)
    assert matches("/Users/{id}", "/uSERS/X", rules)
    assert matches("/V{n:int}.JSON", "/v1.json", rules)
    assert Template.parse("/V{n}.JSON").capture(b"/v1X.json") == (b"1X",)


@pytest.mark.parametrize(
    ("template", "reason", "hint"),
    [
        ("users", "does not start", "/users"),
        ("", "does not start", "/"),
        ("/a//b", "empty segment", "one '/'"),
        ("/{a}/{a}", "occurs twice", "rename"),
        ("/{a:itn}", "unknown type", "did you mean 'int'"),
        ("/{a:complex}", "unknown type", "one of uuid, int, slug, str, path"),
        ("/{a", "unbalanced", ""),
        ("/a}", "unbalanced", ""),
        ("/{{a}}", "two parameters|unbalanced", ""),
        ("/{a}-{b}", "two parameters", "one parameter"),
        ("/{a:path}/x", "last segment", "end"),
        ("/x{a:path}", "last segment", "end"),
        ("/..", "dot segment", ""),
        ("/a/./b", "dot segment", ""),
        ("/%2E%2e", "dot segment", ""),
        ("/..;x", "dot segment", ""),
        ("/a*", "'\\*'", "{name}"),
        ("/*/a", "'\\*'", "{name}"),
        ("/a?b", "query", "predicate"),
        ("/{1a}", "not a parameter name", "letters"),
        ("/{}", "not a parameter name", "letters"),
        ("/%zz", "cannot occur", ""),
        ("/%00", "cannot occur", ""),
        ("/" + "a/" * 300, "more than 256", ""),
    ],
)
def test_a_wrong_template_says_what_is_wrong_and_what_to_write(
    template: str, reason: str, hint: str
) -> None:
    with pytest.raises(TemplateError, match=reason) as caught:
        Template.parse(template)
    assert isinstance(caught.value, ConfigError)
    assert isinstance(caught.value, ValueError)
    assert hint in caught.value.hint
    assert repr(template) in str(caught.value)


def test_parameters_are_decoded_once_and_converted() -> None:
    template = Template.parse("/{a}/{n:int}/{u:uuid}/{f}.txt/{rest:path}")
    raw = template.capture(f"/x%2525%C3%A9/007/{AN_ID}/n%20m.txt/p/%20/".encode())
    assert raw == (b"x%2525%C3%A9", b"007", AN_ID.encode(), b"n%20m", b"p/%20/")
    assert template.names == ("a", "n", "u", "f", "rest")
    assert template.decode(raw) == {
        "a": "x%25é",
        "n": 7,
        "u": uuid.UUID(AN_ID),
        "f": "n m",
        "rest": "p/ /",
    }


def test_a_parameter_that_is_not_utf_8_is_replaced_and_does_not_raise() -> None:
    assert Template.parse("/{a}").decode((b"%FF",)) == {"a": "�"}


@pytest.mark.parametrize(
    ("template", "prefix", "path", "stripped"),
    [
        ("/api/v1/{rest:path}", b"/api/v1", b"/api/v1/x/y", b"/x/y"),
        ("/admin/*", b"/admin", b"/admin", b"/"),
        ("/admin/*", b"/admin", b"/admin/", b"/"),
        ("/@a/{x}", b"/@a", b"/%40a/x", b"/x"),
        ("/{x}", b"", b"/a", b"/a"),
        ("/*", b"", b"/a/b", b"/a/b"),
        ("/a/b", b"/a/b", b"/a/b", b"/"),
    ],
)
def test_the_literal_prefix_can_be_stripped(
    template: str, prefix: bytes, path: bytes, stripped: bytes
) -> None:
    parsed = Template.parse(template)
    assert parsed.literal_prefix == prefix
    assert parsed.strip(path) == stripped
