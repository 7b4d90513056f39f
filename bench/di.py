"""What it costs to be given a dependency, beside the libraries people use.

``python -m bench.di`` prints nanoseconds per operation, above those of the same loop without it,
and the ratio to ours in the same run. The least of nine rounds counts; in each, everything is
measured once, so a noisy moment hits all alike. Libraries that are not installed are named as such:
``pip install wireup svcs``.

The work is the same for all: a ``Config`` and a ``Pool`` for the program, a ``Session`` and a
``Repo`` and a ``Service`` for the request. svcs has no factories for the program, so its pool is an
instance; it has the simpler task.

The bars: a singleton within half a microsecond, a request with three objects within three.
"""

from __future__ import annotations

import asyncio
import gc
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass
from typing import Any

from rich.console import Console
from rich.table import Table

from nexgate.di import Container, Inject

_ROUNDS = 9
_CALLS = 20_000
_BAR_SINGLETON_NS = 500
_BAR_SCOPE_NS = 3000

Loop = Callable[[int], Awaitable[None]]


@dataclass
class Entry:
    """One line of the table; ``make`` may fail to import what it needs."""

    group: str
    name: str
    make: Callable[[], Loop]


class Classes:
    """Fresh ones for each library: some leave marks on a class."""

    def __init__(self) -> None:
        class Config:
            pass

        class Pool:
            def __init__(self, config: Config) -> None:
                self.config = config

        class Session:
            def __init__(self, pool: Pool) -> None:
                self.pool = pool

        class Repo:
            def __init__(self, session: Session) -> None:
                self.session = session

        class Service:
            def __init__(self, repo: Repo, session: Session, pool: Pool) -> None:
                self.repo, self.session, self.pool = repo, session, pool

        for each in (Pool, Session, Repo, Service):
            # Local classes: the annotations of this module are strings.
            names = {"Config": Config, "Pool": Pool, "Session": Session, "Repo": Repo}
            said = each.__init__.__annotations__
            said.update({name: names.get(text, text) for name, text in said.items()})
            said["return"] = None
        self.config, self.pool = Config, Pool
        self.session, self.repo, self.service = Session, Repo, Service


# --- what is measured -----------------------------------------------------------------------------


def ours() -> tuple[Container, Classes]:
    of, container = Classes(), Container()
    container.register_factory(of.config, of.config)
    container.register_factory(of.pool, of.pool)
    for each in (of.session, of.repo, of.service):
        container.register_factory(each, each, lifetime="scoped")
    return container, of


def dishkas(*, is_async: bool) -> tuple[Any, Classes]:
    import dishka

    of, provider = Classes(), dishka.Provider(scope=dishka.Scope.APP)
    provider.provide(of.config)
    provider.provide(of.pool)
    for each in (of.session, of.repo, of.service):
        provider.provide(each, scope=dishka.Scope.REQUEST)
    make = dishka.make_async_container if is_async else dishka.make_container
    return make(provider), of


def wireups(*, is_async: bool) -> tuple[Any, Classes]:
    import wireup

    of = Classes()
    found = [wireup.injectable(each) for each in (of.config, of.pool)]
    for each in (of.session, of.repo, of.service):
        found.append(wireup.injectable(lifetime="scoped")(each))
    make = wireup.create_async_container if is_async else wireup.create_sync_container
    return make(injectables=found), of


def svcss() -> tuple[Any, Any, Classes]:
    import svcs

    of, registry = Classes(), svcs.Registry()
    registry.register_value(of.pool, of.pool(of.config()))
    # svcs passes itself to what calls its parameter so.
    registry.register_factory(
        of.session, lambda svcs_container: of.session(svcs_container.get(of.pool))
    )
    registry.register_factory(
        of.repo, lambda svcs_container: of.repo(svcs_container.get(of.session))
    )
    registry.register_factory(
        of.service,
        lambda svcs_container: of.service(
            svcs_container.get(of.repo),
            svcs_container.get(of.session),
            svcs_container.get(of.pool),
        ),
    )
    return svcs, registry, of


def getting(get: Callable[[Any], Any], wanted: Any) -> Loop:
    get(wanted)

    async def loop(count: int) -> None:
        for _ in range(count):
            get(wanted)

    return loop


