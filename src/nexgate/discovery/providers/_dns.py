"""Instances from DNS: the addresses of a name, or its SRV records."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncGenerator, Callable
from typing import Any, Final, Literal

from nexgate.config import parse_host, parse_port
from nexgate.discovery._instance import Instances, ServiceInstance, check_service_name
from nexgate.discovery._provider import DiscoveryError
from nexgate.state import machine_clock

__all__ = ["DnsProvider"]

_log = logging.getLogger("nexgate.discovery")

_MOST: Final = 1000
_HEAVIEST: Final = 65535

Family = Literal["any", "ipv4", "ipv6"]
_TYPES: Final[dict[str, tuple[str, ...]]] = {
    "any": ("A", "AAAA"),
    "ipv4": ("A",),
    "ipv6": ("AAAA",),
}


class DnsProvider:
    """Asks for a name again when the answer's time to live is over. ``Reporting``.

    ``records="address"``: one instance per A and AAAA record, at ``port``. ``records="srv"``: one
    per address of each SRV target, at the record's port, weighted by its weight (0 counts as 1).
    Of several priorities only the lowest number is used; the others are not a fallback, because
    DNS does not say when to fall back.

    The time to live is believed between ``min_ttl`` and ``max_ttl``: 0 would be a query per
    request, a day would be a day of the wrong instances.

    A name that does not exist, or has no such records, is an answer, but too often a mistake of
    whoever serves DNS. With ``grace`` the last set is kept for that long before it is believed;
    ``None`` never believes it. No answer, and a refusal to answer, are never believed.

    ``nameserver``: ``"ip"`` or ``"ip:port"`` instead of the system's. Names are completed as
    ``/etc/resolv.conf`` says; a dot at the end says that a name is complete. ``/etc/hosts`` is not
    looked at. Instances at ``https`` need a server name in the service's TLS settings: their URL
    has an address. Needs ``nexgate[dns]``.
    """

    def __init__(
        self,
        service: str,
        host: str,
        *,
        port: int | None = None,
        records: Literal["address", "srv"] = "address",
        family: Family = "any",
        scheme: Literal["http", "https"] = "http",
        nameserver: str | None = None,
        timeout: float = 5.0,
        min_ttl: float = 1.0,
        max_ttl: float = 60.0,
        grace: float | None = 30.0,
        clock: Callable[[], float] = machine_clock,
    ) -> None:
        if records == "address" and port is None:
            raise ValueError("addresses have no port in DNS: say which")
        try:
            import dns.asyncresolver
            import dns.exception
            import dns.nameserver
            import dns.resolver
        except ImportError:
            raise DiscoveryError(
                "discovery by DNS needs dnspython: pip install 'nexgate[dns]'"
            ) from None
        self._dns: Any = dns
        self.service = check_service_name(service)
        self.name = f"dns:{host}"
        self._host = host
        self._port = port
        self._records = records
        self._types = _TYPES[family]
        self._scheme = scheme
        self._nameserver = None if nameserver is None else parse_nameserver(nameserver)
        self._timeout = timeout
        self._min_ttl = min_ttl
        self._max_ttl = max_ttl
        self._grace = grace
        self._clock = clock
        self._last: Instances = ()
        self._absent_since: float | None = None

    @property
    def problem(self) -> str | None:
        """That the name is gone, while it is not believed."""
        return None if self._absent_since is None else f"{self._host} has no records"

    async def watch(self) -> AsyncGenerator[Instances, None]:
        """Yield the set after every answer."""
        while True:
            instances, ttl = await self._ask()
            if instances or self._is_believed():
                self._absent_since = None
                self._last = instances
                yield instances
            await asyncio.sleep(min(max(ttl, self._min_ttl), self._max_ttl))

    def _is_believed(self) -> bool:
        """Whether nobody means nobody."""
        if not self._last:
            return True
        if self._absent_since is None:
            self._absent_since = self._clock()
            _log.warning("%s; its last %d instances are kept", self.problem, len(self._last))
        return self._grace is not None and self._clock() - self._absent_since >= self._grace

    # -- asking --------------------------------------------------------------------------------

    async def _ask(self) -> tuple[Instances, float]:
        # Made anew: /etc/resolv.conf changes when networks do.
        resolver = self._dns.asyncresolver.Resolver(configure=self._nameserver is None)
        if self._nameserver is not None:
            address, port = self._nameserver
            resolver.nameservers = [self._dns.nameserver.Do53Nameserver(address, port)]
        resolver.lifetime = self._timeout
        if self._records == "address":
            addresses, ttl = await self._addresses(resolver, self._host)
            found = {(address, self._port or 0): 1 for address in addresses}
        else:
            found, ttl = await self._srv(resolver)
        return self._instances(found), ttl

    async def _srv(self, resolver: Any) -> tuple[dict[tuple[str, int], int], float]:
        answer, ttl = await self._query(resolver, self._host, "SRV")
        records = [r for r in answer if r.target.to_text() != "."]  # RFC 2782: decidedly not there
        lowest = min((r.priority for r in records), default=0)
        records = [r for r in records if r.priority == lowest and r.port]
        targets = sorted({record.target.to_text() for record in records})[:_MOST]
        answers = await asyncio.gather(*(self._addresses(resolver, name) for name in targets))
        resolved = dict(zip(targets, answers, strict=True))
        found: dict[tuple[str, int], int] = {}
        for record in records:
            for address in resolved[record.target.to_text()][0]:
                key = address, record.port
                found[key] = min(_HEAVIEST, found.get(key, 0) + max(1, record.weight))
        return found, min((ttl, *(ttl for _, ttl in answers)))

    async def _addresses(self, resolver: Any, name: str) -> tuple[list[str], float]:
        results = await asyncio.gather(
            *(self._query(resolver, name, kind) for kind in self._types), return_exceptions=True
        )
        found: list[str] = []
        ttls: list[float] = []
        errors: list[BaseException] = []
        for kind, result in zip(self._types, results, strict=True):
            if isinstance(result, BaseException):
                # Some servers never answer for AAAA. That must not hide the other addresses, but
                # it must not take away those that we have.
                if not isinstance(result, DiscoveryError) or self._uses(kind):
                    raise result
                errors.append(result)
                continue
            if result[0]:
                found += (record.address for record in result[0])
                ttls.append(result[1])
        if errors and not found:
            raise errors[0]
        return found, min(ttls, default=self._min_ttl)

    def _uses(self, kind: str) -> bool:
        return any(("[" in instance.url) is (kind == "AAAA") for instance in self._last)

    async def _query(self, resolver: Any, name: str, kind: str) -> tuple[list[Any], float]:
        """Records and their time to live; none when the name has none."""
        exceptions = self._dns.resolver
        try:
            answer = await resolver.resolve(name, kind, raise_on_no_answer=False, search=True)
        except exceptions.NXDOMAIN:
            return [], self._min_ttl
        except (self._dns.exception.DNSException, OSError, EOFError) as error:
            raise DiscoveryError(f"{name} ({kind}): {_words(error)}") from error
        if answer.rrset is None:
            return [], self._min_ttl
        return list(answer.rrset)[:_MOST], float(answer.chaining_result.minimum_ttl)

    def _instances(self, found: dict[tuple[str, int], int]) -> Instances:
        instances = []
        for (address, port), weight in sorted(found.items()):
            host = f"[{address}]" if ":" in address else address
            url = f"{self._scheme}://{host}:{port}"
            instances.append(ServiceInstance(url, self.service, url, weight=weight))
        return tuple(instances)


def parse_nameserver(text: str) -> tuple[str, int]:
    """``"10.0.0.2"``, ``"10.0.0.2:5353"`` or ``"[::1]:53"``; ``ValueError`` for anything else."""
    host, colon, port = text.rpartition(":")
    if not colon or text.endswith("]"):
        host, port = text, "53"
    address = parse_host(host)
    if not all(c in "0123456789abcdef.:" for c in address):
        raise ValueError("must be the address of a nameserver, not a name")
    return address, parse_port(port)


def _words(error: Exception) -> str:
    return str(error).partition("\n")[0][:300] or type(error).__name__
