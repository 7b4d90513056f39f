"""Running a provider: begin again when it fails, keep what it said, and say how it is."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import random
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Iterable
from dataclasses import dataclass
from typing import Final, Literal, Self

from nexgate.cancellation import is_cancelled
from nexgate.discovery._instance import Instances, ServiceInstance
from nexgate.discovery._provider import Provider, Reporting
from nexgate.errors import NexgateError
from nexgate.state import machine_clock

__all__ = ["FollowStatus", "Followed", "United", "follow"]

_log = logging.getLogger("nexgate.discovery")

_PAUSE: Final = 0.5
_LONGEST_PAUSE: Final = 30.0
_PATIENCE: Final = 2.0


@dataclass(frozen=True, slots=True)
class FollowStatus:
    """How a followed provider is."""

    state: Literal["connecting", "connected", "stale"]
    """``connecting``: it has never answered. ``stale``: it has, and may be wrong by now."""
    error: str | None = None
    """Why not ``connected``."""
    stale_for: float | None = None
    """Seconds since its set stopped being current; ``None`` unless ``stale``."""
    sets: int = 0
    """How many different sets it has yielded."""
    restarts: int = 0
    """How often it was begun again."""


class Followed:
    """A provider that is being followed. Made by ``follow``; also a context manager.

    ``instances`` is its last set: with one instance for each id and each URL, in the order of the
    ids. An instance *is* its URL: workers that share a port register it once each, and must not get
    its share of the requests once each.
    """

    def __init__(
        self,
        provider: Provider,
        on_change: Callable[[Instances], None] | None = None,
        *,
        pause: float = _PAUSE,
        longest_pause: float = _LONGEST_PAUSE,
        clock: Callable[[], float] = machine_clock,
        draw: Callable[[], float] = random.random,
    ) -> None:
        self.provider = provider
        self.instances: Instances = ()
        self._on_change = on_change
        self._pause = pause
        self._longest_pause = longest_pause
        self._clock = clock
        self._draw = draw
        self._error: str | None = "it has not answered yet"
        self._stale_since: float | None = None
        self._sets = self._restarts = 0
        self._has_answered = asyncio.Event()
        self._task = asyncio.get_running_loop().create_task(self._run())

    @property
    def status(self) -> FollowStatus:
        """How it is at this moment."""
        error = self._error
        provider = self.provider
        if isinstance(provider, Reporting) and (error is None or not self._restarts):
            error = provider.problem or error
        if not self._has_answered.is_set():
            return FollowStatus("connecting", error, None, 0, self._restarts)
        if error is None:
            self._stale_since = None
            return FollowStatus("connected", None, None, self._sets, self._restarts)
        if self._stale_since is None:
            self._stale_since = self._clock()
        stale_for = self._clock() - self._stale_since
        return FollowStatus("stale", error, stale_for, self._sets, self._restarts)

    async def wait_answered(self, timeout: float) -> bool:
        """Wait until the provider has yielded a set, also an empty one. False after ``timeout``."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(timeout):
                await self._has_answered.wait()
        return self._has_answered.is_set()

    async def aclose(self) -> None:
        """End it. ``instances`` stays as it is."""
        self._task.cancel()
        await asyncio.gather(self._task, return_exceptions=True)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.aclose()

    # -- inside --------------------------------------------------------------------------------

    async def _run(self) -> None:
        pause = self._pause
        while True:
            try:
                async with contextlib.aclosing(_generator(self.provider)) as sets:
                    async for instances in sets:
                        pause = self._pause
                        self._take(instances)
                error = "it has ended"
            except asyncio.CancelledError:
                if is_cancelled():
                    raise
                error = "it cancelled itself"  # a defect of the provider, and no end of ours
            except (NexgateError, OSError) as failure:
                error = str(failure) or type(failure).__name__
            except Exception as failure:
                error = f"{type(failure).__name__}: {failure}"
                if self._error is None:
                    _log.exception("the provider %s failed", self.provider.name)
            self._fail(error)
            self._restarts += 1
            await asyncio.sleep(pause * (0.5 + self._draw()))
            pause = min(2 * pause, self._longest_pause)

    def _fail(self, error: str) -> None:
        if self._error is None:
            self._stale_since = self._clock()
            _log.warning(
                "%s cannot say who is there; its %d instances are kept: %s",
                self.provider.name,
                len(self.instances),
                error,
            )
        elif not self._has_answered.is_set() and not self._restarts:
            _log.warning("%s has not said who is there: %s", self.provider.name, error)
        self._error = error

    def _take(self, instances: Instances) -> None:
        if self._error is not None:
            if self._has_answered.is_set() or self._restarts:
                _log.warning("%s answers again", self.provider.name)
            self._error = None
        instances = distinct(instances)
        is_first = not self._has_answered.is_set()
        is_new = is_first or instances != self.instances
        self.instances = instances
        self._has_answered.set()
        if is_new:
            self._sets += 1
            if self._on_change is not None:
                try:
                    self._on_change(instances)
                except Exception:
                    _log.exception("what %s said could not be applied", self.provider.name)


