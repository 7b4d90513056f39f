"""A stand-in for the Kubernetes API, written after its public documentation."""

from __future__ import annotations

import asyncio
import json
import ssl
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest
from tests.unit.discovery.providers.servers import HttpServer, Request, answer

from nexgate.discovery import Followed, KubernetesProvider, follow
from nexgate.testing import wait_until


def endpoint(address: str, **more: Any) -> dict[str, Any]:
    return {"addresses": [address], "conditions": {"ready": True}, **more}


def piece(
    name: str, *endpoints: dict[str, Any], ports: object = None, kind: str = "IPv4"
) -> dict[str, Any]:
    return {
        "metadata": {"name": name},
        "addressType": kind,
        "endpoints": list(endpoints),
        "ports": [{"name": "http", "port": 8080}] if ports is None else ports,
    }


class Kubernetes:
    """Lists and watches; versions are numbers."""

    def __init__(self) -> None:
        self.version = 100
        self.oldest = 0
        self.slices: dict[str, dict[str, Any]] = {"s1": piece("s1", endpoint("10.0.0.1"))}
        self.log: list[tuple[int, dict[str, Any]]] = []
        self.moved = asyncio.Event()
        self.page = 500
        self.list_status = self.watch_status = 200
        self.end_watches = asyncio.Event()
        self.lists = 0

    def _say(self, event: dict[str, Any]) -> None:
        self.log.append((self.version, event))
        before, self.moved = self.moved, asyncio.Event()
        before.set()

    def put(self, found: dict[str, Any]) -> None:
        self.version += 1
        found["metadata"]["resourceVersion"] = str(self.version)
        name = found["metadata"]["name"]
        kind = "MODIFIED" if name in self.slices else "ADDED"
        self.slices[name] = found
        self._say({"type": kind, "object": found})

    def delete(self, name: str) -> None:
        self.version += 1
        found = self.slices.pop(name)
        found["metadata"]["resourceVersion"] = str(self.version)
        self._say({"type": "DELETED", "object": found})

    def bookmark(self) -> None:
        self.version += 50
        metadata = {"resourceVersion": str(self.version)}
        self._say({"type": "BOOKMARK", "object": {"metadata": metadata}})

    def forget(self) -> None:
        """Compact: nothing before now can be watched from."""
        self.oldest = self.version

    def end(self) -> None:
        before, self.end_watches = self.end_watches, asyncio.Event()
        before.set()

    async def __call__(self, request: Request, writer: asyncio.StreamWriter) -> None:
        if request.query.get("watch") == "1":
            await self._watch(request, writer)
        else:
            await self._list(request, writer)

    async def _list(self, request: Request, writer: asyncio.StreamWriter) -> None:
        self.lists += 1
        if self.list_status != 200:
            status = {"kind": "Status", "message": "forbidden: you may not", "code": 403}
            await answer(writer, status, status=self.list_status)
            return
        start = int(request.query.get("continue", "0"))
        names = sorted(self.slices)[start : start + self.page]
        metadata: dict[str, Any] = {"resourceVersion": str(self.version)}
        if start + self.page < len(self.slices):
            metadata["continue"] = str(start + self.page)
        items = [self.slices[name] for name in names]
        await answer(writer, {"kind": "EndpointSliceList", "metadata": metadata, "items": items})

    async def _watch(self, request: Request, writer: asyncio.StreamWriter) -> None:
        seen = int(request.query["resourceVersion"])
        if self.watch_status != 200:
            await answer(writer, {"message": "gone"}, status=self.watch_status)
            return
        writer.write(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
        end = self.end_watches
        while not end.is_set():
            if seen < self.oldest:
                status = {"kind": "Status", "code": 410, "message": "too old resource version"}
                self._write(writer, {"type": "ERROR", "object": status})
                break
            moved = self.moved
            for version, event in self.log:
                if version > seen:
                    self._write(writer, event)
                    seen = version
            await writer.drain()
            tasks = [asyncio.create_task(e.wait()) for e in (moved, end)]
            await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
            for task in tasks:
                task.cancel()
        writer.write(b"0\r\n\r\n")
        await writer.drain()

    def _write(self, writer: asyncio.StreamWriter, event: dict[str, Any]) -> None:
        line = json.dumps(event).encode() + b"\n"
        # In two chunks: a line is not a chunk.
        for part in (line[:7], line[7:]):
            writer.write(b"%x\r\n%b\r\n" % (len(part), part))


Pair = tuple[Kubernetes, HttpServer]


@pytest.fixture
async def cluster(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Pair]:
    monkeypatch.setattr("nexgate.discovery.providers._kubernetes._LEAST_WATCH", 0.05)
    api = Kubernetes()
    async with HttpServer(api) as server:
        yield api, server


@pytest.fixture
async def following(cluster: Pair) -> AsyncIterator[Callable[..., Followed]]:
    made: list[Followed] = []

    def start(**options: Any) -> Followed:
        options = {"server": cluster[1].url, "namespace": "prod", **options}
        provider = KubernetesProvider("api", **options)
        made.append(follow(provider, pause=0.02, longest_pause=0.05))
        return made[-1]

    yield start
    for followed in made:
        await followed.aclose()


def urls(followed: Followed) -> list[str]:
    return [i.url for i in followed.instances]


async def test_it_lists_then_watches_from_there(
    cluster: Pair, following: Callable[..., Followed]
) -> None:
    api, server = cluster
    followed = following(kubernetes_service="my-api")
    await followed.wait_answered(2)
    assert urls(followed) == ["http://10.0.0.1:8080"]
    await wait_until(lambda: len(server.requests) == 2)
    listed, watched = server.requests
    assert listed.path == "/apis/discovery.k8s.io/v1/namespaces/prod/endpointslices"
    assert listed.query["labelSelector"] == "kubernetes.io/service-name=my-api"
    assert watched.query["resourceVersion"] == "100"
    assert watched.query["allowWatchBookmarks"] == "true"
    api.put(piece("s2", endpoint("10.0.0.2", zone="a", nodeName="n", targetRef={"name": "pod"})))
    await wait_until(lambda: len(followed.instances) == 2, 0.5)
    two = followed.instances[1]
    assert (two.zone, dict(two.metadata)) == ("a", {"pod": "pod", "node": "n"})
    api.put(piece("s1", endpoint("10.0.0.3")))
    await wait_until(lambda: urls(followed) == ["http://10.0.0.2:8080", "http://10.0.0.3:8080"])
    api.delete("s2")
    api.delete("s1")
    await wait_until(lambda: followed.instances == ())
    assert followed.status.state == "connected"
    assert api.lists == 1


async def test_a_long_list_comes_in_pages(
    cluster: Pair, following: Callable[..., Followed]
) -> None:
    api, _ = cluster
    api.page = 2
    api.slices = {f"s{n}": piece(f"s{n}", endpoint(f"10.0.0.{n}")) for n in range(1, 6)}
    followed = following()
    await followed.wait_answered(2)
    assert len(followed.instances) == 5
    assert api.lists == 3


async def test_a_watch_that_ends_is_taken_up_where_it_ended_also_after_a_bookmark(
    cluster: Pair, following: Callable[..., Followed]
) -> None:
    api, server = cluster
    followed = following()
    await wait_until(lambda: len(server.requests) == 2)
    api.bookmark()
    await asyncio.sleep(0.05)
    api.end()
    await wait_until(lambda: len(server.requests) == 3)
    assert server.requests[-1].query["resourceVersion"] == "150"
    api.put(piece("s2", endpoint("10.0.0.2")))
    await wait_until(lambda: len(followed.instances) == 2)
    assert api.lists == 1
    assert followed.status.restarts == 0


@pytest.mark.parametrize("how", ["event", "status"])
async def test_a_version_that_is_gone_makes_a_new_list_and_loses_nobody(
    cluster: Pair, following: Callable[..., Followed], how: str
) -> None:
    api, server = cluster
    told: list[int] = []
    followed = following()
    followed._on_change = lambda found: told.append(len(found))
    await wait_until(lambda: len(server.requests) == 2)
    api.version += 10
    api.slices["s9"] = piece("s9", endpoint("10.0.0.9"))
    api.forget()
    if how == "status":
        api.watch_status = 410
    api.end()
    await wait_until(lambda: api.lists >= 2)
    api.watch_status = 200
    await wait_until(lambda: len(followed.instances) == 2)
    assert 0 not in told
    assert followed.status.restarts == 0
    assert followed.status.state == "connected"


async def test_conditions_mean_what_the_api_says(
    cluster: Pair, following: Callable[..., Followed]
) -> None:
    api, _ = cluster
    api.slices = {
        "s": piece(
            "s",
            endpoint("10.0.0.1"),
            endpoint("10.0.0.2", conditions={"ready": False}),
            endpoint("10.0.0.3", conditions={}),
            endpoint("10.0.0.4", conditions=None),
            endpoint("10.0.0.5", conditions={"ready": None, "serving": None}),
            endpoint("10.0.0.6", conditions={"ready": False, "serving": True, "terminating": True}),
        )
    }
    followed = following()
    await followed.wait_answered(2)
    assert [u[14] for u in urls(followed)] == ["1", "3", "4", "5"]
    ending = {"ready": False, "serving": True, "terminating": True}
    dead = {"ready": False, "serving": False, "terminating": True}
    api.put(
        piece("s", endpoint("10.0.0.6", conditions=ending), endpoint("10.0.0.7", conditions=dead))
    )
    await wait_until(lambda: [u[14] for u in urls(followed)] == ["6"])  # better than nobody


@pytest.mark.parametrize(
    ("port", "ports", "found"),
    [
        (None, [{"name": "", "port": 80}], ["80"]),
        (None, [{"name": "a", "port": 80}, {"name": "b", "port": 81}], []),
        ("b", [{"name": "a", "port": 80}, {"name": "b", "port": 81}], ["81"]),
        (81, [{"name": "a", "port": 80}, {"name": "b", "port": 81}], ["81"]),
        ("c", [{"name": "a", "port": 80}], []),
        (82, [], ["82"]),
        (None, [], []),
        ("a", [{"name": "a", "port": None}], []),
    ],
)
async def test_the_port_is_found_by_name_or_number(
    cluster: Pair,
    following: Callable[..., Followed],
    port: Any,
    ports: list[Any],
    found: list[str],
) -> None:
    cluster[0].slices = {"s": piece("s", endpoint("10.0.0.1"), ports=ports)}
    followed = following(port=port)
    await followed.wait_answered(2)
    assert [u.rpartition(":")[2] for u in urls(followed)] == found


async def test_one_pod_in_two_slices_is_one_instance_and_ipv6_has_brackets(
    cluster: Pair, following: Callable[..., Followed]
) -> None:
    cluster[0].slices = {
        "a": piece("a", endpoint("10.0.0.1"), endpoint("10.0.0.2")),
        "b": piece("b", endpoint("10.0.0.2")),
        "c": piece("c", endpoint("fd00::1"), kind="IPv6"),
    }
    followed = following(scheme="https")
    await followed.wait_answered(2)
    assert urls(followed) == [
        "https://10.0.0.1:8080",
        "https://10.0.0.2:8080",
        "https://[fd00::1]:8080",
    ]


async def test_a_refusal_says_why(cluster: Pair, following: Callable[..., Followed]) -> None:
    cluster[0].list_status = 403
    followed = following()
    await wait_until(lambda: followed.status.restarts > 0)
    assert followed.status.state == "connecting"
    assert followed.status.error == "it answers 403: forbidden: you may not"
    cluster[0].list_status = 200
    await wait_until(lambda: followed.status.state == "connected")


@pytest.mark.parametrize(
    "line",
    [b"nonsense\n", b"[]\n", b"{}\n", b'{"type":"ADDED"}\n', b'{"type":"ADDED","object":{}}\n',
     b'{"type":"ERROR","object":{"code":500,"message":"boom"}}\n', b'{"type":"ERROR"}\n', b""],
)  # fmt: skip
async def test_a_watch_that_breaks_keeps_the_set_and_lists_again(
    cluster: Pair, following: Callable[..., Followed], line: bytes
) -> None:
    api, server = cluster

    async def broken(request: Request, writer: asyncio.StreamWriter) -> None:
        if request.query.get("watch") == "1":
            writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 500\r\n\r\n" + line)
            await writer.drain()
        else:
            await api(request, writer)

    server.handler = broken
    followed = following()
    await wait_until(lambda: api.lists >= 2)
    assert urls(followed) == ["http://10.0.0.1:8080"]
    server.handler = api
    await wait_until(lambda: followed.status.state == "connected")
    assert followed.status.sets == 1


async def test_a_slice_that_is_wrong_is_skipped_alone(
    cluster: Pair, following: Callable[..., Followed], caplog: pytest.LogCaptureFixture
) -> None:
    cluster[0].slices = {
        "a": {"metadata": {"name": "a"}, "endpoints": 3, "ports": [{"port": 1}]},
        "b": piece("b", {"addresses": []}),
        "c": piece("c", endpoint("not an address")),
        "d": piece("d", endpoint("10.0.0.1")),
    }
    followed = following()
    await followed.wait_answered(2)
    assert urls(followed) == ["http://10.0.0.1:8080"]
    assert caplog.text.count("is skipped") == 3


async def test_the_token_and_the_authorities_are_read_for_every_request(
    cluster: Pair, following: Callable[..., Followed], tmp_path: Path
) -> None:
    import trustme

    api, _ = cluster
    authority = trustme.CA()
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("127.0.0.1").configure_cert(context)
    token, ca = tmp_path / "token", tmp_path / "ca.crt"
    token.write_text("first\n")
    trustme.CA().cert_pem.write_to_path(str(ca))
    async with HttpServer(api, ssl=context) as server:
        followed = following(server=server.url, token_file=token, ca_file=ca)
        await wait_until(lambda: "TLS" in (followed.status.error or ""))
        authority.cert_pem.write_to_path(str(ca))  # rotated
        await followed.wait_answered(3)
        await wait_until(lambda: len(server.requests) >= 2)
        assert server.requests[0].fields["authorization"] == "Bearer first"
        token.write_text("second\n")
        api.end()
        await wait_until(lambda: server.requests[-1].fields["authorization"] == "Bearer second")


async def test_outside_of_a_cluster_it_says_so(
    following: Callable[..., Followed], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("KUBERNETES_SERVICE_HOST", raising=False)
    followed = following(server=None)
    await wait_until(lambda: followed.status.restarts > 0)
    assert "KUBERNETES_SERVICE_HOST" in (followed.status.error or "")


async def test_cancelling_a_watch_ends_its_connection_and_no_other(
    cluster: Pair, following: Callable[..., Followed]
) -> None:
    api, server = cluster
    one, two = following(), following()
    await wait_until(lambda: len(server.requests) == 4)
    await one.aclose()
    api.put(piece("s2", endpoint("10.0.0.2")))
    await wait_until(lambda: len(two.instances) == 2)
    assert len(one.instances) == 1
