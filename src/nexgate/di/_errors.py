"""What can be wrong with dependencies: a message has the path that led there, and what to do."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from nexgate.errors import NexgateError

__all__ = [
    "CaptiveDependency",
    "ContainerClosed",
    "DependencyCycle",
    "DependencyError",
    "InvalidGraph",
    "NeedsAwait",
    "NeedsScope",
    "NotRegistered",
    "Problem",
]


class DependencyError(NexgateError):
    """Something cannot be resolved."""


class NotRegistered(DependencyError, KeyError):
    """Nobody registered a type that somebody needs."""

    def __str__(self) -> str:  # KeyError shows its argument quoted
        return str(self.args[0])


class DependencyCycle(DependencyError):
    """Something needs itself."""


class CaptiveDependency(DependencyError):
    """A singleton would hold something that lives as long as one scope only."""


class NeedsAwait(DependencyError):
    """Something is made by an async factory and was resolved without ``await``."""


class NeedsScope(DependencyError):
    """Something lives in a scope and was resolved outside of one."""


class ContainerClosed(DependencyError):
    """The container was closed."""


@dataclass(frozen=True, slots=True)
class Problem:
    """One thing that is wrong with a graph."""

    kind: type[DependencyError]
    message: str
    """With the path: ``OrderService → Mailer → SmtpConfig ✗ is not registered; …``."""

    def error(self) -> DependencyError:
        """As an exception."""
        return self.kind(self.message)


class InvalidGraph(DependencyError):
    """Everything that ``Container.validate`` found."""

    def __init__(self, problems: Sequence[Problem]) -> None:
        count = len(problems)
        lines = "\n".join(f"  {problem.message}" for problem in problems)
        super().__init__(f"{count} problem{'' if count == 1 else 's'} with dependencies\n{lines}")
        self.problems = tuple(problems)
