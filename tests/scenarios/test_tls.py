"""TLS on both sides, with certificates made on the spot."""

from __future__ import annotations

import asyncio
import contextlib
import ssl
import time
from pathlib import Path

import pytest
import trustme
from tests.conftest import in_front_of
from tests.scenarios.support import GET, Origin, Running, toml

from nexgate.gateway import Gateway
from nexgate.testing import RawClient, RecordingUpstream, ScriptedUpstream, canned, wait_until


@pytest.fixture(scope="module")
def authority() -> trustme.CA:
    return trustme.CA()


def write(directory: Path, name: str, certificate: trustme.LeafCert) -> dict[str, str]:
    """Certificate and key as files, for a configuration."""
    chain = directory / f"{name}.pem"
    key = directory / f"{name}.key"
    chain.write_bytes(b"".join(blob.bytes() for blob in certificate.cert_chain_pems))
    key.write_bytes(certificate.private_key_pem.bytes())
    return {"certificate": str(chain), "key": str(key)}


def ca_file(directory: Path, authority: trustme.CA) -> str:
    path = directory / "ca.pem"
    path.write_bytes(authority.cert_pem.bytes())
    return str(path)


def client_context(authority: trustme.CA, own: trustme.LeafCert | None = None) -> ssl.SSLContext:
    context = ssl.create_default_context()
    authority.configure_trust(context)
    if own is not None:
        own.configure_cert(context)
    return context


def server_context(authority: trustme.CA, *names: str, client_auth: bool = False) -> ssl.SSLContext:
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    authority.issue_cert(*names).configure_cert(context)
    if client_auth:
        authority.configure_trust(context)
        context.verify_mode = ssl.CERT_REQUIRED
    return context


def gateway_with(tls: dict[str, object], url: str) -> Gateway:
    gateway = Gateway(listen=[{"address": "127.0.0.1:0", "tls": tls}])
    gateway.service("upstream", url)
    gateway.route("/*", "upstream")
    return gateway


def names_in(der: bytes | None) -> str:
    """The DNS names of a certificate, as far as the bytes show them."""
    assert der is not None
    return der.decode("latin-1")


async def test_a_listener_speaks_tls_and_tells_the_service(
    tmp_path: Path, authority: trustme.CA
) -> None:
    tls = write(tmp_path, "a", authority.issue_cert("a.example"))
    async with (
        RecordingUpstream(canned(body=b"ok")) as upstream,
        gateway_with(tls, upstream.url).serving() as served,
        RawClient(served.url, ssl=client_context(authority), server_hostname="a.example") as client,
    ):
        assert served.url.startswith("https://")
        for _ in range(3):
            assert (await client.request(GET)).body == b"ok"
        assert upstream.last.values("x-forwarded-proto") == ["https"]
        # Large enough to fill every buffer on the way.
        upstream.answer = canned(body=b"x" * 3_000_000)
        assert len((await client.request(GET)).body) == 3_000_000
        body = b"y" * 1_000_000
        head = b"POST / HTTP/1.1\r\nHost: a.example\r\nContent-Length: %d\r\n\r\n" % len(body)
        assert (await client.request(head + body)).status == 200
        assert upstream.last.body == body


async def test_plain_http_on_a_tls_port_is_cut_off_and_harms_nobody(
    tmp_path: Path, authority: trustme.CA
) -> None:
    tls = write(tmp_path, "a", authority.issue_cert("a.example"))
    async with (
        RecordingUpstream() as upstream,
        gateway_with(tls, upstream.url).serving() as served,
    ):
        for wire in (GET, b"\x16\x03\x01\x00\x05hello", b"\x00" * 100):
            async with RawClient(("127.0.0.1", served.port)) as client:
                await client.send(wire)
                with contextlib.suppress(ConnectionError):
                    await client.read_eof()
        async with RawClient(
            served.url, ssl=client_context(authority), server_hostname="a.example"
        ) as client:
            assert (await client.request(GET)).status == 200
        await wait_until(lambda: not served.runtime.edge.connections)


