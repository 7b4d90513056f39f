"""Gate 2: what hostile connections may cost in memory and in time."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest
from tests.scenarios.support import Load, Origin, Running, cpu_seconds, get, rss_bytes, show, toml

from nexgate.testing import wait_until

MIB = 1024 * 1024
CROWD = 100


async def connect(port: int, *, receive_buffer: int = 0) -> socket.socket:
    """A plain socket: what it does not read stays in the kernel."""
    sock = socket.socket()
    if receive_buffer:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
    sock.setblocking(False)
    await asyncio.get_running_loop().sock_connect(sock, ("127.0.0.1", port))
    return sock


async def send(sock: socket.socket, data: bytes) -> None:
    """Until it is refused, or the other side takes no more."""
    with contextlib.suppress(OSError, TimeoutError):
        async with asyncio.timeout(3.0):
            await asyncio.get_running_loop().sock_sendall(sock, data)


async def large_heads(port: int) -> list[socket.socket]:
    """A head of 1 MiB each, and no end."""
    socks = [await connect(port) for _ in range(CROWD)]
    head = b"GET / HTTP/1.1\r\nHost: a\r\nX: " + b"a" * MIB
    await asyncio.gather(*(send(sock, head) for sock in socks))
    return socks


async def unfinished_heads(port: int) -> list[socket.socket]:
    """As much head as is allowed, and no end."""
    socks = [await connect(port) for _ in range(CROWD)]
    head = b"GET / HTTP/1.1\r\nHost: a\r\n" + b"".join(
        b"X-%d: %b\r\n" % (i, b"a" * 300) for i in range(90)
    )
    await asyncio.gather(*(send(sock, head) for sock in socks))
    return socks


async def chunk_extensions(port: int) -> list[socket.socket]:
    """1 MiB of extensions for 1 KiB of content."""
    socks = [await connect(port) for _ in range(CROWD)]
    body = (b"1;" + b"e" * 1000 + b"\r\nx\r\n") * 1024
    head = b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n"
    await asyncio.gather(*(send(sock, head + body) for sock in socks))
    return socks


async def slow_readers(port: int) -> list[socket.socket]:
    """1 GiB is asked for and not read."""
    socks = [await connect(port, receive_buffer=4096) for _ in range(CROWD)]
    request = f"GET /bytes/{1024 * MIB} HTTP/1.1\r\nHost: a\r\n\r\n".encode()
    await asyncio.gather(*(send(sock, request) for sock in socks))
    return socks


async def unread_answers(port: int) -> list[socket.socket]:
    """Requests without end, answers that are never read."""
    socks = [await connect(port, receive_buffer=4096) for _ in range(CROWD)]
    request = b"GET /bytes/60000 HTTP/1.1\r\nHost: a\r\n\r\n" * 5000
    await asyncio.gather(*(send(sock, request) for sock in socks))
    return socks


async def uploads_nobody_takes(port: int) -> list[socket.socket]:
    """16 MiB each to a service that does not read them."""
    socks = [await connect(port) for _ in range(CROWD)]
    head = b"POST /hole HTTP/1.1\r\nHost: a\r\nContent-Length: %d\r\n\r\n" % (16 * MIB)
    await asyncio.gather(*(send(sock, head + b"x" * 16 * MIB) for sock in socks))
    return socks


@contextlib.asynccontextmanager
async def black_hole() -> AsyncIterator[str]:
    """A service that accepts and never reads."""
    with socket.socket() as sock:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        sock.bind(("127.0.0.1", 0))
        sock.listen(1024)
        yield f"http://127.0.0.1:{sock.getsockname()[1]}"


@pytest.mark.parametrize(
    "attack",
    [
        large_heads,
        unfinished_heads,
        chunk_extensions,
        slow_readers,
        unread_answers,
        uploads_nobody_takes,
    ],
)
async def test_gate2_a_hundred_hostile_connections_take_little_memory(
    tmp_path: Path, attack: Callable[[int], object]
) -> None:
    async with (
        Origin() as origin,
        black_hole() as hole,
        Running(
            tmp_path / "gateway.toml",
            toml(origin.url)
            + f'[services.hole]\ninstances = ["{hole}"]\ntimeout = {{ first_byte = "4s" }}\n'
            + '[[routes]]\npath = "/hole"\nservice = "hole"\n',
        ) as gateway,
    ):
        (worker,) = gateway.workers()
        # What any traffic leaves behind (arenas, tables) is not the attack's.
        async with Load(gateway.port, connections=CROWD, requests=5000) as load:
            await load.report()
        for _ in range(20):
            await get(gateway.port, "/bytes/300000")
        await asyncio.sleep(0.2)
        base = most = rss_bytes(worker)
        task = asyncio.ensure_future(attack(gateway.port))  # type: ignore[call-overload]
        while not task.done():
            most = max(most, rss_bytes(worker))
            await asyncio.sleep(0.02)
        for _ in range(50):
            most = max(most, rss_bytes(worker))
            await asyncio.sleep(0.02)
        assert (await get(gateway.port)).status == 200
        for sock in task.result():
            sock.close()

        def is_back() -> bool:
            return rss_bytes(worker) <= base * 1.05 + 4 * MIB

        with contextlib.suppress(TimeoutError):
            await wait_until(is_back, 10.0, interval=0.1)
        after = rss_bytes(worker)
        show(
            attack=attack.__name__,  # type: ignore[attr-defined]
            base_mib=base / MIB,
            grew_mib=(most - base) / MIB,
            left_mib=(after - base) / MIB,
        )
        assert most - base < 64 * MIB
        assert is_back()


def plain() -> bytes:
    return b"GET / HTTP/1.1\r\nHost: example.com\r\nUser-Agent: x\r\nAccept: */*\r\n\r\n"


CHUNKED = b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n"
DEAR: dict[str, bytes] = {
    "99 fields": b"GET / HTTP/1.1\r\nHost: a\r\n"
    + b"".join(b"X-%d: %d\r\n" % (i, i) for i in range(99))
    + b"\r\n",
    "32 KiB of fields": b"GET / HTTP/1.1\r\nHost: a\r\n"
    + b"".join(b"X-%d: %b\r\n" % (i, b"a" * 340) for i in range(90))
    + b"\r\n",
    "a deep path": b"GET /" + b"a/" * 4000 + b" HTTP/1.1\r\nHost: a\r\n\r\n",
    "dot segments": b"GET /" + b"a/../" * 1600 + b" HTTP/1.1\r\nHost: a\r\n\r\n",
    "slashes": b"GET " + b"/" * 8000 + b" HTTP/1.1\r\nHost: a\r\n\r\n",
    "an encoded path": b"GET /" + b"%41" * 2600 + b" HTTP/1.1\r\nHost: a\r\n\r\n",
    "encoded dots": b"GET /" + b"%2e%2e/" * 1100 + b" HTTP/1.1\r\nHost: a\r\n\r\n",
    "a long query": b"GET /?" + b"a=b&" * 2000 + b" HTTP/1.1\r\nHost: a\r\n\r\n",
    "many cookies": b"GET / HTTP/1.1\r\nHost: a\r\nCookie: " + b"a=b; " * 5000 + b"\r\n\r\n",
    "a long Connection": b"GET / HTTP/1.1\r\nHost: a\r\nConnection: "
    + b",".join(b"x%d" % i for i in range(4000))
    + b"\r\n\r\n",
    "a long X-Forwarded-For": b"GET / HTTP/1.1\r\nHost: a\r\nX-Forwarded-For: "
    + b"1.2.3.4, " * 3000
    + b"1.1.1.1\r\n\r\n",
    "a long Accept": b"GET /%00 HTTP/1.1\r\nHost: a\r\nAccept: "
    + b"text/html;q=0.1," * 1900
    + b"\r\n\r\n",
    "4,000 chunks of 1 byte": CHUNKED + b"1\r\nx\r\n" * 4000 + b"0\r\n\r\n",
    "50 trailers": CHUNKED + b"0\r\n" + b"".join(b"X-%d: 1\r\n" % i for i in range(50)) + b"\r\n",
}


async def test_gate2_no_request_costs_a_hundred_times_a_plain_one(tmp_path: Path) -> None:
    """Time of the worker on a processor, per request: the best of three tries each."""
    async with (
        Origin() as origin,
        Running(tmp_path / "gateway.toml", toml(origin.url)) as gateway,
    ):
        (worker,) = gateway.workers()

        async def cost(request: bytes, count: int) -> float:
            best = float("inf")
            for _ in range(3):
                before = cpu_seconds(worker)
                # On a connection of its own each when it is refused: then it is closed.
                reader, writer = await asyncio.open_connection("127.0.0.1", gateway.port)
                for _ in range(count):
                    try:
                        writer.write(request)
                        head = await reader.readuntil(b"\r\n\r\n")
                    except (ConnectionError, asyncio.IncompleteReadError):
                        head = b"connection: close\r\n"
                    length = head.lower().partition(b"content-length: ")[2].split(b"\r\n")[0]
                    with contextlib.suppress(asyncio.IncompleteReadError):
                        await reader.readexactly(int(length or 0))
                    if b"connection: close" in head.lower():
                        writer.transport.abort()
                        reader, writer = await asyncio.open_connection("127.0.0.1", gateway.port)
                writer.transport.abort()
                best = min(best, (cpu_seconds(worker) - before) / count)
            return best

        base = await cost(plain(), 500)
        worst = 0.0
        for name, request in DEAR.items():
            assert len(request) < 40_000
            ratio = await cost(request, 30) / base
            worst = max(worst, ratio)
            show(request=name, bytes=len(request), times_a_plain_one=ratio)
        show(plain_microseconds=base * 1e6, worst=worst)
        assert worst < 100


async def drip(port: int, worker: int, data: bytes) -> float:
    """Seconds of CPU that a request costs which comes byte by byte."""
    loop = asyncio.get_running_loop()
    sock = await connect(port)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    before = cpu_seconds(worker)
    for i in range(len(data)):
        await loop.sock_sendall(sock, data[i : i + 1])
        if not i % 50:
            await asyncio.sleep(0)
    await asyncio.sleep(0.2)
    spent = cpu_seconds(worker) - before
    answer = await loop.sock_recv(sock, 100)
    sock.close()
    assert answer.startswith(b"HTTP/1.1 200")
    return spent


async def test_gate2_a_dripped_byte_costs_less_than_a_plain_request(tmp_path: Path) -> None:
    """Whoever sends a byte at a time pays for each of them; so do we, but never more than for a
    request: dripping must not be the cheaper attack.
    """
    async with (
        Origin() as origin,
        Running(tmp_path / "gateway.toml", toml(origin.url)) as gateway,
    ):
        (worker,) = gateway.workers()
        before = cpu_seconds(worker)
        async with Load(gateway.port, connections=1, requests=3000) as load:
            await load.report()
        base = (cpu_seconds(worker) - before) / 3000
        forms = {
            "a head": b"GET / HTTP/1.1\r\nHost: a\r\nX: " + b"a" * 20_000 + b"\r\n\r\n",
            "a body": b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 5000\r\n\r\n" + b"a" * 5000,
            "chunks": CHUNKED + b"1\r\nx\r\n" * 1000 + b"0\r\n\r\n",
            "a chunk extension": CHUNKED + b"5;" + b"e" * 1000 + b"\r\nhello\r\n0\r\n\r\n",
            "trailers": CHUNKED + b"0\r\n" + b"X-T: %b\r\n" % (b"a" * 5000) + b"\r\n",
        }
        for name, data in forms.items():
            # The least of three: how often the worker looks is the machine's business, too.
            spent = min([await drip(gateway.port, worker, data) for _ in range(3)])
            show(
                dripped=name, bytes=len(data), seconds=spent, byte_in_plain=spent / len(data) / base
            )
            assert spent / len(data) < base * 1.5
            if name == "a head":  # no service waits for its bytes: they may collect
                show(whole_head_in_plain=spent / base)
                assert spent < base * 100
