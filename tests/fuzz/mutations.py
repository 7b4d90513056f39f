"""Requests and responses that are almost right, from a seeded generator.

Structure-aware: a message is built from its parts and the parts are what is mutated (framing
fields, chunk sizes, line ends, targets, Host, upgrades), because random bytes never get past a
request line.
"""

from __future__ import annotations

from random import Random

_METHODS = [b"GET"] * 6 + [b"POST"] * 4 + [b"HEAD", b"PUT", b"DELETE", b"OPTIONS", b"PATCH"]
_ODD_METHODS = [b"get", b"CONNECT", b"TRACE", b"M-SEARCH", b"", b"G\x00T", b"GET\t", b"PRI", b"G,T"]
_TARGETS = [b"/", b"/a/b", b"/a?b=c", b"/a%20b", b"/users/42?x=1&y=2", b"/a//b", b"/a;b=c/d"]
_ODD_TARGETS = [
    b"/../x",
    b"/a/../../b",
    b"/%2e%2e/x",
    b"/a%2fb",
    b"/a\\b",
    b"*",
    b"http://example.com/x",
    b"http://other.example/",
    b"https://h:1/y?z",
    b"//evil.example/x",
    b"/a#b",
    b"/\x7f",
    b"/\xff",
    b"/a b",
    b"/%0d%0aX:%20y",
    b"/%00",
    b"/%",
    b"/%zz",
    b"a",
    b"",
    b"http://",
    b"http://a@b/",
    b"/" + b"a/" * 200,
    b"/.%2e/",
    b"/..;/x",
    b"example.com:443",
]
_VERSIONS = [b"HTTP/1.1"] * 12 + [b"HTTP/1.0"]
_ODD_VERSIONS = [
    b"HTTP/1.2",
    b"HTTP/2.0",
    b"HTTP/0.9",
    b"http/1.1",
    b"HTTP/1.1 ",
    b"HTTP/01.1",
    b"",
]
_HOSTS = [b"example.com", b"example.com:80", b"[::1]", b"a.b.c", b"127.0.0.1:8080"]
_ODD_HOSTS = [
    b"",
    b"a b",
    b"a/b",
    b"a@b",
    b"a,b",
    b"a:b",
    b"a:99999",
    b"[::1",
    b"a\x00b",
    b"..",
    b"-",
    b"\xff",
    b"a:80:80",
]
_FIELDS = [
    b"Accept: */*",
    b"User-Agent: fuzz",
    b"X-A: 1",
    b"X-A: 2",
    b"Cookie: a=b; c=d",
    b"Accept-Encoding: gzip",
    b"Authorization: Basic Zm9v",
    b"X-Empty:",
    b"X-Tab:\ta\t",
    b"Content-Type: text/plain",
    b"Connection: keep-alive",
]
_ODD_FIELDS = [
    b"Content-Length: 0",
    b"Content-Length: 5",
    b"Content-Length: +5",
    b"Content-Length: 5, 5",
    b"Content-Length: 0x5",
    b"Content-Length: 5 5",
    b"Content-Length: 1_0",
    b"Content-Length: -1",
    b"Content-Length: 99999999999999999999",
    b"Content-Length:",
    b"Content-Length : 5",
    b"Content_Length: 5",
    b"Transfer-Encoding: chunked",
    b"Transfer-Encoding: chunked,",
    b"Transfer-Encoding: ,chunked",
    b"Transfer-Encoding: identity",
    b"Transfer-Encoding: gzip, chunked",
    b"Transfer-Encoding: chunked, identity",
    b"Transfer-Encoding: Chunked",
    b"Transfer-Encoding: \x0bchunked",
    b"Transfer-Encoding: chunked\x00",
    b"Transfer-Encoding : chunked",
    b"Transfer_Encoding: chunked",
    b"Transfer-Encoding",
    b"\x00Transfer-Encoding: chunked",
    b" Transfer-Encoding: chunked",
    b"X: a\r\n Transfer-Encoding: chunked",
    b"X: a\nTransfer-Encoding: chunked",
    b"X: a\rTransfer-Encoding: chunked",
    b"Host: other.example",
    b"Connection: close",
    b"Connection: Host",
    b"Connection: Content-Length, X-A",
    b"Connection: Transfer-Encoding",
    b"Connection: upgrade",
    b"Connection: Upgrade, HTTP2-Settings",
    b"Connection: a b",
    b"Upgrade: websocket",
    b"Upgrade: h2c",
    b"Upgrade: h2c, foo/1, websocket",
    b"HTTP2-Settings: AAMAAABk",
    b"Expect: 100-continue",
    b"Expect: 200-ok",
    b"TE: trailers",
    b"TE: gzip, trailers;q=0.5",
    b"Trailer: X-T",
    b"Via: 1.1 other",
    b"X-Forwarded-For: 1.2.3.4",
    b"Forwarded: for=1.2.3.4",
    b"X-Request-Id: abc",
    b"X_Under: 1",
    b"Max-Forwards: 0",
    b"Max-Forwards: 5",
    b"Max-Forwards: x",
    b"Keep-Alive: timeout=5",
    b"Proxy-Connection: keep-alive",
    b": empty",
    b"No colon",
    b"",
    b"X: \x01",
    b"X: \x7f",
    b"X: \xff\xfe",
    b"X\xff: 1",
    b"X(): 1",
    b"X: " + b"a" * 3000,
]
_ODD_FRAMING = [f for f in _ODD_FIELDS if b"ontent" in f or b"ransfer" in f]
_TRAILERS = [
    b"X-T: 1",
    b"Content-Length: 5",
    b"Host: b",
    b"Authorization: x",
    b"bad",
    b" fold",
    b"X: \x00",
]
_BODIES = [b"", b"hello", b"x" * 300, b"GET /smuggled HTTP/1.1\r\nHost: a\r\n\r\n", b"0\r\n\r\n"]
_SIZES = [
    lambda n: b"%X" % n,
    lambda n: b"0%x" % n,
    lambda n: b"%x;ext=1" % n,
    lambda n: b'%x;a="b"' % n,
    lambda n: b"%x " % n,
    lambda n: b" %x" % n,
    lambda n: b"0x%x" % n,
    lambda n: b"+%x" % n,
    lambda n: b"-%x" % n,
    lambda n: b"%x\n" % n,
    lambda n: b"%x;" % n,
    lambda n: b"%x\t;a" % n,
    lambda n: b"%x" % (n + 1),
    lambda n: b"%x" % max(0, n - 1),
    lambda n: b"",
    lambda n: b"f" * 17,
    lambda n: b"1_0",
    lambda n: b"%x;%b" % (n, b"e" * 900),
    lambda n: b"%x;\x00" % n,
]
_SPECIAL = [
    b"\x00",
    b"\r",
    b"\n",
    b"\r\n",
    b" ",
    b"\t",
    b":",
    b",",
    b";",
    b"\xff",
    b"\x0b",
    b"%",
    b"0",
]

