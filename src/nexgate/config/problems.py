"""What is wrong with a configuration, for people: where, what, and what to write instead."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, Literal

from nexgate.errors import ConfigError

from .lines import KeyPath
from .section import Finding, findings

if TYPE_CHECKING:
    from pydantic import ValidationError
    from rich.console import Console

Severity = Literal["error", "warning"]


@dataclass(frozen=True, slots=True)
class Problem:
    """One problem. Nothing in it comes from the environment or from a secret field."""

    path: str
    """``routes[2].timeout.connect``; empty for the document as a whole."""
    message: str
    """Completes "``path`` …"."""
    line: int | None = None
    """Counts from 1. ``None`` when the configuration is not a file."""
    column: int | None = None
    """Of what the caret points at; counts from 1, in characters."""
    value: str = ""
    """The value as written, shortened; ``${NAME}`` when it came from the environment; or empty."""
    hint: str = ""
    severity: Severity = "error"
    file: str = ""
    excerpt: str = ""
    """The entry of the source that is at fault, and nothing beside it: a line may hold secrets."""
    caret: tuple[int, int] = (0, 0)
    """Which characters of ``excerpt`` are at fault: start and end."""

    @property
    def place(self) -> str:
        """``gateway.toml:17``, as terminals and editors recognise it."""
        return f"{self.file}:{self.line}" if self.line else self.file

    @property
    def statement(self) -> str:
        """What is wrong, in one line: ``timeout.connect = "5sec" is not a duration``."""
        subject = f"{self.path} = {self.value}" if self.value and self.path else self.path
        return f"{subject} {self.message}".strip()

    def as_dict(self) -> dict[str, Any]:
        """For ``--format json``: file, line, column, path, value, message, hint, severity."""
        fields = asdict(self)
        del fields["excerpt"], fields["caret"]
        return fields


class InvalidConfig(ConfigError):
    """A configuration with errors. ``problems`` has all of them, warnings too, in order."""

    def __init__(self, problems: Sequence[Problem]) -> None:
        super().__init__(tuple(problems))
        self.problems = tuple(problems)

    def __str__(self) -> str:
        lines = [summary(self.problems)]
        for problem in self.problems:
            place = f"{problem.place}: " if problem.place else ""
            warning = "warning: " if problem.severity == "warning" else ""
            lines.append(f"  {place}{warning}{problem.statement}")
            if problem.hint:
                lines.append(f"      {problem.hint}")
        return "\n".join(lines)


def summary(problems: Sequence[Problem]) -> str:
    """``2 problems and 1 warning in gateway.toml``."""
    errors = sum(problem.severity == "error" for problem in problems)
    warnings = len(problems) - errors
    parts = [
        f"{count} {word}{'' if count == 1 else 's'}"
        for count, word in ((errors, "problem"), (warnings, "warning"))
        if count
    ]
    files = sorted({problem.file for problem in problems if problem.file})
    return " and ".join(parts or ["no problems"]) + (f" in {', '.join(files)}" if files else "")


def problems_of(error: ValidationError, *, file: str = "") -> tuple[Problem, ...]:
    """The problems in a pydantic error that Python code got from constructing a section.

    There is no source, so there are no lines and no values: Python's traceback has them.
    """
    return tuple(problem_of(finding, file=file) for finding in findings(error))


def problem_of(finding: Finding, *, file: str = "") -> Problem:
    """A finding without a place."""
    return Problem(
        path=dotted(finding.loc),
        message=finding.message,
        hint=finding.hint,
        severity="warning" if finding.is_warning else "error",
        file=file,
    )


def dotted(path: KeyPath) -> str:
    """``("routes", 2, "path")`` as ``routes[2].path``; keys that need quotes get them."""
    text = ""
    for part in path:
        if isinstance(part, int):
            text += f"[{part}]"
        else:
            key = part if re.fullmatch(r"[$A-Za-z0-9_-]+", part) else visible(json.dumps(part))
            text += f".{key}" if text else key
    return text


def visible(text: str) -> str:
    """``text`` on one line, without anything that a terminal would act on."""
    return "".join(
        c if c.isprintable() else " " if c == "\t" else "\N{REPLACEMENT CHARACTER}" for c in text
    )


def render(problems: Iterable[Problem], console: Console) -> None:
    """Print problems with their source and a caret. ``console`` decides about colours and width."""
    from rich.text import Text  # rich is only needed once something is to be shown

    for problem in problems:
        style = "red" if problem.severity == "error" else "yellow"
        head = Text()
        if problem.place:
            head.append(problem.place, "bold").append(": ")
        head.append(problem.severity, f"bold {style}").append(f": {problem.statement}")
        console.print(head, soft_wrap=True)
        if problem.excerpt:
            gutter = f"{problem.line or '':>5} │ "
            console.print(Text(gutter, "dim").append(problem.excerpt, "default"), soft_wrap=True)
            start, end = problem.caret
            mark = " " * start + "^" * max(1, end - start)
            console.print(Text("      │ ", "dim").append(mark, style), soft_wrap=True)
        if problem.hint:
            console.print(Text("      = ", "dim").append(problem.hint, "cyan"), soft_wrap=True)
        console.print()
