"""A sidecar in this process: services that come and go, certificates, and what is cancelled."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import ssl
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
import trustme
from tests.scenarios.support import open_files
from tests.unit.sidecar.test_config import certificates

from nexgate.config import InvalidConfig
from nexgate.discovery import ServiceInstance, ServiceRegistry
from nexgate.errors import ConfigError
from nexgate.sidecar import Sidecar, SidecarConfig
from nexgate.sidecar._certificates import CertificateFiles, Certificates
from nexgate.testing import RawClient, RawResponse, RecordingUpstream, wait_until


@contextlib.asynccontextmanager
async def sidecar(folder: Path, text: Any = None, **section: Any) -> AsyncIterator[Sidecar]:
    said = {"egress": "127.0.0.1:0", "registry": f"lmdb:{folder / 'registry'}", "leave": "0s"}
    config = SidecarConfig.model_validate({"sidecar": {**said, **section}, **(text or {})})
    made = Sidecar(config.complete())
    await made.start()
    try:
        yield made
    finally:
        await made.stop()


@contextlib.asynccontextmanager
async def registered(folder: Path, **services: str) -> AsyncIterator[ServiceRegistry]:
    async with ServiceRegistry(f"lmdb:{folder / 'registry'}") as registry:
        for name, url in services.items():
            await registry.register(name, ServiceInstance("1", name, url))
        yield registry


async def ask(made: Sidecar, host: str, fields: str = "") -> RawResponse:
    async with RawClient(made.urls["egress"]) as client:
        return await client.request(f"GET /x HTTP/1.1\r\nHost: {host}\r\n{fields}\r\n".encode())


async def test_a_service_in_the_registry_is_called_with_what_the_program_said(
    tmp_path: Path,
) -> None:
    async with (
        RecordingUpstream() as upstream,
        registered(tmp_path, users=upstream.url),
        sidecar(tmp_path) as made,
    ):
        fields = (
            "X-Request-Id: mine\r\nX-Forwarded-For: 192.0.2.7\r\nA_b: c\r\n"
            "X-Forwarded-Client-Cert: DNS=root\r\n"
        )
        assert (await ask(made, "users", fields)).status == 200
        last = upstream.last
        assert last.values("host") == ["users"]
        assert last.values("x-request-id") == ["mine"]
        assert last.values("x-forwarded-for") == ["192.0.2.7, 127.0.0.1"]
        assert last.values("a_b") == ["c"]
        assert last.values("x-forwarded-client-cert") == []
        async with RawClient(made.urls["egress"]) as client:
            path = b"/a%2Fb//c;d?e=%00"
            assert (
                await client.request(b"GET %b HTTP/1.1\r\nHost: users\r\n\r\n" % path)
            ).status == 200
        assert upstream.last.target == path.decode()


async def test_the_services_that_are_followed_are_bounded_and_the_unused_go_first(
    tmp_path: Path,
) -> None:
    async with (
        RecordingUpstream() as upstream,
        registered(tmp_path, a=upstream.url, b=upstream.url, c=upstream.url),
        sidecar(tmp_path, max_services=2) as made,
    ):
        assert made.egress is not None
        for host in ("a", "b", "a", "c"):
            assert (await ask(made, host)).status == 200
        assert sorted(made.egress.states) == ["a", "c"]
        for n in range(20):
            assert (await ask(made, f"nobody{n}")).status == 404
        assert len(made.egress.states) == 2
        await wait_until(lambda: len(upstream.requests) == 4)


async def test_busy_services_are_not_closed_to_make_room(tmp_path: Path) -> None:
    async with (
        RecordingUpstream(b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nabc") as upstream,
        registered(tmp_path, a=upstream.url),
        sidecar(tmp_path, max_services=1) as made,
    ):
        async with RawClient(made.urls["egress"]) as client:
            await client.send(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")
            await client.read_until(b"abc")
            refused = await ask(made, "b")
            assert refused.status == 503
            assert json.loads(refused.body)["detail"] == "too many services are called at once"

        async def has_room() -> bool:
            return (await ask(made, "b")).status == 404

        await wait_until(has_room)


async def test_unused_services_are_closed_after_a_while(tmp_path: Path) -> None:
    async with (
        RecordingUpstream() as upstream,
        registered(tmp_path, a=upstream.url),
        sidecar(tmp_path, idle="1s") as made,
    ):
        assert made.egress is not None
        assert (await ask(made, "a")).status == 200
        assert list(made.egress.states) == ["a"]
        await wait_until(lambda: not made.egress.states, 5.0)
        assert (await ask(made, "a")).status == 200


async def test_whoever_leaves_while_the_registry_is_asked_leaves_nothing_behind(
    tmp_path: Path,
) -> None:
    # Nobody listens there, so the registry never answers.
    async with sidecar(tmp_path, registry="redis://127.0.0.1:1") as made:
        client = RawClient(made.urls["egress"])
        await client.connect()
        await client.send(b"POST /x HTTP/1.1\r\nHost: users\r\nContent-Length: 3\r\n\r\nabc")
        edge = made._ways["egress"].edge
        await wait_until(lambda: any(c.exchange is not None for c in edge.connections))
        other = asyncio.create_task(ask(made, "users"))
        await client.close()
        response = await other
        assert response.status == 503
        assert "has not said yet" in json.loads(response.body)["detail"]
        await wait_until(lambda: not edge.connections)
        # From now on nobody waits for it again.
        async with asyncio.timeout(1.0):
            assert (await ask(made, "users")).status == 503


async def test_instances_without_tls_are_not_called_when_that_is_asked_for(tmp_path: Path) -> None:
    async with (
        RecordingUpstream() as upstream,
        registered(tmp_path, users=upstream.url),
        sidecar(tmp_path, tls_only=True) as made,
    ):
        assert (await ask(made, "users")).status == 404
        assert not upstream.requests


async def test_a_plain_ingress_tells_nobody_who_calls(tmp_path: Path) -> None:
    async with RecordingUpstream() as program:
        options: dict[str, Any] = {
            "service": "orders",
            "app": program.url,
            "ingress": "127.0.0.1:0",
            "advertise": "http://127.0.0.1:1",
            "insecure": True,
            "egress": None,
        }
        async with sidecar(tmp_path, **options) as made, RawClient(made.urls["ingress"]) as client:
            lie = b"X-Forwarded-Client-Cert: DNS=root\r\nX_Forwarded_Client_Cert: DNS=root\r\n"
            request = (
                b"POST / HTTP/1.1\r\nHost: orders\r\nX-Forwarded-For: 192.0.2.7\r\n"
                b"Transfer-Encoding: chunked\r\n%b\r\n0\r\n%b\r\n" % (lie, lie)
            )
            assert (await client.request(request)).status == 200
            last = next(r for r in program.requests if r.method == "POST")
            assert last.values("x-forwarded-client-cert") == []
            assert last.values("x_forwarded_client_cert") == []
            assert b"root" not in last.raw, "not in the trailers either"
            assert last.values("x-forwarded-for") == ["127.0.0.1"]


async def test_a_gateway_in_front_is_believed_and_others_are_not(tmp_path: Path) -> None:
    authority = trustme.CA()
    options: dict[str, Any] = certificates(tmp_path, "orders", authority)
    options |= {"service": "orders", "ingress": "127.0.0.1:0", "trusted_proxies": "gateway"}
    options |= {"advertise": "https://127.0.0.1:1", "egress": None}
    async with (
        RecordingUpstream() as program,
        sidecar(tmp_path, app=program.url, **options) as made,
    ):
        for name, seen in (("gateway", "192.0.2.7, 127.0.0.1"), ("users", "127.0.0.1")):
            context = ssl.create_default_context(cafile=options["ca"])
            authority.issue_cert(name).configure_cert(context)
            async with RawClient(
                made.urls["ingress"], ssl=context, server_hostname="orders"
            ) as client:
                await client.request(
                    b"PUT / HTTP/1.1\r\nHost: orders\r\nX-Forwarded-For: 192.0.2.7\r\n"
                    b"X-Forwarded-Client-Cert: DNS=root\r\nContent-Length: 0\r\n\r\n"
                )
            last = next(r for r in reversed(program.requests) if r.method == "PUT")
            assert last.values("x-forwarded-for") == [seen]
            (told,) = last.values("x-forwarded-client-cert")
            assert told.endswith(f";DNS={name}")
            assert "root" not in told


async def test_names_with_an_underscore_are_names(tmp_path: Path) -> None:
    async with (
        RecordingUpstream() as upstream,
        registered(tmp_path, my_users=upstream.url),
        sidecar(tmp_path) as made,
    ):
        assert (await ask(made, "my_users")).status == 200


async def test_egress_on_a_unix_socket(tmp_path: Path) -> None:
    async with (
        RecordingUpstream() as upstream,
        registered(tmp_path, users=upstream.url),
        sidecar(tmp_path, egress=f"unix:{tmp_path / 'egress.sock'}") as made,
    ):
        assert (await ask(made, "users", "X-Forwarded-For: 192.0.2.7\r\n")).status == 200
        assert upstream.last.values("x-forwarded-for")[0].startswith("192.0.2.7")


async def test_two_first_requests_at_once_are_for_one_service(tmp_path: Path) -> None:
    async with (
        RecordingUpstream() as upstream,
        registered(tmp_path, users=upstream.url),
        sidecar(tmp_path) as made,
    ):
        assert made.egress is not None
        both = await asyncio.gather(ask(made, "users"), ask(made, "users"))
        assert [response.status for response in both] == [200, 200]
        assert list(made.egress.states) == ["users"]


# --- certificates ---------------------------------------------------------------------------------


def files_in(folder: Path, name: str | None = "orders") -> CertificateFiles:
    paths = {key: Path(path) for key, path in certificates(folder).items()}
    return CertificateFiles(**paths, name=name)


async def test_files_that_do_not_fit_yet_are_taken_over_when_they_do(tmp_path: Path) -> None:
    one, two = tmp_path / "one", tmp_path / "two"
    one.mkdir(), two.mkdir()
    files, others = files_in(one), files_in(two)
    kept = Certificates(files)
    assert kept.current.fault is None
    first = kept.current
    changes: list[object] = []
    kept.on_change.append(changes.append)
    for name in ("ca", "certificate", "key"):
        assert kept.current is first, "an authority alone, or a certificate without its key"
        getattr(others, name).replace(getattr(files, name))
        await kept._check()
    assert changes == [kept.current]
    assert kept.current.fault is None
    await kept._check()
    assert len(changes) == 1


async def test_files_that_are_gone_for_a_moment(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    files = files_in(tmp_path)
    kept = Certificates(files)
    text = files.key.read_bytes()
    files.key.unlink()
    for _ in range(4):
        await kept._check()
    assert caplog.text.count("the certificates in use stay") == 1
    files.key.write_bytes(text)
    await kept._check()
    assert caplog.text.count("new certificates are in use") <= 1
    assert kept.current.fault is None


async def test_a_certificate_for_another_name_is_said_at_the_start(tmp_path: Path) -> None:
    assert "mismatch" in (Certificates(files_in(tmp_path, "users")).current.fault or "")
    assert Certificates(files_in(tmp_path, None)).current.fault is None


async def test_what_is_no_certificate_at_all_is_an_error(tmp_path: Path) -> None:
    files = files_in(tmp_path)
    files.ca.write_text("nothing")
    with pytest.raises(ConfigError, match="cannot be used together"):
        Certificates(files)


async def test_new_certificates_leave_no_socket_behind(tmp_path: Path) -> None:
    tls = certificates(tmp_path)
    async with RecordingUpstream() as program:
        options = {"service": "orders", "app": program.url, "ingress": "127.0.0.1:0", **tls}
        options["advertise"] = "https://127.0.0.1:1"
        async with sidecar(tmp_path, **options) as made:
            assert made.certificates is not None
            assert made.presence is not None
            presence, url = made.presence, made.urls["ingress"]
            await wait_until(lambda: presence.is_registered)
            await asyncio.sleep(0.1)
            before = open_files(os.getpid())
            for _ in range(20):
                made._renew(made.certificates.current)
            await wait_until(lambda: not made._renewing)
            await wait_until(lambda: open_files(os.getpid()) <= before + 4)
            assert made.urls["ingress"] == url


async def test_a_sidecar_with_nothing_to_do_is_refused() -> None:
    with pytest.raises(InvalidConfig):
        SidecarConfig().complete()
