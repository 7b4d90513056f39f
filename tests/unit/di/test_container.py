"""What a container makes, how often, and when it ends."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Annotated, Any, Protocol

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import BaseModel, SecretStr

from nexgate.di import (
    CaptiveDependency,
    Container,
    ContainerClosed,
    DependencyCycle,
    DependencyError,
    Inject,
    InvalidGraph,
    Named,
    NeedsAwait,
    NeedsScope,
    NotRegistered,
    current_scope,
    inject,
)


@dataclass
class Config:
    url: str = "sqlite:"


class Database:
    def __init__(self, config: Config) -> None:
        self.config = config


class Cache:
    def __init__(self, config: Config) -> None:
        self.config = config


class Users:
    def __init__(self, database: Database, cache: Cache) -> None:
        self.database = database
        self.cache = cache


class Session:
    def __init__(self, database: Database) -> None:
        self.database = database


class Orders:
    def __init__(self, session: Session, users: Users) -> None:
        self.session = session
        self.users = users


@pytest.fixture
def container() -> Container:
    made = Container()
    made.register(Config, Config())
    for each in (Database, Cache, Users):
        made.register_factory(each, each)
    for each in (Session, Orders):
        made.register_factory(each, each, lifetime="scoped")
    return made


# --- lifetimes ------------------------------------------------------------------------------------


def test_a_singleton_is_made_once_and_shared(container: Container) -> None:
    users = container.resolve(Users)
    assert users is container.resolve(Users)
    assert users.database is container.resolve(Database)
    assert users.database.config is users.cache.config is container.resolve(Config)


def test_a_scoped_one_is_made_once_in_each_scope(container: Container) -> None:
    with container.scope() as one, container.scope() as two:
        assert one.resolve(Orders).session is one.resolve(Session)
        assert one.resolve(Session) is not two.resolve(Session)
        assert one.resolve(Orders).users is two.resolve(Orders).users


def test_a_transient_is_made_for_each_use() -> None:
    container = Container()
    container.register_factory(Config, Config, lifetime="transient")
    container.register_factory(Database, Database)
    assert container.resolve(Config) is not container.resolve(Config)
    assert container.resolve(Database) is container.resolve(Database)
    with container.scope() as scope:
        assert scope.resolve(Config) is not scope.resolve(Config)


async def test_async_factories_are_awaited_wherever_they_are_in_the_graph() -> None:
    container = Container()

    async def connect(config: Config) -> Database:
        await asyncio.sleep(0)
        return Database(config)

    container.register(Config, Config())
    container.register_factory(Database, connect)
    container.register_factory(Cache, Cache)
    container.register_factory(Users, Users)
    with pytest.raises(NeedsAwait, match=r"await container\.aresolve"):
        container.resolve(Users)
    users = await container.aresolve(Users)
    assert users is container.resolve(Users)  # it is there now
    assert container.resolve(Cache) is users.cache


def test_defaults_are_used_where_nobody_registered_and_optional_is_none() -> None:
    class Needy:
        def __init__(
            self, config: Config, cache: Cache | None, size: int = 7, *args: Any, **more: Any
        ) -> None:
            self.config, self.cache, self.size = config, cache, size

    container = Container()
    container.register(Config, Config())
    container.register_factory(Needy, Needy)
    needy = container.resolve(Needy)
    assert (needy.cache, needy.size) == (None, 7)
    container.register(int, 8)
    container.register_factory(Cache, Cache)
    needy = container.resolve(Needy)
    assert isinstance(needy.cache, Cache)
    assert needy.size == 8


def test_positional_only_parameters_and_functions_without_any() -> None:
    def make(config: Config, /, cache: Cache | None = None) -> Database:
        return Database(config)

    container = Container()
    container.register_factory(Config, lambda: Config("made"))
    container.register_factory(Database, make)
    assert container.resolve(Database).config.url == "made"


# --- names, aliases, collections ------------------------------------------------------------------


class Repo(Protocol):
    def load(self) -> str: ...


class PostgresRepo:
    def load(self) -> str:
        return "postgres"


class MemoryRepo:
    def load(self) -> str:
        return "memory"


def test_a_protocol_is_what_was_registered_for_it() -> None:
    container = Container()
    container.register_factory(PostgresRepo, PostgresRepo)
    container.alias(Repo, PostgresRepo)
    assert container.resolve(Repo) is container.resolve(PostgresRepo)  # type: ignore[type-abstract]
    container.register_factory(Repo, MemoryRepo)
    assert container.resolve(Repo).load() == "memory"  # type: ignore[type-abstract]


def test_several_of_a_type_are_told_apart_by_name() -> None:
    class Both:
        def __init__(
            self, hot: Annotated[Repo, Named("hot")], cold: Annotated[Repo, Named("cold")]
        ) -> None:
            self.both = hot.load(), cold.load()

    container = Container()
    container.register_factory(Repo, MemoryRepo, name="hot")
    container.register_factory(Repo, PostgresRepo, name="cold")
    container.register_factory(Both, Both)
    assert container.resolve(Both).both == ("memory", "postgres")
    assert container.resolve(Repo, "hot").load() == "memory"  # type: ignore[type-abstract]
    with pytest.raises(NotRegistered, match="by that name; there is one with 'hot', 'cold'"):
        container.resolve(Repo, "warm")  # type: ignore[type-abstract]


def test_all_of_a_type_are_collected_in_order_with_their_lifetimes() -> None:
    class Check:
        def __init__(self, all: list[Repo], same: Sequence[Repo]) -> None:
            self.all, self.same = all, same

    container = Container()
    container.register_factory(Repo, PostgresRepo, collect=True)
    container.register_factory(Repo, MemoryRepo, collect=True)
    container.register_factory(Check, Check, lifetime="transient")
    check = container.resolve(Check)
    assert [each.load() for each in check.all] == ["postgres", "memory"]
    assert isinstance(check.same, tuple)
    assert check.all[0] is container.resolve(Check).same[0]
    assert container.resolve(list[Repo]) == check.all
    with pytest.raises(NotRegistered):
        container.resolve(list[Config])
    with pytest.raises(NotRegistered):
        container.resolve(Repo)  # type: ignore[type-abstract]


def test_a_decorated_function_registers_what_it_says_it_returns() -> None:
    container = Container()

    @container.factory()
    def config() -> Config:
        return Config("decorated")

    @container.factory(lifetime="scoped")
    def session(config: Config) -> Iterator[Session]:
        yield Session(Database(config))

    @container.register_factory(Cache, lifetime="transient")
    def cache(config: Config) -> Any:
        return Cache(config)

    assert container.resolve(Cache).config.url == "decorated"
    with container.scope() as scope:
        assert scope.resolve(Session).database.config.url == "decorated"
    with pytest.raises(DependencyError, match="does not say what it makes"):
        container.factory()(lambda: 1)


# --- teardown -------------------------------------------------------------------------------------


class Trace:
    """Generators that say what happens to them."""

    def __init__(self, container: Container) -> None:
        self.told: list[str] = []
        self.container = container

    def add(
        self, type_: type, *needs: type, lifetime: Any = "singleton", how: str = "sync"
    ) -> None:
        told = self.told

        def begin() -> Any:
            told.append(f"+{type_.__name__}")
            return type_()

        def end(error: BaseException | None) -> None:
            sign = f"!{type(error).__name__}" if error is not None else ""
            told.append(f"-{type_.__name__}{sign}")

        if how == "sync":

            def generator(**_: Any) -> Iterator[Any]:
                made = begin()
                try:
                    yield made
                except BaseException as error:
                    end(error)
                    raise
                else:
                    end(None)

            factory: Any = generator
        else:

            async def async_generator(**_: Any) -> AsyncIterator[Any]:
                await asyncio.sleep(0)
                made = begin()
                try:
                    yield made
                except BaseException as error:
                    end(error)
                    raise
                else:
                    await asyncio.sleep(0)
                    end(None)

            factory = async_generator
        self.container.register_factory(type_, with_needs(factory, needs), lifetime=lifetime)


def with_needs(factory: Any, needs: tuple[type, ...]) -> Any:
    """``factory`` with parameters of these types."""
    import inspect

    factory.__signature__ = inspect.Signature(
        [
            inspect.Parameter(f"n{n}", inspect.Parameter.KEYWORD_ONLY, annotation=need)
            for n, need in enumerate(needs)
        ]
    )
    factory.__annotations__ = {f"n{n}": need for n, need in enumerate(needs)}
    return factory


class A: ...


class B: ...


class C: ...


@pytest.mark.parametrize("how", ["sync", "async"])
async def test_singletons_are_torn_down_in_the_reverse_order_of_their_making(how: str) -> None:
    container = Container()
    trace = Trace(container)
    trace.add(A, how=how)
    trace.add(B, A, how=how)
    trace.add(C, B, A, how=how)
    await container.aresolve(C)
    await container.aclose()
    await container.aclose()
    assert trace.told == ["+A", "+B", "+C", "-C", "-B", "-A"]
    with pytest.raises(ContainerClosed):
        container.resolve(A)
    with pytest.raises(ContainerClosed):
        container.register(A, A())


def test_a_container_without_anything_async_is_closed_without_await() -> None:
    container = Container()
    trace = Trace(container)
    trace.add(A)
    with container:
        container.resolve(A)
    assert trace.told == ["+A", "-A"]


@pytest.mark.parametrize("how", ["sync", "async"])
async def test_a_scope_tears_down_its_own_and_nothing_else(how: str) -> None:
    container = Container()
    trace = Trace(container)
    trace.add(A, how=how)
    trace.add(B, A, lifetime="scoped", how=how)
    trace.add(C, B, lifetime="transient", how=how)
    async with container.scope() as scope:
        await scope.aresolve(C)
        await scope.aresolve(C)
    assert trace.told == ["+A", "+B", "+C", "+C", "-C", "-C", "-B"]
    await container.aclose()
    assert trace.told[-1] == "-A"


@pytest.mark.parametrize("how", ["sync", "async"])
async def test_generators_see_the_exception_that_ends_their_scope(how: str) -> None:
    container = Container()
    trace = Trace(container)
    trace.add(A, lifetime="scoped", how=how)
    trace.add(B, A, lifetime="scoped", how=how)
    with pytest.raises(LookupError):
        async with container.scope() as scope:
            await scope.aresolve(B)
            raise LookupError
    assert trace.told == ["+A", "+B", "-B!LookupError", "-A!LookupError"]


async def test_a_scope_that_is_cancelled_is_torn_down() -> None:
    container = Container()
    trace = Trace(container)
    trace.add(A, lifetime="scoped", how="async")
    inside = asyncio.Event()

    async def work() -> None:
        async with container.scope() as scope:
            await scope.aresolve(A)
            inside.set()
            await asyncio.Event().wait()

    task = asyncio.create_task(work())
    await inside.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert trace.told == ["+A", "-A!CancelledError"]


async def test_a_cancellation_in_the_middle_of_a_teardown_leaves_none_out() -> None:
    container = Container()
    told: list[str] = []
    reached = asyncio.Event()

    async def slow() -> AsyncIterator[A]:
        yield A()
        try:
            reached.set()
            await asyncio.Event().wait()
        finally:
            told.append("slow ended")

    async def last(a: A) -> AsyncIterator[B]:
        yield B()
        told.append("B")

    async def first() -> AsyncIterator[C]:
        yield C()
        await asyncio.sleep(0)
        told.append("C")

    container.register_factory(A, slow, lifetime="scoped")
    container.register_factory(B, last, lifetime="scoped")
    container.register_factory(C, first, lifetime="scoped")

    async def work() -> None:
        async with container.scope() as scope:
            await scope.aresolve(C)
            await scope.aresolve(B)

    task = asyncio.create_task(work())
    await reached.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert told == ["B", "slow ended", "C"]


async def test_a_teardown_that_raises_keeps_no_other_from_running() -> None:
    container = Container()
    told: list[str] = []

    def bad() -> Iterator[A]:
        yield A()
        raise LookupError("in teardown")

    def good(a: A) -> Iterator[B]:
        yield B()
        told.append("B")

    def early() -> Iterator[C]:
        yield C()
        told.append("C")

    for lifetime in ("singleton", "scoped"):
        container = Container()
        told.clear()
        container.register_factory(C, early, lifetime=lifetime)  # type: ignore[arg-type]
        container.register_factory(A, bad, lifetime=lifetime)  # type: ignore[arg-type]
        container.register_factory(B, good, lifetime=lifetime)  # type: ignore[arg-type]
        with pytest.raises(ExceptionGroup) as caught:
            async with container, container.scope() as scope:
                scope.resolve(C)
                scope.resolve(B)
        assert caught.group_contains(LookupError)
        assert told == ["B", "C"]


async def test_a_generator_that_yields_twice_is_told_so() -> None:
    def twice() -> Iterator[A]:
        yield A()
        yield A()

    container = Container()
    container.register_factory(A, twice)
    container.resolve(A)
    with pytest.raises(ExceptionGroup) as caught:
        await container.aclose()
    assert caught.group_contains(RuntimeError, match="yields more than once")


def test_what_is_torn_down_needs_a_scope() -> None:
    container = Container()
    trace = Trace(container)
    trace.add(A, lifetime="transient")
    with pytest.raises(NeedsScope, match="needs a scope"):
        container.resolve(A)


def test_a_scope_that_has_something_async_to_tear_down_needs_await() -> None:
    container = Container()
    trace = Trace(container)
    trace.add(A, lifetime="scoped", how="async")
    with container.scope() as scope, pytest.raises(NeedsAwait):
        scope.resolve(A)


# --- context --------------------------------------------------------------------------------------


class Request:
    pass


async def test_what_opens_a_scope_gives_values_to_it(container: Container) -> None:
    class Audit:
        def __init__(self, request: Request, session: Session) -> None:
            self.request = request

    request = Request()
    container.register_factory(Audit, Audit, lifetime="scoped")
    with pytest.raises(InvalidGraph, match="Audit → Request ✗ is not registered"):
        container.validate()
    container.register_context(Request)
    container.validate()
    async with container.scope({Request: request}) as scope:
        assert (await scope.aresolve(Audit)).request is request
        assert scope.resolve(Request) is request
    async with container.scope() as scope:
        with pytest.raises(DependencyError, match="given by whoever opens the scope"):
            scope.resolve(Audit)
        with pytest.raises(DependencyError, match="given by whoever opens the scope"):
            await scope.aresolve(Request)


def test_a_value_that_was_not_announced_can_be_resolved_but_not_needed(
    container: Container,
) -> None:
    with container.scope({int: 7}) as scope:
        assert scope.resolve(int) == 7


def test_scopes_nest_and_the_present_one_is_known(container: Container) -> None:
    assert current_scope.get() is None
    with container.scope() as outer:
        with container.scope() as inner:
            assert current_scope.get() is inner
        assert current_scope.get() is outer
    assert current_scope.get() is None


# --- what is wrong --------------------------------------------------------------------------------


class X:
    def __init__(self, y: Y) -> None: ...


class Y:
    def __init__(self, z: Z) -> None: ...


class Z:
    def __init__(self, x: X) -> None: ...


class Holder:
    def __init__(self, between: Between) -> None: ...


class Between:
    def __init__(self, session: Session) -> None: ...


class Databse:
    """A near miss."""


def test_everything_that_is_wrong_is_reported_at_once_with_paths_and_suggestions() -> None:
    container = Container()
    for each in (X, Y, Z, Database, Users, Cache):
        container.register_factory(each, each)
    container.register_factory(Session, lambda: None, lifetime="scoped")
    container.register_factory(Between, Between, lifetime="transient")
    container.register_factory(Holder, Holder)
    with pytest.raises(InvalidGraph) as caught:
        container.validate()
    told = [problem.message for problem in caught.value.problems]
    assert any(text.startswith("X → Y → Z → X ✗ needs itself") for text in told)
    assert any(text.startswith("Users → Database → Config ✗ is not registered") for text in told)
    assert any(
        text.startswith("Holder (singleton) → Between (transient) → Session (scoped) ✗")
        and 'make Holder lifetime="scoped", or Session a singleton' in text
        for text in told
    )
    assert str(caught.value).count("\n") == len(told)
    for type_, error in ((X, DependencyCycle), (Holder, CaptiveDependency), (Users, NotRegistered)):
        with pytest.raises(error):
            container.resolve(type_)
    with container.scope() as scope:
        assert scope.resolve(Session) is None  # what is well can be used


def test_a_near_miss_is_suggested_and_a_subclass_offered(container: Container) -> None:
    with pytest.raises(KeyError, match="Databse ✗ is not registered; did you mean Database"):
        container.resolve(Databse)

    class Base: ...

    class Child(Base): ...

    container.register_factory(Child, Child)
    with pytest.raises(NotRegistered, match=r"Child is one: alias\(Base, Child\)"):
        container.resolve(Base)


def test_parameters_that_say_nothing_are_refused_at_once() -> None:
    def make(config):  # type: ignore[no-untyped-def]
        return config

    with pytest.raises(DependencyError, match="its parameter config has no annotation"):
        Container().register_factory(Database, make)
    with pytest.raises(DependencyError, match="is not a lifetime"):
        Container().register_factory(Config, Config, lifetime="request")  # type: ignore[arg-type]


def test_an_annotation_that_only_type_checkers_see_is_named() -> None:
    def make(config: "Nowhere") -> Any:  # type: ignore[name-defined]  # noqa: F821, UP037
        return config

    with pytest.raises(DependencyError, match="'Nowhere', cannot be evaluated"):
        Container().register_factory(Database, make)


async def test_a_factory_that_asks_the_container_for_itself_is_a_cycle_and_not_a_hang() -> None:
    def make(container: Container) -> A:
        container.resolve(B)
        return A()

    async def make_b(container: Container) -> B:
        await container.aresolve(C)
        return B()

    async def make_c(container: Container) -> C:
        await container.aresolve(B)
        return C()

    container = Container()
    container.register_factory(B, make_b)
    container.register_factory(C, make_c)
    with pytest.raises(DependencyCycle, match="B → C → B ✗ its own factory asks for it"):
        await asyncio.wait_for(container.aresolve(B), 5)


# --- at once --------------------------------------------------------------------------------------


def test_many_threads_that_come_first_at_once_get_one_instance() -> None:
    container = Container()
    made: list[int] = []
    gate = threading.Barrier(16)

    def slow(config: Config) -> Database:
        made.append(1)
        threading.Event().wait(0.02)
        return Database(config)

    container.register_factory(Config, Config)
    container.register_factory(Database, slow)

    def ask() -> Database:
        gate.wait()
        return container.resolve(Database)

    with ThreadPoolExecutor(16) as threads:
        found = {id(f.result()) for f in [threads.submit(ask) for _ in range(16)]}
    assert len(found) == len(made) == 1


async def test_many_tasks_and_threads_that_come_first_at_once_get_one_instance() -> None:
    container = Container()
    made: list[int] = []
    go = asyncio.Event()

    async def slow(config: Config) -> Database:
        made.append(1)
        await go.wait()
        return Database(config)

    container.register(Config, Config())
    container.register_factory(Database, slow)
    tasks = [asyncio.create_task(container.aresolve(Database)) for _ in range(50)]

    def in_a_thread() -> Database:
        return asyncio.run(container.aresolve(Database))

    threads = [asyncio.create_task(asyncio.to_thread(in_a_thread)) for _ in range(4)]
    await asyncio.sleep(0.05)
    go.set()
    found = await asyncio.gather(*tasks, *threads)
    assert len({id(each) for each in found}) == len(made) == 1


async def test_resolving_without_await_what_a_task_is_making_is_an_error_and_not_a_hang() -> None:
    container = Container()
    go = asyncio.Event()

    async def slow() -> A:
        await go.wait()
        return A()

    def quick(a: A) -> B:
        return B()

    container.register_factory(A, slow)
    container.register_factory(B, quick)
    making = asyncio.create_task(container.aresolve(B))
    await asyncio.sleep(0)
    with pytest.raises(NeedsAwait):
        container.resolve(A)
    go.set()
    await making


async def test_a_factory_that_fails_lets_the_next_one_try() -> None:
    container = Container()
    outcomes = [LookupError("first"), LookupError("second"), None]

    async def flaky() -> A:
        await asyncio.sleep(0)
        outcome = outcomes.pop(0)
        if outcome is not None:
            raise outcome
        return A()

    container.register_factory(A, flaky)
    found = await asyncio.gather(*(container.aresolve(A) for _ in range(5)), return_exceptions=True)
    assert [type(each) for each in found].count(LookupError) == 2
    assert len({id(each) for each in found if isinstance(each, A)}) == 1


async def test_when_the_maker_is_cancelled_one_that_waits_takes_over() -> None:
    container = Container()
    trace = Trace(container)
    begun: list[asyncio.Event] = []

    async def slow(b: B) -> A:
        mine = asyncio.Event()
        begun.append(mine)
        await mine.wait()
        return A()

    trace.add(B, lifetime="transient", how="async")
    container.register_factory(A, slow)
    first = asyncio.create_task(container.aresolve(A))
    while not begun:
        await asyncio.sleep(0)
    second = asyncio.create_task(container.aresolve(A))
    await asyncio.sleep(0)
    first.cancel()
    with pytest.raises(asyncio.CancelledError):
        await first
    assert trace.told == ["+B", "-B!CancelledError"]  # nothing half-made is left
    while len(begun) < 2:
        await asyncio.sleep(0)
    begun[1].set()
    assert isinstance(await second, A)
    await container.aclose()
    assert trace.told == ["+B", "-B!CancelledError", "+B", "-B"]


async def test_one_that_gives_up_waiting_does_not_disturb_the_maker() -> None:
    container = Container()
    go = asyncio.Event()

    async def slow() -> A:
        await go.wait()
        return A()

    container.register_factory(A, slow)
    making = asyncio.create_task(container.aresolve(A))
    await asyncio.sleep(0)
    waiting = asyncio.create_task(container.aresolve(A))
    await asyncio.sleep(0)
    waiting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiting
    go.set()
    assert isinstance(await making, A)


# --- changing -------------------------------------------------------------------------------------


def test_registering_something_else_leaves_what_lives_alone(container: Container) -> None:
    users = container.resolve(Users)
    container.register(int, 1)
    assert container.resolve(Users) is users


def test_replacing_makes_anew_what_was_made_of_it_and_nothing_else(container: Container) -> None:
    users, cache = container.resolve(Users), container.resolve(Cache)
    container.register_factory(Database, lambda config=None: Database(Config("other")))
    assert container.resolve(Users) is not users
    assert container.resolve(Users).database.config.url == "other"
    assert container.resolve(Cache) is cache


def test_a_scope_that_was_opened_before_a_change_keeps_its_generation(
    container: Container,
) -> None:
    with container.scope() as scope:
        container.register(Config, Config("new"))
        assert scope.resolve(Orders).users.database.config.url == "sqlite:"
    with container.scope() as scope:
        assert scope.resolve(Orders).users.database.config.url == "new"


async def test_an_override_is_for_its_block_and_leaks_in_neither_direction(
    container: Container,
) -> None:
    users = container.resolve(Users)
    fake = Database(Config("fake"))
    with container.override(Database, fake):
        inner = container.resolve(Users)
        assert inner is not users
        assert inner.database is fake
        async with container.override(Config, lambda: Config("nested")):
            assert container.resolve(Cache).config.url == "nested"
            assert container.resolve(Users).database is fake
        assert container.resolve(Users) is inner
    assert container.resolve(Users) is users
    assert container.resolve(Users).database.config.url == "sqlite:"


async def test_what_was_made_in_an_override_is_torn_down_with_it() -> None:
    container = Container()
    trace = Trace(container)
    trace.add(A, how="async")
    trace.add(B, A, how="async")
    await container.aresolve(B)

    async def other() -> AsyncIterator[A]:
        trace.told.append("+other")
        yield A()
        trace.told.append("-other")

    async with container.override(A, other):
        await container.aresolve(B)
    assert trace.told == ["+A", "+B", "+other", "+B", "-B", "-other"]
    await container.aclose()
    assert trace.told[-2:] == ["-B", "-A"]


async def test_an_owner_takes_everything_back_and_what_was_below_is_in_force_again() -> None:
    container = Container()
    container.register(Config, Config("below"))
    container.register_factory(Database, Database)
    below = container.resolve(Database)
    owner = container.owner("plugin x")
    trace = Trace(container)
    told = trace.told

    async def config() -> AsyncIterator[Config]:
        told.append("+")
        yield Config("plugin")
        told.append("-")

    owner.register_factory(Config, config)
    owner.register_factory(Repo, MemoryRepo, collect=True)

    @owner.factory()
    def of_plugin(database: Database) -> A:
        return A()

    assert (await container.aresolve(Database)).config.url == "plugin"
    await container.aresolve(A)
    assert len(container.resolve(list[Repo])) == 1
    await owner.aclose()
    assert told == ["+", "-"]
    assert container.resolve(Database) is below
    for gone in (A, list[Repo]):
        with pytest.raises(NotRegistered):
            container.resolve(gone)
    await owner.aclose()
    await container.aclose()


async def test_the_old_owners_end_does_not_take_the_new_ones_registrations() -> None:
    container = Container()
    old, new = container.owner("p"), container.owner("p")
    old.register(Config, Config("old"))
    new.register(Config, Config("new"))
    assert container.resolve(Config).url == "new"
    await old.aclose()
    assert container.resolve(Config).url == "new"
    await new.aclose()
    assert Config not in container


# --- injecting ------------------------------------------------------------------------------------


async def test_marked_parameters_are_filled_and_others_do_not_see_them(
    container: Container,
) -> None:
    import inspect

    @inject
    async def handler(request: str, users: Inject[Users], *, session: Inject[Session]) -> Any:
        return request, users, session

    @inject
    def plain(request: str, users: Inject[Users], missing: Inject[Repo] | None = None) -> Any:
        return request, users, missing

    assert list(inspect.signature(handler).parameters) == ["request"]
    assert inspect.iscoroutinefunction(handler)
    async with container.scope() as scope:
        got = await handler("r")
        assert got == ("r", container.resolve(Users), scope.resolve(Session))
        assert plain("r") == ("r", container.resolve(Users), None)
        assert plain("r", users=None) == ("r", None, None)
    with pytest.raises(DependencyError, match="outside of a scope"):
        await handler("r")


async def test_a_containers_own_inject_opens_a_scope_around_the_call(
    container: Container,
) -> None:
    trace = Trace(container)
    trace.add(A, lifetime="scoped", how="async")
    trace.add(B, lifetime="scoped")

    async def task(a: Inject[A], session: Inject[Session]) -> None:
        trace.told.append("work")

    def sync_task(b: Inject[B]) -> None:
        trace.told.append("work")

    await container.inject(task)()
    container.inject(sync_task)()
    assert trace.told == ["+A", "work", "-A", "+B", "work", "-B"]
    assert container.inject(print) is print


async def test_two_overlapping_calls_have_scopes_of_their_own(container: Container) -> None:
    seen: list[Session] = []
    both = asyncio.Barrier(2)

    @container.inject
    async def work(session: Inject[Session]) -> None:
        seen.append(session)
        await both.wait()

    await asyncio.gather(work(), work())  # type: ignore[call-arg]
    assert seen[0] is not seen[1]


# --- settings -------------------------------------------------------------------------------------


class AppSettings(BaseModel):
    url: str
    secret: SecretStr
    pool_size: int = 5
    hosts: list[str] = []


@dataclass
class Plain:
    size: int
    ratio: float = 0.5


def test_settings_come_from_the_environment() -> None:
    container = Container()
    environ = {
        "APP_URL": "x",
        "APP_SECRET": "hush",
        "APP_POOL_SIZE": "7",
        "APP_HOSTS": '["a", "b"]',
        "SIZE": "3",
    }
    container.register_settings(AppSettings, "APP_", environ=environ)
    container.register_settings(Plain, environ=environ)
    container.validate()
    found = container.resolve(AppSettings)
    assert (found.url, found.pool_size, found.hosts) == ("x", 7, ["a", "b"])
    assert found.secret.get_secret_value() == "hush"
    assert container.resolve(Plain) == Plain(3)


def test_everything_that_is_missing_or_wrong_is_reported_without_the_values() -> None:
    container = Container()
    environ = {"APP_SECRET": "hush", "APP_POOL_SIZE": "hush", "SIZE": "hush"}
    container.register_settings(AppSettings, "APP_", environ=environ)
    container.register_settings(Plain, environ=environ)
    with pytest.raises(InvalidGraph) as caught:
        container.validate()
    told = str(caught.value)
    assert "AppSettings ✗ APP_URL: is not set" in told
    assert "APP_POOL_SIZE" in told
    assert "Plain ✗ SIZE" in told
    assert "hush" not in told
    with pytest.raises(DependencyError, match="APP_URL"):
        container.resolve(AppSettings)


# --- any graph ------------------------------------------------------------------------------------


@given(st.data())
@settings(max_examples=60, deadline=None)
def test_any_graph_has_each_singleton_once_and_ends_in_exactly_the_reverse_order(
    data: st.DataObject,
) -> None:
    size = data.draw(st.integers(1, 12))
    types = [type(f"T{n}", (), {}) for n in range(size)]
    container = Container()
    trace = Trace(container)
    for number, type_ in enumerate(types):
        needs = data.draw(st.sets(st.sampled_from(range(number)), max_size=4)) if number else set()
        how = data.draw(st.sampled_from(["sync", "async"]))
        trace.add(type_, *(types[n] for n in sorted(needs)), how=how)
    wanted = data.draw(st.lists(st.sampled_from(types), min_size=1, max_size=6))

    async def live() -> None:
        async with container:
            found = await asyncio.gather(*(container.aresolve(each) for each in wanted))
            again = await asyncio.gather(*(container.aresolve(each) for each in wanted))
            assert [id(each) for each in found] == [id(each) for each in again]

    asyncio.run(live())
    begun = [each[1:] for each in trace.told if each[0] == "+"]
    ended = [each[1:] for each in trace.told if each[0] == "-"]
    assert len(begun) == len(set(begun))
    assert ended == begun[::-1]


# --- drawing --------------------------------------------------------------------------------------


def test_the_graph_can_be_drawn(container: Container) -> None:
    container.register_factory(Repo, MemoryRepo, collect=True)
    container.register_factory(Holder, Holder)  # broken
    drawing = container.graph()
    mermaid = drawing.mermaid()
    assert mermaid.startswith("flowchart TD")
    assert ("Users", "Database") in drawing.edges
    assert "Container" not in mermaid
    svg = drawing.svg()
    import xml.etree.ElementTree as ElementTree

    root = ElementTree.fromstring(svg)
    texts = [each.text for each in root.iter("{http://www.w3.org/2000/svg}text")]
    assert {"Users", "Orders", "Session", "Config"} <= set(texts)
    assert "broken" in svg
