"""A fuzz target for the data plane: ``python tests/fuzz/fuzz_http.py``.

With atheris installed it is coverage-guided and takes the arguments of libFuzzer (``corpus/
-runs=100000``). Without it, the same target runs over the files that are named, or over mutations
from a seeded generator (``--cases 100000 --seed 7``).

The first byte of an input says how: bit 0 which side the rest comes from (client or service), the
other bits where the bytes are cut in two.
"""

from __future__ import annotations

import argparse
import logging
import sys
import time
from pathlib import Path
from random import Random

ROOT = Path(__file__).resolve().parent.parent.parent
sys.path.insert(0, str(ROOT))

from tests.fuzz.cases import Service, run_bytes  # noqa: E402  # found from anywhere
from tests.fuzz.mutations import response, traffic  # noqa: E402
from tests.fuzz.wire import World  # noqa: E402

GET = b"GET / HTTP/1.1\r\nHost: example.com\r\n\r\n"


class Bytes(Service):
    """Answers everything with the same bytes, cut in two."""

    def __init__(self, world: World, arriving: list[bytes]) -> None:
        super().__init__(world, None, is_good=False)
        self.arriving = arriving

    def _answer(self, connection: object, transport: object, request: object) -> None:
        for piece in self.arriving:
            self._feed(connection, transport, piece)  # type: ignore[arg-type]  # it is one of ours


def test_one_input(data: bytes) -> None:
    """Raises when the data plane does, or when a judge cannot agree with what it sent."""
    if len(data) < 2:
        return
    world = World()
    rest = data[1:]
    cut = (data[0] >> 1) * len(rest) // 128
    arriving = [piece for piece in (rest[:cut], rest[cut:]) if piece]
    if data[0] & 1:
        run_bytes(world, [GET], Bytes(world, arriving))
    else:
        run_bytes(world, arriving, Service(world, None, is_good=True))


def main() -> None:
    """Atheris when it is there; else files, or generated inputs."""
    logging.disable(logging.CRITICAL)
    try:
        import atheris
    except ImportError:
        pass
    else:
        atheris.Setup(sys.argv, test_one_input)
        atheris.Fuzz()
        return
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("files", nargs="*", type=Path)
    parser.add_argument("--cases", type=int, default=10_000)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    for path in options.files:
        for file in path.iterdir() if path.is_dir() else [path]:
            test_one_input(file.read_bytes())
    if options.files:
        return
    random = Random(options.seed)
    began = time.perf_counter()
    for number in range(options.cases):
        flags = random.randrange(256)
        side = response(random, odd=True) if flags & 1 else traffic(random)
        data = bytes([flags]) + side
        try:
            test_one_input(data)
        except Exception:
            print(f"input {number} of seed {options.seed}: {data!r}", file=sys.stderr)
            raise
    took = time.perf_counter() - began
    print(f"{options.cases} inputs in {took:.1f} s: nothing found")


if __name__ == "__main__":
    main()
