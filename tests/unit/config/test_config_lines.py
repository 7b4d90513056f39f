"""The scanner finds the line of every key that tomllib finds."""

from __future__ import annotations

import tomllib
from collections.abc import Iterator
from textwrap import dedent
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nexgate.config import KeyPath, spans


def paths(tree: Any, prefix: KeyPath = ()) -> Iterator[KeyPath]:
    """Every key and index in a parsed document."""
    items = tree.items() if isinstance(tree, dict) else enumerate(tree)
    for key, value in items:
        yield (*prefix, key)
        if isinstance(value, (dict, list)):
            yield from paths(value, (*prefix, key))


def lines_of(text: str) -> dict[KeyPath, int]:
    return {path: span.line for path, span in spans(text).items()}


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("a = 1", {("a",): 1}),
        ("\n\n  a = 1", {("a",): 3}),
        ("# a = 0\na = 1 # b = 2\nb = 3", {("a",): 2, ("b",): 3}),
        ("[a]\nb = 1\n[c.d]\ne = 2", {("a",): 1, ("a", "b"): 2, ("c",): 3, ("c", "d"): 3}),
        ("[a.b]\n[a]\nc = 1", {("a",): 2, ("a", "b"): 1, ("a", "c"): 3}),
        ("a.b.c = 1\na.d = 2", {("a",): 1, ("a", "b"): 1, ("a", "b", "c"): 1, ("a", "d"): 2}),
        ("[[r]]\nx = 1\n[[r]]\nx = 2", {("r",): 1, ("r", 0): 1, ("r", 1): 3, ("r", 1, "x"): 4}),
        (
            "[[r]]\n[r.t]\nx = 1\n[[r]]\n[r.t]\nx = 2\n[[r.s]]\ny = 1",
            {("r", 0, "t"): 2, ("r", 1, "t", "x"): 6, ("r", 1, "s", 0, "y"): 8},
        ),
        ("a = [\n 1,\n # 2,\n [3, 4],\n]\nb = 1", {("a", 1): 4, ("a", 1, 1): 4, ("b",): 6}),
        ("a = { b = 1, c = { d = [ {e = 1} ] } }", {("a", "c", "d", 0, "e"): 1}),
        ("a = [ { b = 1 },\n { b.c = 2 } ]", {("a", 0, "b"): 1, ("a", 1, "b", "c"): 2}),
        ('a = """\nb = 1\n[c]\n"""\nd = 1', {("a",): 1, ("d",): 5}),
        ("a = '''\n' '' b = 1\n'''\nd = 1", {("a",): 1, ("d",): 4}),
        ('a = """x\\""" """\nd = 1', {("a",): 1, ("d",): 2}),
        ('a = """x"""""\nd = 1', {("a",): 1, ("d",): 2}),
        ('"a b"."c.d" = 1', {("a b", "c.d"): 1}),
        ('\'a"\' = 1\n"\\u0062" = 2', {('a"',): 1, ("b",): 2}),
        ('["a]b"]\nc = 1', {("a]b",): 1, ("a]b", "c"): 2}),
        ("[ a . b ]\nc = 1", {("a", "b"): 1, ("a", "b", "c"): 2}),
        ('a = "# not ] a } comment"\nb = 1', {("a",): 1, ("b",): 2}),
        ("a = 1979-05-27 07:32:00Z\nb = 1", {("b",): 2}),
        ('1 = 1\n-_ = "x"', {("1",): 1, ("-_",): 2}),
        ("a = []\nb = {}\nc = [ [], [] ]", {("b",): 2, ("c", 1): 3}),
    ],
)
def test_each_key_has_the_line_on_which_it_stands(text: str, expected: dict[KeyPath, int]) -> None:
    tomllib.loads(text)
    found = lines_of(text)
    assert {path: found.get(path) for path in expected} == expected
    assert set(paths(tomllib.loads(text))) == set(found)


def test_columns_frame_the_key_and_the_value() -> None:
    text = dedent("""\
        [t]
          a.b = "x, y"  # comment
        c = [ 1, {d = 2} ]
    """)
    lines = text.split("\n")

    def cut(*path: str | int) -> tuple[str, str]:
        span = spans(text)[path]
        line = lines[span.line - 1]
        key = line[span.key_start - 1 : span.key_end - 1]
        return key, line[span.value_start - 1 : span.value_end - 1]

    assert cut("t") == ("[t]", "[t]")
    assert cut("t", "a", "b") == ("a.b", '"x, y"')
    assert cut("t", "c") == ("c", "[ 1, {d = 2} ]")
    assert cut("t", "c", 0) == ("", "1")
    assert cut("t", "c", 1, "d") == ("d", "2")


def test_a_value_of_several_lines_ends_with_its_first() -> None:
    span = spans('a = """x\ny"""')[("a",)]
    assert (span.line, span.value_start, span.value_end) == (1, 5, 9)


