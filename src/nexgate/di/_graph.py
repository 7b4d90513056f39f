"""Registrations as a graph: who needs whom, how long each lives, and what is wrong with that."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from nexgate.config import nearest

from ._errors import CaptiveDependency, DependencyCycle, DependencyError, NotRegistered, Problem
from ._keys import Key, Wish
from ._registration import Kind, Lifetime, Registration

__all__ = ["Graph", "Node"]


@dataclass(frozen=True, slots=True, eq=False)
class Fault:
    """What is wrong at one node."""

    kind: type[DependencyError]
    node: Node
    rest: str
    """What follows the path to the node."""
    is_circle: bool = False
    """``rest`` is a path of its own."""


@dataclass(slots=True, eq=False)
class Node:
    """A registration among the others."""

    registration: Registration
    needs: dict[str, Node] = field(default_factory=dict)
    """By parameter."""
    absent: tuple[str, ...] = ()
    """Parameters that get ``None``: optional, and nobody registered them."""
    fault: Fault | None = None
    """Why it cannot be made: the first of its own, or of what it needs."""
    is_async: bool = False
    lives_in_scope: bool = False
    """It, or something that it holds, lives as long as a scope."""
    has_teardown: bool = False
    """Of its own, or of something that is made with it."""
    ends_async: bool = False
    all_needs: frozenset[int] = frozenset()
    """Numbers of every registration that it is made of, its own among them."""

    @property
    def key(self) -> Key:
        return self.registration.key

    @property
    def lifetime(self) -> Lifetime:
        return self.registration.lifetime


class Graph:
    """What is registered at one moment. Immutable once it is made."""

    def __init__(
        self,
        registered: Mapping[Key, Registration],
        collected: Mapping[Key, Iterable[Registration]],
    ) -> None:
        self._registered = registered
        self._collected = {key: tuple(each) for key, each in collected.items()}
        self.nodes: dict[Key, Node] = {}
        self._path: list[Node] = []
        self._faults: list[Fault] = []
        for key in registered:
            self._visit(key)
        for key in self._collected:
            for collection in (list, tuple):
                self._visit(Key(key.type, key.name, collection))

    def find(self, key: Key) -> Node | None:
        """The node of ``key``."""
        return self.nodes.get(key)

    def missing(self, key: Key) -> Problem:
        """Why there is no such node."""
        return Problem(NotRegistered, f"{key} ✗ {self._why_missing(key)}")

    def problem_of(self, node: Node) -> Problem:
        """Why ``node`` cannot be made, with the path from it."""
        assert node.fault is not None
        return self._told(node.fault, _paths_from([node]))

    def problems(self) -> tuple[Problem, ...]:
        """Everything that is wrong, each thing once, with the path from what nobody else needs."""
        needed = {id(each) for node in self.nodes.values() for each in node.needs.values()}
        paths = _paths_from([node for node in self.nodes.values() if id(node) not in needed])
        return tuple(self._told(fault, paths) for fault in self._faults)

    def _told(self, fault: Fault, paths: dict[int, str]) -> Problem:
        before = paths.get(id(fault.node), str(fault.node.key))
        if fault.is_circle:
            before = before.removesuffix(str(fault.node.key))
        return Problem(fault.kind, before + fault.rest)

    # ---------------------------------------------------------------- making it

    def _visit(self, key: Key) -> Node | None:
        """The node of ``key``, with everything that it needs."""
        known = self.nodes.get(key)
        if known is not None:
            if known in self._path:
                self._close_cycle(known)
            return known
        registration = self._registered.get(key) or self._collection(key)
        if registration is None:
            return None
        node = self.nodes[key] = Node(registration)
        self._path.append(node)
        absent: list[str] = []
        for wish in registration.wishes:
            found = self._visit(wish.key)
            if found is not None:
                node.needs[wish.parameter] = found
            elif wish.has_default:
                pass
            elif wish.is_optional:
                absent.append(wish.parameter)
            else:
                rest = f" → {wish.key} ✗ {self._why_missing(wish.key)}"
                self._blame(Fault(NotRegistered, node, rest))
        self._path.pop()
        node.absent = tuple(absent)
        self._conclude(node)
        return node

    def _collection(self, key: Key) -> Registration | None:
        members = self._collected.get(Key(key.type, key.name))
        if key.collection is None or members is None:
            return None
        wishes = tuple(Wish(f"m{n}", each.key) for n, each in enumerate(members))
        return Registration(key, Kind.COLLECTION, "transient", key.collection, wishes)

    def _conclude(self, node: Node) -> None:
        """What follows from what it needs."""
        needs = node.needs.values()
        kind = node.registration.kind
        node.is_async = kind.is_async or any(each.is_async for each in needs)
        node.all_needs = frozenset({node.registration.number}).union(
            *(each.all_needs for each in needs)
        )
        held = [each for each in needs if each.lives_in_scope]
        node.lives_in_scope = node.lifetime == "scoped" or bool(held)
        node.fault = node.fault or next((each.fault for each in needs if each.fault), None)
        if node.lifetime == "singleton":
            for each in held:
                self._blame(self._captive(node, each))
            node.lives_in_scope = False
        made_with = [each for each in needs if each.lifetime != "singleton"]
        node.has_teardown = kind.has_teardown or any(each.has_teardown for each in made_with)
        node.ends_async = kind is Kind.ASYNC_GENERATOR or any(each.ends_async for each in made_with)

    def _blame(self, fault: Fault) -> None:
        self._faults.append(fault)
        fault.node.fault = fault.node.fault or fault

    def _close_cycle(self, node: Node) -> None:
        circle = [*self._path[self._path.index(node) :], node]
        path = " → ".join(str(each.key) for each in circle)
        rest = (
            f"{path} ✗ needs itself; let one of them ask for Container, and resolve the other when"
            " it is used"
        )
        self._blame(Fault(DependencyCycle, node, rest, is_circle=True))
        for each in circle:
            each.fault = each.fault or node.fault

    def _captive(self, node: Node, held: Node) -> Fault:
        path = [held]
        while path[-1].lifetime != "scoped":
            path.append(next(n for n in path[-1].needs.values() if n.lives_in_scope))
        drawn = "".join(f" → {each.key} ({each.lifetime})" for each in path)
        return Fault(
            CaptiveDependency,
            node,
            f" (singleton){drawn} ✗ a singleton would keep the {path[-1].key} of one scope for"
            f' ever; make {node.key} lifetime="scoped", or {path[-1].key} a singleton',
        )

    def _why_missing(self, key: Key) -> str:
        same = [k for k in self._registered if k.type is key.type and k != key]
        if same and key.collection is None:
            names = ", ".join(repr(k.name) if k.name else "no name" for k in same)
            return f"is not registered by that name; there is one with {names}"
        near = nearest(str(key), [str(k) for k in self._registered])
        hint = f"; did you mean {near}?" if near else ""
        concrete = next(
            (k for k in self._registered if _is_subclass(k.type, key.type) and k.type != key.type),
            None,
        )
        if concrete is not None:
            hint = f"; {concrete} is one: alias({key}, {concrete})"
        return f"is not registered{hint}"


def _paths_from(starts: list[Node]) -> dict[int, str]:
    """The shortest path to each node, as it is shown."""
    paths = {id(node): str(node.key) for node in starts}
    waiting = deque(starts)
    while waiting:
        node = waiting.popleft()
        for each in node.needs.values():
            if id(each) not in paths:
                paths[id(each)] = f"{paths[id(node)]} → {each.key}"
                waiting.append(each)
    return paths


def _is_subclass(child: object, parent: object) -> bool:
    try:
        return isinstance(child, type) and isinstance(parent, type) and issubclass(child, parent)
    except TypeError:  # a protocol with data, a generic
        return False
