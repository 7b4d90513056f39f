"""A text that is not TOML: the line, and what its writer probably meant."""

from __future__ import annotations

from pathlib import Path

import pytest

from nexgate.config import MAX_BYTES, InvalidConfig, Problem, examine, read_text
from nexgate.gateway_config import GatewayConfig, check_text


def problem(text: str) -> Problem:
    report = check_text(text, filename="g.toml", env={})
    assert report.config is None
    (only,) = report.problems
    return only


@pytest.mark.parametrize(
    ("text", "line", "hint"),
    [
        ("path: /users", 1, "TOML writes key = value, with an equals sign"),
        ("[a]\nlisten: x", 2, "TOML writes key = value, with an equals sign"),
        ("include other.toml", 1, "there are no includes; services and routes stand in one file"),
        ("a = True", 1, "TOML writes true and false in lower case"),
        ("a = None", 1, "TOML has no null; leave the key out"),
        ("a = null", 1, "TOML has no null; leave the key out"),
        ("a = /users", 1, 'text needs quotes: key = "value"'),
        ("a = ", 1, "a value is missing"),
        ("a = 5s", 1, 'a number with a unit needs quotes: "5s"'),
        ("a = 1 b = 2", 1, "one entry a line; text needs quotes"),
        (
            "[a]\nb = 1\n[a]",
            3,
            "this table is already there; join the two, or write [[name]] for a list",
        ),
        ("a = 1\na = 2", 2, "this key is already there; keep one of the two"),
        ("a = {b = 1, b = 2}", 1, "this key is already there; keep one of the two"),
        ("a = {b = 1}\na.c = 2", 2, "a table in { } is complete; put the key inside the braces"),
        ("a = [1, 2", 1, "the list is not closed: ]"),
        ("a = {b = 1", 1, "the table is not closed: } (and stands on one line)"),
        ('a = """x', 1, "the closing quotes are missing"),
        (
            'a = "x\nb = 1',
            1,
            "the closing quotes are missing, or a control character is in the text",
        ),
        ('a = "C:\\d"', 1, "write \\\\, or use single quotes"),
        ('a = "C:\\Users"', 1, "write \\\\, or use single quotes"),
        ("a\nb = 1", 1, "TOML writes key = value"),
    ],
)
def test_a_syntax_error_has_its_line_and_a_hint(text: str, line: int, hint: str) -> None:
    found = problem(text)
    assert (found.line, found.hint) == (line, hint)
    assert found.message.startswith("the file is not TOML: ")
    assert found.column is not None


def test_the_line_is_quoted_with_a_caret() -> None:
    found = problem("[a]\nb = 5s\n")
    assert found.excerpt == "b = 5s"
    assert found.excerpt[slice(*found.caret)] == "s"


@pytest.mark.parametrize("deep", ["[", "{a=", "[{a="])
def test_deep_nesting_is_a_problem_and_not_a_crash(deep: str) -> None:
    assert problem("a = " + deep * 100_000).message == "the document is nested too deeply"


def test_a_nesting_that_tomllib_takes_but_others_do_not_is_a_problem_too() -> None:
    for depth in range(100, 700, 50):
        report = check_text("a = " + "[" * depth + "]" * depth, filename="g.toml", env={})
        assert report.config is None


def test_a_number_without_end_is_a_problem() -> None:
    assert "a number or a date" in problem("a = 1" + "0" * 5000).message


def test_a_large_number_is_shown_in_words() -> None:
    report = check_text(f"gateway.via = 1{'0' * 4000}", filename="g.toml", env={})
    assert report.problems[0].value == "(a very large number)"


def test_text_that_is_not_unicode_is_a_problem() -> None:
    assert problem('a = 1\nb = "\ud800"').message == "the text is not valid Unicode"
    assert problem('a = 1\nb = "\ud800"').line == 2


def test_a_text_that_is_too_large_is_refused() -> None:
    assert problem("#" * (MAX_BYTES + 1)).message == "the file is larger than 16 MiB"
    assert examine("#" * 1000, GatewayConfig).config is not None


@pytest.mark.parametrize(
    ("raw", "message", "line"),
    [
        (b"a = 1\nb = '\xff'\n", "the file is not UTF-8: byte 0xff", 2),
        (b"\xff\xfea\0", "the file is UTF-16", None),
        (b"\xfe\xff\0a", "the file is UTF-16", None),
        (b"#" * (MAX_BYTES + 1), "the file is larger than 16 MiB", None),
    ],
)
def test_a_file_that_is_not_text_is_refused(
    tmp_path: Path, raw: bytes, message: str, line: int | None
) -> None:
    path = tmp_path / "g.toml"
    path.write_bytes(raw)
    with pytest.raises(InvalidConfig) as caught:
        read_text(path)
    assert (caught.value.problems[0].message, caught.value.problems[0].line) == (message, line)


def test_a_file_that_is_not_there_is_refused(tmp_path: Path) -> None:
    for path in (tmp_path / "none.toml", tmp_path):
        with pytest.raises(InvalidConfig, match="the file cannot be read"):
            read_text(path)


def test_a_byte_order_mark_and_windows_line_ends_are_tolerated(tmp_path: Path) -> None:
    path = tmp_path / "g.toml"
    path.write_bytes(b"\xef\xbb\xbf[gateway]\r\nworkers = 0\r\n")
    report = check_text(read_text(path), filename="g.toml", env={})
    assert [(p.line, p.path) for p in report.problems] == [(2, "gateway.workers")]
    assert check_text("\ufeff[gateway]", filename="", env={}).config is not None


def test_nothing_a_terminal_would_obey_is_quoted() -> None:
    found = problem('a = "\x1b[31m\x07"')
    assert "\x1b" not in found.excerpt
    assert "\x1b" not in repr(check_text('"\\u001b[31m" = 1', filename="", env={}).problems)
