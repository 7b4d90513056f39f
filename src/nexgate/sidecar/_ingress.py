"""The way in: requests of other sidecars, with their callers' names, for the local program."""

from __future__ import annotations

import asyncio
from typing import ClassVar

from nexgate.edge import EdgeConnection
from nexgate.exchange import Exchange, Hook, Plan, Response
from nexgate.http import Kind
from nexgate.sidecar._identity import FIELD_NAME, Identity, identity_of
from nexgate.sidecar.config import SidecarConfig
from nexgate.state import State
from nexgate.upstream import DROP_ALWAYS, Forward, Membership, ServiceState
from nexgate.upstream.balancer import LeastRequests

__all__ = ["Ingress", "IngressConnection"]

_NOT_ALLOWED = "https://nexgate.dev/problems/caller-not-allowed"


class IngressConnection(EdgeConnection):
    """A connection that knows who is at its other end."""

    __slots__ = ("identity",)

    trusted: ClassVar[frozenset[str]] = frozenset()
    """Names of callers that are believed when they say whom they speak for."""
    identity: Identity | None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.identity = identity = identity_of(transport.get_extra_info("ssl_object"))
        self.trust_peer = identity is not None and not self.trusted.isdisjoint(identity.names)
        super().connection_made(transport)


class Ingress:
    """One service with one instance, the local program. ``plan`` is for every exchange."""

    def __init__(
        self, loop: asyncio.AbstractEventLoop, config: SidecarConfig, state: State
    ) -> None:
        section = config.sidecar
        assert section.service is not None
        local = config.local()
        self.connection = type(
            "IngressConnection",
            (IngressConnection,),
            {"__slots__": (), "trusted": frozenset(n.lower() for n in section.trusted_proxies)},
        )
        """The class of its connections."""
        self._allow = None if section.allow is None else frozenset(a.lower() for a in section.allow)
        self.service = ServiceState(section.service, LeastRequests())
        self.service.guard.take(local)
        members = Membership(self.service, loop, lambda instance: instance.remove())
        listed, _ = members.instances_for(local, lambda url: None)
        # An underscore is a hyphen to many programs, and would forge the caller's name.
        drop = DROP_ALWAYS | Kind.UNDERSCORE
        members.configure(local, listed, drop=drop, context=None, state=state, balancer=None)
        self.plan = Plan(
            "ingress",
            Forward(self.service),
            (Hook("caller", on_request=self._admit),),
            total_timeout=local.timeout.total,
        )

    def _admit(self, exchange: Exchange) -> Response | None:
        connection = exchange.down
        assert isinstance(connection, IngressConnection)
        identity = connection.identity
        allow = self._allow
        if allow is not None and (identity is None or allow.isdisjoint(identity.names)):
            return Response.problem(
                403,
                type=_NOT_ALLOWED,
                title="The caller is not allowed",
                detail=f"{identity or 'a caller without a name'} may not call {self.service.name}",
                request_id=exchange.id.decode("latin-1"),
            )
        # Whatever came in under this name was written by somebody else.
        fields = [field for field in exchange.fields if field[0] != FIELD_NAME]
        if identity is not None:
            fields.append(identity.field)
        exchange.fields = fields
        return None

    async def aclose(self) -> None:
        """Close the connections to the program."""
        await self.service.aclose()
