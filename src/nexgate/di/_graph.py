"""Registrations as a graph: who needs whom, how long each lives, and what is wrong with that."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from functools import cached_property

from nexgate.config import nearest

from ._errors import CaptiveDependency, DependencyCycle, NotRegistered, Problem
from ._keys import Key, Wish
from ._registration import Kind, Lifetime, Registration

__all__ = ["Graph", "Node"]


@dataclass(slots=True, eq=False)
class Node:
    """A registration among the others."""

    registration: Registration
    needs: dict[str, Node] = field(default_factory=dict)
    """By parameter."""
    absent: tuple[str, ...] = ()
    """Parameters that get ``None``: optional, and nobody registered them."""
    problem: Problem | None = None
    """Why it cannot be made."""
    is_async: bool = False
    lives_in_scope: bool = False
    """It, or something that it holds, lives as long as a scope."""
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
        for key in registered:
            self._visit(key)
        for key in self._collected:
            self._visit(Key(key.type, key.name, list))

    def find(self, key: Key) -> Node | None:
        """The node of ``key``."""
        return self.nodes.get(key)

    def missing(self, key: Key) -> Problem:
        """Why there is no such node."""
        return Problem(NotRegistered, f"{key} ✗ {self._why_missing(key)}")

    @cached_property
    def problems(self) -> tuple[Problem, ...]:
        """Everything that is wrong, each thing once."""
        found = dict.fromkeys(n.problem for n in self.nodes.values() if n.problem is not None)
        return tuple(found)

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
            elif node.problem is None:
                node.problem = self._missing(wish)
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
        if node.problem is None:
            broken = next((each for each in needs if each.problem is not None), None)
            node.problem = broken.problem if broken is not None else None
        if node.problem is None and node.lifetime == "singleton" and held:
            node.problem = self._captive(node, held[0])
        if node.lifetime == "singleton":
            node.lives_in_scope = False

    def _close_cycle(self, node: Node) -> None:
        circle = [*self._path[self._path.index(node) :], node]
        path = " → ".join(str(each.key) for each in circle)
        problem = Problem(
            DependencyCycle,
            f"{path} ✗ needs itself; let one of them ask for a factory, or for Container, and"
            " resolve the other when it is used",
        )
        for each in circle:
            each.problem = each.problem or problem

    def _captive(self, node: Node, held: Node) -> Problem:
        path = [node, held]
        while path[-1].lifetime != "scoped":
            path.append(next(n for n in path[-1].needs.values() if n.lives_in_scope))
        drawn = " → ".join(f"{each.key} ({each.lifetime})" for each in path)
        return Problem(
            CaptiveDependency,
            f"{drawn} ✗ a singleton would keep the {path[-1].key} of one scope for ever; make"
            f' {node.key} lifetime="scoped", or {path[-1].key} a singleton',
        )

    def _missing(self, wish: Wish) -> Problem:
        path = " → ".join([*(str(each.key) for each in self._path), str(wish.key)])
        return Problem(NotRegistered, f"{path} ✗ {self._why_missing(wish.key)}")

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


def _is_subclass(child: object, parent: object) -> bool:
    try:
        return isinstance(child, type) and isinstance(parent, type) and issubclass(child, parent)
    except TypeError:  # a protocol with data, a generic
        return False
