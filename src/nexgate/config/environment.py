"""``${NAME}`` in configuration strings.

The file may be read by many, the environment by the process: so secrets stand there, and the file
names them. What was substituted is remembered by path, for two reasons: a value from the
environment is never shown in a report (``${NAME}`` is), and ``"${PORT}"`` may stand for a number.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from .lines import KeyPath
from .section import Finding

_REFERENCE: Final = re.compile(r"\$\$\{|\$\{(?P<inside>[^}]*)(?P<closed>\}?)")
_INSIDE: Final = re.compile(r"(?P<name>[A-Za-z_][A-Za-z0-9_]*)(?::-(?P<default>.*))?", re.DOTALL)


class FromEnv(str):
    """A string that is exactly one ``${NAME}``: it may stand for a number or a truth value."""

    __slots__ = ()


@dataclass(slots=True)
class Substitution:
    """A document with its variables replaced."""

    tree: dict[str, Any] = field(default_factory=dict)
    findings: list[Finding] = field(default_factory=list)
    origins: dict[KeyPath, str] = field(default_factory=dict)
    """The text as written, for every string in which something was replaced."""
    values: set[str] = field(default_factory=set)
    """Everything that came out of the environment: what no report may repeat."""


def substitute(tree: Mapping[str, Any], env: Mapping[str, str]) -> Substitution:
    """Replace ``${NAME}`` and ``${NAME:-default}`` in every string value.

    ``$${`` is a plain ``${``. Keys are left alone. The default also stands in for an *empty*
    variable, as in a shell. What a variable holds is not searched again, so a value can never name
    another variable.
    """
    result = Substitution()
    result.tree = {key: _walk(value, (key,), env, result) for key, value in tree.items()}
    return result


def _walk(value: Any, path: KeyPath, env: Mapping[str, str], result: Substitution) -> Any:
    match value:
        case dict():
            return {k: _walk(v, (*path, k), env, result) for k, v in value.items()}
        case list():
            return [_walk(v, (*path, i), env, result) for i, v in enumerate(value)]
        case str() if "${" in value:
            return _string(value, path, env, result)
        case _:
            return value


def _string(text: str, path: KeyPath, env: Mapping[str, str], result: Substitution) -> str:
    def replace(found: re.Match[str]) -> str:
        if found["inside"] is None:
            return "${"
        parts = _INSIDE.fullmatch(found["inside"]) if found["closed"] else None
        if parts is None:
            result.findings.append(
                Finding(
                    path,
                    "has a ${ that is not a variable",
                    hint="write ${NAME}, ${NAME:-default}, or $${ for a plain ${",
                )
            )
            return found[0]
        value = env.get(parts["name"])
        if not value and parts["default"] is not None:
            value = parts["default"]
        elif value is None:
            result.findings.append(
                Finding(
                    path,
                    f"needs the environment variable {parts['name']}, which is not set",
                    hint=f"set it, or give a default: ${{{parts['name']}:-…}}",
                )
            )
            return found[0]
        else:
            result.values.add(value)
        result.origins[path] = text
        return value

    replaced = _REFERENCE.sub(replace, text)
    whole = _REFERENCE.fullmatch(text)
    if path in result.origins and whole is not None:
        return FromEnv(replaced)
    return replaced
