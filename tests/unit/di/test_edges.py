"""Where lives meet: ends while things are made, waits that meet, names that look alike."""

from __future__ import annotations

import asyncio
import gc
import inspect
import sys
import threading
from collections.abc import AsyncIterator, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from typing import Annotated, Any
from weakref import WeakSet

import pytest
from tests.unit.di.other_module import Priced

from nexgate.di import (
    Container,
    ContainerClosed,
    DependencyCycle,
    DependencyError,
    Inject,
    InvalidGraph,
    Named,
    NeedsAwait,
    NeedsScope,
    current_scope,
    inject,
)
from nexgate.testing import wait_until


class A:
    pass


class B:
    pass


class C:
    def __init__(self, a: A, b: B) -> None:
        self.parts = (a, b)


class HttpRequest:
    pass


class Request:
    pass


def gated(told: list[str], entered: asyncio.Event, go_on: asyncio.Event) -> Any:
    async def make() -> AsyncIterator[A]:
        entered.set()
        await go_on.wait()
        told.append("made")
        yield A()
        told.append("torn down")

    return make


# --- ends while something is made -----------------------------------------------------------------


@pytest.mark.parametrize("whose", ["container", "owner"])
async def test_what_is_being_made_when_it_ends_is_torn_down_when_it_is_made(whose: str) -> None:
    container = Container()
    told: list[str] = []
    entered, go_on = asyncio.Event(), asyncio.Event()
    owner = container.owner("plugin")
    owner.register_factory(A, gated(told, entered, go_on))
    asking = [asyncio.create_task(container.aresolve(A)) for _ in range(2)]
    await entered.wait()
    await (container if whose == "container" else owner).aclose()
    go_on.set()
    for each in asking:
        with pytest.raises(DependencyError, match="A has ended"):
            await each
    assert told == ["made", "torn down"]


async def test_a_scope_that_outlives_an_owner_does_not_bring_its_singletons_back() -> None:
    container = Container()
    container.register_factory(B, B)
    owner = container.owner("plugin")
    owner.register_factory(A, A)
    container.register_factory(C, C, lifetime="scoped")
    async with container.scope() as scope:
        await owner.aclose()
        assert isinstance(scope.resolve(B), B)
        with pytest.raises(DependencyError, match="A has ended"):
            scope.resolve(C)


async def test_close_without_await_closes_nothing_when_a_teardown_needs_it() -> None:
    container = Container()
    told: list[str] = []

    async def make() -> AsyncIterator[A]:
        yield A()
        await asyncio.sleep(0)
        told.append("torn down")

    container.register_factory(A, make)
    a = await container.aresolve(A)
    with pytest.raises(NeedsAwait, match="A has an async teardown"):
        container.close()
    assert container.resolve(A) is a
    await container.aclose()
    assert told == ["torn down"]


def test_instances_that_were_replaced_are_not_kept() -> None:
    container = Container()
    container.register_factory(B, B)
    for _ in range(50):
        container.register(A, A())
        container.register_factory(C, C)
        container.resolve(C)
    assert len(container._cells) < 10
    container.close()


def loaded_again(how: str) -> tuple[type[Any], Any]:
    """Another class each time, as in a module that is loaded again, and what makes it."""

    class Part:
        pass

    def make() -> Iterator[Part]:
        yield Part()

    return Part, make if how == "with teardown" else Part


@pytest.mark.parametrize("how", ["instance", "made", "not made", "with teardown"])
async def test_nothing_of_an_owner_is_kept_by_the_one_that_replaces_it(how: str) -> None:
    container = Container()
    before = container.owner("plugin")
    alive: WeakSet[Any] = WeakSet()
    for _ in range(10):
        part, make = loaded_again(how)
        alive.add(part)
        owner = container.owner("plugin")
        if how == "instance":
            owner.register(part, part())
        else:
            owner.register_factory(part, make)
        if how != "not made":
            container.resolve(part)
        with container.scope():  # while both are registered
            pass
        await before.aclose()
        before = owner
    del part, make
    with container.scope():
        gc.collect()
    assert len(alive) <= 2


