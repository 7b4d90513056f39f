"""Instances from Consul's catalogue, by blocking queries.

Written after the public documentation of Consul's HTTP API (``/v1/health/service/:service`` and
"Blocking queries").
"""

from __future__ import annotations

import asyncio
import json
import logging
import ssl as tls
from collections.abc import AsyncGenerator, Iterable
from typing import Any, Final
from urllib.parse import quote, urlencode

from nexgate.discovery._instance import Health, Instances, ServiceInstance, check_service_name
from nexgate.discovery._provider import DiscoveryError
from nexgate.discovery.providers._words import excerpt
from nexgate.fetch import Fetched, FetchLimits, fetch

__all__ = ["ConsulProvider"]

_log = logging.getLogger("nexgate.discovery")

_LEAST_PERIOD: Final = 0.1
"""From one question to the next, however quickly Consul answers: a service that flaps must not
make us its load test."""
_WITHOUT_INDEX: Final = 5.0
_GRACE: Final = 10.0
_LONGEST_INDEX: Final = 20


class ConsulProvider:
    """A service in Consul, as the agent at ``url`` sees it.

    A question waits up to ``wait`` seconds for a change, so a change arrives at once and silence
    costs a request a minute. ``passing`` leaves out instances with a failing or warning check; with
    ``False`` they come as ``unhealthy``, or healthy with Consul's weight for warnings. ``tags``:
    only instances that have all of them. ``scheme`` is how instances are spoken to. ``token`` goes
    into ``X-Consul-Token``; ``ssl`` is for an agent at ``https``.
    """

    def __init__(
        self,
        service: str,
        *,
        consul_service: str | None = None,
        url: str = "http://127.0.0.1:8500",
        token: str | None = None,
        datacenter: str | None = None,
        namespace: str | None = None,
        tags: Iterable[str] = (),
        passing: bool = True,
        scheme: str = "http",
        wait: float = 55.0,
        ssl: tls.SSLContext | None = None,
    ) -> None:
        self.service = check_service_name(service)
        self._consul_service = consul_service or service
        self.name = f"consul:{self._consul_service}"
        self._url = url
        self._fields = {} if token is None else {"X-Consul-Token": token}
        query = [("tag", tag) for tag in tags]
        if passing:
            query.append(("passing", "1"))
        if datacenter is not None:
            query.append(("dc", datacenter))
        if namespace is not None:
            query.append(("ns", namespace))
        self._query = query
        self._scheme = scheme
        self._wait = wait
        self._ssl = ssl
        self._skipped: set[str] = set()

    async def watch(self) -> AsyncGenerator[Instances, None]:
        """Yield the set after every answer."""
        loop = asyncio.get_running_loop()
        index = 0
        while True:
            began = loop.time()
            answer = await self._ask(index)
            yield self._instances(answer)
            found = _index(answer)
            # The index may go backwards: the servers were restored, or it is another cluster. What
            # we know is then not older than what they have, it is incomparable: ask without.
            index = 0 if found < index else found
            pause = _LEAST_PERIOD if found else _WITHOUT_INDEX
            await asyncio.sleep(max(0.0, pause - (loop.time() - began)))

    async def _ask(self, index: int) -> Fetched:
        query = list(self._query)
        if index:
            query += [("index", str(index)), ("wait", f"{round(self._wait * 1000)}ms")]
        target = f"/v1/health/service/{quote(self._consul_service, safe='')}"
        # Consul adds up to a sixteenth to `wait`, so that not everybody asks again at once.
        longest = (self._wait * 17 / 16 if index else 0.0) + _GRACE
        answer = await fetch(
            self._url,
            f"{target}?{urlencode(query)}" if query else target,
            fields=self._fields,
            limits=FetchLimits(head=longest, total=longest + _GRACE),
            ssl=self._ssl,
        )
        if answer.status != 200:
            raise DiscoveryError(f"it answers {answer.status}: {excerpt(answer.body)}")
        return answer

    def _instances(self, answer: Fetched) -> Instances:
        try:
            entries = json.loads(answer.body)
        except (ValueError, RecursionError):
            raise DiscoveryError("it answers with something that is not JSON") from None
        if not isinstance(entries, list):
            raise DiscoveryError("it answers with something that is not a list")
        found: list[ServiceInstance] = []
        for entry in entries:
            try:
                found.append(self._instance(entry))
            except (ValueError, TypeError, LookupError, AttributeError) as error:
                self._skip(entry, error)
        return tuple(found)

    def _instance(self, entry: dict[str, Any]) -> ServiceInstance:
        service, node = entry["Service"], entry["Node"]
        # An agent gives the service's own address, or none, which means the node's.
        host = service.get("Address") or node["Address"]
        if ":" in host:
            host = f"[{host}]"
        statuses = {check.get("Status") for check in entry.get("Checks") or ()}
        health: Health = "healthy" if statuses <= {"passing", "warning"} else "unhealthy"
        weights = service.get("Weights") or {}
        weight = weights.get("Warning" if "warning" in statuses else "Passing", 1)
        return ServiceInstance(
            # A service's id is unique on its node only.
            id=f"{node['Node']}/{service['ID']}",
            name=self.service,
            url=f"{self._scheme}://{host}:{service['Port']}",
            health=health,
            weight=max(1, weight),
            zone=node.get("Datacenter") or None,
            tags=frozenset(tag for tag in (service.get("Tags") or ())[:64] if tag),
            metadata=service.get("Meta") or {},
        )

    def _skip(self, entry: object, error: Exception) -> None:
        text = f"{type(error).__name__}: {error}"
        if text not in self._skipped and len(self._skipped) < 100:
            self._skipped.add(text)
            _log.warning("an instance in the answer of %s is skipped: %s", self.name, text)


def _index(answer: Fetched) -> int:
    """Consul's index; 0 when there is none to wait on."""
    text = answer.headers.get("X-Consul-Index", "") or ""
    if not text.isascii() or not text.isdigit() or len(text) > _LONGEST_INDEX:
        return 0
    return int(text)
