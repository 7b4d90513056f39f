"""The wheel: never early, at most a tick late, and it holds nobody alive."""

from __future__ import annotations

import asyncio
import gc
import weakref

from nexgate.clock import NEVER, TICK, Timed, Wheel


class Alarm(Timed):
    __slots__ = ("__weakref__", "rang")

    def __init__(self) -> None:
        super().__init__()
        self.rang: list[float] = []

    def on_deadline(self, now: float) -> None:
        self.rang.append(now)


async def test_a_deadline_rings_once_and_never_early() -> None:
    loop = asyncio.get_running_loop()
    wheel = Wheel(loop)
    alarms = [Alarm() for _ in range(20)]
    start = loop.time()
    for n, alarm in enumerate(alarms):
        wheel.set(alarm, start + n * 0.02)
    await asyncio.sleep(0.4 + 3 * TICK)
    for n, alarm in enumerate(alarms):
        assert len(alarm.rang) == 1
        late = alarm.rang[0] - (start + n * 0.02)
        assert -0.001 <= late < 3 * TICK
    assert len(wheel) == 0


async def test_moving_it_later_costs_nothing_and_moving_it_earlier_works() -> None:
    loop = asyncio.get_running_loop()
    wheel = Wheel(loop)
    later, earlier, cleared = Alarm(), Alarm(), Alarm()
    now = loop.time()
    wheel.set(later, now + 0.05)
    later.deadline = now + 0.45  # a plain store, as hot paths do
    wheel.set(earlier, now + 60)
    wheel.set(earlier, now + 0.05)
    wheel.set(cleared, now + 0.05)
    cleared.deadline = NEVER
    await asyncio.sleep(0.05 + 3 * TICK)
    assert not later.rang
    assert earlier.rang
    assert not cleared.rang
    await asyncio.sleep(0.4)
    assert len(later.rang) == 1


async def test_what_is_forgotten_is_not_kept_alive() -> None:
    wheel = Wheel(asyncio.get_running_loop())
    alarm = Alarm()
    wheel.set(alarm, asyncio.get_running_loop().time() + 3600)
    gone = weakref.ref(alarm)
    wheel.forget(alarm)
    del alarm
    gc.collect()
    assert gone() is None
    assert len(wheel) == 0


async def test_one_that_fails_does_not_stop_the_others() -> None:
    class Broken(Alarm):
        __slots__ = ()

        def on_deadline(self, now: float) -> None:
            raise RuntimeError("broken")

    loop = asyncio.get_running_loop()
    wheel = Wheel(loop)
    alarm = Alarm()
    wheel.set(Broken(), loop.time())
    wheel.set(alarm, loop.time())
    await asyncio.sleep(3 * TICK)
    assert alarm.rang