def follow(
    provider: Provider,
    on_change: Callable[[Instances], None] | None = None,
    *,
    pause: float = _PAUSE,
    longest_pause: float = _LONGEST_PAUSE,
    clock: Callable[[], float] = machine_clock,
    draw: Callable[[], float] = random.random,
) -> Followed:
    """Follow ``provider`` until the result is closed.

    ``on_change`` is called with the first set and with every one that differs from the last; what
    it raises is logged. A provider that raises or ends is begun again after ``pause`` seconds,
    jittered, then later and later up to ``longest_pause``; its last set is kept meanwhile, which is
    said in the log once.
    """
    return Followed(
        provider,
        on_change,
        pause=pause,
        longest_pause=longest_pause,
        clock=clock,
        draw=draw,
    )


class United:
    """Several providers as one: everybody whom any of them knows. ``Reporting``.

    Where two know the same id or URL, the earlier provider's word counts. One that fails keeps its
    part of the set. The first set waits until all have answered, or for two seconds after the first
    one did: a set without the others' instances would send everything to a few.
    """

    def __init__(
        self, providers: Iterable[Provider], *, patience: float = _PATIENCE, **following: float
    ) -> None:
        self.providers = tuple(providers)
        self.name = " + ".join(provider.name for provider in self.providers) or "nothing"
        self._patience = patience
        self._following = following
        self._followed: tuple[Followed, ...] = ()

    @property
    def problem(self) -> str | None:
        """What keeps the others from being current, with their names."""
        found = [(f.provider.name, f.status.error) for f in self._followed]
        return "; ".join(f"{name}: {error}" for name, error in found if error) or None

    async def watch(self) -> AsyncGenerator[Instances, None]:
        """Yield the united set whenever a part of it changes."""
        changed = asyncio.Event()
        self._followed = tuple(
            Followed(provider, lambda _: changed.set(), **self._following)  # type: ignore[arg-type]
            for provider in self.providers
        )
        try:
            if self.providers:
                await changed.wait()
            await asyncio.gather(*(f.wait_answered(self._patience) for f in self._followed))
            while True:
                changed.clear()
                yield distinct(i for followed in self._followed for i in followed.instances)
                await changed.wait()
        finally:
            await asyncio.gather(*(followed.aclose() for followed in self._followed))


def distinct(instances: Iterable[ServiceInstance]) -> Instances:
    """One for each id and each URL, the first of its kind, in the order of the ids."""
    ids: dict[str, ServiceInstance] = {}
    urls: set[str] = set()
    for instance in instances:
        if instance.id not in ids and instance.url not in urls:
            ids[instance.id] = instance
            urls.add(instance.url)
    return tuple(ids[key] for key in sorted(ids))


async def _generator(provider: Provider) -> AsyncGenerator[Instances, None]:
    """The iterator of a provider, which somebody may have written as a plain iterator."""
    iterator: AsyncIterator[Instances] = provider.watch()
    try:
        async for instances in iterator:
            yield tuple(instances)
    finally:
        close = getattr(iterator, "aclose", None)
        if close is not None:
            await close()
