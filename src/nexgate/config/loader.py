"""From the text of a file to a validated model, or to every problem in it at once.

1. *Decode*: UTF-8, at most 16 MiB.
2. *Parse*: ``tomllib``. Its first error is the only problem that hides the others.
3. *Substitute* ``${NAME}``.
4. *Validate* against the model.
5. *Place*: every finding gets its line, its value as written, and a hint, unless that would show
   something from the environment.

Nothing here reads the environment or the clock: both come in as parameters. The one thing read from
disk besides the file itself is what the model refers to (certificates), beside the file.
"""

from __future__ import annotations

import sys
import tomllib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Generic, TypeVar

from pydantic import ValidationError

from .environment import substitute
from .places import Places
from .problems import InvalidConfig, Problem
from .section import Finding, Section, findings
from .syntax import syntax_problem

MAX_BYTES: Final = 16 * 1024 * 1024
"""Ten thousand routes take two. Without a limit, a wrong path names a disk image and is read."""

M = TypeVar("M", bound=Section)


@dataclass(frozen=True, slots=True)
class Report(Generic[M]):
    """What became of a text: the model if it is usable, and every problem."""

    config: M | None
    problems: tuple[Problem, ...]
    """In the order of the file. Only warnings when there is a ``config``."""


def read_text(path: Path) -> str:
    """The text of a configuration file. Raises ``InvalidConfig`` if it has none."""
    try:
        with path.open("rb") as file:
            raw = file.read(MAX_BYTES + 1)
    except OSError as error:
        reason = (error.strerror or "cannot be read").lower()
        raise _refuse(str(path), f"the file cannot be read: {reason}") from error
    if len(raw) > MAX_BYTES:
        raise _too_large(str(path))
    if raw.startswith((b"\xff\xfe", b"\xfe\xff")):
        raise _refuse(str(path), "the file is UTF-16", "save it as UTF-8")
    try:
        # The mark is no part of the text, and some editors write it unasked.
        return raw.removeprefix(b"\xef\xbb\xbf").decode("utf-8")
    except UnicodeDecodeError as error:
        line = raw.count(b"\n", 0, error.start) + 1
        message = f"the file is not UTF-8: byte 0x{raw[error.start]:02x}"
        raise _refuse(str(path), message, "save it as UTF-8", line=line) from error


def parse(
    text: str, model: type[M], *, filename: str = "", env: Mapping[str, str] | None = None
) -> M:
    """The configuration in ``text``. Raises ``InvalidConfig`` with all its problems."""
    report = examine(text, model, filename=filename, env=env)
    if report.config is None:
        raise InvalidConfig(report.problems)
    return report.config


def examine(
    text: str, model: type[M], *, filename: str = "", env: Mapping[str, str] | None = None
) -> Report[M]:
    """Like ``parse``, but the problems are returned, the warnings of a good configuration too.

    ``env`` is where ``${NAME}`` is looked up: pass ``os.environ``, or nothing to have none.
    Relative file names in the text start at the directory of ``filename``.
    """
    try:
        text = _clean(text, filename)
        tree = _tree(text, filename)
        return _examine(text, tree, model, filename, env or {})
    except InvalidConfig as invalid:
        return Report(None, invalid.problems)
    except RecursionError:
        # tomllib, the walk over variables and the scan for lines all follow the nesting.
        message = "the document is nested too deeply"
        return Report(None, (Problem("", message, file=filename),))


def placed(
    found: Iterable[Finding], text: str, *, filename: str, env: Mapping[str, str]
) -> tuple[Problem, ...]:
    """Give findings that came after ``parse`` their places in the text it was given."""
    text = _clean(text, filename)
    tree = _tree(text, filename)
    places = Places(text, tree, substitute(tree, env), filename)
    return tuple(sorted((places.problem(finding) for finding in found), key=_order))


def _clean(text: str, filename: str) -> str:
    try:
        length = len(text.encode("utf-8"))
    except UnicodeEncodeError as error:
        line = text.count("\n", 0, error.start) + 1
        raise _refuse(filename, "the text is not valid Unicode", line=line) from None
    if length > MAX_BYTES:
        raise _too_large(filename)
    return text.removeprefix("\ufeff").replace("\r\n", "\n")


def _tree(text: str, filename: str) -> dict[str, Any]:
    try:
        return tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise InvalidConfig([syntax_problem(str(error), text, filename)]) from None
    except ValueError:
        # tomllib lets int() and date() speak for themselves.
        digits = sys.get_int_max_str_digits()
        message = f"the document has a number or a date that no computer holds ({digits} digits)"
        raise _refuse(filename, message) from None


def _examine(
    text: str, tree: dict[str, Any], model: type[M], filename: str, env: Mapping[str, str]
) -> Report[M]:
    done = substitute(tree, env)
    found = list(done.findings)
    config: M | None = None
    context = {"directory": Path(filename).parent if filename else None}
    try:
        config = model.model_validate(done.tree, context=context)
    except ValidationError as error:
        # What follows from a variable that is not set is not a second problem.
        unset = {finding.loc for finding in done.findings}
        found += [finding for finding in findings(error) if finding.loc not in unset]
    if config is not None:
        found += config.warnings()
    if not found:
        return Report(config, ())
    placed = Places(text, tree, done, filename)
    problems = sorted((placed.problem(finding) for finding in found), key=_order)
    is_usable = config is not None and all(p.severity == "warning" for p in problems)
    return Report(config if is_usable else None, tuple(problems))


def _order(problem: Problem) -> tuple[int, int, str]:
    return (problem.line or 0, problem.column or 0, problem.path)


def _refuse(
    filename: str, message: str, hint: str = "", *, line: int | None = None
) -> InvalidConfig:
    return InvalidConfig([Problem("", message, line=line, hint=hint, file=filename)])


def _too_large(filename: str) -> InvalidConfig:
    return _refuse(filename, f"the file is larger than {MAX_BYTES // 1024**2} MiB")