def awaiting(get: Callable[[Any], Awaitable[Any]], wanted: Any) -> Loop:
    async def loop(count: int) -> None:
        for _ in range(count):
            await get(wanted)

    return loop


def scoped(enter: Callable[[], Any], wanted: Any, get: str) -> Loop:
    async def loop(count: int) -> None:
        for _ in range(count):
            with enter() as scope:
                getattr(scope, get)(wanted)

    return loop


def ascoped(enter: Callable[[], Any], wanted: Any, get: str) -> Loop:
    async def loop(count: int) -> None:
        for _ in range(count):
            async with enter() as scope:
                await getattr(scope, get)(wanted)

    return loop


def singleton_of_ours(*, is_async: bool) -> Loop:
    container, of = ours()
    if is_async:
        return awaiting(container.aresolve, of.pool)
    return getting(container.resolve, of.pool)


def singleton_of_dishka(*, is_async: bool) -> Loop:
    container, of = dishkas(is_async=is_async)
    return awaiting(container.get, of.pool) if is_async else getting(container.get, of.pool)


def singleton_of_wireup(*, is_async: bool) -> Loop:
    container, of = wireups(is_async=is_async)
    return awaiting(container.get, of.pool) if is_async else getting(container.get, of.pool)


def singleton_of_svcs(*, is_async: bool) -> Loop:
    svcs, registry, of = svcss()
    container = svcs.Container(registry)
    return awaiting(container.aget, of.pool) if is_async else getting(container.get, of.pool)


def scope_of_ours(*, is_async: bool) -> Loop:
    container, of = ours()
    if is_async:
        return ascoped(container.scope, of.service, "aresolve")
    return scoped(container.scope, of.service, "resolve")


def scope_of_dishka(*, is_async: bool) -> Loop:
    container, of = dishkas(is_async=is_async)
    return (ascoped if is_async else scoped)(container, of.service, "get")


def scope_of_wireup(*, is_async: bool) -> Loop:
    container, of = wireups(is_async=is_async)
    return (ascoped if is_async else scoped)(container.enter_scope, of.service, "get")


def scope_of_svcs(*, is_async: bool) -> Loop:
    svcs, registry, of = svcss()
    if is_async:
        return ascoped(lambda: svcs.Container(registry), of.service, "aget")
    return scoped(lambda: svcs.Container(registry), of.service, "get")


def teardown_of_ours() -> Loop:
    container, of = ours()

    async def make(pool: Any) -> AsyncIterator[Any]:
        yield of.session(pool)

    make.__annotations__["pool"] = of.pool
    container.register_factory(of.session, make, lifetime="scoped")
    return ascoped(container.scope, of.service, "aresolve")


def teardown_of_dishka() -> Loop:
    import dishka

    of, provider = Classes(), dishka.Provider(scope=dishka.Scope.APP)

    async def make(pool: Any) -> Any:
        yield of.session(pool)

    make.__annotations__.update({"pool": of.pool, "return": AsyncIterator[of.session]})  # type: ignore[name-defined]  # a local class
    provider.provide(of.config)
    provider.provide(of.pool)
    provider.provide(make, scope=dishka.Scope.REQUEST)
    for each in (of.repo, of.service):
        provider.provide(each, scope=dishka.Scope.REQUEST)
    return ascoped(dishka.make_async_container(provider), of.service, "get")


def teardown_of_wireup() -> Loop:
    import wireup

    of = Classes()

    async def make(pool: Any) -> Any:
        yield of.session(pool)

    make.__annotations__.update({"pool": of.pool, "return": AsyncIterator[of.session]})  # type: ignore[name-defined]  # a local class
    found = [wireup.injectable(each) for each in (of.config, of.pool)]
    for each in (make, of.repo, of.service):
        found.append(wireup.injectable(lifetime="scoped")(each))
    container = wireup.create_async_container(injectables=found)
    return ascoped(container.enter_scope, of.service, "get")


