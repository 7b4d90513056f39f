from __future__ import annotations

from nexgate.testing import RawClient, RecordedRequest, RecordingUpstream, canned


async def test_a_request_is_recorded_byte_for_byte() -> None:
    wire = (
        b"PUT /a%2Fb?q HTTP/1.1\r\nHost: x\r\nX-Odd:   spaced \r\nx-odd: again\r\n"
        b"Transfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\nX-T: 1\r\n\r\n"
    )
    async with RecordingUpstream() as upstream, RawClient(upstream.url) as client:
        assert (await client.request(wire)).status == 200
    request = upstream.last
    assert request.raw == wire
    assert request.head == wire[: wire.index(b"\r\n\r\n") + 4]
    assert request.lines[:2] == [b"PUT /a%2Fb?q HTTP/1.1", b"Host: x"]
    assert (request.method, request.target) == ("PUT", "/a%2Fb?q")
    assert request.values("X-ODD") == ["spaced", "again"]
    assert request.body == b"abc"
    assert request.trailers == [("X-T", "1")]
    assert request.connection == 0


async def test_requests_keep_their_order_and_name_their_connection() -> None:
    async with RecordingUpstream() as upstream:
        async with RawClient(upstream.url) as one, RawClient(upstream.url) as two:
            for client, path in [(one, b"/1"), (two, b"/2"), (one, b"/3")]:
                await client.request(b"GET " + path + b" HTTP/1.1\r\n\r\n")
        assert [request.target for request in upstream.requests] == ["/1", "/2", "/3"]
        assert upstream.requests[0].connection == upstream.requests[2].connection
        assert upstream.requests[0].connection != upstream.requests[1].connection


async def test_the_answer_can_change_while_running_and_depend_on_the_request() -> None:
    async with RecordingUpstream(canned(503)) as upstream, RawClient(upstream.url) as client:
        assert (await client.request(b"GET / HTTP/1.1\r\n\r\n")).status == 503

        def echo(request: RecordedRequest) -> bytes:
            return canned(201, request.body, [("X-Method", request.method)])

        upstream.answer = echo
        wire = b"POST / HTTP/1.1\r\nContent-Length: 2\r\n\r\nok"
        response = await client.request(wire)
        assert (response.status, response.reason, response.body) == (201, "Created", b"ok")
        assert response.value("x-method") == "POST"
        await upstream.wait_for_requests(2)


async def test_an_answer_that_closes_is_followed_by_a_close() -> None:
    upstream = RecordingUpstream(canned(200, b"x", [("Connection", "close")]))
    async with upstream, RawClient(upstream.url) as client:
        assert (await client.request(b"GET / HTTP/1.1\r\n\r\n")).body == b"x"
        assert await client.read_eof() == b""


async def test_a_request_that_breaks_off_is_not_recorded_but_its_bytes_are() -> None:
    async with RecordingUpstream() as upstream:
        async with RawClient(upstream.url) as client:
            await client.send(b"POST / HTTP/1.1\r\nContent-Length: 9\r\n\r\nhalf")
            client.half_close()
            await client.read_eof()
        await upstream.wait_until_idle()
    assert upstream.requests == []
    assert upstream.connections[0].received.endswith(b"half")


def test_canned_writes_a_length_except_where_it_is_forbidden() -> None:
    assert canned(200, b"hi") == b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nhi"
    assert canned(204) == b"HTTP/1.1 204 No Content\r\n\r\n"
    assert canned(599, reason="Odd") == b"HTTP/1.1 599 Odd\r\nContent-Length: 0\r\n\r\n"
