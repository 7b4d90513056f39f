"""The numbers that the design promises, and whether this run kept them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from bench.arena import Measurement

TIMES = "\N{MULTIPLICATION SIGN}"


@dataclass(frozen=True, slots=True)
class Verdict:
    """One promise."""

    promise: str
    limit: float
    value: float | None
    """None: not measured in this run."""
    unit: str = TIMES

    @property
    def word(self) -> str:
        if self.value is None:
            return "not measured"
        return "holds" if self.value <= self.limit else "DOES NOT HOLD"


def verdicts(results: Sequence[Measurement]) -> list[Verdict]:
    """Judge a run."""
    found = {(m.scenario, m.peer, m.variant): m.metrics for m in results if not m.failure}

    def metric(scenario: str, peer: str, name: str, variant: str = "") -> float | None:
        return found.get((scenario, peer, variant), {}).get(name)

    def ratio(ours: float | None, theirs: float | None) -> float | None:
        return ours / theirs if ours is not None and theirs else None

    def cpu_ratio(scenario: str, other: str) -> float | None:
        ours = metric(scenario, "nexgate", "cpu_us")
        return ratio(ours, metric(scenario, other, "cpu_us"))

    policed = metric("policies", "nexgate", "cpu_us", "all policies")
    many = metric("routes", "nexgate", "cpu_us", "10,000 routes")
    p99 = metric("half-load", "nexgate", "p99_ms")
    return [
        Verdict("bare proxying, CPU per request, to nginx", 1.5, cpu_ratio("small", "nginx")),
        Verdict("bare proxying, CPU per request, to Envoy", 0.75, cpu_ratio("small", "envoy")),
        Verdict(
            "all policies on, CPU per request, to bare Envoy",
            1.0,
            ratio(policed, metric("policies", "envoy", "cpu_us", "bare")),
        ),
        Verdict("cache hit, CPU per request, to nginx's", 1.5, cpu_ratio("cache", "nginx")),
        Verdict(
            "10,000 routes to 10, CPU per request",
            1.1,
            ratio(many, metric("routes", "nexgate", "cpu_us", "10 routes")),
        ),
        Verdict("10,000 instances to 10, CPU per request", 1.2, _with_many_instances(metric)),
        Verdict(
            "picking among 10,000 instances, the dearest balancer",
            1.0,
            max(
                (m.metrics["pick_us"] for m in results if m.scenario == "pick"),
                default=None,
            ),
            " µs",
        ),
        Verdict(
            "circuit breaker, check and record, the dearest window",
            1.0,
            max(
                (
                    m.metrics["extra_us"]
                    for m in results
                    if m.scenario == "breaker" and m.variant.startswith("acquire + record")
                ),
                default=None,
            ),
            " µs",
        ),
        Verdict(
            "calling a service, CPU per request, to aiohttp's client",
            0.5,
            ratio(metric("client", "nexgate", "cpu_us"), metric("client", "aiohttp", "cpu_us")),
        ),
        Verdict("idle keep-alive connection", 6.0, metric("idle", "nexgate", "idle_kib"), " KiB"),
        Verdict(
            "memory growth while 1 GiB passes down",
            FLAT_MIB,
            metric("download", "nexgate", "growth_mib"),
            " MiB",
        ),
        Verdict(
            "memory growth while 1 GiB passes up",
            FLAT_MIB,
            metric("upload", "nexgate", "growth_mib"),
            " MiB",
        ),
        Verdict(
            "p99 at half load, to Envoy's",
            1.0,
            ratio(p99, metric("half-load", "envoy", "p99_ms")),
        ),
    ]


def _with_many_instances(metric: Callable[..., float | None]) -> float | None:
    """A request whose instance is picked from 10,000, to one picked from 10.

    All else is the same, so the difference between the picks is the difference between requests;
    ten thousand real instances would measure ten thousand connects.
    """
    request = metric("small", "nexgate", "cpu_us")
    few = metric("pick", "nexgate", "pick_us", "least-requests, 10 instances")
    many = metric("pick", "nexgate", "pick_us", "least-requests, 10,000 instances")
    if request is None or few is None or many is None:
        return None
    return (request + many - few) / request


FLAT_MIB = 8.0  # "flat" has to be a number: what buffers and the allocator may keep
