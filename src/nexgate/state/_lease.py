"""A lease: somebody is the one who does something, for as long as they keep saying so."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from typing import Final

from nexgate.state._state import Clock, State, StateError, machine_clock

__all__ = ["Lease"]

_log = logging.getLogger("nexgate.state")

_RENEWALS_PER_TTL: Final = 3
_RETRIES_PER_TTL: Final = 10


class Lease:
    """A key that one owner holds until it releases it, or stops renewing it.

    Time is measured on the machine's monotonic clock, from *before* the store was asked, so this
    side always believes that the lease ends earlier than the store does: ``is_held`` turns false
    before anybody else can hold it, however long the answer took. What the holder does with the
    lease must be short compared to what is left of it (``remaining``): a process that is stopped
    for longer than that and goes on is a second holder until it looks at ``is_held`` again.
    """

    __slots__ = ("_clock", "_keeper", "_lost", "_owner", "_state", "_until", "key", "ttl")

    def __init__(
        self, state: State, key: str, owner: str, ttl: float, *, clock: Clock = machine_clock
    ) -> None:
        """Not held yet. ``acquire`` makes one that is."""
        self.key = key
        self.ttl = ttl
        self._state = state
        self._owner = owner.encode()
        self._clock = clock
        self._until = float("-inf")
        self._lost = asyncio.Event()
        self._keeper: asyncio.Task[None] | None = None

    @classmethod
    async def acquire(
        cls, state: State, key: str, owner: str, ttl: float, *, clock: Clock = machine_clock
    ) -> Lease | None:
        """A lease that is held, or ``None`` when somebody else has it.

        ``owner`` names this holder and nobody else: a host and a process id are not enough.
        Raises ``StateError`` when the store cannot tell.
        """
        lease = cls(state, key, owner, ttl, clock=clock)
        return lease if await lease.try_acquire() else None

    @property
    def is_held(self) -> bool:
        """Whether nobody else can hold it at this moment."""
        return self._clock() < self._until

    @property
    def remaining(self) -> float:
        """Seconds for which it is certainly held."""
        return max(0.0, self._until - self._clock())

    async def try_acquire(self) -> bool:
        """Take the lease if it is free or ours already."""
        asked = self._clock()
        if await self._state.add(self.key, self._owner, ttl=self.ttl):
            return self._hold(asked)
        # Ours, perhaps: an earlier answer that was lost on the way, or a release that failed.
        return await self._prolong()

    async def renew(self) -> bool:
        """Start its time anew. False when it is lost; then nobody here holds it any more.

        A store that forgot the lease, because it was restarted, is told again, as long as the time
        has not run out here. Raises ``StateError`` when the store does not answer; the lease is
        then held until its time is over.
        """
        if await self._prolong():
            return True
        if self.is_held:
            asked = self._clock()
            if await self._state.add(self.key, self._owner, ttl=self.ttl):
                return self._hold(asked)
        self._lose()
        return False

    async def release(self) -> None:
        """Give it up, if it is held; others can take it at once. Never raises ``StateError``."""
        await self._stop_keeper()
        self._lose()
        try:
            await self._state.delete(self.key, expected=self._owner)
        except StateError as error:
            _log.debug("the lease %s was not released and will end by itself: %s", self.key, error)

    def keep(self) -> None:
        """Renew it in the background, three times per ``ttl``, until it is released or lost."""
        if self._keeper is None or self._keeper.done():
            self._keeper = asyncio.get_running_loop().create_task(self._keep())

    async def wait_lost(self) -> None:
        """Return once it is not held any more. Somebody has to renew it meanwhile, or it ends."""
        while not self._lost.is_set():
            remaining = self.remaining
            if not remaining:
                self._lose()
                break
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(remaining):
                    await self._lost.wait()

    async def __aenter__(self) -> Lease:
        self.keep()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.release()

    # -- inside --------------------------------------------------------------------------------

    async def _prolong(self) -> bool:
        asked = self._clock()
        if not await self._state.replace(self.key, self._owner, self._owner, ttl=self.ttl):
            return False
        return self._hold(asked)

    def _hold(self, since: float) -> bool:
        self._until = since + self.ttl
        self._lost.clear()
        return self.is_held

    def _lose(self) -> None:
        self._until = float("-inf")
        self._lost.set()

    async def _keep(self) -> None:
        pause = self.ttl / _RENEWALS_PER_TTL
        while True:
            await asyncio.sleep(min(pause, self.remaining))
            try:
                if not await self.renew():
                    return
                pause = self.ttl / _RENEWALS_PER_TTL
            except StateError as error:
                _log.debug("the lease %s could not be renewed: %s", self.key, error)
                if not self.is_held:
                    self._lose()
                    return
                pause = self.ttl / _RETRIES_PER_TTL

    async def _stop_keeper(self) -> None:
        keeper, self._keeper = self._keeper, None
        if keeper is not None and keeper is not asyncio.current_task():
            keeper.cancel()
            await asyncio.gather(keeper, return_exceptions=True)