def injected() -> Loop:
    container, of = ours()

    async def handler(service: Any) -> Any:
        return service

    handler.__annotations__["service"] = Inject[of.service]  # type: ignore[name-defined]  # local
    call = container.inject(handler)

    async def loop(count: int) -> None:
        async with container.scope():
            for _ in range(count):
                await call()  # type: ignore[call-arg]  # that is what inject is for

    return loop


def changed() -> Loop:
    container, of = ours()
    for number in range(95):
        container.register(int, number, name=f"n{number}")

    async def loop(count: int) -> None:
        for _ in range(count // 2000):
            container.register(str, "x")
            container.resolve(of.pool)

    return loop


async def _nothing(count: int) -> None:
    for _ in range(count):
        pass


ENTRIES = [
    *(
        Entry(f"singleton, {how}", who, lambda m=make, a=is_async: m(is_async=a))
        for how, is_async in (("sync", False), ("await", True))
        for who, make in (
            ("nexgate", singleton_of_ours),
            ("dishka", singleton_of_dishka),
            ("wireup", singleton_of_wireup),
            ("svcs", singleton_of_svcs),
        )
    ),
    *(
        Entry(f"scope with three, {how}", who, lambda m=make, a=is_async: m(is_async=a))
        for how, is_async in (("sync", False), ("await", True))
        for who, make in (
            ("nexgate", scope_of_ours),
            ("dishka", scope_of_dishka),
            ("wireup", scope_of_wireup),
            ("svcs", scope_of_svcs),
        )
    ),
    Entry("the same, one an async generator", "nexgate", teardown_of_ours),
    Entry("the same, one an async generator", "dishka", teardown_of_dishka),
    Entry("the same, one an async generator", "wireup", teardown_of_wireup),
    Entry("call with one Inject, in a scope", "nexgate", injected),
]


# --- measuring ------------------------------------------------------------------------------------


async def measure() -> tuple[list[float | None], float, float]:
    """Nanoseconds per operation of each entry, ``None`` where it is missing; those of the bare
    loop; and milliseconds from a registration among a hundred to the next resolve.
    """
    loops: list[Loop | None] = []
    for entry in ENTRIES:
        try:
            loops.append(entry.make())
        except ImportError:
            loops.append(None)
    best: list[float | None] = [None] * len(loops)
    bare = change = float("inf")
    registering = changed()
    gc.disable()
    for _ in range(_ROUNDS):
        for index, loop in enumerate(loops):
            if loop is not None:
                nanos = await _timed(loop, _CALLS)
                known = best[index]
                best[index] = nanos if known is None else min(known, nanos)
        bare = min(bare, await _timed(_nothing, _CALLS))
        change = min(change, await _timed(registering, _CALLS) * 2000 / 1e6)
        gc.collect()
    gc.enable()
    return best, bare, change


async def _timed(loop: Loop, count: int) -> float:
    started = time.perf_counter_ns()
    await loop(count)
    return (time.perf_counter_ns() - started) / count


def main() -> int:
    results, bare, change = asyncio.run(measure())
    table = Table("what", "who", "ns", "ratio", title="per operation, above the bare loop")
    for column in table.columns[2:]:
        column.justify = "right"
    base = 0.0
    missed = False
    group = ""
    for entry, nanos in zip(ENTRIES, results, strict=True):
        is_first = entry.group != group
        if is_first:
            table.add_section()
            group, base = entry.group, (nanos or bare) - bare
        shown = entry.group if is_first else ""
        if nanos is None:
            table.add_row(shown, entry.name, "not installed", "")
            continue
        extra = nanos - bare
        table.add_row(shown, entry.name, f"{extra:,.0f}", f"{extra / base:.2f}")
        if entry.name == "nexgate" and "generator" not in group and "Inject" not in group:
            bar = _BAR_SINGLETON_NS if "singleton" in group else _BAR_SCOPE_NS
            missed |= extra > bar
    Console().print(table)
    print(f"a registration among a hundred, and the next resolve: {change:.1f} ms")
    print(
        f"a singleton within {_BAR_SINGLETON_NS} ns, a scope with three within {_BAR_SCOPE_NS} ns:"
        f" {'no' if missed else 'yes'}"
    )
    return 1 if missed else 0


if __name__ == "__main__":
    sys.exit(main())
