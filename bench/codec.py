"""``python -m bench.codec``: reading a request head, ours next to ``httptools``, in one run.

``httptools`` only parses; the checks that it leaves to its caller are not in its figure. Ours is
shown for a head whose lines were seen before on any connection, for one with a line that is new
each time, and for a client that repeats its fields on a kept-alive connection.
"""

from __future__ import annotations

import itertools
import timeit
from collections.abc import Callable

import httptools

from nexgate.http import HeadLimits, parse_request_head, parse_request_line

HEAD = (
    b"GET /users/42?x=1 HTTP/1.1\r\nHost: api.example.com\r\n"
    b"User-Agent: Mozilla/5.0 (X11; Linux x86_64) AppleWebKit/537.36 Chrome/120\r\n"
    b"Accept: application/json, text/plain, */*\r\nAccept-Encoding: gzip, deflate, br\r\n"
    b"Accept-Language: en-US,en;q=0.9,de;q=0.8\r\nX-Requested-With: XMLHttpRequest\r\n"
    b"Authorization: Bearer eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiIxIn0.abcdefghijklmnopqrstuvwxyz\r\n"
    b"Cookie: session=0123456789abcdef0123456789abcdef; theme=dark\r\nCache-Control: no-cache\r\n"
    b"Referer: https://app.example.com/dashboard"
)


class Collector:
    def on_message_begin(self) -> None:
        self.fields: list[tuple[bytes, bytes]] = []

    def on_url(self, url: bytes) -> None:
        self.url = url

    def on_header(self, name: bytes, value: bytes) -> None:
        self.fields.append((name.lower(), value))


def microseconds(work: Callable[[], object], number: int = 20_000) -> float:
    """The best of seven rounds: the least disturbed."""
    return min(timeit.repeat(work, number=number, repeat=7)) / number * 1e6


def run() -> dict[str, float]:
    parser = httptools.HttpRequestParser(Collector())
    wire = HEAD + b"\r\n\r\n"
    limits = HeadLimits()
    counter = itertools.count()
    section = HEAD.partition(b"\r\n")[2]
    last = bytes(bytearray(section))

    def new_line() -> object:
        return parse_request_head(HEAD + b"\r\nX-Trace: %d" % next(counter), limits)

    def repeated() -> object:
        head, _, rest = HEAD.partition(b"\r\n")
        assert rest == last
        return parse_request_line(head, 8192)

    return {
        "httptools, parsing alone": microseconds(lambda: parser.feed_data(wire)),
        "ours, lines seen before": microseconds(lambda: parse_request_head(HEAD, limits)),
        "ours, one line new each time": microseconds(new_line),
        "ours, the same fields again": microseconds(repeated),
    }


def main() -> None:
    results = run()
    base = results["httptools, parsing alone"]
    print("µs for a head with ten fields")
    for name, value in results.items():
        print(f"  {name:<30} {value:5.2f}   {value / base:4.2f} x httptools")


if __name__ == "__main__":
    main()
