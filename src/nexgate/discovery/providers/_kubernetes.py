"""Instances from Kubernetes: the EndpointSlices of a service, listed and then watched.

Written after the public documentation of the Kubernetes API ("Efficient detection of changes",
"Retrieving large results sets in chunks" and the EndpointSlice resource, ``discovery.k8s.io/v1``).
"""

from __future__ import annotations

import asyncio
import json
import logging
import os
import ssl as tls
from collections.abc import AsyncGenerator, Iterator
from pathlib import Path
from typing import Any, Final
from urllib.parse import quote, urlencode

from nexgate.discovery._instance import Instances, ServiceInstance, check_service_name
from nexgate.discovery._provider import DiscoveryError
from nexgate.discovery.providers._words import excerpt
from nexgate.fetch import FetchLimits, fetch, fetching

__all__ = ["KubernetesProvider"]

_log = logging.getLogger("nexgate.discovery")

_ACCOUNT: Final = Path("/var/run/secrets/kubernetes.io/serviceaccount")
_PAGE: Final = 500
_MOST_PAGES: Final = 200
_LEAST_WATCH: Final = 1.0
_GRACE: Final = 30.0


class _Gone(Exception):
    """The version that we know is too old to go on from: list again."""


class KubernetesProvider:
    """The ready endpoints of a service in Kubernetes.

    ``port`` is the name or number of the service's port; unset, it must have only one. An endpoint
    is used while it is ready; if none is, those that are terminating but still serve are, as
    kube-proxy does it. ``version`` of the API is watched with bookmarks, so a watch that ends is
    taken up where it ended; a version that is too old makes a new list.

    By default it runs in a pod: the server from the environment, the token and the authorities from
    the service account's files, which are read anew for every request because they are rotated. The
    account needs ``list`` and ``watch`` on ``endpointslices`` in ``discovery.k8s.io``.
    """

    def __init__(
        self,
        service: str,
        *,
        kubernetes_service: str | None = None,
        namespace: str | None = None,
        port: str | int | None = None,
        scheme: str = "http",
        server: str | None = None,
        token_file: str | Path | None = None,
        ca_file: str | Path | None = None,
        timeout: float = 240.0,
    ) -> None:
        self.service = check_service_name(service)
        self._kubernetes_service = kubernetes_service or service
        self.name = f"kubernetes:{self._kubernetes_service}"
        self._namespace = namespace
        self._port = port
        self._scheme = scheme
        self._server = server
        self._token_file = _ACCOUNT / "token" if token_file is None else Path(token_file)
        self._ca_file = _ACCOUNT / "ca.crt" if ca_file is None else Path(ca_file)
        self._timeout = timeout
        self._warned: set[str] = set()

    async def watch(self) -> AsyncGenerator[Instances, None]:
        """Yield the set after the list, and after every event."""
        while True:
            try:
                slices, version = await self._list()
                yield self._instances(slices)
                while True:
                    began = asyncio.get_running_loop().time()
                    async for event in self._events(version):
                        version = event["metadata"].get("resourceVersion") or version
                        if _apply(slices, event):
                            yield self._instances(slices)
                    took = asyncio.get_running_loop().time() - began
                    await asyncio.sleep(max(0.0, _LEAST_WATCH - took))
            except _Gone:
                _log.debug("%s: the version is gone; listing again", self.name)
                await asyncio.sleep(_LEAST_WATCH)

    # -- the API -------------------------------------------------------------------------------

    async def _list(self) -> tuple[dict[str, dict[str, Any]], str]:
        slices: dict[str, dict[str, Any]] = {}
        more = ""
        for _ in range(_MOST_PAGES):
            query = {"limit": str(_PAGE)} | ({"continue": more} if more else {})
            answer = await fetch(
                self._origin(),
                self._target(query),
                fields=await self._fields(),
                limits=FetchLimits(max_body_bytes=64 * 1024 * 1024),
                ssl=await self._ssl(),
            )
            _check(answer.status, answer.body)
            found = _json(answer.body)
            try:
                for item in found.get("items") or ():
                    slices[item["metadata"]["name"]] = item
                version = str(found["metadata"]["resourceVersion"])
                more = found["metadata"].get("continue") or ""
            except (KeyError, TypeError, AttributeError):
                raise DiscoveryError("its list is not one of EndpointSlices") from None
            if not more:
                return slices, version
        raise DiscoveryError(f"its list has more than {_MOST_PAGES * _PAGE} EndpointSlices")

    async def _events(self, version: str) -> AsyncGenerator[dict[str, Any], None]:
        """Objects with their kind of event under ``"event"``, until the server ends the watch."""
        query = {
            "watch": "1",
            "resourceVersion": version,
            "allowWatchBookmarks": "true",
            "timeoutSeconds": str(round(self._timeout)),
        }
        limits = FetchLimits(head=_GRACE, body=self._timeout + _GRACE)
        async with fetching(
            self._origin(),
            self._target(query),
            fields=await self._fields(),
            limits=limits,
            ssl=await self._ssl(),
        ) as stream:
            if stream.status != 200:
                _check(stream.status, await stream.read(64 * 1024))
            async for line in stream.lines():
                if not line.strip():
                    continue
                event = _json(line)
                kind, found = event.get("type"), event.get("object")
                if kind == "ERROR":
                    _check_status(found)
                if not isinstance(found, dict) or not isinstance(found.get("metadata"), dict):
                    raise DiscoveryError("its watch sent something that is not an event")
                yield {**found, "event": kind}

    def _origin(self) -> str:
        if self._server is not None:
            return self._server
        host = os.environ.get("KUBERNETES_SERVICE_HOST", "")
        port = os.environ.get("KUBERNETES_SERVICE_PORT", "443")
        if not host:
            raise DiscoveryError(
                "KUBERNETES_SERVICE_HOST is not set: run in a pod, or say which server"
            )
        return f"https://[{host}]:{port}" if ":" in host else f"https://{host}:{port}"

    def _target(self, query: dict[str, str]) -> str:
        namespace = self._namespace
        if namespace is None:
            try:
                namespace = (_ACCOUNT / "namespace").read_text().strip()
            except OSError:
                namespace = "default"
        selector = f"kubernetes.io/service-name={self._kubernetes_service}"
        return (
            f"/apis/discovery.k8s.io/v1/namespaces/{quote(namespace, safe='')}/endpointslices?"
            + urlencode({"labelSelector": selector, **query})
        )

    async def _fields(self) -> dict[str, str]:
        fields = {"Accept": "application/json"}
        try:
            token = (await asyncio.to_thread(self._token_file.read_text)).strip()
        except FileNotFoundError:
            return fields  # a proxy beside us may add its own
        except OSError as error:
            raise DiscoveryError(f"{self._token_file}: {error.strerror}") from error
        fields["Authorization"] = f"Bearer {token}"
        return fields

    async def _ssl(self) -> tls.SSLContext | None:
        if not self._origin().startswith("https:"):
            return None
        try:
            return await asyncio.to_thread(tls.create_default_context, cafile=str(self._ca_file))
        except OSError as error:
            raise DiscoveryError(f"{self._ca_file}: {error.strerror or error}") from error

    # -- what they mean ------------------------------------------------------------------------

    def _instances(self, slices: dict[str, dict[str, Any]]) -> Instances:
        ready: dict[str, ServiceInstance] = {}
        ending: dict[str, ServiceInstance] = {}
        for name in sorted(slices):
            try:
                for is_ready, instance in self._endpoints(slices[name]):
                    (ready if is_ready else ending).setdefault(instance.url, instance)
            except (LookupError, TypeError, AttributeError, ValueError) as error:
                self._warn(f"the slice {name} is skipped: {type(error).__name__}: {error}")
        return tuple((ready or ending).values())

    def _endpoints(self, found: dict[str, Any]) -> Iterator[tuple[bool, ServiceInstance]]:
        port = self._port_of(found)
        if port is None:
            return
        for endpoint in found.get("endpoints") or ():
            conditions = endpoint.get("conditions") or {}
            # Unknown means ready, unknown serving means what ready says (EndpointConditions).
            is_ready = conditions.get("ready") is not False
            serving = conditions.get("serving")
            is_serving = is_ready if serving is None else serving is True
            if not is_ready and not (is_serving and conditions.get("terminating") is True):
                continue
            # All addresses of an endpoint are the same pod; the first is the one to use.
            address = endpoint["addresses"][0]
            host = f"[{address}]" if found.get("addressType") == "IPv6" else address
            target = endpoint.get("targetRef") or {}
            metadata = {
                key: str(value)
                for key, value in (("pod", target.get("name")), ("node", endpoint.get("nodeName")))
                if value
            }
            url = f"{self._scheme}://{host}:{port}"
            yield (
                is_ready,
                ServiceInstance(
                    id=url,
                    name=self.service,
                    url=url,
                    zone=endpoint.get("zone") or None,
                    metadata=metadata,
                ),
            )

    def _port_of(self, found: dict[str, Any]) -> int | None:
        ports = found.get("ports") or ()
        wanted = self._port
        for port in ports:
            is_it = port.get("name") == wanted or port.get("port") == wanted
            if (wanted is None and len(ports) == 1) or (wanted is not None and is_it):
                number: int | None = port.get("port")
                if number is not None:
                    return number
        if isinstance(wanted, int):
            return wanted  # a service without ports, or one that does not list this one
        if ports:
            names = ", ".join(str(port.get("name") or port.get("port")) for port in ports)
            self._warn(f"the port must be one of {names}")
        return None

    def _warn(self, text: str) -> None:
        if text not in self._warned and len(self._warned) < 100:
            self._warned.add(text)
            _log.warning("%s: %s", self.name, text)