def test_a_scope_is_good_within_its_block_only() -> None:
    container = Container()
    container.register_factory(A, A, lifetime="scoped")
    scope = container.scope()
    with pytest.raises(NeedsScope, match="not open"):
        scope.resolve(A)
    with scope:
        first = scope.resolve(A)
    with pytest.raises(NeedsScope, match="not open"):
        scope.resolve(A)
    with scope:
        assert scope.resolve(A) is not first


def test_what_holds_something_that_is_torn_down_needs_a_scope() -> None:
    def make() -> Iterator[A]:
        yield A()

    container = Container()
    container.register_factory(A, make, lifetime="transient")
    container.register_factory(B, B)
    container.register_factory(C, C, lifetime="transient")
    with pytest.raises(NeedsScope):
        container.resolve(C)


# --- waits that meet ------------------------------------------------------------------------------


def test_two_threads_whose_factories_ask_for_each_other_do_not_hang() -> None:
    container = Container()
    both = threading.Barrier(2)

    def make_a() -> A:
        both.wait(5)
        container.resolve(B)
        return A()

    def make_b() -> B:
        both.wait(5)
        container.resolve(A)
        return B()

    container.register_factory(A, make_a)
    container.register_factory(B, make_b)
    errors: list[BaseException] = []

    def ask(type_: type[Any]) -> None:
        try:
            container.resolve(type_)
        except (DependencyCycle, threading.BrokenBarrierError) as error:
            both.abort()  # the other one tries again, alone
            errors.append(error)

    threads = [threading.Thread(target=ask, args=(each,), daemon=True) for each in (A, B)]
    for each in threads:
        each.start()
    for each in threads:
        each.join(10)
    assert not any(each.is_alive() for each in threads)
    assert any(isinstance(each, DependencyCycle) for each in errors)


def test_threads_that_come_first_while_others_register_get_one_instance(
    request: pytest.FixtureRequest,
) -> None:
    request.addfinalizer(partial(sys.setswitchinterval, sys.getswitchinterval()))
    sys.setswitchinterval(1e-5)
    for _ in range(30):
        container = Container()
        container.register_factory(A, A)
        container.register_factory(B, B)
        container.register_factory(C, C)
        got: list[Any] = []

        def resolve(container: Container = container, got: list[Any] = got) -> None:
            got.append(container.resolve(C))

        def register(container: Container = container) -> None:
            for _ in range(10):
                owner = container.owner("plugin")
                owner.register(str, "x")
                container.resolve(A)
                owner.close()

        with ThreadPoolExecutor(8) as pool:
            for done in [pool.submit(each) for each in (resolve, register, resolve, resolve) * 2]:
                done.result(10)
        assert len(set(got)) == 1


async def test_two_tasks_whose_factories_ask_for_each_other_do_not_hang() -> None:
    container = Container()
    a_began, b_began = asyncio.Event(), asyncio.Event()

    async def make_a() -> A:
        a_began.set()
        await b_began.wait()
        await container.aresolve(B)
        return A()

    async def make_b() -> B:
        b_began.set()
        await a_began.wait()
        await container.aresolve(A)
        return B()

    container.register_factory(A, make_a)
    container.register_factory(B, make_b)
    async with asyncio.timeout(5):
        ends = await asyncio.gather(
            container.aresolve(A), container.aresolve(B), return_exceptions=True
        )
    assert all(isinstance(each, DependencyCycle) for each in ends)
    assert "✗ its own factory asks for it" in str(ends[0])


async def test_tasks_of_one_scope_that_ask_at_once_share_what_lives_in_it() -> None:
    container = Container()
    made: list[A] = []

    async def make() -> A:
        await asyncio.sleep(0)
        made.append(A())
        return made[-1]

    async def of_b(scope_a: A) -> B:
        await asyncio.sleep(0)
        return B()

    container.register_factory(A, make, lifetime="scoped")
    container.register_factory(B, of_b, lifetime="scoped")
    async with container.scope() as scope:
        got = await asyncio.gather(*(scope.aresolve(t) for t in (A, B, A, B)))
    assert len(made) == 1
    assert got[0] is got[2]
    assert got[1] is got[3]


