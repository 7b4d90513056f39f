"""What finding a route costs, and whether it grows with the number of routes.

``python -m bench.routing`` prints microseconds per match for tables of 10, 100 and 10,000 routes
and the ratio of the last to the first. "one" asks for the same path again and again; "all" asks for
200 paths spread over the table, so that it also shows what the processor's caches no longer hold.
Every path is a new object in every round: its hash is computed, as it is behind a socket. The loop
around the call (0.03 µs) is included.
"""

from __future__ import annotations

import gc
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import TypeVar

from nexgate.routing import Miss, PathRules, Route, RouteTable, Subject, Template, normalise

_A = TypeVar("_A")

SIZES = (10, 100, 10_000)
_ROUNDS = 40
_REQUESTS = 200


@dataclass(frozen=True, slots=True)
class _Scenario:
    name: str
    template: Callable[[int], str]
    path: Callable[[int], str]
    host: Callable[[int], bytes] = lambda _: b""
    fallback: bool = True


_SCENARIOS = (
    _Scenario(
        "literal", lambda n: f"/api/service-{n}/status", lambda n: f"/api/service-{n}/status"
    ),
    _Scenario("parameter", lambda n: f"/users-{n}/{{id}}", lambda n: f"/users-{n}/{n * 7}"),
    _Scenario(
        "typed, deep",
        lambda n: f"/api/v1/svc{n}/users/{{id:int}}/orders/{{order:uuid}}",
        lambda n: f"/api/v1/svc{n}/users/42/orders/0f8fad5b-d9cb-469f-a165-70867728950e",
    ),
    _Scenario("rest", lambda n: f"/svc{n}/*", lambda n: f"/svc{n}/a/b/c/d"),
    _Scenario(
        "host", lambda _: "/users/{id}", lambda n: f"/users/{n}", lambda n: b"h%d.example.com" % n
    ),
    _Scenario(
        "wildcard host",
        lambda _: "/users/{id}",
        lambda n: f"/users/{n}",
        lambda n: b"*.h%d.example.com" % n,
    ),
    _Scenario("miss", lambda n: f"/users-{n}/{{id}}", lambda n: f"/nobody-{n}/1", fallback=False),
)


def _best(call: Callable[[_A], object], arguments: Callable[[], list[_A]]) -> float:
    """Microseconds per call, of the fastest of many rounds with new arguments each."""
    best = float("inf")
    for _ in range(_ROUNDS):
        fresh = arguments()
        start = time.perf_counter()
        for argument in fresh:
            call(argument)
        best = min(best, time.perf_counter() - start)
    return best / len(fresh) * 1e6


def _copies(path: bytes) -> list[bytes]:
    return [bytes(bytearray(path)) for _ in range(_REQUESTS)]


def _measure(scenario: _Scenario, size: int) -> dict[str, float]:
    routes = [
        Route(
            Template.parse(scenario.template(number)),
            number,
            f"r{number}",
            hosts=tuple(filter(None, [scenario.host(number)])),
        )
        for number in range(size)
    ]
    if scenario.fallback:
        routes.append(Route(Template.parse("/*"), -1, "fallback"))
    table = RouteTable(routes, PathRules())
    numbers = [number * size // _REQUESTS % size for number in range(_REQUESTS)]
    figures = {}
    for name, asked in (("one", [size // 2] * _REQUESTS), ("all", numbers)):

        def subjects(asked: list[int] = asked) -> list[Subject]:
            return [
                Subject(
                    path=scenario.path(number).encode(),
                    host=scenario.host(number).replace(b"*", b"www"),
                )
                for number in asked
            ]

        for subject, number in zip(subjects(), asked, strict=True):
            found = table.match(subject)
            served = None if isinstance(found, Miss) else found.route.payload
            assert served == (number if scenario.fallback else None), (scenario.name, subject)
        figures[name] = _best(table.match, subjects)
    return figures


def run() -> dict[str, dict[str, float]]:
    """Microseconds by scenario and ``"<size> <one|all>"``, with ratios of largest to smallest."""
    gc.collect()
    gc.disable()
    try:
        results: dict[str, dict[str, float]] = {}
        for scenario in _SCENARIOS:
            row: dict[str, float] = {}
            for size in SIZES:
                for name, value in _measure(scenario, size).items():
                    row[f"{size} {name}"] = value
            for name in ("one", "all"):
                row[f"ratio {name}"] = row[f"{SIZES[-1]} {name}"] / row[f"{SIZES[0]} {name}"]
            results[scenario.name] = row
        rules = PathRules()
        for name, path in {
            "normalise, plain": b"/api/v1/users/42",
            "normalise, encoded": b"/api/caf%c3%a9/../x",
        }.items():
            results[name] = {
                "us": _best(lambda path: normalise(path, rules), partial(_copies, path))
            }
        return results
    finally:
        gc.enable()


def main() -> None:
    """Print the table."""
    results = run()
    columns = list(next(iter(results.values())))
    print(f"{'µs per match':20}", *(f"{column:>10}" for column in columns))
    for name, row in results.items():
        if "us" in row:
            print(f"{name:20} {row['us']:10.2f}")
        else:
            print(f"{name:20}", *(f"{row[column]:10.2f}" for column in columns))


if __name__ == "__main__":
    main()
