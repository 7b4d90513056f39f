"""Turns a user's function into a hook, by its parameters.

===============================  ==========================================================
``f(request)``                    before; a ``Response`` ends the request phase there
``f(request, response)``          after; a ``Response`` replaces the one that came
``f(request, call_next)``         around (async only); ``await call_next(request)`` goes on
===============================  ==========================================================

Which it is, the second parameter's name says. Sync functions run in the event loop, without a task:
they must not block.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from pydantic import ConfigDict, ValidationError, create_model

from nexgate.config import problems_of
from nexgate.errors import ConfigError
from nexgate.exchange import CallNext, Exchange, Hook, Response
from nexgate.routing import PathRules, Template

__all__ = ["Filter", "FilterFunction", "make_filter"]

FilterFunction = Callable[..., Any]


@dataclass(frozen=True, slots=True)
class Filter:
    """A user's function, the paths it is for (a path template, or None for every path), and values
    for its keyword-only parameters.
    """

    function: FilterFunction
    pattern: Template | None = None
    name: str = ""
    """What the configuration calls it. Empty: its qualified name."""
    options: Mapping[str, Any] = field(default_factory=dict)

    @property
    def title(self) -> str:
        """For logs and errors."""
        if self.name:
            return self.name
        module = getattr(self.function, "__module__", "")
        name = getattr(self.function, "__qualname__", repr(self.function))
        return f"{module}.{name}" if module else name

    def hook(self, rules: PathRules) -> Hook:
        return make_filter(self, rules)


def make_filter(filter: Filter, rules: PathRules) -> Hook:
    """The hook for ``filter``. Raises ``ConfigError`` for a function with other parameters."""
    function, name = filter.function, filter.title
    if filter.options:
        function = partial(function, **checked_options(function, filter.options, name))
    applies = _applies(filter.pattern, rules)
    declared = _signature(function, name).parameters.values()
    parameters = [
        p
        for p in declared
        if p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD) and p.default is p.empty
    ]
    missing = [p.name for p in declared if p.kind is p.KEYWORD_ONLY and p.default is p.empty]
    if missing:
        raise ConfigError(f"{name} needs the option {missing[0]}: options = {{ {missing[0]} = … }}")
    if len(parameters) == 1:

        def before(exchange: Exchange) -> Any:
            if applies is not None and not applies(exchange.path):
                return None
            return _checked(function(exchange.request), name)

        return Hook(name, on_request=before)
    second = parameters[1].name if len(parameters) == 2 else ""
    if second in ("call_next", "next"):
        if not inspect.iscoroutinefunction(inspect.unwrap(function)) and not callable(function):
            raise ConfigError(f"{name} takes call_next, so it must be async")

        async def around(exchange: Exchange, call_next: CallNext) -> Response:
            if applies is not None and not applies(exchange.path):
                return await call_next(exchange.request)
            response: Response = await function(exchange.request, call_next)
            return response

        return Hook(name, around=around)
    if second:

        def after(exchange: Exchange, response: Response) -> Any:
            if applies is not None and not applies(exchange.path):
                return None
            return _checked(function(exchange.request, response), name)

        return Hook(name, on_response=after)
    raise ConfigError(
        f"{name} cannot be used as a filter: write f(request), f(request, response) "
        "or async f(request, call_next)"
    )


def checked_options(
    function: FilterFunction, options: Mapping[str, Any], name: str
) -> dict[str, Any]:
    """``options`` as the annotations of the function's keyword-only parameters want them. Raises
    ``ConfigError`` with everything that does not fit.
    """
    known = {
        p.name: (
            Any if p.annotation is p.empty else p.annotation,
            ... if p.default is p.empty else p.default,
        )
        for p in _signature(function, name).parameters.values()
        if p.kind is p.KEYWORD_ONLY
    }
    if not known:
        raise ConfigError(f"{name} takes no options: it has no keyword-only parameters")
    settings = ConfigDict(extra="forbid", hide_input_in_errors=True, arbitrary_types_allowed=True)
    try:
        model = create_model("Options", __config__=settings, **known)  # type: ignore[call-overload]  # built here
        made = model.model_validate(dict(options))
    except ValidationError as error:
        problems = "; ".join(problem.statement for problem in problems_of(error))
        raise ConfigError(f"options of {name}: {problems}") from None
    return {each: getattr(made, each) for each in made.model_fields_set}


def _signature(function: FilterFunction, name: str) -> inspect.Signature:
    try:
        return inspect.signature(function, eval_str=True)
    except NameError:
        return inspect.signature(function)  # annotations that only type checkers see
    except (TypeError, ValueError):
        raise ConfigError(f"{name} cannot be used as a filter: it has no signature") from None


def _checked(result: Any, name: str) -> Any:
    if result is None or isinstance(result, Response) or inspect.isawaitable(result):
        return result
    raise TypeError(f"{name} returned {type(result).__name__}; expected None or a Response")


def _applies(pattern: Template | None, rules: PathRules) -> Callable[[bytes], bool] | None:
    if pattern is None:
        return None
    if pattern.text in ("/*", "/{rest:path}"):
        return None
    template = pattern

    def applies(path: bytes) -> bool:
        return template.why_not(path, rules) is None

    return applies