async def test_a_factory_may_ask_its_own_scope() -> None:
    container = Container()

    async def make(container: Container) -> A:
        from nexgate.di import current_scope

        scope = current_scope.get()
        assert scope is not None
        await asyncio.gather(scope.aresolve(B), asyncio.create_task(scope.aresolve(B)))
        return A()

    async def make_b() -> B:
        await asyncio.sleep(0)
        return B()

    container.register_factory(A, make, lifetime="scoped")
    container.register_factory(B, make_b, lifetime="scoped")
    async with asyncio.timeout(5), container.scope() as scope:
        await scope.aresolve(A)


async def test_tasks_of_a_factory_that_ask_its_scope_at_once_get_the_same() -> None:
    made: list[A] = []
    container = Container()

    async def make_a() -> A:
        await asyncio.sleep(0)
        made.append(A())
        return made[-1]

    async def make_c() -> C:
        scope = current_scope.get()
        assert scope is not None
        first, second = await asyncio.gather(scope.aresolve(A), scope.aresolve(A))
        assert first is second
        return C(first, B())

    container.register_factory(A, make_a, lifetime="scoped")
    container.register_factory(C, make_c, lifetime="scoped")
    async with container.scope() as scope, asyncio.timeout(5):
        await asyncio.gather(scope.aresolve(C), scope.aresolve(C), scope.aresolve(A))
    assert len(made) == 1


async def test_one_that_waits_for_its_turn_in_a_scope_and_gives_up_disturbs_nobody() -> None:
    container = Container()
    told: list[str] = []
    entered, go_on = asyncio.Event(), asyncio.Event()
    container.register_factory(A, gated(told, entered, go_on), lifetime="scoped")
    async with container.scope() as scope:
        first = asyncio.create_task(scope.aresolve(A))
        await entered.wait()
        second = asyncio.create_task(scope.aresolve(A))
        await wait_until(lambda: scope._turn is not None and scope._turn.freed is not None)
        second.cancel()
        with pytest.raises(asyncio.CancelledError):
            await second
        go_on.set()
        assert await scope.aresolve(A) is await first
    assert told == ["made", "torn down"]


async def test_a_scoped_maker_that_is_cancelled_lets_the_next_one_make_it() -> None:
    container = Container()
    told: list[str] = []
    entered, go_on = asyncio.Event(), asyncio.Event()
    container.register_factory(A, gated(told, entered, go_on), lifetime="scoped")
    async with container.scope() as scope:
        first = asyncio.create_task(scope.aresolve(A))
        await entered.wait()
        first.cancel()
        with pytest.raises(asyncio.CancelledError):
            await first
        go_on.set()
        await scope.aresolve(A)
    assert told == ["made", "torn down"]


# --- what is asked for ----------------------------------------------------------------------------


async def test_the_missing_value_of_a_scope_is_named_exactly() -> None:
    class Audit:
        def __init__(self, request: HttpRequest) -> None: ...

    Audit.__init__.__annotations__["request"] = HttpRequest
    container = Container()
    container.register_context(Request)
    container.register_context(HttpRequest)
    container.register_factory(Audit, Audit, lifetime="scoped")
    async with container.scope({Request: Request()}) as scope:
        for ask in (scope.aresolve, scope.resolve):
            with pytest.raises(DependencyError, match=r"^HttpRequest ✗ is given by"):
                found = ask(Audit)
                if inspect.isawaitable(found):
                    await found


def test_a_collection_can_be_registered_and_overridden_as_a_whole() -> None:
    container = Container()
    a, b = A(), A()
    container.register_factory(A, lambda: a, collect=True)
    assert container.resolve(list[A]) == [a]
    assert container.resolve(Sequence[A]) == (a,)
    assert list[A] in container
    with container.override(list[A], [b]):
        assert container.resolve(list[A]) == [b]
    assert container.resolve(list[A]) == [a]
    container.register(list[B], [])
    assert container.resolve(list[B]) == []


def test_a_name_may_stand_in_the_type_that_is_registered() -> None:
    container = Container()
    hot = A()
    container.register(Annotated[A, Named("hot")], hot)
    assert container.resolve(A, "hot") is hot
    assert container.resolve(Annotated[A, Named("hot")]) is hot