@pytest.mark.parametrize("mode", ["required", "optional"])
@pytest.mark.parametrize("shows", ["a certificate", "none", "a stranger's"])
async def test_client_certificates(
    tmp_path: Path, authority: trustme.CA, mode: str, shows: str
) -> None:
    tls = {
        **write(tmp_path, "a", authority.issue_cert("a.example")),
        "client_ca": ca_file(tmp_path, authority),
        "client_auth": mode,
    }
    own = {
        "a certificate": authority.issue_cert("me@example.com"),
        "none": None,
        "a stranger's": trustme.CA().issue_cert("you@example.com"),
    }[shows]
    context = client_context(authority, own)
    welcome = shows == "a certificate" or (mode == "optional" and shows == "none")
    async with (
        RecordingUpstream() as upstream,
        gateway_with(tls, upstream.url).serving() as served,
    ):
        client = RawClient(served.url, ssl=context, server_hostname="a.example")
        if welcome:
            async with client:
                assert (await client.request(GET)).status == 200
        else:
            with pytest.raises((ssl.SSLError, ConnectionError, EOFError)):
                async with client:
                    # TLS 1.3: the client is done before the server has judged.
                    await client.request(GET)
            assert not upstream.requests


async def test_sni_chooses_the_certificate(tmp_path: Path, authority: trustme.CA) -> None:
    tls = {
        **write(tmp_path, "default", authority.issue_cert("default.example")),
        "sni": {
            "b.example": write(tmp_path, "b", authority.issue_cert("b.example")),
            "*.c.example": write(tmp_path, "c", authority.issue_cert("*.c.example")),
        },
    }
    async with (
        RecordingUpstream() as upstream,
        gateway_with(tls, upstream.url).serving() as served,
    ):
        for name in ("default.example", "b.example", "x.c.example", "B.Example"):
            async with RawClient(
                served.url, ssl=client_context(authority), server_hostname=name
            ) as client:
                assert (await client.request(GET)).status == 200
        lax = client_context(authority)
        lax.check_hostname = False
        async with RawClient(served.url, ssl=lax, server_hostname="nobody.example") as client:
            assert "default.example" in names_in(client.peer_certificate)


@pytest.mark.parametrize("by", ["SIGHUP", "the files' change"])
async def test_replaced_certificates_are_used_by_new_handshakes(
    tmp_path: Path, authority: trustme.CA, by: str
) -> None:
    files = write(tmp_path, "a", authority.issue_cert("old.example"))
    watch = "reload = true" if by != "SIGHUP" else "reload = false"
    async with Origin() as origin:
        text = toml(origin.url).replace("reload = false", watch)
        text = text.replace(
            'listen = "127.0.0.1:0"',
            f'listen = [{{ address = "127.0.0.1:0", tls = {{ certificate = '
            f'"{files["certificate"]}", key = "{files["key"]}" }} }}]',
        )
        async with Running(tmp_path / "gateway.toml", text) as gateway:
            context = client_context(authority)
            target = f"https://127.0.0.1:{gateway.port}"
            async with RawClient(target, ssl=context, server_hostname="old.example") as before:
                assert (await before.request(GET)).status == 200
                write(tmp_path, "a", authority.issue_cert("new.example"))
                if by == "SIGHUP":
                    await gateway.reload(text)

                async def is_new() -> bool:
                    try:
                        async with RawClient(
                            target, ssl=context, server_hostname="new.example"
                        ) as client:
                            return (await client.request(GET)).status == 200
                    except ssl.SSLError:
                        return False

                await wait_until(is_new, 10.0)
                assert (await before.request(GET)).status == 200  # open connections go on


