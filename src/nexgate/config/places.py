"""Puts findings where they stand in the file, and decides what of the file may be shown."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from datetime import date, time
from typing import Any, Final

from .environment import Substitution
from .lines import KeyPath, Span, spans
from .problems import Problem, dotted, visible
from .section import Finding

_LONGEST_SHOWN: Final = 60


class Places:
    """Finds where a finding stands, and what of it may be shown."""

    def __init__(
        self, text: str, tree: Mapping[str, Any], done: Substitution, filename: str
    ) -> None:
        self._lines = text.split("\n")
        self._spans = spans(text)
        self._tree = tree
        self._done = done
        self._filename = filename
        self._about_variables = set(done.findings)
        self._tables_with_variables = {path[:-1] for path in done.origins}

    def problem(self, finding: Finding) -> Problem:
        """The finding with its place."""
        span = self._span(finding.loc)
        points_at_key = finding.is_about_key or finding.is_missing
        value = "" if points_at_key else self._value(finding)
        excerpt, caret, column = "", (0, 0), None
        if span is not None:
            excerpt, caret = self._excerpt(span, finding, points_at_key)
            column = span.key_start if points_at_key else span.value_start
        return Problem(
            path=dotted(finding.loc),
            message=visible(finding.message),
            line=span.line if span else None,
            column=column,
            value=value,
            hint=visible(self._hint(finding)),
            severity="warning" if finding.is_warning else "error",
            file=self._filename,
            excerpt=excerpt,
            caret=caret,
        )

    def _span(self, loc: KeyPath) -> Span | None:
        """Of the entry, or of the nearest table around it."""
        for depth in range(len(loc), 0, -1):
            if (span := self._spans.get(loc[:depth])) is not None:
                return span
        return None

    def _value(self, finding: Finding) -> str:
        """The value as written, before substitution: so it cannot show the environment."""
        value: Any = self._tree
        for part in finding.loc:
            try:
                value = value[part]
            except (KeyError, IndexError, TypeError):
                return ""
        if self._is_hidden(finding) or isinstance(value, (dict, list)):
            return ""
        return _shown(value)

    def _is_hidden(self, finding: Finding) -> bool:
        """A secret that stands in the file. One from the environment shows as ``${NAME}``."""
        origin = self._done.origins.get(finding.loc, "")
        return finding.is_secret and not re.fullmatch(r"\$\{[^}]*\}", origin)

    def _hint(self, finding: Finding) -> str:
        """The hint, unless it may show what the environment holds.

        Hints about keys never do. Others are made from the entry or from the entries beside it.
        """
        if finding.is_about_key or finding.is_missing or finding in self._about_variables:
            return finding.hint
        if finding.loc in self._done.origins:
            return "the value comes from the environment and is not shown"
        is_beside = finding.loc[:-1] in self._tables_with_variables
        is_quoted = any(value in finding.hint for value in self._done.values if len(value) > 2)
        return "" if is_beside or is_quoted else finding.hint

    def _excerpt(
        self, span: Span, finding: Finding, points_at_key: bool
    ) -> tuple[str, tuple[int, int]]:
        """The entry alone: ``connect = "5sec"``. What else is on the line stays there."""
        line = self._lines[span.line - 1]
        key = visible(line[span.key_start - 1 : span.key_end - 1])
        raw = visible(line[span.value_start - 1 : span.value_end - 1])
        if span.key_start == span.value_start and span.key_end == span.value_end:
            return key, (0, len(key))  # a table header
        if self._is_hidden(finding):
            raw = "…"
        elif raw.startswith("{"):
            raw = "{ … }"
        elif raw.startswith("["):
            raw = "[ … ]"
        elif len(raw) > _LONGEST_SHOWN:
            raw = raw[:_LONGEST_SHOWN] + "…"
        if not key:  # an element of an array
            return raw, (0, len(raw))
        text = f"{key} = {raw}"
        return text, (0, len(key)) if points_at_key else (len(key) + 3, len(text))


def _shown(value: object) -> str:
    """A value in the words of TOML, on one line."""
    match value:
        case bool():
            text = "true" if value else "false"
        case str():
            text = visible(json.dumps(value, ensure_ascii=False))
        case int() if abs(value) >= 10**_LONGEST_SHOWN:
            text = "(a very large number)"
        case int() | float() | date() | time():
            text = str(value)
        case _:
            text = ""
    return text if len(text) <= _LONGEST_SHOWN else text[:_LONGEST_SHOWN] + "…"