def test_everything_that_one_class_misses_is_reported() -> None:
    container = Container()
    container.register_factory(C, C)
    with pytest.raises(InvalidGraph) as caught:
        container.validate()
    told = [each.message for each in caught.value.problems]
    assert [text.partition(" ✗")[0] for text in told] == ["C → A", "C → B"]


def test_a_path_begins_with_what_was_asked_for() -> None:
    class Top:
        def __init__(self, c: C) -> None: ...

    Top.__init__.__annotations__["c"] = C
    container = Container()
    container.register(B, B())
    container.register_factory(C, C)
    container.register_factory(Top, Top)
    with pytest.raises(KeyError, match=r"^Top → C → A ✗ is not registered"):
        container.resolve(Top)
    with pytest.raises(KeyError, match=r"^C → A ✗ is not registered"):
        container.resolve(C)


def test_a_dataclass_may_inherit_fields_from_another_module() -> None:
    from decimal import Decimal

    @dataclass
    class Item(Priced):
        name: str = "x"

    container = Container()
    container.register(Decimal, Decimal(3))
    container.register_factory(Item, Item)
    assert container.resolve(Item) == Item(Decimal(3))


# --- injecting ------------------------------------------------------------------------------------

Part = Inject[A]


@pytest.fixture
def parts() -> Container:
    container = Container()
    container.register_factory(A, A)
    container.register_factory(B, B, lifetime="scoped")
    return container


async def test_injected_parameters_may_stand_anywhere(parts: Container) -> None:
    @parts.inject
    async def first(a: Inject[A], request: str, b: Inject[B], number: int = 1) -> tuple[Any, ...]:
        return a, request, b, number

    @parts.inject
    def plain(request: str, a: Inject[A], number: int) -> tuple[Any, ...]:
        return request, a, number

    assert list(inspect.signature(first).parameters) == ["request", "number"]
    a = parts.resolve(A)
    got: Any = first
    assert (await got("r"))[1::2] == ("r", 1)
    assert (await got("r", 2))[1::2] == ("r", 2)
    assert (await got("r", number=3))[::3] == (a, 3)
    short: Any = plain
    assert short("r", 4) == ("r", a, 4)
    other = A()
    assert short("r", 4, a=other) == ("r", other, 4)
    with pytest.raises(TypeError):
        short("r", 4, 5)


def test_the_mark_may_have_a_name_of_its_own(parts: Container) -> None:
    @parts.inject
    def asks(a: Part) -> A:
        return a

    call: Any = asks
    assert call() is parts.resolve(A)


def test_annotations_of_others_need_not_exist(parts: Container) -> None:
    @parts.inject
    def asks(request: "Nowhere", a: Inject[A]) -> A:  # type: ignore[name-defined]  # noqa: F821, UP037
        return a

    call: Any = asks
    assert call(None) is parts.resolve(A)


def test_methods_and_callables_are_filled(parts: Container) -> None:
    class View:
        @inject
        def get(self, a: Inject[A]) -> A:
            return a

    view: Any = View()
    with parts.scope():
        assert view.get() is parts.resolve(A)


def test_a_generator_is_refused(parts: Container) -> None:
    async def steps(a: Inject[A]) -> AsyncIterator[int]:
        yield 1

    with pytest.raises(TypeError, match="is a generator"):
        parts.inject(steps)


def test_an_owner_closes_what_is_its_own_and_nothing_else(parts: Container) -> None:
    owner = parts.owner("plugin")
    owner.register(C, C(A(), B()))
    assert C in owner
    owner.close()
    assert C not in parts
    assert parts.resolve(A) is parts.resolve(A)


async def test_an_owner_that_has_ended_takes_nothing_that_nobody_would_take_back(
    parts: Container,
) -> None:
    owner = parts.owner("plugin geo")
    await owner.aclose()
    with pytest.raises(ContainerClosed, match="plugin geo has ended"):
        owner.register(C, C(A(), B()))
    assert C not in parts
    await owner.aclose()


