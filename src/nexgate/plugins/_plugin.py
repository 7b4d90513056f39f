"""What a plugin is."""

from __future__ import annotations

import asyncio
import inspect
import logging
from abc import ABC, abstractmethod
from collections.abc import Awaitable, Callable, Iterator
from contextlib import AsyncExitStack
from typing import TYPE_CHECKING, Any, ClassVar, Final, TypeVar

from nexgate.config import Section

from ._manifest import API_VERSION, Manifest

if TYPE_CHECKING:
    from nexgate.di import Container
    from nexgate.events import EventBus
    from nexgate.tasks import Supervisor

    from ._resources import Resources

__all__ = ["Plugin", "PluginConfig", "on"]

PluginConfig = Section
"""Base of a plugin's ``Config``: frozen, with described fields; unknown keys are refused with a
hint."""

F = TypeVar("F", bound=Callable[..., Any])

_HANDLES: Final = "__nexgate_events__"
_GRACE: Final = 1.0
"""Seconds that a hook has to end after it was cancelled."""


def on(topic: str | type[Any], **options: Any) -> Callable[[F], F]:
    """Decorator for a method of a plugin: it handles the events of ``topic`` (see
    ``EventBus.subscribe`` for types, wildcards and ``options``) while the plugin runs.
    """

    def mark(function: F) -> F:
        setattr(function, _HANDLES, (*getattr(function, _HANDLES, ()), (topic, options)))
        return function

    return mark


class Plugin(ABC):
    """Something that extends a program while it runs, and can be replaced while it runs.

    ``initialize`` and ``cleanup`` may be ``async``. What a plugin takes from ``self.container``,
    ``self.bus`` and ``self.tasks`` is given back for it: registrations, subscriptions and tasks
    end with it, in whatever way it ends, also when ``initialize`` fails half-way.

    Class attributes are its manifest. A nested ``Config`` (a ``PluginConfig``, another pydantic
    model or a dataclass) types its configuration, which is ``self.config`` from the start.
    """

    name: ClassVar[str] = ""
    """Picks it where a module has several. It is called as its place is, or its section."""
    version: ClassVar[str] = "0.0.0"
    api: ClassVar[str] = API_VERSION
    """Version of this interface that it was written for."""
    requires: ClassVar[tuple[str, ...]] = ()
    """Plugins that must run before this one, such as ``"cache>=1.2"``. They stop after it."""
    commands: ClassVar[Any] = None
    """A ``typer.Typer`` that ``nexgate NAME …`` runs."""
    Config: ClassVar[type[Any] | None] = None

    _name: str = ""
    _config: Any = None
    _resources: Resources | None = None

    # ---------------------------------------------------------------- what it does

    @abstractmethod
    def initialize(self, app: Any) -> Awaitable[None] | None:
        """Begin. ``app`` is what the manager was given: an application, or the gateway's
        ``Runtime``.
        """

    @abstractmethod
    def cleanup(self) -> Awaitable[None] | None:
        """End. Called once for each ``initialize`` that succeeded, after the last use."""

    def hand_over(self) -> Any:
        """State for the version that replaces this one, or ``None``. Called while this one still
        works; what it returns must not be changed by this one any more.
        """
        return None

    def take_over(self, state: Any) -> None:  # noqa: B027  # may be left as it is
        """State that the version before handed over. Called before ``initialize``, and not when
        there is none. An exception refuses the replacement.
        """

    # ---------------------------------------------------------------- what it has

    @property
    def config(self) -> Any:
        """Its validated configuration: a ``Config``, or a plain ``dict`` without one."""
        return self._config

    @property
    def container(self) -> Container:
        """The program's dependencies. What is registered here is the plugin's own, and goes with
        it.
        """
        found: Container = self._running.container
        return found

    @property
    def bus(self) -> EventBus:
        """The program's events. Subscriptions made here become active when ``initialize`` is
        done, in the same step in which the version before stops getting any, and go with the
        plugin.
        """
        found: EventBus = self._running.bus
        return found

    @property
    def tasks(self) -> Supervisor:
        """Supervises what the plugin does in the background; cancels it when the plugin ends."""
        return self._running.tasks

    @property
    def exit_stack(self) -> AsyncExitStack:
        """For what must be closed also when ``initialize`` fails. Unwound after ``cleanup``."""
        return self._running.stack

    @property
    def log(self) -> logging.Logger:
        """``nexgate.plugins.NAME``."""
        return logging.getLogger(f"nexgate.plugins.{self._name or type(self).__name__}")

    @property
    def _running(self) -> Resources:
        if self._resources is None:
            raise RuntimeError(
                f"{type(self).__name__} is not running: containers, events and tasks are there"
                " from initialize to cleanup"
            )
        return self._resources

    # ---------------------------------------------------------------- what it says of itself

    @classmethod
    def manifest(cls, name: str = "") -> Manifest:
        """What it says of itself; ``name`` is what its place calls it."""
        summary = inspect.cleandoc(cls.__doc__ or "").partition("\n")[0]
        return Manifest(cls.name or name, cls.version, cls.api, cls.requires, summary)

    @classmethod
    def handlers(cls) -> Iterator[tuple[str, str | type[Any], dict[str, Any]]]:
        """Every ``@on`` of the class: name of the method, topic, options."""
        for name in dir(cls):
            marked = getattr(inspect.getattr_static(cls, name), _HANDLES, ())
            for topic, options in marked:
                yield name, topic, options

    @classmethod
    def provides(cls) -> tuple[str, ...]:
        """Names that a configuration can use as ``"plugin:name"``: its public attributes."""
        own = set(dir(cls)) - set(dir(Plugin))
        return tuple(sorted(name for name in own if not name.startswith("_")))


async def call_hook(hook: Callable[..., Any], *args: Any, timeout: float) -> Any:
    """Call a hook that may be sync or async. Raises ``TimeoutError``, and ``RuntimeError`` when it
    raises what would end more than a hook, such as ``SystemExit``.

    In a task of its own: there a ``CancelledError`` that nobody sent is told from one that somebody
    did, and a hook that takes no notice of being cancelled can be left behind.
    """
    task = asyncio.create_task(_called(hook, args, timeout))
    try:
        await asyncio.wait({task}, timeout=timeout + _GRACE)
    except asyncio.CancelledError:
        task.cancel()
        await asyncio.wait({task}, timeout=_GRACE)
        raise
    if not task.done():
        raise TimeoutError("it takes no notice of being cancelled, and is left behind")
    if task.cancelled():
        raise RuntimeError("it was cancelled, by nobody but itself")
    return task.result()


async def _called(hook: Callable[..., Any], args: tuple[Any, ...], timeout: float) -> Any:
    async with asyncio.timeout(timeout):
        try:
            result = hook(*args)
            if inspect.isawaitable(result):
                result = await result
        except (Exception, asyncio.CancelledError, KeyboardInterrupt, GeneratorExit):
            raise
        except BaseException as error:
            raise RuntimeError(f"it raised {type(error).__name__}, which ends programs") from error
    return result
