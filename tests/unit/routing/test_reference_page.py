"""Executes the tables of docs/reference/routing.md."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from nexgate.errors import Refused
from nexgate.routing import Match, PathRules, Route, RouteTable, Subject, Template, normalise

PAGE = Path(__file__).parents[3] / "docs" / "reference" / "routing.md"


def rows(first_column: str) -> list[list[str]]:
    """The cells of the table whose header starts with this column."""
    text = PAGE.read_text("utf-8")
    table = text.split(f"| {first_column} |", 1)[1].split("\n\n", 1)[0]
    lines = table.splitlines()[2:]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]


def codes(cell: str) -> list[str]:
    return re.findall(r"`([^`]*)`", cell)


def matches(template: str, path: str) -> bool:
    table = RouteTable([Route(Template.parse(template), None, template)])
    return isinstance(table.match(Subject(path=normalise(path.encode(), PathRules()))), Match)


@pytest.mark.parametrize("row", rows("template"), ids=str)
def test_a_template_of_the_page_matches_what_the_page_says(row: list[str]) -> None:
    (template,) = codes(row[0])
    assert codes(row[1])
    assert [path for path in codes(row[1]) if not matches(template, path)] == []
    assert [path for path in codes(row[2]) if matches(template, path)] == []


@pytest.mark.parametrize("row", rows("routes"), ids=str)
def test_precedence_is_as_the_page_says(row: list[str]) -> None:
    templates, ((path,), (expected,)) = codes(row[0]), map(codes, row[1:])
    for order in (templates, templates[::-1]):
        table = RouteTable([Route(Template.parse(text), None, text) for text in order])
        found = table.match(Subject(path=path.encode()))
        assert isinstance(found, Match)
        assert found.route.name == expected


@pytest.mark.parametrize("row", rows("input"), ids=str)
def test_a_path_is_normalised_as_the_page_says(row: list[str]) -> None:
    (path,) = codes(row[0])
    settings = dict(setting.split(": ") for setting in codes(row[1]))
    rules = PathRules(
        merge_slashes=settings.get("merge_slashes", "true") == "true",
        encoded_slash="keep" if settings.get("encoded_slash") == "keep" else "reject",
        ignore_case=settings.get("ignore_case") == "true",
    )
    if row[2] == "refused":
        with pytest.raises(Refused):
            normalise(path.encode(), rules)
    else:
        assert [normalise(path.encode(), rules).decode()] == codes(row[2])


def test_the_page_has_its_tables() -> None:
    assert len(rows("template")) > 10
    assert len(rows("routes")) >= 5
    assert len(rows("input")) > 30