async def test_the_gateway_verifies_services(tmp_path: Path, authority: trustme.CA) -> None:
    """A custom authority is believed; a stranger, another name and an own authority are not."""
    ca = ca_file(tmp_path, authority)
    good = server_context(authority, "127.0.0.1", "service.internal")
    wrong_name = server_context(authority, "other.internal")
    stranger = server_context(trustme.CA(), "127.0.0.1")
    cases = [
        (good, {"ca": ca}, 200),
        (good, {"ca": ca, "server_name": "service.internal"}, 200),
        (good, {}, 502),
        (wrong_name, {"ca": ca}, 502),
        (wrong_name, {"ca": ca, "server_name": "other.internal"}, 200),
        (stranger, {"ca": ca}, 502),
        (stranger, {"verify": False}, 200),
    ]
    for context, tls, status in cases:
        options = {"tls": tls} if tls else {}
        async with (
            RecordingUpstream(canned(body=b"ok"), ssl=context) as upstream,
            in_front_of(upstream.url, **options) as served,
            RawClient(served.url) as client,
        ):
            response = await client.request(GET)
            assert response.status == status, tls
            if status == 502:
                assert b"upstream-tls" in response.body
                assert not upstream.requests


async def test_the_gateway_shows_its_certificate_to_services(
    tmp_path: Path, authority: trustme.CA
) -> None:
    context = server_context(authority, "127.0.0.1", client_auth=True)
    ca = ca_file(tmp_path, authority)
    own = write(tmp_path, "gateway", authority.issue_cert("gateway@example.com"))
    for tls, status in (({"ca": ca, **own}, 200), ({"ca": ca}, 502)):
        async with (
            RecordingUpstream(canned(body=b"ok"), ssl=context) as upstream,
            in_front_of(upstream.url, tls=tls) as served,
            RawClient(served.url) as client,
        ):
            assert (await client.request(GET)).status == status


async def test_a_service_that_does_not_speak_tls_is_502_in_time() -> None:
    async with (
        ScriptedUpstream.replying(b"HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\n\r\n") as one,
        in_front_of(one.url.replace("http:", "https:"), timeout={"connect": "1s"}) as served,
        RawClient(served.url) as client,
    ):
        began = time.monotonic()
        response = await client.request(GET)
        assert response.status in (502, 504)
        assert time.monotonic() - began < 2.0


async def test_a_handshake_that_never_ends_is_given_up(
    tmp_path: Path, authority: trustme.CA
) -> None:
    tls = write(tmp_path, "a", authority.issue_cert("a.example"))
    gateway = Gateway(listen=[{"address": "127.0.0.1:0", "tls": tls}], timeouts={"head": "500ms"})
    gateway.route("/*", respond=200)
    async with gateway.serving() as served, RawClient(("127.0.0.1", served.port)) as client:
        await client.send(b"\x16\x03\x01")
        with contextlib.suppress(ConnectionError):
            assert await client.read_eof(timeout=3.0) == b""
        await asyncio.sleep(0)
        assert not served.runtime.edge.connections


async def test_unix_sockets_on_both_sides(tmp_path: Path) -> None:
    inside, outside = tmp_path / "in.sock", tmp_path / "out.sock"
    async with (
        RecordingUpstream(canned(body=b"ok"), path=outside) as upstream,
        in_front_of(f"unix:{outside}") as tcp,
    ):
        gateway = Gateway(
            listen=[{"address": f"unix:{inside}", "trusted": True}],
        )
        gateway.service("upstream", f"unix:{outside}")
        gateway.route("/*", "upstream")
        async with (
            gateway.serving() as served,
            RawClient(f"unix:{inside}") as client,
            RawClient(tcp.url) as other,
        ):
            assert served.url == f"unix:{inside}"
            assert (await client.request(GET)).body == b"ok"
            assert (await other.request(GET)).body == b"ok"
            # Its peers are trusted: what they say about the client is believed.
            await client.request(b"GET / HTTP/1.1\r\nHost: a\r\nX-Forwarded-For: 192.0.2.7\r\n\r\n")
            assert upstream.last.values("x-forwarded-for")[0].startswith("192.0.2.7")
