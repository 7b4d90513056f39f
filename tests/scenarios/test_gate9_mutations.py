"""Gate 9: a million requests and answers that are almost right, and nothing comes of them.

Judged by readers that share no code with the gateway (``tests/fuzz/wire.py``): what is forwarded is
exactly one request for every reader, what is answered is framed for every reader, no exception, no
5xx for what a client did, nothing left behind. ``NEXGATE_CASES`` sets the number of the long run.
"""

from __future__ import annotations

import logging
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from random import Random

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tests.fuzz.cases import Service, run_bytes, run_case
from tests.fuzz.mutations import traffic
from tests.fuzz.wire import Seen, Unclear, World, read_requests, read_responses
from tests.scenarios.support import ROOT, machine_to_itself, show

CASES = int(os.environ.get("NEXGATE_CASES", "1000000"))
PARTS = 4


@pytest.fixture(autouse=True)
def _quiet() -> Iterator[None]:
    logging.disable(logging.CRITICAL)
    yield
    logging.disable(logging.NOTSET)


def run_cases(first: int, count: int) -> None:
    world = World()
    began = time.perf_counter()
    for seed in range(first, first + count):
        run_case(world, seed)
    show(cases=count, seconds=time.perf_counter() - began)


@pytest.mark.parametrize("part", range(2))
async def test_gate9_30_000_mutations_come_to_nothing(part: int) -> None:
    run_cases(10**9 + part * 15_000, 15_000)


@pytest.mark.slow
@pytest.mark.parametrize("part", range(PARTS))
async def test_gate9_a_million_mutations_come_to_nothing(part: int) -> None:
    with machine_to_itself():
        run_cases(part * (CASES // PARTS), CASES // PARTS)


@settings(max_examples=400, deadline=None, suppress_health_check=list(HealthCheck))
@given(
    seed=st.integers(0, 2**32),
    cuts=st.lists(st.floats(0, 1, exclude_min=True, exclude_max=True), min_size=1, max_size=6),
)
async def test_gate9_where_segments_end_makes_no_difference(seed: int, cuts: list[float]) -> None:
    data = traffic(Random(seed))
    places = sorted({int(len(data) * cut) for cut in cuts} - {0})
    pieces = [data[a:b] for a, b in zip([0, *places], [*places, len(data)], strict=True)]
    assert meaning([data]) == meaning(pieces)


@settings(max_examples=100, deadline=None, suppress_health_check=list(HealthCheck))
@given(seed=st.integers(0, 2**32))
async def test_gate9_byte_by_byte_is_the_same_as_at_once(seed: int) -> None:
    data = traffic(Random(seed))
    assert meaning([data]) == meaning([data[i : i + 1] for i in range(len(data))])


def meaning(arriving: list[bytes]) -> tuple[list[object], list[object]]:
    """What was forwarded and what was answered, without what segments may change.

    Chunks are framed anew, and of two faults in one head the one that is seen first is reported: a
    refusal is a refusal.
    """
    world = World()
    service = Service(world, None, is_good=True)
    _, answers = run_bytes(world, arriving, service)

    def forwarded(seen: Seen) -> object:
        fields = [f for f in seen.fields if f[0] != b"x-request-id"]
        return seen.line, fields, seen.body, seen.trailers

    def answered(seen: Seen) -> object:
        if seen.first.startswith((b"4", b"50")):
            return "refused"
        return seen.line, seen.body

    return [forwarded(s) for s in service.seen], [answered(a) for a in answers]


async def test_gate9_the_fuzz_target_runs_without_atheris() -> None:
    done = subprocess.run(
        [sys.executable, "tests/fuzz/fuzz_http.py", "--cases", "2000", "--seed", "1"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert "nothing found" in done.stdout


@pytest.mark.parametrize(
    "wire",
    [
        b"GET / HTTP/1.1\r\nHost: a\r\nHost: a\r\n\r\n",
        b"GET / HTTP/1.1\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: a\nX: b\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: a\r\nX: a\rb\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: a\r\n folded\r\n\r\n",
        b"GET /../x HTTP/1.1\r\nHost: a\r\n\r\n",
        b"GET http://a/ HTTP/1.1\r\nHost: a\r\n\r\n",
        b"GET / HTTP/1.0\r\nHost: a\r\n\r\n",
        b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n0",
        b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: +1\r\n\r\na",
        b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked,\r\n\r\n0\r\n\r\n",
        b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n1;x\r\na\r\n0\r\n\r\n",
        b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n1\r\nab\r\n0\r\n\r\n",
    ],
)
def test_gate9_the_judge_refuses_what_two_readers_could_read_differently(wire: bytes) -> None:
    with pytest.raises(Unclear):
        read_requests(wire)


def test_gate9_the_judge_reads_what_is_clear() -> None:
    wire = (
        b"POST /a?b HTTP/1.1\r\nHost: a:80\r\nTransfer-Encoding: chunked\r\n\r\n"
        b"5\r\nhello\r\n0\r\nX-T: 1\r\n\r\n"
        b"GET / HTTP/1.1\r\nHost: [::1]\r\n\r\n"
    )
    first, second = read_requests(wire)
    assert (first.first, first.body, first.trailers) == (b"POST", b"hello", [(b"x-t", b"1")])
    assert second.line == b"GET / HTTP/1.1"
    (answer,) = read_responses(b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello", [b"GET"])
    assert (answer.first, answer.body) == (b"200", b"hello")
