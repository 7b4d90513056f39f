"""Sections report everything at once, in words for people."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Annotated, Any, ClassVar, Literal

import pytest
from pydantic import Field, ValidationError

from nexgate.config import (
    Finding,
    Flag,
    Integer,
    InvalidConfig,
    Number,
    OneOrMany,
    Section,
    Short,
    did_you_mean,
    integer,
    nearest,
    parse,
    peek,
    problems_of,
)


class Inner(Section):
    """Something inside."""

    foreign: ClassVar[Mapping[str, str]] = {"colour": "the key is color"}

    color: Literal["red", "green", "dark-blue"] = "red"
    """A colour."""
    count: Annotated[Integer, integer(1, 9)] = 1
    """A count."""


class Round(Section):
    """One kind."""

    kind: Literal["round"] = "round"
    """Selects it."""
    radius: Number = 1.0
    """A radius."""


class Square(Section):
    """Another kind."""

    kind: Literal["square"] = "square"
    """Selects it."""


class Outer(Section):
    """Everything that the machinery has to cope with."""

    name: str = Field(examples=['"x"'])
    """Required."""
    inner: Annotated[Inner, Short("color")] = Inner()
    """May be written short."""
    inners: tuple[Inner, ...] = ()
    """A list of sections."""
    many: Annotated[tuple[str, ...], OneOrMany(), Field(min_length=1)] | None = None
    """May be written as one."""
    table: dict[str, Inner] = {}
    """A table of sections."""
    shape: Annotated[Round | Square, Field(discriminator="kind"), Short("kind")] = Round()
    """A choice."""
    flag: Flag = False
    """A flag."""
    ratio: Annotated[Number, Field(ge=0, le=1)] = 0.5
    """A ratio."""

    @classmethod
    def relations(cls, data: Mapping[str, Any]) -> Iterator[Finding]:
        if data.get("flag") is True and peek(data, "inner", "count") == 2:
            yield Finding(("flag",), "cannot be with two")


def problems(text: str) -> list[tuple[int | None, str, str, str]]:
    try:
        parse(text, Outer, filename="o.toml")
    except InvalidConfig as invalid:
        return [(p.line, p.path, p.message, p.hint) for p in invalid.problems]
    return []


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", (None, "name", "is required", 'for example name = "x"')),
        ("name = 5", (1, "name", "must be text", 'put it in quotes: "5"')),
        ("name = true", (1, "name", "must be text", "")),
        ('name = "x"\nnam = 1', (2, "nam", "is not a key here", 'did you mean "name"?')),
        ('name = "x"\nNAME = 1', (2, "NAME", "is not a key here", 'did you mean "name"?')),
        (
            'name = "x"\nzzz = 1',
            (
                2,
                "zzz",
                "is not a key here",
                "the keys here are name, inner, inners, many, table, shape, flag, ratio",
            ),
        ),
        (
            'name = "x"\n[inner]\ncolour = 1',
            (3, "inner.colour", "is not a key here", "the key is color"),
        ),
        (
            'name = "x"\n[inner]\nCoLoUr = 1',
            (3, "inner.CoLoUr", "is not a key here", "the key is color"),
        ),
        (
            'name = "x"\ninner = "rad"',
            (2, "inner", "must be one of red, green, dark-blue", 'did you mean "red"?'),
        ),
        (
            'name = "x"\ninner = "dark_blue"',
            (2, "inner", "must be one of red, green, dark-blue", 'did you mean "dark-blue"?'),
        ),
        (
            'name = "x"\ninner = 5',
            (2, "inner", "must be a table", "write { color = …, count = … }"),
        ),
        (
            'name = "x"\n[[inner]]\ncount = 1',
            (2, "inner", "must be a table, not a list", "write [name], with single brackets"),
        ),
        (
            'name = "x"\n[inners]\ncount = 1',
            (
                2,
                "inners",
                "must be a list",
                "write [[name]] with double brackets, once for each element",
            ),
        ),
        ('name = "x"\ninners = 1', (2, "inners", "must be a list", "put it in brackets: [ … ]")),
        ('name = "x"\ninner.count = 10', (2, "inner.count", "must be from 1 to 9", "")),
        ('name = "x"\ninner.count = 1.5', (2, "inner.count", "must be a whole number", "")),
        (
            'name = "x"\ninner.count = "5"',
            (2, "inner.count", "must be a whole number", "without the quotes: 5"),
        ),
        ('name = "x"\ninner.count = true', (2, "inner.count", "must be a whole number", "")),
        ('name = "x"\nflag = "true"', (2, "flag", "must be true or false", "without the quotes")),
        ('name = "x"\nflag = 1', (2, "flag", "must be true or false", "")),
        ('name = "x"\nratio = 2', (2, "ratio", "must be at most 1", "")),
        ('name = "x"\nratio = -1', (2, "ratio", "must be at least 0", "")),
        ('name = "x"\nratio = nan', (2, "ratio", "must be a finite number", "")),
        ('name = "x"\nratio = "1"', (2, "ratio", "must be a number", "")),
        ('name = "x"\nmany = []', (2, "many", "must not be empty", "")),
        ('name = "x"\nmany = 5', (2, "many", "must be text", 'put it in quotes: "5"')),
        ('name = "x"\nmany = ["a", 5]', (2, "many[1]", "must be text", 'put it in quotes: "5"')),
        ('name = "x"\ntable = 5', (2, "table", "must be a table", 'write { name = "value" }')),
        (
            'name = "x"\n[table."a b"]\ncount = 0',
            (3, 'table."a b".count', "must be from 1 to 9", ""),
        ),
        (
            'name = "x"\nshape = "rond"',
            (2, "shape", "must be one of round, square", 'did you mean "round"?'),
        ),
        (
            'name = "x"\nshape = { kind = "sqare" }',
            (2, "shape", "must be one of round, square", 'did you mean "square"?'),
        ),
        (
            'name = "x"\nshape = { radius = 1 }',
            (2, "shape", "does not say its kind", 'write { kind = "…" } or the kind alone'),
        ),
        (
            'name = "x"\nshape = { kind = "square", radius = 1 }',
            (2, "shape.radius", "is not a key here", "the keys here are kind"),
        ),
        (
            'name = "x"\nshape = { kind = "round", radius = "1" }',
            (2, "shape.radius", "must be a number", ""),
        ),
        ('name = "x"\nflag = true\ninner.count = 2', (2, "flag", "cannot be with two", "")),
    ],
)
def test_each_mistake_has_its_line_its_words_and_its_hint(
    text: str, expected: tuple[int | None, str, str, str]
) -> None:
    assert problems(text) == [expected]


def test_everything_is_reported_in_the_order_of_the_file() -> None:
    text = 'flag = true\nzzz = 1\ninner.count = 2\n[[inners]]\ncount = 0\n[[inners]]\ncolor = "x"\n'
    assert [(line, path) for line, path, _, _ in problems(text)] == [
        (None, "name"),
        (1, "flag"),
        (2, "zzz"),
        (5, "inners[0].count"),
        (7, "inners[1].color"),
    ]


def test_python_code_gets_the_same_words() -> None:
    with pytest.raises(ValidationError) as caught:
        Outer(name="x", inner={"count": 99}, flaag=True)  # type: ignore[arg-type,call-arg]
    assert {(p.path, p.message, p.hint) for p in problems_of(caught.value)} == {
        ("inner.count", "must be from 1 to 9", ""),
        ("flaag", "is not a key here", 'did you mean "flag"?'),
    }
    assert "99" not in str(caught.value)


def test_a_section_is_taken_where_a_table_is_expected() -> None:
    inner = Inner(count=3)
    assert Outer(name="x", inner=inner, inners=(inner,)).inners[0] is inner


def test_sections_do_not_change() -> None:
    with pytest.raises(ValidationError, match="frozen"):
        Inner().count = 2


def test_short_forms_have_the_long_shape() -> None:
    outer = Outer.model_validate({"name": "x", "inner": "green", "many": "a", "shape": "square"})
    assert (outer.inner, outer.many, outer.shape) == (Inner(color="green"), ("a",), Square())


@pytest.mark.parametrize(
    ("word", "near"),
    [
        ("conect", "connect"),
        ("first-byte", "first_byte"),
        ("FIRSTBYTE", "first_byte"),
        ("zzz", None),
        ("", None),
        ("x" * 100_000, None),
    ],
)
def test_the_nearest_word_is_found(word: str, near: str | None) -> None:
    assert nearest(word, ["connect", "first_byte", "total"]) == near


def test_without_a_near_word_all_are_listed() -> None:
    assert did_you_mean("zzz", ["a", "b"], otherwise="one of") == "one of a, b"
    assert did_you_mean("zzz", [], otherwise="one of") == ""
    assert did_you_mean("zzz", ["a"]) == ""
    many = [f"w{n}" for n in range(30)]
    assert did_you_mean("zzz", many, otherwise="one of").endswith("w19, …")