async def test_an_owner_that_replaces_one_of_its_name_takes_its_place_among_the_others() -> None:
    container = Container()
    first, other = container.owner("plugin a"), container.owner("plugin b")
    for owner, label in ((first, "a1"), (other, "b1")):
        owner.register(str, label)
        owner.register_factory(B, B, collect=True)
    kept = container.resolve(list[B])
    second = container.owner("plugin a")
    second.register(str, "a2")
    second.register_factory(B, B, collect=True)
    await first.aclose()
    assert container.resolve(str) == "b1"
    again = container.resolve(list[B])
    assert again[0] not in kept
    assert again[1] is kept[1]
    await other.aclose()
    assert container.resolve(str) == "a2"
    with container.override(str, "x"), container.override(str, "y"):
        assert container.resolve(str) == "y"


def test_a_scope_has_none_for_what_may_be_missing_and_is() -> None:
    container = Container()
    with container.scope({A: A()}) as scope:
        asked: Any = A | None
        assert isinstance(scope.resolve(asked), A)
        asked = B | None
        assert scope.resolve(asked) is None
        container.register_factory(C, C)
    with container.scope() as scope:
        asked = C | None
        with pytest.raises(DependencyError, match="C → A"):
            scope.resolve(asked)


async def test_an_object_with_an_async_call_is_filled_for_as_long_as_it_runs() -> None:
    told: list[str] = []

    async def make() -> AsyncIterator[A]:
        yield A()
        told.append("torn down")

    class Handler:
        async def __call__(self, a: Inject[A]) -> A:
            await asyncio.sleep(0)
            told.append("handled")
            return a

    container = Container()
    container.register_factory(A, make, lifetime="scoped")
    call: Any = container.inject(Handler())
    assert type(await call()) is A
    assert told == ["handled", "torn down"]


async def test_a_task_that_outlives_the_scope_it_was_started_in_has_one_of_its_own() -> None:
    container = Container()
    container.register_factory(A, A, lifetime="scoped")

    @container.inject
    async def asks(a: Inject[A]) -> A:
        return a

    call: Any = asks
    go_on = asyncio.Event()

    async def later() -> A:
        await go_on.wait()
        found: A = await call()
        return found

    async with container.scope() as outer:
        async with container.scope():
            first, second = asyncio.create_task(later()), asyncio.create_task(later())
            await asyncio.sleep(0)
        kept = outer.resolve(A)
        go_on.set()
        assert await first is kept  # the one around, which is open
        go_on.clear()
        third = asyncio.create_task(later())
        await asyncio.sleep(0)
    go_on.set()
    assert await third is not kept
    await second


def test_a_scope_is_entered_once_at_a_time_and_may_be_left_twice() -> None:
    told: list[str] = []

    def make() -> Iterator[A]:
        yield A()
        told.append("torn down")

    container = Container()
    container.register_factory(A, make, lifetime="scoped")
    scope = container.scope()
    with scope:
        scope.resolve(A)
        with pytest.raises(DependencyError, match="this scope is open"):
            scope.__enter__()
    scope.__exit__(None, None, None)
    assert told == ["torn down"]


async def test_what_the_outermost_injected_call_raises_is_kept_for_who_opened_the_scope(
    parts: Container,
) -> None:
    @inject
    async def inner(a: Inject[A]) -> None:
        raise ValueError

    @inject
    async def handles(a: Inject[A]) -> str:
        with pytest.raises(ValueError):
            await call()
        return "fine"

    call: Any = inner
    handler: Any = handles
    async with parts.scope() as scope:
        assert await handler() == "fine"
        assert scope.failure is None
        with pytest.raises(ValueError):
            await call()
        assert isinstance(scope.failure, ValueError)
        assert await handler() == "fine"
        assert scope.failure is None


async def test_after_a_reset_singletons_are_made_anew() -> None:
    container = Container()
    told: list[str] = []

    async def make() -> AsyncIterator[A]:
        yield A()
        told.append("torn down")

    container.register_factory(A, make)
    container.register_factory(B, B)
    first = await container.aresolve(A), container.resolve(B)
    await container.reset()
    assert told == ["torn down"]
    again = await container.aresolve(A), container.resolve(B)
    assert first[0] is not again[0]
    assert first[1] is not again[1]
    await container.aclose()
    assert told == ["torn down"] * 2
