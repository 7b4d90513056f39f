"""A compiled configuration: what the edge needs to turn a head into a running exchange.

Immutable. A reload compiles a new snapshot away from the event loop and swaps one reference;
exchanges under way keep the plan they began with.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import Any, Final, Protocol

from nexgate.errors import Cause, Refused
from nexgate.exchange import Downstream, Exchange, Hook, Plan, Response
from nexgate.http import ForwardedRules, Kind, RequestHead
from nexgate.routing import Match, PathRules, RouteTable, normalise

__all__ = ["Origin", "Snapshot"]

_MAX_KNOWN_ROUTES: Final = 4096
_MAX_KNOWN_BYTES: Final = 512
_REQUEST_ID: Final = re.compile(rb"[A-Za-z0-9\-._~+/=:]{1,128}").fullmatch


class Origin(Protocol):
    """What a downstream knows about where a request came from; it may remember forwarded lines."""

    peer: str
    trust_peer: bool
    forward_base: bytes | None
    forward_base_for: bytes


class _NotFound:
    """Answers requests that no route matches: 404, or 405 with Allow."""

    def start(self, exchange: Exchange) -> None:
        allow: tuple[bytes, ...] = exchange.choice or ()
        if not allow:
            exchange.fail(Cause.NOT_FOUND)
            return
        methods = b", ".join(allow)
        if exchange.method == b"OPTIONS" and not exchange.header_values(
            b"access-control-request-method"
        ):
            exchange.respond(Response(204, b"", {"Allow": methods.decode("latin-1")}))
            return
        exchange.allow = methods
        exchange.fail(Cause.METHOD_NOT_ALLOWED, f"allowed are {methods.decode('latin-1')}")

    def describe(self) -> str:
        return "404"


@dataclass(frozen=True, slots=True)
class Snapshot:
    """See the module's docstring."""

    table: RouteTable[Plan]
    path_rules: PathRules = PathRules()
    forwarded: ForwardedRules = ForwardedRules()
    via: bytes = b"nexgate"
    request_id_field: bytes = b"X-Request-Id"
    trust_request_id: bool = False
    rejects_underscores: bool = False
    fallback: Plan = field(default_factory=lambda: Plan("", _NotFound()))
    """Takes what no route matches; has the gateway's own hooks."""
    known_routes: dict[tuple[bytes, bytes, bytes], tuple[bytes, Match[Plan]]] | None = None
    """Answers of the table by host, method and path as received; None when routes have
    predicates.
    """

    @staticmethod
    def fallback_plan(hooks: tuple[Hook, ...], **settings: Any) -> Plan:
        return Plan("", _NotFound(), hooks, **settings)

    def open(
        self,
        down: Downstream,
        method: bytes,
        path: bytes,
        query: bytes | None,
        head: RequestHead,
        origin: Origin,
        scheme: str,
        request_id: bytes,
        started: float,
    ) -> tuple[Exchange, Plan]:
        """An exchange and its plan, ready for ``begin``. Raises ``Refused`` for an unsafe path."""
        # The same question, lately? Paths repeat, and a route without predicates depends on nothing
        # else.
        known_routes = self.known_routes
        key = (head.host, method, path)
        known_route = known_routes.get(key) if known_routes is not None else None
        if known_route is not None:
            path, found = known_route
        else:
            found = None
            if path != b"*":
                path = normalise(path, self.path_rules)
        flags = head.flags
        client = origin.peer
        if flags & (Kind.FORWARDED | Kind.VIA | Kind.UNDERSCORE):
            if flags & Kind.UNDERSCORE and self.rejects_underscores:
                raise Refused(Cause.BAD_REQUEST, "a field name contains an underscore")
            base, client, scheme = self._forward_lines(head, origin, scheme)
        else:
            # Who it is and what it asked for: the same for every request of a connection, mostly.
            known_base = origin.forward_base
            if known_base is None or head.http10 or origin.forward_base_for != head.authority:
                base, _, _ = self._forward_lines(head, origin, scheme)
                if not head.http10:  # whose Via is another
                    origin.forward_base = base
                    origin.forward_base_for = head.authority
            else:
                base = known_base
        if flags & Kind.REQUEST_ID and (
            self.trust_request_id or origin.trust_peer or self.forwarded.trusted
        ):
            request_id = self._believed_id(head, origin) or request_id
        exchange = Exchange(
            down,
            method,
            path,
            query,
            head,
            client,
            scheme,
            base,
            request_id,
            self.request_id_field,
            started,
        )
        if found is not None:
            exchange.match = found
            return exchange, found.route.payload
        answer = self.table.match(exchange)
        if isinstance(answer, Match):
            exchange.match = answer
            if known_routes is not None:
                if len(known_routes) >= _MAX_KNOWN_ROUTES:
                    known_routes.clear()
                if len(path) + len(key[0]) + len(key[2]) <= _MAX_KNOWN_BYTES:
                    known_routes[key] = path, answer
            return exchange, answer.route.payload
        exchange.choice = answer.allow
        return exchange, self.fallback

    def _forward_lines(
        self, head: RequestHead, origin: Origin, scheme: str
    ) -> tuple[bytes, str, str]:
        received = [f for f in head.fields if f[3] & Kind.FORWARDED]
        lines, client, scheme = self.forwarded.lines(
            origin.peer, scheme, head.authority, received, trust_peer=origin.trust_peer
        )
        version = b"1.0" if head.http10 else b"1.1"
        before = [f[1] for f in head.fields if f[3] & Kind.VIA and f[1]]
        lines.append(b"Via: " + b", ".join([*before, b"%b %b" % (version, self.via)]))
        return b"\r\n".join(lines), client, scheme

    def _believed_id(self, head: RequestHead, origin: Origin) -> bytes | None:
        if not (
            self.trust_request_id or origin.trust_peer or origin.peer in self.forwarded.trusted
        ):
            return None
        name = self.request_id_field.lower()
        for f in head.fields:
            if f[0] == name and _REQUEST_ID(f[1]):
                return f[1]
        return None
