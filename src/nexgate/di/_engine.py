"""One generation of a graph, compiled by dishka.

dishka gets functions of our making, whose parameters are tokens of our making: one class for each
key. So names, collections and optional parameters are settled before it looks, and what it does is
what it is best at: a compiled function for every key, the cache of a scope, and its teardown.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

from dishka import AsyncContainer, BaseScope, Provider, make_async_container, new_scope
from dishka.exceptions import NoContextValueError

from ._cells import Cell
from ._graph import Graph, Node
from ._keys import Key, type_name
from ._registration import Kind, Registration

__all__ = ["Engine", "Life", "Maker"]


class Life(BaseScope):
    """How long things live, for dishka."""

    SINGLETON = new_scope("SINGLETON")
    SCOPED = new_scope("SCOPED")


class Maker:
    """Makes one singleton, with an engine that knows what it is made of, whatever is registered
    meanwhile.
    """

    def __init__(self, engine: Engine, registration: Registration) -> None:
        self._engine = engine
        self._registration = registration

    def open(self) -> tuple[AsyncContainer, type[Any]]:
        """A scope of its own, and what to ask it for."""
        return self._engine.root(), self._engine.raw_token(self._registration)


class Engine:
    """Compiled from a graph; ``cell_of`` keeps the singletons, which outlive it."""

    def __init__(self, graph: Graph, cell_of: Callable[[Node], Cell]) -> None:
        self.graph = graph
        self._tokens: dict[Key, type[Any]] = {}
        self._raw: dict[int, type[Any]] = {}
        self.context_tokens: dict[Key, type[Any]] = {}
        self.cells: dict[Key, Cell] = {}
        """The singletons."""
        self.has_teardown = False
        self.sync_tokens: dict[Any, type[Any]] = {}
        """Of what can be resolved in a scope without ``await``, by type: the fast path."""
        self.async_tokens: dict[Any, type[Any]] = {}
        """The same of what needs it, but for singletons."""
        provider = Provider()
        for node in graph.nodes.values():
            if node.fault is None:
                self._provide(provider, node, cell_of)
                self._shorten(node)
        self.root: AsyncContainer = make_async_container(
            provider, scopes=Life, lock_factory=None, skip_validation=True
        )

    def _shorten(self, node: Node) -> None:
        """Let it be found by its type alone, where that says all."""
        is_plain = node.key.name is None and node.key.collection is None
        if not is_plain or node.registration.kind is Kind.CONTEXT:
            return
        if not node.is_async:
            self.sync_tokens[node.key.type] = self.token(node.key)
        elif node.lifetime != "singleton":
            self.async_tokens[node.key.type] = self.token(node.key)

    def token(self, key: Key) -> type[Any]:
        """What dishka knows ``key`` as."""
        found = self._tokens.get(key)
        if found is None:
            found = self._tokens[key] = type(str(key), (), {})
        return found

    def raw_token(self, registration: Registration) -> type[Any]:
        """What dishka knows the making of a singleton as."""
        return self._raw[registration.number]

    def missing_context(self, error: NoContextValueError) -> Key | None:
        """What a scope was not given, as ``error`` says."""
        missing = error.args[0]
        return next((key for key, token in self.context_tokens.items() if token is missing), None)

    # ---------------------------------------------------------------- telling dishka

    def _provide(self, provider: Provider, node: Node, cell_of: Callable[[Node], Cell]) -> None:
        registration, token = node.registration, self.token(node.key)
        if registration.kind is Kind.CONTEXT:
            provider.from_context(provides=token, scope=Life.SCOPED)
            self.context_tokens[node.key] = token
            return
        if node.lifetime == "singleton":
            cell = self.cells[node.key] = cell_of(node)
            provider.provide(
                cell.aget if node.is_async else cell.get,
                provides=token,
                scope=Life.SINGLETON,
                cache=False,
            )
            if registration.kind is not Kind.INSTANCE:
                raw = self._raw[registration.number] = type(f"new {node.key}", (), {})
                # Made in a scope of its own, which is closed when the singleton is.
                self._provide_made(provider, node, raw, is_cached=False)
            return
        self._provide_made(provider, node, token, is_cached=node.lifetime == "scoped")

    def _provide_made(
        self, provider: Provider, node: Node, token: type[Any], *, is_cached: bool
    ) -> None:
        kind = node.registration.kind
        # A transient that holds nothing of a scope can be made anywhere. One with a teardown needs
        # a scope that tears it down.
        is_free = node.lifetime == "transient" and not node.lives_in_scope and not node.has_teardown
        if kind.has_teardown and node.lifetime != "singleton":
            self.has_teardown = True
        provider.provide(
            self._function(node),
            provides=token,
            scope=Life.SINGLETON if is_free else Life.SCOPED,
            cache=is_cached,
        )

    def _function(self, node: Node) -> Callable[..., Any]:
        """A function with tokens for annotations that makes what ``node`` is."""
        registration = node.registration
        source, kind = registration.source, registration.kind
        is_positional = any(wish.is_positional for wish in registration.wishes)
        nothing = dict.fromkeys(node.absent)
        if kind is Kind.ALIAS:

            def made(target: Any) -> Any:
                return target

            return _shaped(made, {"target": self.token(node.needs["target"].key)})
        if kind is Kind.COLLECTION:

            def collected(**members: Any) -> Any:
                return source(members.values())

            return _shaped(collected, {n: self.token(e.key) for n, e in node.needs.items()})
        if nothing or is_positional:
            make = _calling(source, nothing)
        else:
            make = source
        wanted = {name: self.token(each.key) for name, each in node.needs.items()}
        wrap = {
            Kind.FUNCTION: _plain,
            Kind.COROUTINE: _coroutine,
            Kind.GENERATOR: _generator,
            Kind.ASYNC_GENERATOR: _async_generator,
        }[kind]
        return _shaped(wrap(make), wanted)


def _calling(source: Callable[..., Any], nothing: dict[str, None]) -> Callable[..., Any]:
    # In order, with what stands for those that nobody registered.
    positional = {
        each.name: each.default
        for each in inspect.signature(source).parameters.values()
        if each.kind is each.POSITIONAL_ONLY
    }

    def make(**needs: Any) -> Any:
        needs.update(nothing)
        first = [needs.pop(name, default) for name, default in positional.items()]
        return source(*first, **needs)

    return make


def _plain(make: Callable[..., Any]) -> Callable[..., Any]:
    def plain(**needs: Any) -> Any:
        return make(**needs)

    return plain


def _coroutine(make: Callable[..., Any]) -> Callable[..., Any]:
    async def coroutine(**needs: Any) -> Any:
        return await make(**needs)

    return coroutine


def _generating(made: Any) -> Any:
    """The generator itself, where one of ``contextlib``'s decorators has made a manager of it."""
    return getattr(made, "gen", made)


