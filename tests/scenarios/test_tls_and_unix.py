"""TLS and Unix sockets on both sides."""

from __future__ import annotations

import asyncio
import ssl
from pathlib import Path
from typing import Any

import pytest
import trustme
from tests.conftest import gateway_to, in_front_of

from nexgate.gateway import Gateway
from nexgate.testing import RawClient, RecordingUpstream, canned

GET = b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n"


@pytest.fixture(scope="module")
def authority() -> trustme.CA:
    return trustme.CA()


def write_leaf(folder: Path, name: str, leaf: trustme.LeafCert) -> dict[str, str]:
    certificate, key = folder / f"{name}.pem", folder / f"{name}.key"
    certificate.write_bytes(b"".join(c.bytes() for c in leaf.cert_chain_pems))
    key.write_bytes(leaf.private_key_pem.bytes())
    return {"certificate": str(certificate), "key": str(key)}


def trusting(authority: trustme.CA) -> ssl.SSLContext:
    context = ssl.create_default_context()
    authority.configure_trust(context)
    return context


def listening(**tls: Any) -> dict[str, Any]:
    return {"listen": [{"address": "127.0.0.1:0", "tls": tls}]}


async def test_a_client_over_tls(
    tmp_path: Path, authority: trustme.CA, upstream: RecordingUpstream
) -> None:
    files = write_leaf(tmp_path, "server", authority.issue_cert("localhost"))
    upstream.answer = canned(200, b"x" * 300_000)
    context = trusting(authority)
    context.set_alpn_protocols(["h2", "http/1.1"])
    async with gateway_to(upstream.url, section=listening(**files)).serving() as served:
        assert served.url.startswith("https://")
        async with RawClient(served.url, ssl=context, server_hostname="localhost") as client:
            for _ in range(3):
                response = await client.request(GET)
                assert len(response.body) == 300_000
            assert client.alpn_protocol == "http/1.1"
        assert upstream.last.values("x-forwarded-proto") == ["https"]


@pytest.mark.parametrize("mode", ["required", "optional"])
async def test_client_certificates(
    mode: str, tmp_path: Path, authority: trustme.CA, upstream: RecordingUpstream
) -> None:
    files = write_leaf(tmp_path, "server", authority.issue_cert("localhost"))
    authority.cert_pem.write_to_path(str(tmp_path / "ca.pem"))
    tls = listening(**files, client_ca=str(tmp_path / "ca.pem"), client_auth=mode)
    async with gateway_to(upstream.url, section=tls).serving() as served:
        with_certificate = trusting(authority)
        authority.issue_cert("client").configure_cert(with_certificate)
        async with RawClient(
            served.url, ssl=with_certificate, server_hostname="localhost"
        ) as client:
            assert (await client.request(GET)).status == 200
        stranger = trusting(authority)
        trustme.CA().issue_cert("stranger").configure_cert(stranger)
        with pytest.raises((ssl.SSLError, ConnectionError, EOFError, OSError)):
            async with RawClient(served.url, ssl=stranger, server_hostname="localhost") as client:
                await client.request(GET)
        if mode == "optional":
            async with RawClient(
                served.url, ssl=trusting(authority), server_hostname="localhost"
            ) as client:
                assert (await client.request(GET)).status == 200


async def test_certificates_by_name(
    tmp_path: Path, authority: trustme.CA, upstream: RecordingUpstream
) -> None:
    files = write_leaf(tmp_path, "default", authority.issue_cert("localhost"))
    other = write_leaf(tmp_path, "other", authority.issue_cert("*.example.org"))
    tls = listening(**files, sni={"*.example.org": other})
    async with gateway_to(upstream.url, section=tls).serving() as served:
        for name in ("localhost", "api.example.org"):
            async with RawClient(
                served.url, ssl=trusting(authority), server_hostname=name
            ) as client:
                assert (await client.request(GET)).status == 200


