"""A route, what it means to match one, and what it means to match none."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final, Generic, TypeVar

from nexgate.errors import ConfigError
from nexgate.routing._path import PathRules
from nexgate.routing._predicates import CookiePredicate, HeaderPredicate, Predicate, QueryPredicate
from nexgate.routing._subject import Routable
from nexgate.routing._template import ParamValue, Template

T = TypeVar("T")

_HOST: Final = re.compile(rb"(?:\*\.)?(?:[a-z0-9_](?:[a-z0-9_-]*[a-z0-9_])?)(?:\.[a-z0-9_-]+)*")
_IP_LITERAL: Final = re.compile(rb"\[[0-9a-f:.]+\]")
_TOKEN: Final = re.compile(rb"[A-Za-z0-9!#$%&'*+\-.^_`|~]+")


@dataclass(frozen=True, slots=True)
class Route(Generic[T]):
    """A set of requests and the ``payload`` (service, redirect, static answer, …) that serves them.

    Raises ``ConfigError`` for a host pattern or a method that could never match.
    """

    template: Template
    payload: T
    name: str
    hosts: tuple[bytes, ...] = ()
    """``api.example.com``, or ``*.example.com`` for one or more labels before it. Empty: any."""
    methods: frozenset[bytes] = frozenset()
    """Case-sensitive. Empty: every method. GET implies HEAD (RFC 9110 §9.3.2)."""
    predicates: tuple[Predicate, ...] = ()
    """All of them must match."""
    priority: int = 0
    """Higher comes first, before any rule of specificity."""

    def __post_init__(self) -> None:
        hosts = tuple(dict.fromkeys(host.lower().removesuffix(b".") for host in self.hosts))
        for host in hosts:
            if not (_HOST.fullmatch(host) or _IP_LITERAL.fullmatch(host)):
                shown = host.decode("utf-8", "replace")
                raise ConfigError(
                    f"route {self.name!r}: {shown!r} is not a host pattern "
                    "(write 'api.example.com' or '*.example.com', no port; no hosts for every host)"
                )
        for method in self.methods:
            if not _TOKEN.fullmatch(method):
                raise ConfigError(
                    f"route {self.name!r}: {method.decode('utf-8', 'replace')!r} is not a method"
                )
        methods = self.methods | {b"HEAD"} if b"GET" in self.methods else self.methods
        object.__setattr__(self, "hosts", hosts)
        object.__setattr__(self, "methods", frozenset(methods))

    def accepts_method(self, method: bytes) -> bool:
        """True if the route has no methods or has this one."""
        return not self.methods or method in self.methods

    def accepts_rest(self, subject: Routable) -> bool:
        """True if every header, query and cookie predicate matches."""
        return all(predicate.matches(subject) for predicate in self.predicates)

    def why_not(self, subject: Routable, rules: PathRules) -> Iterator[str]:
        """Every reason why the request is not this route's; nothing if it is. Not fast."""
        if self.hosts and not any(host_matches(host, subject.host) for host in self.hosts):
            wanted = " or ".join(repr(host.decode()) for host in self.hosts)
            yield f"host: {subject.host.decode('utf-8', 'replace')!r} is not {wanted}"
        if reason := self.template.why_not(subject.path, rules):
            yield f"path: {reason}"
        if not self.accepts_method(subject.method):
            allowed = ", ".join(sorted(method.decode() for method in self.methods))
            yield f"method: {subject.method.decode('latin-1')} is not one of {allowed}"
        for predicate in self.predicates:
            if not predicate.matches(subject):
                yield predicate.why_not(subject)

    def precedence(self, host: bytes, position: int) -> tuple[object, ...]:
        """Sorts the route that is asked first to the front.

        ``host`` is the one of ``hosts`` in question, or empty; ``position`` is that of declaration.
        The order is that of the Kubernetes Gateway API, with an explicit priority before it.
        """
        kinds = [type(predicate) for predicate in self.predicates]
        return (
            -self.priority,
            2 if not host else 1 if host.startswith(b"*") else 0,
            -host.count(b"."),
            self.template.specificity,
            not self.methods,
            -kinds.count(HeaderPredicate),
            -kinds.count(QueryPredicate),
            -kinds.count(CookiePredicate),
            -len(kinds),
            position,
        )


def host_matches(pattern: bytes, host: bytes) -> bool:
    """True if a host is the pattern; for ``*.example.com``, if it has labels before the rest."""
    if pattern.startswith(b"*"):
        return host.endswith(pattern[1:]) and len(host) > len(pattern) - 1
    return host == pattern


class Match(Generic[T]):
    """The route of a request. Immutable; parameters are read from the path when asked for."""

    __slots__ = ("_params", "_path", "_raw", "route")

    def __init__(self, route: Route[T], path: bytes) -> None:
        self.route = route
        self._path = path
        self._raw: tuple[bytes, ...] | None = None
        self._params: dict[str, ParamValue] | None = None

    @property
    def raw_params(self) -> tuple[bytes, ...]:
        """The client's bytes for each parameter, in the order of ``route.template.names``."""
        if self._raw is None:
            self._raw = self.route.template.capture(self._path)
        return self._raw

    @property
    def params(self) -> dict[str, ParamValue]:
        """The parameters by name, percent-decoded once and converted. Shared: do not change it."""
        if self._params is None:
            self._params = self.route.template.decode(self.raw_params)
        return self._params

    def __repr__(self) -> str:
        return f"Match(route={self.route.name!r}, raw_params={self.raw_params!r})"


@dataclass(frozen=True, slots=True)
class Miss:
    """No route. Answer 405 with ``Allow`` if ``allow`` is not empty, else 404."""

    allow: tuple[bytes, ...] = ()
    """Sorted methods of the routes that match in everything but the method."""