_STATUSES = [b"200 OK"] * 8 + [b"204 No Content", b"304 Not Modified", b"404 Not Found", b"500 No"]
_ODD_STATUSES = [
    b"100 Continue",
    b"103 Early Hints",
    b"101 Switching Protocols",
    b"20 OK",
    b"2000 OK",
    b"099 X",
    b"600 X",
    b"200",
    b"200 ",
    b"200 \x00",
    b"+200 OK",
    b"abc",
]
_ODD_RESPONSE_FIELDS = [
    *_ODD_FIELDS[:33],
    b"Upgrade: websocket",
    b"Connection: upgrade",
    b"Set-Cookie: a=b",
    b"Alt-Svc: h3",
    b"Connection: X-A",
    b"Date: x",
    b"X: " + b"b" * 3000,
]


def chunks(random: Random, body: bytes, odd: float) -> bytes:
    """``body`` in chunks, each with a chance of ``odd`` to be framed wrongly."""
    out: list[bytes] = []
    at = 0
    while at < len(body):
        size = random.randint(1, max(1, len(body)))
        piece = body[at : at + size]
        at += size
        shown = b"%x" % len(piece)
        if random.random() < odd:
            shown = random.choice(_SIZES)(len(piece))
        end = b"\r\n" if random.random() >= odd / 3 else random.choice(_SPECIAL)
        out.append(shown + b"\r\n" + piece + end)
    out.append(b"0\r\n" if random.random() >= odd / 3 else random.choice([b"", b"00\r\n", b"0\n"]))
    if random.random() < 0.2:
        out.append(random.choice(_TRAILERS) + b"\r\n")
    out.append(b"\r\n")
    return b"".join(out)


def noise(random: Random, data: bytes) -> bytes:
    """One byte too many, too few, or another."""
    if not data:
        return data
    at = random.randrange(len(data))
    kind = random.random()
    if kind < 0.4:
        return data[:at] + random.choice(_SPECIAL) + data[at:]
    if kind < 0.7:
        return data[:at] + data[at + 1 :]
    if kind < 0.9:
        return data[:at] + random.choice(_SPECIAL) + data[at + 1 :]
    return data[:at]


