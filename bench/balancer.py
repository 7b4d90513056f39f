"""What picking an instance costs, and whether it grows with their number.

``python -m bench.balancer`` prints microseconds per pick for 10 and for 10,000 instances, and what
the difference is within a whole proxied request. The loop around the call (0.03 µs) is included.
"""

from __future__ import annotations

import gc
import time
from dataclasses import dataclass
from typing import Any

from nexgate.upstream.balancer import (
    ConsistentHash,
    LeastRequests,
    PeakEwma,
    PeakLatency,
    RoundRobin,
    StickyCookie,
    WeightedRandom,
)

SIZES = (10, 10_000)
_PICKS = 20_000
_ROUNDS = 15


class _Instance:
    def __init__(self, number: int, weight: float) -> None:
        self.url = f"http://10.{number >> 16}.{number >> 8 & 255}.{number & 255}:80"
        self.weight = weight
        self.active = number % 7
        self.latency = PeakLatency(10.0)
        self.latency.observe(200, 0.001 * (1 + number % 13), 1.0)
        self.is_available = True


@dataclass
class _Exchange:
    client: str = "192.0.2.7"

    def cookie_values(self, name: str) -> list[str]:
        return []


def _make(kind: str) -> Any:
    return {
        "least-requests": LeastRequests,
        "round-robin": RoundRobin,
        "random": WeightedRandom,
        "ewma": PeakEwma,
        "consistent-hash": lambda: ConsistentHash("client"),
        "sticky-cookie": lambda: StickyCookie("a"),
    }[kind]()


KINDS = ("least-requests", "round-robin", "random", "ewma", "consistent-hash", "sticky-cookie")


def _measure(kind: str, size: int, *, weighted: bool) -> float:
    """Microseconds per pick, of the fastest of many rounds."""
    instances = [_Instance(n, 1.0 + n % 3 if weighted else 1.0) for n in range(size)]
    balancer = _make(kind)
    balancer.rebuild(instances, instances)
    pick, exchange = balancer.pick, _Exchange()
    best = float("inf")
    for _ in range(_ROUNDS):
        start = time.perf_counter()
        for _ in range(_PICKS):
            pick(exchange)
        best = min(best, time.perf_counter() - start)
    return best / _PICKS * 1e6


def run() -> dict[str, dict[int, float]]:
    """Microseconds by balancer and number of instances."""
    gc.collect()
    gc.disable()
    try:
        found = {}
        for kind in KINDS:
            for weighted in (False, True):
                if weighted and kind in ("ewma", "sticky-cookie", "consistent-hash"):
                    continue
                name = f"{kind}, weighted" if weighted else kind
                found[name] = {size: _measure(kind, size, weighted=weighted) for size in SIZES}
        return found
    finally:
        gc.enable()


def main() -> None:
    """Print the table."""
    print(f"{'µs per pick':26}", *(f"{size:>10,}" for size in SIZES), f"{'ratio':>8}")
    for name, row in run().items():
        ratio = row[SIZES[1]] / row[SIZES[0]]
        print(f"{name:26}", *(f"{row[size]:10.2f}" for size in SIZES), f"{ratio:8.2f}")


if __name__ == "__main__":
    main()