class _Writer:
    """Writes a document and notes on which line it puts each path."""

    def __init__(self, draw: st.DrawFn) -> None:
        self.draw = draw
        self.text = ""
        self.lines: dict[KeyPath, int] = {}
        self.serial = 0

    @property
    def line(self) -> int:
        return self.text.count("\n") + 1

    def pick(self, *choices: str) -> str:
        return self.draw(st.sampled_from(choices))

    def key(self) -> tuple[str, str]:
        """A new key: what it is, and one way to write it."""
        self.serial += 1
        n = self.serial
        return self.draw(
            st.sampled_from(
                [
                    (f"k{n}", f"k{n}"),
                    (f"{n}", f"{n}"),
                    (f"k {n}", f'"k {n}"'),
                    (f"k.{n}]", f"'k.{n}]'"),
                    (f'"{n}', f'"\\"{n}"'),
                    (f"é{n}#", f'"\\u00e9{n}#"'),
                    (f"k{n}=", f'"k{n}="'),
                ]
            )
        )

    def blank(self) -> None:
        self.text += self.pick("", "", "\n", "  ", "# [x]\n", "#\n\n", "\t\n")

    def value(self, path: KeyPath, depth: int, *, one_line: bool = False) -> None:
        kinds = ["scalar"] * 3 + (["array", "table"] if depth else [])
        kind = self.pick(*kinds)
        if kind == "scalar":
            short = [
                "1",
                "-0.5e3",
                "true",
                "inf",
                '""',
                "'#'",
                '"a # b"',
                '"\\\\"',
                "'\\'",
                '"\\""',
            ]
            short += ["1979-05-27 07:32:00", "07:32:00", '"""x"""', "'''x'''", '"""a""" '.strip()]
            long = ['"""\nk1 = 1\n[t]\n"""', "'''\n]\n}''''", '"""a\\\n  b"""""', '"""\\"""\n"""']
            self.text += self.pick(*short) if one_line else self.pick(*short, *long)
        elif kind == "array":
            self.text += "["
            for index in range(self.draw(st.integers(0, 3))):
                if not one_line:
                    self.text += self.pick("", "\n", " # ] \n", " ")
                self.lines[(*path, index)] = self.line
                self.value((*path, index), depth - 1, one_line=one_line)
                self.text += "," if one_line else self.pick(",", ", ", " # x\n,", ",\n")
            self.text += "]" if one_line else self.pick("]", "\n]", "# ,\n ]")
        else:
            self.text += self.pick("{", "{ ")
            for index in range(self.draw(st.integers(0, 3))):
                self.text += ", " if index else ""
                self.entry(path, depth - 1, one_line=True)
            self.text += self.pick("}", " }")

    def entry(self, prefix: KeyPath, depth: int, *, one_line: bool = False) -> None:
        parts = [self.key() for _ in range(self.draw(st.integers(1, 3)))]
        path = prefix
        for key, _ in parts:
            path = (*path, key)
            self.lines[path] = self.line
        self.text += self.pick(".", " . ").join(written for _, written in parts)
        self.text += self.pick("=", " = ")
        self.value(path, depth, one_line=one_line)

    def entries(self, prefix: KeyPath) -> None:
        for _ in range(self.draw(st.integers(0, 3))):
            self.blank()
            self.entry(prefix, 2)
            self.text += self.pick("\n", " # = \n")

    def table(self, prefix: KeyPath, written: list[str], depth: int) -> None:
        names = [self.key() for _ in range(self.draw(st.integers(1, 2)))]
        written = [*written, *(w for _, w in names)]
        path = (*prefix, *(key for key, _ in names))
        is_list = self.draw(st.booleans())
        for index in range(self.draw(st.integers(1, 3)) if is_list else 1):
            self.blank()
            for length in range(len(prefix) + 1, len(path) + 1):
                self.lines.setdefault(path[:length], self.line)
            here = (*path, index) if is_list else path
            self.lines[here] = self.line
            dotted = self.pick(".", " . ").join(written)
            self.text += (f"[[{dotted}]]" if is_list else f"[{dotted}]") + self.pick(
                "\n", " # [z]\n"
            )
            self.entries(here)
            for _ in range(self.draw(st.integers(0, 2)) if depth else 0):
                self.table(here, written, depth - 1)


@st.composite
def documents(draw: st.DrawFn) -> tuple[str, dict[KeyPath, int]]:
    writer = _Writer(draw)
    writer.entries(())
    for _ in range(draw(st.integers(0, 3))):
        writer.table((), [], 2)
    return writer.text, writer.lines


@given(documents())
@settings(max_examples=300, deadline=None)
def test_whatever_tomllib_accepts_has_the_line_where_it_was_written(
    document: tuple[str, dict[KeyPath, int]],
) -> None:
    text, expected = document
    tree = tomllib.loads(text)
    found = lines_of(text)
    assert set(paths(tree)) == set(expected)
    assert found == expected


@given(st.text(alphabet="ab=.[]{}\"'#\n ,\\", max_size=60))
@settings(max_examples=500, deadline=None)
def test_any_text_ends_and_any_document_is_covered(text: str) -> None:
    found = spans(text)
    try:
        tree = tomllib.loads(text)
    except tomllib.TOMLDecodeError:
        return
    assert set(paths(tree)) == set(found)
