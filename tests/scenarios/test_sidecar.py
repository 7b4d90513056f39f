"""Programs that know nothing of us, each with its sidecar: real processes, real certificates."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import json
import os
import re
import signal
import socket
import ssl
import subprocess
import sys
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
import trustme
from tests.scenarios.support import (
    ROOT,
    WEBSOCKET,
    Load,
    Process,
    echo,
    is_alive,
    machine_to_itself,
    show,
)
from tests.unit.state.servers import Valkey

from nexgate.testing import RawClient, RawResponse, free_port, wait_until

PROGRAM = str(ROOT / "examples" / "sidecar" / "program.py")


class Mesh:
    """An authority, a registry, and a directory for the files of everybody."""

    def __init__(self, folder: Path, registry: str = "") -> None:
        self.folder = folder
        self.registry = registry or f"lmdb:{folder / 'registry'}"
        self.authority = trustme.CA()
        self.ca = folder / "ca.pem"
        self.trust(self.authority)

    def trust(self, *authorities: trustme.CA) -> None:
        put(self.ca, b"".join(each.cert_pem.bytes() for each in authorities))

    def issue(self, name: str, file: str = "", authority: trustme.CA | None = None) -> list[str]:
        """A certificate in files: options for a sidecar."""
        leaf = (authority or self.authority).issue_cert(name, common_name=name)
        pem, key = self.folder / f"{file or name}.pem", self.folder / f"{file or name}.key"
        put(key, leaf.private_key_pem.bytes())
        put(pem, b"".join(blob.bytes() for blob in leaf.cert_chain_pems))
        return ["--cert", str(pem), "--key", str(key), "--ca", str(self.ca)]

    def client(
        self, name: str | None = "probe", authority: trustme.CA | None = None
    ) -> ssl.SSLContext:
        """TLS of somebody with a certificate of that name, or without one."""
        context = ssl.create_default_context(cafile=str(self.ca))
        if name is not None:
            leaf = (authority or self.authority).issue_cert(name, common_name=name)
            leaf.configure_cert(context)
        return context


def put(path: Path, data: bytes) -> None:
    """Replace a file in one step."""
    other = path.with_suffix(".new")
    other.write_bytes(data)
    other.replace(path)


class Beside(Process):
    """``nexgate sidecar`` with these options, as they are."""

    def __init__(self, *options: str) -> None:
        super().__init__("-m", "nexgate", "sidecar", *options)


class Service:
    """A program and its sidecar."""

    def __init__(
        self,
        mesh: Mesh,
        name: str,
        *options: str,
        tls: list[str] | None = None,
        service: str = "",
    ) -> None:
        self.name = name
        self.mesh = mesh
        self.port, self.egress, self.ingress = free_port(), free_port(), free_port()
        self.program = Process(PROGRAM, name, str(self.port), str(self.egress))
        self.sidecar = Beside(
            *("--service", service or name, "--app", f"http://127.0.0.1:{self.port}"),
            *("--egress", f"127.0.0.1:{self.egress}", "--ingress", f"127.0.0.1:{self.ingress}"),
            *("--registry", mesh.registry, "--lease", "3s"),
            *(tls if tls is not None else mesh.issue(name)),
            *options,
        )

    async def __aenter__(self) -> Service:
        self._stack = contextlib.AsyncExitStack()
        try:
            await self._stack.enter_async_context(self.program)
            await self._stack.enter_async_context(self.sidecar)
            await self.sidecar.says("is healthy and advertised", timeout=30.0)
        except BaseException:
            await self._stack.aclose()
            raise
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._stack.aclose()

    async def ask(self, service: str, path: str = "/", fields: str = "") -> RawResponse:
        """What the program gets from its egress."""
        return await ask(self.egress, service, path, fields)

    async def mood(self, word: str) -> None:
        async with RawClient(("127.0.0.1", self.port)) as client:
            request = f"POST /mood/{word} HTTP/1.1\r\nHost: x\r\nContent-Length: 0\r\n\r\n"
            assert (await client.request(request.encode())).status == 200

    @contextlib.asynccontextmanager
    async def called_by(self, context: ssl.SSLContext) -> AsyncIterator[RawClient]:
        """A connection of our own to its ingress."""
        async with RawClient(
            f"https://127.0.0.1:{self.ingress}", ssl=context, server_hostname=self.name
        ) as client:
            yield client


async def ask(port: int, service: str, path: str = "/", fields: str = "") -> RawResponse:
    async with RawClient(("127.0.0.1", port)) as client:
        return await client.request(
            f"GET {path} HTTP/1.1\r\nHost: {service}\r\n{fields}\r\n".encode()
        )


def load(port: int, service: str, **plan: Any) -> Load:
    """Requests to a service through an egress: the first Host in absolute form counts."""
    return Load(port, "open", path=f"http://{service}/", **plan)


def problem(response: RawResponse) -> dict[str, Any]:
    assert response.value("content-type") == "application/problem+json"
    found: dict[str, Any] = json.loads(response.body)
    return found


@pytest.fixture
def mesh(tmp_path: Path) -> Mesh:
    return Mesh(tmp_path)


# --- two services ---------------------------------------------------------------------------------


async def test_a_program_calls_another_and_is_known_there_by_its_certificate(mesh: Mesh) -> None:
    async with Service(mesh, "orders") as orders, Service(mesh, "users") as users:
        async with RawClient(("127.0.0.1", orders.port)) as client:
            response = await client.request(b"GET /ask/users HTTP/1.1\r\nHost: x\r\n\r\n")
        assert response.status == 200, response.body
        said = json.loads(response.body)
        assert said["name"] == "users"
        pem = (mesh.folder / "orders.pem").read_text()
        digest = hashlib.sha256(ssl.PEM_cert_to_DER_cert(pem[: pem.index("END") + 20])).hexdigest()
        (told,) = said["caller"]
        assert f"Hash={digest};" in told
        assert "CN=orders" in told
        assert told.endswith(";DNS=orders")
        # The port in Host says nothing, and capital letters neither.
        assert (await orders.ask(f"Users:{orders.egress}")).status == 200
        assert (await users.ask("orders")).status == 200


async def test_nobody_forges_who_calls(mesh: Mesh) -> None:
    lie = "X-Forwarded-Client-Cert: DNS=root\r\nX_Forwarded_Client_Cert: DNS=root\r\n"
    async with Service(mesh, "orders") as orders, Service(mesh, "users") as users:
        for fields in (lie, lie + "Connection: X-Forwarded-Client-Cert\r\n"):
            (told,) = json.loads((await orders.ask("users", fields=fields)).body)["caller"]
            assert "root" not in told
            assert told.endswith("DNS=orders")
        async with users.called_by(mesh.client()) as client:
            request = f"GET / HTTP/1.1\r\nHost: users\r\n{lie}\r\n".encode()
            (told,) = json.loads((await client.request(request)).body)["caller"]
            assert told.endswith("DNS=probe")


async def test_a_websocket_passes_through_both_sidecars(mesh: Mesh) -> None:
    async with (
        Service(mesh, "orders") as orders,
        Service(mesh, "users"),
        RawClient(("127.0.0.1", orders.egress)) as client,
    ):
        response = await client.request(WEBSOCKET.replace(b"example.com", b"users"))
        assert response.status == 101
        for _ in range(3):
            await echo(client)


async def test_events_pass_through_both_sidecars_as_they_happen(mesh: Mesh) -> None:
    async with (
        Service(mesh, "orders") as orders,
        Service(mesh, "users"),
        RawClient(("127.0.0.1", orders.egress)) as client,
    ):
        assert (await orders.ask("users")).status == 200
        await client.send(b"GET /events HTTP/1.1\r\nHost: users\r\n\r\n")
        arrived = []
        for number in range(3):
            await client.read_until(b"data: %d\n\n" % number)
            arrived.append(time.monotonic())
        assert arrived[2] - arrived[0] > 0.4


# --- who may --------------------------------------------------------------------------------------


async def test_strangers_are_refused(mesh: Mesh) -> None:
    async with Service(mesh, "users") as users:
        for context in (mesh.client(None), mesh.client("orders", trustme.CA())):
            with pytest.raises((ssl.SSLError, ConnectionError, EOFError, AssertionError)):
                async with users.called_by(context) as client:
                    await client.request(b"GET / HTTP/1.1\r\nHost: users\r\n\r\n")
        old = mesh.client()
        old.maximum_version = ssl.TLSVersion.TLSv1_2
        with pytest.raises((ssl.SSLError, ConnectionError)):
            async with users.called_by(old):
                pass
        async with RawClient(("127.0.0.1", users.ingress)) as client:
            await client.send(b"GET / HTTP/1.1\r\nHost: users\r\n\r\n")
            with contextlib.suppress(ConnectionError):
                assert b"200" not in await client.read_eof()
        async with users.called_by(mesh.client()) as client:
            assert (await client.request(b"GET / HTTP/1.1\r\nHost: users\r\n\r\n")).status == 200


async def test_only_callers_on_the_list_are_let_in(mesh: Mesh) -> None:
    async with (
        Service(mesh, "users", "--allow", "orders,billing"),
        Service(mesh, "orders") as orders,
        Service(mesh, "ads") as ads,
    ):
        assert (await orders.ask("users")).status == 200
        refused = await ads.ask("users")
        assert refused.status == 403
        assert problem(refused)["detail"] == "ads may not call users"


async def test_a_server_with_the_name_of_another_service_is_not_spoken_to(mesh: Mesh) -> None:
    liar = mesh.issue("ads", file="liar")
    async with (
        Service(mesh, "users", tls=liar) as users,
        Service(mesh, "orders") as orders,
    ):
        await users.sidecar.says("other sidecars will not accept this certificate")
        response = await orders.ask("users")
        assert response.status == 502
        assert problem(response)["type"].endswith("/upstream-tls")


# --- names ----------------------------------------------------------------------------------------


async def test_hosts_that_are_no_service_are_refused_by_name(mesh: Mesh) -> None:
    async with Service(mesh, "orders", "--suffix", "mesh") as orders:
        for host in ("nobody", "www.example.com", "nobody.mesh"):
            response = await orders.ask(host)
            assert response.status == 404
            assert (
                problem(response)["detail"] == f"there is no service {host.removesuffix('.mesh')}"
            )
        for host in ("127.0.0.1:9001", "[::1]", "169.254.169.254", "a" * 80, "-x"):
            response = await orders.ask(host)
            assert response.status in (400, 404), host
        async with RawClient(("127.0.0.1", orders.egress)) as client:
            response = await client.request(
                b"GET http://169.254.169.254/latest HTTP/1.1\r\nHost: orders\r\n\r\n"
            )
            assert response.status == 404
            response = await client.request(
                b"GET http://orders/ HTTP/1.1\r\nHost: 169.254.169.254\r\n\r\n"
            )
            assert response.status == 200, "the absolute form counts: RFC 9112 §3.2.2"
        assert (await orders.ask("orders.mesh")).status == 200
        async with RawClient(("127.0.0.1", orders.egress)) as client:
            await client.send(b"CONNECT example.com:443 HTTP/1.1\r\nHost: example.com\r\n\r\n")
            assert b" 200 " not in (await client.read_eof())[:16]


async def test_a_service_that_comes_later_is_found(mesh: Mesh) -> None:
    async with Service(mesh, "orders") as orders:
        assert (await orders.ask("users")).status == 404
        async with Service(mesh, "users") as users:

            async def is_found() -> bool:
                return (await orders.ask("users")).status == 200

            await wait_until(is_found, 3.0)
            users.sidecar.signal(signal.SIGTERM)
            assert await users.sidecar.wait() == 0

        async def is_gone() -> bool:
            return (await orders.ask("users")).status == 503

        await wait_until(is_gone, 3.0)


async def test_a_registry_that_does_not_answer_delays_nobody_else(tmp_path: Path) -> None:
    with Valkey() as valkey:
        mesh = Mesh(tmp_path, valkey.url)
        async with Service(mesh, "orders") as orders, Service(mesh, "users"):
            assert (await orders.ask("users")).status == 200
            valkey.freeze()
            try:
                began = time.monotonic()
                waiting = asyncio.create_task(orders.ask("strangers"))
                for _ in range(20):
                    assert (await orders.ask("users")).status == 200
                others = time.monotonic() - began
                response = await waiting
                waited = time.monotonic() - began
            finally:
                valkey.thaw()
            show(twenty_others=others, the_unknown_one=waited)
            assert response.status in (404, 503)
            assert others < 1.5
            assert waited < 3.0


# --- certificates that change ---------------------------------------------------------------------


@pytest.mark.parametrize("connections", ["kept", "one for each request"])
async def test_certificates_are_replaced_under_load_without_a_failed_request(
    mesh: Mesh, connections: str
) -> None:
    file = mesh.folder / "orders.toml"
    file.write_text("[defaults.pool]\nmax_idle = 0\n" if connections != "kept" else "")
    async with Service(mesh, "orders", str(file)) as orders, Service(mesh, "users") as users:
        assert (await orders.ask("users")).status == 200

        async def shown() -> bytes:
            async with users.called_by(mesh.client()) as client:
                assert client.peer_certificate is not None
                return client.peer_certificate

        before = await shown()
        async with load(orders.egress, "users", rate=150.0, duration=6.0) as under_load:
            await asyncio.sleep(0.5)
            # Another authority altogether, in the order in which that is done.
            old, new = mesh.authority, trustme.CA()
            mesh.trust(old, new)
            await users.sidecar.says("new certificates are in use", 1)
            await orders.sidecar.says("new certificates are in use", 1)
            mesh.authority = new
            mesh.issue("users")
            mesh.issue("orders")
            await users.sidecar.says("new certificates are in use", 2)
            await orders.sidecar.says("new certificates are in use", 2)
            mesh.trust(new)
            await users.sidecar.says("new certificates are in use", 3)
            await orders.sidecar.says("new certificates are in use", 3)
            report = await under_load.report()
        show(statuses=report["statuses"], failures=report["kinds"], latency=report["latency"])
        assert report["kinds"] == {}
        assert set(report["statuses"]) == {"200"}
        assert await shown() != before
        with pytest.raises((ssl.SSLError, ConnectionError, EOFError, AssertionError)):
            async with users.called_by(mesh.client("orders", old)) as client:
                await client.request(b"GET / HTTP/1.1\r\nHost: users\r\n\r\n")
        # What the new ones are worth: connections that did not exist before.
        (told,) = json.loads((await orders.ask("users")).body)["caller"]
        assert told.endswith("DNS=orders")


async def test_new_connections_to_a_service_use_the_new_certificate(mesh: Mesh) -> None:
    async with Service(mesh, "orders") as orders, Service(mesh, "users") as users:
        (first,) = json.loads((await orders.ask("users")).body)["caller"]
        mesh.issue("orders")
        await orders.sidecar.says("new certificates are in use")
        # The open connection lives on; when it has gone, the next one is made with the new one.
        assert json.loads((await orders.ask("users")).body)["caller"] == [first]
        slow = [asyncio.create_task(orders.ask("users")) for _ in range(20)]
        told = {json.loads((await each).body)["caller"][0] for each in slow}
        assert any(each != first for each in told)
        assert users.sidecar.process.returncode is None


async def test_broken_certificates_are_reported_once_and_the_old_ones_stay(mesh: Mesh) -> None:
    async with Service(mesh, "orders") as orders, Service(mesh, "users"):
        pem = mesh.folder / "orders.pem"
        good = pem.read_bytes()
        put(pem, b"not a certificate")
        await orders.sidecar.says("the certificates in use stay")
        stranger = trustme.CA().issue_cert("orders").cert_chain_pems[0].bytes()
        put(pem, stranger)  # of another key
        await orders.sidecar.says("the certificates in use stay", 2)
        await asyncio.sleep(2.0)
        assert orders.sidecar.said.count("the certificates in use stay") == 2
        assert (await orders.ask("users")).status == 200
        put(pem, good)
        await orders.sidecar.says("new certificates are in use")
        assert (await orders.ask("users")).status == 200


# --- instances that come and go -------------------------------------------------------------------


async def test_of_two_instances_one_is_killed_under_load_and_no_get_fails(mesh: Mesh) -> None:
    tls = mesh.issue("users")
    async with (
        Service(mesh, "orders") as orders,
        Service(mesh, "users", tls=tls) as one,
        Service(mesh, "users", tls=tls) as other,
    ):

        async def both() -> bool:
            found = [json.loads((await orders.ask("users")).body)["pid"] for _ in range(10)]
            return len(set(found)) == 2

        await wait_until(both, 10.0)
        async with load(orders.egress, "users", rate=150.0, duration=6.0) as under_load:
            await asyncio.sleep(1.0)
            one.sidecar.signal(signal.SIGKILL)
            one.program.signal(signal.SIGKILL)
            killed = time.monotonic()
            report = await under_load.report()
        show(statuses=report["statuses"], failures=report["kinds"], latency=report["latency"])
        assert report["kinds"] == {}
        assert set(report["statuses"]) == {"200"}

        async def is_forgotten() -> bool:
            return len(await registered(mesh, "users")) == 1

        await wait_until(is_forgotten, 10.0)
        assert time.monotonic() - killed < 3.0 + 6.0
        assert is_alive(other.sidecar.pid)


async def registered(mesh: Mesh, name: str) -> list[str]:
    from nexgate.discovery import ServiceRegistry

    async with ServiceRegistry(mesh.registry) as registry:
        return [each.url for each in await registry.get_instances(name)]


async def test_an_ill_program_gets_no_more_requests_and_a_well_one_does_again(mesh: Mesh) -> None:
    tls = mesh.issue("users")
    async with (
        Service(mesh, "orders") as orders,
        Service(mesh, "users", tls=tls) as one,
        Service(mesh, "users", tls=tls) as other,
    ):

        async def answering() -> set[int]:
            return {json.loads((await orders.ask("users")).body)["pid"] for _ in range(16)}

        async def both() -> bool:
            return len(await answering()) == 2

        await wait_until(both, 10.0)
        began = time.monotonic()
        await one.mood("ill")

        async def is_left_alone() -> bool:
            return await answering() == {other.program.pid}

        await wait_until(is_left_alone, 8.0)
        show(left_alone_after=time.monotonic() - began)
        await one.sidecar.says("is unhealthy and no longer advertised: /health says 503")
        began = time.monotonic()
        await one.mood("well")
        await wait_until(both, 8.0)
        show(back_after=time.monotonic() - began)


async def test_a_program_that_is_not_there_yet_is_not_advertised(mesh: Mesh) -> None:
    port, ingress = free_port(), free_port()
    async with Beside(
        *("--service", "users", "--app", f"http://127.0.0.1:{port}"),
        *("--ingress", f"127.0.0.1:{ingress}", "--registry", mesh.registry),
        *mesh.issue("users"),
    ) as sidecar:
        await sidecar.says("users is not advertised until it is healthy")
        assert await registered(mesh, "users") == []
        async with Process(PROGRAM, "users", str(port), "0"):
            await sidecar.says("users is healthy and advertised")
            assert await registered(mesh, "users") == [f"https://127.0.0.1:{ingress}"]
        await sidecar.says("is unhealthy and no longer advertised")
        assert await registered(mesh, "users") == []


async def test_the_registry_is_killed_and_calls_go_on(tmp_path: Path) -> None:
    with Valkey() as valkey:
        mesh = Mesh(tmp_path, valkey.url)
        tls = mesh.issue("users")
        async with Service(mesh, "orders") as orders, Service(mesh, "users", tls=tls):
            assert (await orders.ask("users")).status == 200
            async with load(orders.egress, "users", rate=100.0, duration=8.0) as under_load:
                valkey.kill()
                await asyncio.sleep(4.0)
                valkey.start()
                report = await under_load.report()
            show(statuses=report["statuses"], failures=report["kinds"])
            assert report["kinds"] == {}
            assert set(report["statuses"]) == {"200"}
            async with Service(mesh, "users", tls=tls):

                async def both() -> bool:
                    found = [json.loads((await orders.ask("users")).body)["pid"] for _ in range(10)]
                    return len(set(found)) == 2

                await wait_until(both, 15.0)


async def test_a_registry_that_comes_later_is_told_then(tmp_path: Path) -> None:
    valkey = Valkey()
    mesh = Mesh(tmp_path, valkey.url)
    port = free_port()
    async with (
        Process(PROGRAM, "users", str(port), "0"),
        Beside(
            *("--service", "users", "--app", f"http://127.0.0.1:{port}"),
            *("--ingress", f"127.0.0.1:{free_port()}", "--registry", mesh.registry),
            *mesh.issue("users"),
        ) as sidecar,
    ):
        await sidecar.says("users is healthy, and advertised as soon as the registry is there")
        with valkey:

            async def is_there() -> bool:
                return len(await registered(mesh, "users")) == 1

            await wait_until(is_there, 15.0)
            valkey.freeze()
            began = time.monotonic()
            sidecar.signal(signal.SIGTERM)
            assert await sidecar.wait(15.0) == 0
            show(left_a_frozen_registry_after=time.monotonic() - began)
            valkey.thaw()


# --- the end --------------------------------------------------------------------------------------


async def test_sigterm_unregisters_first_then_drains_then_ends_with_zero(mesh: Mesh) -> None:
    async with (
        Service(mesh, "orders") as orders,
        Service(mesh, "users") as users,
        RawClient(("127.0.0.1", orders.egress)) as client,
    ):
        response = await client.request(WEBSOCKET.replace(b"example.com", b"users"))
        assert response.status == 101
        assert (await orders.ask("users")).status == 200
        began = time.monotonic()
        users.sidecar.signal(signal.SIGTERM)

        async def is_unregistered() -> bool:
            return await registered(mesh, "users") == []

        await wait_until(is_unregistered, 3.0)
        # Whoever has not noticed is still served.
        async with users.called_by(mesh.client()) as late:
            assert (await late.request(b"GET / HTTP/1.1\r\nHost: users\r\n\r\n")).status == 200
        assert time.monotonic() - began < 1.0
        # What is under way is finished, and the way out works until then.
        await asyncio.sleep(1.5)
        assert is_alive(users.sidecar.pid)
        await echo(client)
        assert (await users.ask("orders")).status == 200
        await client.close()
        assert await users.sidecar.wait() == 0
        said = users.sidecar.said
        assert "users is no longer advertised" in said
        assert "Traceback" not in said


async def test_a_second_signal_does_not_wait(mesh: Mesh) -> None:
    async with (
        Service(mesh, "users") as users,
        RawClient(("127.0.0.1", users.egress)) as client,
    ):
        response = await client.request(WEBSOCKET.replace(b"example.com", b"users"))
        assert response.status == 101
        users.sidecar.signal(signal.SIGTERM)
        await users.sidecar.says("no longer advertised")
        users.sidecar.signal(signal.SIGTERM)
        assert await users.sidecar.wait(5.0) == 0
        assert "told twice" in users.sidecar.said
        assert "Traceback" not in users.sidecar.said


async def test_a_port_in_use_is_exit_code_3(mesh: Mesh) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        async with Beside("--egress", f":{port}", "--registry", mesh.registry) as sidecar:
            assert await sidecar.wait() == 3
            await sidecar.says(f"cannot listen on 127.0.0.1:{port}")


# --- files and the example ------------------------------------------------------------------------


async def test_a_file_says_it_all_and_options_beat_it(mesh: Mesh) -> None:
    mesh.issue("orders")
    egress, other = free_port(), free_port()
    path = mesh.folder / "sidecar.toml"
    path.write_text(
        f"[sidecar]\nservice = 'orders'\nregistry = '{mesh.registry}'\n"
        f"egress = '127.0.0.1:{egress}'\n"
        "certificate = 'orders.pem'\nkey = 'orders.key'\nca = 'ca.pem'\n"
        "[defaults]\ntimeout = { total = '5s' }\nretry = 3\n"
        "[services.users]\ntimeout = '200ms'\n"
        "[services.legacy]\ninstances = ['http://127.0.0.1:1']\n"
    )
    async with (
        Service(mesh, "users"),
        Beside(str(path), "--egress", f"127.0.0.1:{other}") as sidecar,
    ):
        await sidecar.says(f"egress on http://127.0.0.1:{other}")
        assert (await ask(other, "users")).status == 200
        assert problem(await ask(other, "users", "/slow"))["type"].endswith("/total-timeout")
        assert (await ask(other, "legacy")).status == 502
    path.write_text(path.read_text().replace("200ms", "10s"))
    async with Service(mesh, "users"), Beside(str(path)) as sidecar:
        await sidecar.says("egress on")
        assert (await ask(egress, "users", "/slow")).status == 200


def test_the_example_shows_a_call_a_refusal_and_a_recovery() -> None:
    with machine_to_itself():
        done = subprocess.run(
            [sys.executable, "examples/sidecar"],
            cwd=ROOT,
            capture_output=True,
            text=True,
            timeout=60,
            env={**os.environ, "PYTHONUNBUFFERED": "1"},
        )
    assert done.returncode == 0, done.stderr
    said = done.stdout
    assert re.search(r"^orders asks users: 200 .*CN=orders", said)
    assert "\nads asks users: 403 ads may not call users\n" in said
    assert "\norders asks nobody: 404 there is no service nobody\n" in said
    assert re.search(r"falls ill.*\norders asks users: 503 .*\n.*well again\n.*: 200 ", said)