def _generator(make: Callable[..., Any]) -> Callable[..., Any]:
    """dishka sends the exception of a scope to a generator as a value; people write ``try`` around
    their ``yield``, so theirs gets it as an exception.
    """

    def generator(**needs: Any) -> Any:
        theirs = _generating(make(**needs))
        try:
            made = next(theirs)
        except StopIteration:
            raise RuntimeError(f"{type_name(make)} yields nothing") from None
        error = yield made
        try:
            if error is None:
                next(theirs)
            else:
                theirs.throw(error)
        except StopIteration:
            return
        except BaseException as raised:
            # Python does not let a StopIteration out of a generator as it is.
            if raised is error or (raised.__cause__ is error and isinstance(error, StopIteration)):
                return
            raise
        theirs.close()
        raise RuntimeError(f"{type_name(make)} yields more than once")

    return generator


def _async_generator(make: Callable[..., Any]) -> Callable[..., Any]:
    async def async_generator(**needs: Any) -> Any:
        theirs = _generating(make(**needs))
        try:
            made = await anext(theirs)
        except StopAsyncIteration:
            raise RuntimeError(f"{type_name(make)} yields nothing") from None
        error = yield made
        try:
            if error is None:
                await anext(theirs)
            else:
                await theirs.athrow(error)
        except StopAsyncIteration:
            return
        except BaseException as raised:
            if raised is error:
                return
            raise
        await theirs.aclose()
        raise RuntimeError(f"{type_name(make)} yields more than once")

    return async_generator


def _shaped(function: Callable[..., Any], wanted: dict[str, type[Any]]) -> Callable[..., Any]:
    """Let ``function`` seem to have these parameters."""
    function.__signature__ = inspect.Signature(  # type: ignore[attr-defined]  # what inspect reads
        [
            inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, annotation=token)
            for name, token in wanted.items()
        ]
    )
    function.__annotations__ = dict(wanted)
    return function