def _apply(slices: dict[str, dict[str, Any]], event: dict[str, Any]) -> bool:
    """Whether the event changed anything."""
    kind, name = event["event"], event["metadata"].get("name")
    if kind in ("ADDED", "MODIFIED") and isinstance(name, str):
        slices[name] = event
        return True
    if kind == "DELETED":
        return slices.pop(str(name), None) is not None
    return False  # a bookmark, or something newer than we are


def _check(status: int, body: bytes) -> None:
    if status == 410:
        raise _Gone
    if status != 200:
        try:
            message = str(json.loads(body)["message"])
        except (ValueError, KeyError, TypeError, RecursionError):
            message = body.decode("utf-8", "replace")
        raise DiscoveryError(f"it answers {status}: {excerpt(message.encode())}")


def _check_status(found: object) -> None:
    """An error in the middle of a watch arrives as a ``Status`` object."""
    code = found.get("code") if isinstance(found, dict) else None
    if code == 410:
        raise _Gone
    message = found.get("message") if isinstance(found, dict) else found
    raise DiscoveryError(f"its watch ended: {excerpt(str(message).encode())}")


def _json(data: bytes) -> dict[str, Any]:
    try:
        found = json.loads(data)
    except (ValueError, RecursionError):
        raise DiscoveryError("it sent something that is not JSON") from None
    if not isinstance(found, dict):
        raise DiscoveryError("it sent something that is not an object")
    return found
