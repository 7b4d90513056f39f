"""Instances from an endpoint that is asked again and again."""

from __future__ import annotations

import asyncio
import json
import random
import re
import ssl as tls
from collections.abc import AsyncGenerator, Callable, Mapping

from nexgate.discovery._documents import BadDocument, read_instances
from nexgate.discovery._instance import Instances, check_service_name
from nexgate.discovery._provider import DiscoveryError
from nexgate.discovery._url import may_come_from
from nexgate.fetch import FetchLimits, Origin, fetch

__all__ = ["HttpProvider"]


class HttpProvider:
    """A JSON document with ``instances``, asked for every ``interval`` seconds.

    The document is a list, or a table with the key ``instances``; an element is a URL, or a table
    with ``url`` and any other field of a ``ServiceInstance``. Status 200 is an answer, also an
    empty list; 304 says that nothing changed since the ``ETag`` that we sent; anything else, and a
    document with one mistake in it, is a failure, and the last set is kept. Instances are at
    ``http`` and ``https`` only: others must not name our code and our sockets. Redirects are not
    followed. ``fields`` are header fields to send, ``ssl`` is for ``https``.
    """

    def __init__(
        self,
        service: str,
        url: str,
        *,
        interval: float = 5.0,
        jitter: float = 0.1,
        timeout: float = 5.0,
        fields: Mapping[str, str] | None = None,
        ssl: tls.SSLContext | None = None,
        draw: Callable[[], float] = random.random,
    ) -> None:
        self.service = check_service_name(service)
        self._origin, self._target = split_url(url)
        self.name = f"http:{self._origin}{self._target.partition('?')[0]}"
        self.interval = interval
        self.jitter = jitter
        self._limits = FetchLimits(connect=timeout, head=timeout, total=2 * timeout)
        self._fields = dict(fields or {})
        self._ssl = ssl
        self._draw = draw
        self._etag: str | None = None
        self._last: Instances | None = None

    async def watch(self) -> AsyncGenerator[Instances, None]:
        """Yield the set after each answer that changed it."""
        is_first = True
        while True:
            instances = await self._ask()
            if instances is not None or is_first:
                self._last = instances = self._last if instances is None else instances
                if instances is not None:
                    yield instances
            is_first = False
            await asyncio.sleep(self.interval * (1 + self.jitter * (2 * self._draw() - 1)))

    async def _ask(self) -> Instances | None:
        """The set, or ``None`` when it is the last one still."""
        fields = {"Accept": "application/json", **self._fields}
        if self._etag is not None and self._last is not None:
            fields["If-None-Match"] = self._etag
        answer = await fetch(
            self._origin, self._target, fields=fields, limits=self._limits, ssl=self._ssl
        )
        if answer.status == 304 and "If-None-Match" in fields:
            return None
        if answer.status != 200:
            raise DiscoveryError(f"it answers with status {answer.status}")
        try:
            instances = read_instances(json.loads(answer.body), self.service, is_typed=False)
        except BadDocument as error:
            where = "".join(f"[{p}]" if isinstance(p, int) else f".{p}" for p in error.path)
            raise DiscoveryError(f"its document: {where.lstrip('.')} {error}") from None
        except (ValueError, RecursionError):
            raise DiscoveryError("it answers with something that is not JSON") from None
        for instance in instances:
            if not may_come_from(instance.url, "machines"):
                raise DiscoveryError(f"its document: {instance.url} is not http or https")
        self._etag = answer.headers.get("ETag")
        return instances


def split_url(url: str) -> tuple[str, str]:
    """``http://host:port/path?query`` as origin and target; ``ValueError`` if it is not one."""
    found = re.fullmatch(r"(https?://[^/?#\\@]+)(/[^#]*)?", url)
    if found is None:
        raise ValueError("must be http://host:port/path or https://host:port/path")
    Origin.parse(found[1])
    return found[1], found[2] or "/"