def request(random: Random) -> bytes:
    """One request; two of three are mutated."""
    odd = random.random() < 0.66
    chance = random.random
    method = random.choice(_METHODS)
    target = random.choice(_TARGETS)
    version = random.choice(_VERSIONS)
    lines = [b"Host: " + random.choice(_HOSTS)]
    for _ in range(random.randrange(4)):
        lines.append(random.choice(_FIELDS))
    body = b""
    framed = b""
    if chance() < 0.5:
        body = random.choice(_BODIES)
        if chance() < 0.5:
            lines.append(b"Content-Length: %d" % len(body))
            framed = body
        else:
            lines.append(b"Transfer-Encoding: chunked")
            framed = chunks(random, body, 0.3 if odd and chance() < 0.7 else 0.0)
    if chance() < 0.05:
        lines += [b"Connection: Upgrade", b"Upgrade: " + random.choice([b"websocket", b"foo/1"])]
    if odd:
        for _ in range(random.randint(1, 2)):
            kind = chance()
            if kind < 0.08:
                method = random.choice(_ODD_METHODS)
            elif kind < 0.25:
                target = random.choice(_ODD_TARGETS)
            elif kind < 0.30:
                version = random.choice(_ODD_VERSIONS)
            elif kind < 0.38 and lines:
                lines[0] = b"Host: " + random.choice(_ODD_HOSTS)
            elif kind < 0.42:
                lines.pop(random.randrange(len(lines))) if lines else None
            elif kind < 0.75:
                lines.insert(random.randint(0, len(lines)), random.choice(_ODD_FIELDS))
            elif kind < 0.85 and body:
                # Another way to say how long the body is, instead of the one that is right.
                lines = [x for x in lines if x[:9] not in (b"Content-L", b"Transfer-")]
                lines.append(random.choice(_ODD_FRAMING))
            elif kind < 0.9 and lines:
                lines.append(random.choice(lines))
            else:
                random.shuffle(lines)
    end = b"\r\n"
    if odd and chance() < 0.05:
        end = random.choice([b"\n", b"\r", b"\r\r\n", b"\n\r"])
    line = b"%b %b %b" % (method, target, version)
    data = end.join([line, *lines, b"", b""]) + framed
    if odd and chance() < 0.25:
        data = noise(random, data)
    return data


def traffic(random: Random) -> bytes:
    """What one client sends: mostly one request, sometimes several at once."""
    count = random.choice((1, 1, 1, 2, 3))
    return b"".join([request(random) for _ in range(count)])


def response(random: Random, odd: bool) -> bytes:
    """One answer of a service, perhaps with interim ones before it."""
    chance = random.random
    status = random.choice(_STATUSES)
    version = b"HTTP/1.1" if chance() < 0.9 else b"HTTP/1.0"
    lines = [b"Server: fuzz"] if chance() < 0.5 else []
    body = random.choice(_BODIES)
    if status[:3] in (b"204", b"304"):
        framed = b""
    elif chance() < 0.6:
        lines.append(b"Content-Length: %d" % len(body))
        framed = body
    elif version == b"HTTP/1.1" and chance() < 0.8:
        lines.append(b"Transfer-Encoding: chunked")
        framed = chunks(random, body, 0.3 if odd and chance() < 0.5 else 0.0)
    else:
        framed = body
        lines.append(b"Connection: close")
    prefix = b"HTTP/1.1 100 Continue\r\n\r\n" if chance() < 0.05 else b""
    if odd:
        for _ in range(random.randint(1, 2)):
            kind = chance()
            if kind < 0.15:
                status = random.choice(_ODD_STATUSES)
            elif kind < 0.2:
                version = random.choice(_ODD_VERSIONS)
            elif kind < 0.85:
                lines.insert(random.randint(0, len(lines)), random.choice(_ODD_RESPONSE_FIELDS))
            else:
                framed += random.choice(_BODIES)
    data = prefix + b"\r\n".join([b"%b %b" % (version, status), *lines, b"", b""]) + framed
    if odd and chance() < 0.3:
        data = noise(random, data)
    return data


def pieces(random: Random, data: bytes) -> list[bytes]:
    """``data`` as it may arrive: mostly whole, sometimes cut, rarely byte by byte."""
    kind = random.random()
    if kind < 0.6 or len(data) < 2:
        return [data]
    if kind > 0.98 and len(data) < 600:
        return [data[i : i + 1] for i in range(len(data))]
    cuts = sorted(random.randint(1, len(data) - 1) for _ in range(random.randint(1, 4)))
    return [data[a:b] for a, b in zip([0, *cuts], [*cuts, len(data)], strict=True) if a < b]
