"""Where every key of a TOML document stands, because ``tomllib`` forgets it.

``tomllib`` answers with plain dicts: right, and without a single line number. A problem without its
line is a search; so this scanner walks the same text a second time and remembers positions only. It
runs when there is something to report, never on the way to a healthy start.

It is not a second parser: it trusts that ``tomllib`` has accepted the text, knows just enough
grammar to step over values, and decodes nothing but keys. On a text that ``tomllib`` refused its
answer is meaningless, though it always ends.
"""

from __future__ import annotations

import re
import tomllib
from bisect import bisect_right
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

KeyPath = tuple[str | int, ...]
"""``("routes", 2, "timeout")`` is ``routes[2].timeout``."""

_BARE_KEY: Final = re.compile(r"[A-Za-z0-9_-]+")
_BLANK: Final = re.compile(r"(?:[ \t\r\n]|#[^\n]*)*")
_SPACE: Final = re.compile(r"[ \t]*")
_SCALAR: Final = re.compile(r"[^,\]}\r\n#]*")
_BASIC_STRING: Final = re.compile(r'"(?:[^"\\\n]|\\.)*"?')
_LITERAL_STRING: Final = re.compile(r"'[^'\n]*'?")
_LONG_BASIC: Final = re.compile(r'"""(?:[^"\\]|\\.|"(?!""))*(?:"{3,5}|$)', re.DOTALL)
_LONG_LITERAL: Final = re.compile(r"'''(?:[^']|'(?!''))*(?:'{3,5}|$)", re.DOTALL)


@dataclass(frozen=True, slots=True)
class Span:
    """One entry in the text. Lines and columns count from 1; ends are exclusive.

    For a table header the value *is* the header. A value that goes on for several lines ends here
    where its first line ends.
    """

    line: int
    key_start: int
    key_end: int
    value_start: int
    value_end: int


def spans(text: str) -> Mapping[KeyPath, Span]:
    """Map the path of every key, table and array element of ``text`` to where it stands.

    A table that no header names (``a`` in ``[a.b]``) stands where a key first implies it.
    """
    scan = _Scan(text)
    scan.document()
    return scan.found


class _Scan:
    def __init__(self, text: str) -> None:
        self._text = text
        self._at = 0
        self._starts = [0, *(m.end() for m in re.finditer("\n", text))]
        self._tables: dict[KeyPath, int] = {}
        """Index of the current element of every array of tables."""
        self.found: dict[KeyPath, Span] = {}

    def document(self) -> None:
        prefix: KeyPath = ()
        while True:
            self._skip(_BLANK)
            if self._at >= len(self._text):
                return
            before = self._at
            if self._text[self._at] == "[":
                prefix = self._header()
            else:
                self._entry(prefix)
            if self._at == before:  # not TOML; go on, so that the scan always ends
                self._at += 1

    def _header(self) -> KeyPath:
        start = self._at
        is_element = self._text.startswith("[[", start)
        self._at += 2 if is_element else 1
        keys = self._key()
        closing = self._text.find("]]" if is_element else "]", self._at)
        self._at = len(self._text) if closing < 0 else closing + (2 if is_element else 1)
        here = self._span(start, self._at, start, self._at)
        path: KeyPath = ()
        for key in keys[:-1]:
            path = self._current((*path, key))
            self.found.setdefault(path, here)
        path = (*path, *keys[-1:])
        if is_element:
            self.found.setdefault(path, here)
            index = self._tables[path] = self._tables.get(path, -1) + 1
            path = (*path, index)
        self.found[path] = here  # an explicit header beats the key that implied the table
        return path

    def _current(self, path: KeyPath) -> KeyPath:
        """``routes`` means its last element once ``[[routes]]`` was seen."""
        index = self._tables.get(path)
        return path if index is None else (*path, index)

    def _entry(self, prefix: KeyPath) -> None:
        """``a.b = value``, at the top or in an inline table."""
        start = self._at
        keys = self._key()
        end = self._at
        self._skip(_SPACE)
        if not keys or not self._text.startswith("=", self._at):
            return
        self._at += 1
        self._skip(_SPACE)
        value_start = self._at
        path = (*prefix, *keys)
        self._value(path)
        here = self._span(start, end, value_start, self._at)
        for depth in range(len(prefix) + 1, len(path)):
            self.found.setdefault(path[:depth], here)
        self.found[path] = here

    def _key(self) -> tuple[str, ...]:
        parts: list[str] = []
        while True:
            self._skip(_SPACE)
            part = self._simple_key()
            if part is None:
                break
            parts.append(part)
            end = self._at
            self._skip(_SPACE)
            if not self._text.startswith(".", self._at):
                self._at = end
                break
            self._at += 1
        return tuple(parts)

    def _simple_key(self) -> str | None:
        first = self._text[self._at : self._at + 1]
        pattern = {'"': _BASIC_STRING, "'": _LITERAL_STRING}.get(first, _BARE_KEY)
        found = pattern.match(self._text, self._at)
        if found is None:
            return None
        self._at = found.end()
        return _decoded(found[0]) if first in ('"', "'") else found[0]

    def _value(self, path: KeyPath) -> None:
        text, at = self._text, self._at
        if text.startswith('"""', at):
            self._skip(_LONG_BASIC)
        elif text.startswith("'''", at):
            self._skip(_LONG_LITERAL)
        elif text.startswith('"', at):
            self._skip(_BASIC_STRING)
        elif text.startswith("'", at):
            self._skip(_LITERAL_STRING)
        elif text.startswith("[", at):
            self._array(path)
        elif text.startswith("{", at):
            self._inline_table(path)
        else:
            self._skip(_SCALAR)
            # The blanks before a comment or a comma are not the value's.
            self._at = at + len(text[at : self._at].rstrip(" \t"))

    def _array(self, path: KeyPath) -> None:
        self._at += 1
        index = 0
        while not self._closed_by("]"):
            start = self._at
            self._value((*path, index))
            self.found[(*path, index)] = self._span(start, start, start, self._at)
            if self._at == start:
                return
            index += 1

    def _inline_table(self, path: KeyPath) -> None:
        self._at += 1
        while not self._closed_by("}"):
            start = self._at
            self._entry(path)
            if self._at == start:
                return

    def _closed_by(self, bracket: str) -> bool:
        """Step over blanks and commas, and over ``bracket`` if it comes next."""
        self._skip(_BLANK)
        while self._text.startswith(",", self._at):
            self._at += 1
            self._skip(_BLANK)
        if self._text.startswith(bracket, self._at):
            self._at += 1
            return True
        return self._at >= len(self._text)

    def _skip(self, pattern: re.Pattern[str]) -> None:
        found = pattern.match(self._text, self._at)
        if found is not None:
            self._at = found.end()

    def _span(self, key_start: int, key_end: int, value_start: int, value_end: int) -> Span:
        line = bisect_right(self._starts, key_start)
        origin = self._starts[line - 1]
        eol = self._text.find("\n", key_start)
        last = len(self._text) if eol < 0 else eol
        return Span(
            line,
            key_start - origin + 1,
            min(key_end, last) - origin + 1,
            min(value_start, last) - origin + 1,
            min(value_end, last) - origin + 1,
        )


def _decoded(quoted: str) -> str:
    """The key that ``quoted`` spells; ``tomllib`` knows the escapes, so it does the work."""
    if "\\" not in quoted:
        return quoted[1:-1]
    try:
        return next(iter(tomllib.loads(f"{quoted} = 0")))
    except tomllib.TOMLDecodeError:
        return quoted[1:-1]
