"""What can be a factory, and what its parameters can look like."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Set
from contextlib import asynccontextmanager, contextmanager
from dataclasses import InitVar, dataclass
from functools import partial, wraps
from typing import Any, Generic, NamedTuple, Protocol, Self, TypeVar

import pytest
from pydantic import BaseModel, ConfigDict

from nexgate.di import Container

T = TypeVar("T")


class A:
    pass


class B:
    pass


class Pair(NamedTuple):
    a: A
    b: B


class New:
    def __new__(cls, a: A, b: B) -> Self:
        made = super().__new__(cls)
        made.a, made.b = a, b
        return made

    a: A
    b: B


@dataclass
class Initial:
    a: InitVar[A]
    b: B

    def __post_init__(self, a: A) -> None:
        self.a = a


class Model(BaseModel):
    model_config = ConfigDict(arbitrary_types_allowed=True)

    a: A
    b: B


class Of(Generic[T]):
    def __init__(self, a: A, b: B) -> None:
        self.a, self.b = a, b


class Job:
    """Its method has the name of what a partial calls."""

    def __init__(self, a: A, b: B) -> None:
        self.a, self.b = a, b

    async def func(self) -> None: ...


class Making:
    def __init__(self) -> None:
        self.func = print

    def __call__(self, a: A, b: B) -> Pair:
        return Pair(a, b)


def make_pair(kind: Callable[..., Pair], a: A, b: B) -> Pair:
    return kind(a, b)


@pytest.fixture
def container() -> Container:
    made = Container()
    made.register_factory(A, A)
    made.register_factory(B, B)
    return made


@pytest.mark.parametrize(
    "factory", [Pair, New, Initial, Model, Of[int], Job, Making(), partial(make_pair, Pair)]
)
def test_whatever_can_be_called_can_be_a_factory(container: Container, factory: Any) -> None:
    container.register_factory(object, factory)
    container.validate()
    made: Any = container.resolve(object)
    assert made.a is container.resolve(A)
    assert made.b is container.resolve(B)


def optional(a: A | None, b: B, /) -> tuple[Any, ...]:
    return a, b


USUAL = A()


def with_defaults(n=1, a: A = USUAL, b: B | None = None, /) -> tuple[Any, ...]:  # type: ignore[no-untyped-def]
    return n, a, b


def test_positional_parameters_keep_their_places_beside_those_that_nobody_registered() -> None:
    container = Container()
    container.register_factory(B, B)
    b = container.resolve(B)
    container.register_factory(int, optional)
    container.register_factory(str, with_defaults)
    assert container.resolve(int) == (None, b)  # type: ignore[comparison-overlap]
    assert container.resolve(str) == (1, USUAL, b)  # type: ignore[comparison-overlap]


@pytest.mark.parametrize("is_async", [False, True])
async def test_a_function_that_is_a_context_manager_is_entered_and_left(is_async: bool) -> None:
    told: list[str] = []

    @contextmanager
    def manager() -> Iterator[A]:
        yield A()
        told.append("left")

    @asynccontextmanager
    async def async_manager() -> AsyncIterator[A]:
        yield A()
        told.append("left")

    container = Container()
    container.register_factory(A, async_manager if is_async else manager, lifetime="scoped")
    async with container.scope() as scope:
        assert type(await scope.aresolve(A)) is A
        assert told == []
    assert told == ["left"]


@pytest.mark.parametrize("is_async", [False, True])
async def test_a_generator_that_yields_nothing_is_told_so(is_async: bool) -> None:
    def nothing() -> Iterator[A]:
        yield from ()

    async def async_nothing() -> AsyncIterator[A]:
        for each in ():
            yield each

    container = Container()
    container.register_factory(A, async_nothing if is_async else nothing)
    with pytest.raises(RuntimeError, match=r"nothing yields nothing"):
        await container.aresolve(A)


def test_a_scope_that_a_stop_iteration_ends_raises_it_and_nothing_else() -> None:
    seen: list[Exception] = []

    def make() -> Iterator[A]:
        try:
            yield A()
        except Exception as error:
            seen.append(error)
            raise

    container = Container()
    container.register_factory(A, make, lifetime="scoped")
    error = StopIteration()
    with pytest.raises(StopIteration), container.scope() as scope:
        scope.resolve(A)
        raise error
    assert seen == [error]


async def test_a_decorator_that_waits_makes_an_async_factory_of_a_plain_one() -> None:
    def make() -> A:
        return A()

    @wraps(make)
    async def waiting() -> A:
        return make()

    container = Container()
    container.register_factory(A, waiting)
    assert type(await container.aresolve(A)) is A


class Mailer(Protocol):
    """What others ask for."""


class Fake:
    pass


@pytest.mark.parametrize("lifetime", ["singleton", "scoped"])
def test_what_stands_in_for_an_alias_lives_as_long_as_what_that_is(lifetime: Any) -> None:
    container = Container()
    container.register_factory(A, A, lifetime=lifetime)
    container.alias(Mailer, A)
    with container.override(Mailer, Fake), container.scope() as scope:
        assert isinstance(scope.resolve(Mailer), Fake)
        assert scope.resolve(Mailer) is scope.resolve(Mailer)
        with container.scope() as other:
            assert (other.resolve(Mailer) is scope.resolve(Mailer)) == (lifetime == "singleton")


class Settings(BaseModel):
    labels: Mapping[str, int]
    names: Set[str]
    either: list[int] | dict[str, int] | None = None
    text: str | list[str] = ""


def test_settings_that_are_made_of_others_are_read_as_json() -> None:
    environ = {
        "LABELS": '{"a": 1}',
        "NAMES": '["a"]',
        "EITHER": "[1, 2]",
        "TEXT": "5",
    }
    container = Container()
    container.register_settings(Settings, environ=environ)
    said = container.resolve(Settings)
    assert (said.labels, list(said.names), said.either, said.text) == ({"a": 1}, ["a"], [1, 2], "5")