async def test_a_service_over_tls_is_verified(tmp_path: Path, authority: trustme.CA) -> None:
    server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("127.0.0.1").configure_cert(server)
    authority.cert_pem.write_to_path(str(tmp_path / "ca.pem"))
    async with RecordingUpstream(ssl=server) as upstream:
        url = f"https://127.0.0.1:{upstream.port}"
        good = {"ca": str(tmp_path / "ca.pem")}
        async with in_front_of(url, tls=good) as served, RawClient(served.url) as client:
            assert (await client.request(GET)).status == 200
        for tls in ({}, {"ca": str(tmp_path / "ca.pem"), "server_name": "other.example"}):
            async with in_front_of(url, tls=tls) as served, RawClient(served.url) as client:
                response = await client.request(GET)
                assert response.status == 502
                assert b"upstream-tls" in response.body
        blind = {"verify": False}
        async with in_front_of(url, tls=blind) as served, RawClient(served.url) as client:
            assert (await client.request(GET)).status == 200


async def test_a_service_may_ask_for_our_certificate(tmp_path: Path, authority: trustme.CA) -> None:
    server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("127.0.0.1").configure_cert(server)
    authority.configure_trust(server)
    server.verify_mode = ssl.CERT_REQUIRED
    authority.cert_pem.write_to_path(str(tmp_path / "ca.pem"))
    ours = write_leaf(tmp_path, "us", authority.issue_cert("gateway"))
    async with RecordingUpstream(ssl=server) as upstream:
        url = f"https://127.0.0.1:{upstream.port}"
        tls = {"ca": str(tmp_path / "ca.pem"), **ours}
        async with in_front_of(url, tls=tls) as served, RawClient(served.url) as client:
            assert (await client.request(GET)).status == 200


async def test_new_certificate_files_are_used_after_a_reload(
    tmp_path: Path, authority: trustme.CA, upstream: RecordingUpstream
) -> None:
    from nexgate.edge import refresh_certificates

    files = write_leaf(tmp_path, "server", authority.issue_cert("localhost"))
    gateway = gateway_to(upstream.url, section=listening(**files))
    async with gateway.serving() as served:

        async def serial() -> bytes | None:
            async with RawClient(
                served.url, ssl=trusting(authority), server_hostname="localhost"
            ) as client:
                await client.request(GET)
                return client.peer_certificate

        before = await serial()
        write_leaf(tmp_path, "server", authority.issue_cert("localhost"))
        context = served.server.listeners[0].tls
        config = gateway.config.gateway.listen[0].tls
        assert context is not None
        assert config is not None
        refresh_certificates(context, config)
        assert await serial() != before


async def test_unix_sockets_on_both_sides(tmp_path: Path) -> None:
    async with RecordingUpstream(path=tmp_path / "service.sock") as upstream:
        gateway = Gateway(listen=[{"address": f"unix:{tmp_path}/gateway.sock", "trusted": True}])
        gateway.service("s", f"unix:{tmp_path}/service.sock")
        gateway.route("/*", "s")
        async with gateway.serving() as served, RawClient(served.url) as client:
            response = await client.request(
                b"GET / HTTP/1.1\r\nHost: a\r\nX-Forwarded-For: 203.0.113.9\r\n\r\n"
            )
            assert response.status == 200
            assert upstream.last.values("x-forwarded-for") == ["203.0.113.9, unknown"]


async def test_a_stale_socket_file_is_replaced(tmp_path: Path) -> None:
    import socket

    path = tmp_path / "gateway.sock"
    stale = socket.socket(socket.AF_UNIX)
    stale.bind(str(path))
    stale.close()
    gateway = Gateway(listen=f"unix:{path}")
    gateway.route("/*", respond=204)
    async with gateway.serving() as served, RawClient(served.url) as client:
        assert (await client.request(GET)).status == 204


async def test_a_dawdling_handshake_is_not_waited_for(
    tmp_path: Path, authority: trustme.CA, upstream: RecordingUpstream
) -> None:
    files = write_leaf(tmp_path, "server", authority.issue_cert("localhost"))
    section = {**listening(**files), "timeouts": {"head": "300ms"}}
    async with gateway_to(upstream.url, section=section).serving() as served:
        reader, writer = await asyncio.open_connection("127.0.0.1", served.port)
        async with asyncio.timeout(3):
            assert await reader.read() == b""
        writer.close()
