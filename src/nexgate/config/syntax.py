"""What is wrong with a text that is not TOML, and what its writer probably meant.

``tomllib`` says where it stopped. That is not always where the mistake is, and never what to do:
the hints here come from what people coming from YAML, JSON and Python actually type.
"""

from __future__ import annotations

import re
from typing import Final

from .problems import Problem, visible

_SYNTAX: Final = re.compile(
    r"(?P<what>.*?) \(at (?:line (?P<line>\d+), column (?P<column>\d+)|.*)\)", re.DOTALL
)
_SECRETIVE: Final = re.compile(
    r"auth|token|secret|passw|api-?_?key|credential|cookie|private", re.I
)


def syntax_problem(message: str, text: str, filename: str) -> Problem:
    """The problem for the ``message`` of a ``TOMLDecodeError``."""
    found = _SYNTAX.fullmatch(message)
    what = found["what"] if found else message
    lines = text.split("\n")
    if found and found["line"]:
        line, column = int(found["line"]), int(found["column"])
    else:
        while len(lines) > 1 and not lines[-1].strip():
            lines.pop()
        line, column = len(lines), len(lines[-1]) + 1
    source = lines[line - 1] if line <= len(lines) else ""
    # The grammar of the line is broken, so its value cannot be told from its key with certainty.
    is_private = _SECRETIVE.search(source) is not None
    return Problem(
        path="",
        message=f"the file is not TOML: {visible(what[:1].lower() + what[1:])}",
        line=line,
        column=column,
        hint=_hint(what, source, column),
        file=filename,
        excerpt="" if is_private else visible(source[:200]),
        caret=(column - 1, column) if column <= 200 else (0, 0),
    )


def _hint(what: str, source: str, column: int) -> str:
    stripped = source.strip()
    if re.match(r"[\w.-]+\s*:", stripped):
        return "TOML writes key = value, with an equals sign"
    if re.match(r"(?:include|import)\b", stripped):
        return "there are no includes; services and routes stand in one file"
    if "Invalid value" in what:
        rest = source[column - 1 :].strip()
        if re.match(r"(?:True|False)\b", rest):
            return "TOML writes true and false in lower case"
        if re.match(r"(?:None|null|nil)\b", rest):
            return "TOML has no null; leave the key out"
        if rest:
            return 'text needs quotes: key = "value"'
        return "a value is missing"
    if "Expected newline or end of document" in what:
        if re.search(r"=\s*[0-9.]+$", source[: column - 1]):
            return 'a number with a unit needs quotes: "5s"'
        return "one entry a line; text needs quotes"
    table = (
        (
            "Cannot declare",
            "this table is already there; join the two, or write [[name]] for a list",
        ),
        ("Cannot overwrite", "this key is already there; keep one of the two"),
        ("Duplicate inline table key", "this key is already there; keep one of the two"),
        ("Cannot mutate immutable", "a table in { } is complete; put the key inside the braces"),
        ("Unclosed array", "the list is not closed: ]"),
        ("Unclosed inline table", "the table is not closed: } (and stands on one line)"),
        ("Unterminated string", "the closing quotes are missing"),
        (
            "Illegal character",
            "the closing quotes are missing, or a control character is in the text",
        ),
        ("Invalid hex value", "write \\\\, or use single quotes"),
        ("Unescaped '\\'", "write \\\\, or use single quotes"),
        ("Expected '='", "TOML writes key = value"),
    )
    return next((hint for prefix, hint in table if what.startswith(prefix)), "")
