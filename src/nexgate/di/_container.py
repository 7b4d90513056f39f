"""The container: what is registered, and what lives.

Registrations can be made at any time. They are compiled when something is resolved: a *generation*.
A singleton lives in a cell that outlives generations, under the numbers of all registrations that
it is made of. So registering something else leaves it alone; replacing or overriding something that
it is made of makes another one, and taking that back brings the first one back.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager
from dataclasses import replace
from types import TracebackType
from typing import Any, Self, TypeVar, cast

from ._cells import Cell, run_now
from ._draw import Drawing
from ._ending import end
from ._engine import Engine, Maker
from ._errors import ContainerClosed, DependencyError, InvalidGraph, NeedsAwait, NeedsScope, Problem
from ._graph import Graph, Node
from ._inject import injecting
from ._keys import Key, key_of, wish_of
from ._owner import Owner
from ._registration import Kind, Lifetime, Registration, kind_of, made_type, wishes_of
from ._scope import Scope
from ._settings import SettingsError, SettingsFactory

__all__ = ["Container"]

T = TypeVar("T")
F = TypeVar("F", bound=Callable[..., Any])


class Container:
    """Dependencies by type.

    Safe to use from many threads and tasks at once: a singleton is made once, ever. ``aclose`` it
    (or use ``async with``) to tear down singletons that generators made, in the reverse order of
    their making.
    """

    def __init__(self) -> None:
        self._lock = threading.RLock()
        self._registered: dict[Key, list[Registration]] = {}
        """By key, the one in force last."""
        self._collected: dict[Key, list[Registration]] = {}
        self._engine: Engine | None = None
        self._values: dict[Any, Any] = {}
        """Living singletons by type: the fast path."""
        self._cells: dict[tuple[int, frozenset[int]], Cell] = {}
        self._made: list[Cell] = []
        """Those with a teardown, in the order of their making."""
        self._is_closed = False
        self.register(Container, self)

    # ---------------------------------------------------------------- registering

    def register(self, type: type[T], instance: T, *, name: str | None = None) -> None:
        """Let ``instance`` be what is resolved for ``type``. It stays its maker's: it is not torn
        down here. Replaces what was registered before.
        """
        self._add(Registration(key_of(type, name), Kind.INSTANCE, "singleton", instance))

    def register_factory(
        self,
        type: type[T],
        factory: Callable[..., Any] | None = None,
        *,
        lifetime: Lifetime = "singleton",
        name: str | None = None,
        collect: bool = False,
    ) -> Any:
        """Let ``factory`` make what is resolved for ``type``: a class, a function, an ``async``
        one, or a generator, sync or async, that yields it once and tears it down after.

        Its parameters are resolved by their annotations, those with defaults only if they can be.
        ``collect=True`` adds to what ``list[type]`` and ``tuple[type, ...]`` get, and replaces
        nothing. Without ``factory`` it is a decorator. Raises ``DependencyError`` for a parameter
        that says nothing.
        """
        if factory is None:

            def decorate(function: F) -> F:
                self.register_factory(type, function, lifetime=lifetime, name=name, collect=collect)
                return function

            return decorate
        if lifetime not in ("singleton", "scoped", "transient"):
            raise DependencyError(f"{lifetime!r} is not a lifetime: singleton, scoped, transient")
        made = Registration(
            key_of(type, name), kind_of(factory), lifetime, factory, wishes_of(factory)
        )
        self._add(made, collect=collect)
        return None

    def factory(
        self,
        *,
        lifetime: Lifetime = "singleton",
        name: str | None = None,
        collect: bool = False,
    ) -> Callable[[F], F]:
        """Decorator: ``register_factory`` for what the function says that it returns or yields."""

        def decorate(function: F) -> F:
            self.register_factory(
                made_type(function), function, lifetime=lifetime, name=name, collect=collect
            )
            return function

        return decorate

    def alias(self, type: Any, target: type[Any], *, name: str | None = None) -> None:
        """Let ``type``, such as a protocol or a base class, be what ``target`` is."""
        wish = replace(wish_of("target", target), parameter="target")
        made = Registration(key_of(type, name), Kind.ALIAS, "transient", target, (wish,))
        self._add(made)

    def register_context(self, type: Any) -> None:
        """Say that a value of ``type`` is given by whoever opens a scope, so that factories may
        ask for it: ``container.scope({Request: request})``.
        """
        self._add(Registration(Key(type), Kind.CONTEXT, "scoped", type))

    def register_settings(
        self, type: type[Any], prefix: str = "", *, environ: Mapping[str, str] | None = None
    ) -> None:
        """Fill a dataclass or a pydantic model from environment variables: field ``pool_size`` from
        ``PREFIX`` + ``POOL_SIZE``. Tables and lists are JSON. ``validate`` reports everything that
        is missing or wrong, without showing values. ``environ``: other than ``os.environ``.
        """
        self.register_factory(type, SettingsFactory(type, prefix, environ))

    def _add(self, made: Registration, *, collect: bool = False, owner: str = "") -> Registration:
        made = replace(made, owner=owner) if owner else made
        with self._lock:
            if self._is_closed:
                raise ContainerClosed("the container is closed")
            if collect:
                # Each has a key of its own that nobody can ask for.
                member = replace(
                    made, key=Key(made.key.type, f"{made.key.name or ''}#{made.number}")
                )
                members = self._collected.setdefault(made.key, [])
                members.insert(_place(members, made.owner), member)
                self._registered[member.key] = [member]
                made = member
            else:
                stack = self._registered.setdefault(made.key, [])
                # What an owner says replaces what it said; what others said stays below it.
                place = _place(stack, made.owner)
                stack.insert(place, made)
                stack[:] = [each for each in stack if each.owner != made.owner or each is made]
            self._changed()
        return made

    def _remove(self, numbers: frozenset[int]) -> list[Cell]:
        """Forget registrations; returns the living singletons that were made of them, the last
        made first.
        """
        with self._lock:
            for stacks in (self._registered, self._collected):
                for key in list(stacks):
                    stacks[key] = [each for each in stacks[key] if each.number not in numbers]
                    if not stacks[key]:
                        del stacks[key]
            self._changed()
            return self._take(lambda cell: bool(cell.needs & numbers))

    def _take(self, is_meant: Callable[[Cell], bool]) -> list[Cell]:
        """Living singletons, last made first, that are the container's no more."""
        for cell in (*self._cells.values(), *self._made):
            if is_meant(cell):
                cell.over()
        taken = [cell for cell in reversed(self._made) if is_meant(cell)]
        self._made = [cell for cell in self._made if not is_meant(cell)]
        self._cells = {key: cell for key, cell in self._cells.items() if not is_meant(cell)}
        self._values.clear()
        return taken

    def _changed(self) -> None:
        self._engine = None
        self._values.clear()

    def owner(self, name: str) -> Owner:
        """A view whose registrations can be taken back together, with all that was made of them."""
        return Owner(self, name)

    # ---------------------------------------------------------------- resolving

    def resolve(self, type: type[T], name: str | None = None) -> T:
        """What is registered for ``type``. Raises ``NotRegistered`` (a ``KeyError``),
        ``NeedsAwait`` for what an ``async`` factory makes, ``NeedsScope`` for what lives in one.
        """
        if name is None:
            try:
                return cast("T", self._values[type])
            except KeyError:
                pass
        engine = self._compiled()
        node = self._node(engine, type, name)
        cell = engine.cells.get(node.key)
        if cell is not None and cell.is_made:
            return cast("T", cell.value)
        if node.is_async:
            raise NeedsAwait(
                f"{node.key} is made by an async factory: await container.aresolve({node.key})"
            )
        self._check_root(node)
        return cast("T", engine.root.get_sync(engine.token(node.key)))

    async def aresolve(self, type: type[T], name: str | None = None) -> T:
        """The same, for what is made by ``async`` factories, too."""
        if name is None:
            try:
                return cast("T", self._values[type])
            except KeyError:
                pass
        engine = self._compiled()
        node = self._node(engine, type, name)
        cell = engine.cells.get(node.key)
        if cell is not None:
            return cast("T", await cell.aget())
        self._check_root(node)
        return cast("T", await engine.root.get(engine.token(node.key)))

    def scope(self, context: Mapping[Any, Any] | None = None) -> Scope:
        """A scope to enter: ``async with container.scope() as scope``. ``context``: values by type
        that can be resolved in it.
        """
        return Scope(self, self._engine or self._compiled(), context)

    def inject(self, function: F) -> F:
        """A function whose ``Inject[…]`` parameters are filled from the present scope, or from one
        of its own around the call. Others see it without them.
        """
        return injecting(function, self)

    def _compiled(self) -> Engine:
        engine = self._engine
        if engine is not None:
            return engine
        with self._lock:
            if self._is_closed:
                raise ContainerClosed("the container is closed")
            if self._engine is None:
                self._forget_replaced()
                engine = Engine(self._graph(), self._cell_of)
                for key, cell in engine.cells.items():
                    cell.renew(Maker(engine, engine.graph.nodes[key].registration))
                self._engine = engine
            return self._engine

    def _forget_replaced(self) -> None:
        """Cells of registrations that were replaced: nothing new can be made of those. Scopes that
        are open may still use them, and those with a teardown have it when the container closes.
        """
        numbers = {
            each.number
            for stacks in (self._registered, self._collected)
            for stack in stacks.values()
            for each in stack
        }
        self._cells = {key: cell for key, cell in self._cells.items() if cell.needs <= numbers}

    def _graph(self) -> Graph:
        with self._lock:
            inforce = {key: stack[-1] for key, stack in self._registered.items()}
            return Graph(inforce, self._collected)

    def _node(self, engine: Engine, type_: Any, name: str | None) -> Node:
        key = key_of(type_, name)
        node = engine.graph.find(key)
        if node is None:
            raise engine.graph.missing(key).error()
        if node.fault is not None:
            raise engine.graph.problem_of(node).error()
        return node

    def _check_root(self, node: Node) -> None:
        if node.lives_in_scope:
            raise NeedsScope(
                f"{node.key} lives in a scope: async with container.scope() as scope: …"
                f" scope.resolve({node.key})"
            )
        if node.has_teardown and node.lifetime != "singleton":
            raise NeedsScope(f"{node.key} is torn down, so it needs a scope that does it")

    # ---------------------------------------------------------------- singletons

    def _cell_of(self, node: Node) -> Cell:
        """The cell of a singleton as it is in the present generation."""
        key = (node.registration.number, node.all_needs)
        cell = self._cells.get(key)
        if cell is None:
            cell = Cell(
                node.key,
                node.all_needs,
                self._was_made,
                has_teardown=node.has_teardown,
                ends_async=node.ends_async,
            )
            if node.registration.kind is Kind.INSTANCE:
                cell.value = node.registration.source
            self._cells[key] = cell
        if cell.is_made:
            self._publish(node.key, cell)
        return cell

    def _was_made(self, cell: Cell) -> None:
        with self._lock:
            if cell.has_teardown:
                self._made.append(cell)
            engine = self._engine
            node = engine.graph.find(cell.key) if engine is not None else None
            if (
                node is not None
                and self._cells.get((node.registration.number, node.all_needs)) is cell
            ):
                self._publish(cell.key, cell)

    def _publish(self, key: Key, cell: Cell) -> None:
        if key.name is None and key.collection is None:
            self._values[key.type] = cell.value

    # ---------------------------------------------------------------- checking

    def validate(self) -> None:
        """Raise ``InvalidGraph`` with everything that is wrong: what is missing, cycles, singletons
        that hold something scoped, settings. Nothing is made, but settings are read.
        """
        graph = self._graph()
        problems = list(graph.problems())
        for node in graph.nodes.values():
            if isinstance(node.registration.source, SettingsFactory):
                told = node.registration.source.problems()
                problems += [Problem(SettingsError, text) for text in told]
        if problems:
            raise InvalidGraph(problems)

    def graph(self) -> Drawing:
        """The graph, to be drawn: everything that was registered, and the collections that are
        asked for.
        """
        nodes = [node for node in self._graph().nodes.values() if node.key.type is not Container]
        needed = {id(each) for node in nodes for each in node.needs.values()}
        return Drawing(node for node in nodes if node.key.collection is None or id(node) in needed)

    def __contains__(self, type: Any) -> bool:
        key = key_of(type)
        return key in self._registered or replace(key, collection=None) in self._collected

    def __iter__(self) -> Iterator[Any]:
        return iter({key.type: None for key in self._registered})

    # ---------------------------------------------------------------- tests

    def override(
        self, type: Any, to: Any, *, name: str | None = None
    ) -> AbstractContextManager[None]:
        """For tests: let ``to`` (an instance, or a factory) stand in for what is registered, within
        a ``with`` or an ``async with`` block. Blocks nest. Singletons that are made of it live as
        long as the block, and the others come back as they were.
        """
        from ._override import Override

        return Override(self, key_of(type, name), to)

    # ---------------------------------------------------------------- its end

    async def reset(self) -> None:
        """Tear down singletons as ``aclose`` does, and stay open: they are made anew when they are
        needed. For programs that start and stop more than once, such as applications in tests.
        """
        with self._lock:
            taken = self._take(lambda cell: True)
            self._changed()
        await end(taken)

    async def aclose(self) -> None:
        """Tear down singletons, the last made first. Every teardown runs; their exceptions come as
        one ``ExceptionGroup``. Does nothing the second time.
        """
        await end(self._close())

    def close(self) -> None:
        """The same, where no teardown is ``async``; raises ``NeedsAwait``, and closes nothing,
        where one is.
        """
        with self._lock:
            last = next((cell for cell in reversed(self._made) if cell.ends_async), None)
        if last is not None:
            raise NeedsAwait(f"{last.key} has an async teardown: await container.aclose()")
        run_now(end(self._close()), "a singleton's teardown")

    def _close(self) -> list[Cell]:
        with self._lock:
            self._is_closed = True
            self._engine = None
            return self._take(lambda cell: True)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None
    ) -> None:
        await self.aclose()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None
    ) -> None:
        self.close()


def _place(registered: list[Registration], owner: str) -> int:
    """Where a registration belongs: last, or onto that of an owner of the same name, so that a
    plugin that is replaced stays where it was among the others.
    """
    name = owner.rpartition("#")[0]
    for place in range(len(registered), 0, -1):
        if name and registered[place - 1].owner.rpartition("#")[0] == name:
            return place
    return len(registered)
