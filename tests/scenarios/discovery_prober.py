"""A process that probes: ``discovery_prober.py SPEC INTERVAL``. Says ``probing``, then waits."""

from __future__ import annotations

import asyncio
import sys

from nexgate.discovery import Probing, ServiceRegistry


async def main(spec: str, interval: float) -> None:
    probing = Probing(interval=interval, timeout=interval * 0.9, unhealthy_after=2)
    async with ServiceRegistry(spec, probing=probing) as registry:
        print("probing", flush=True)
        await registry.health_check()


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1], float(sys.argv[2])))
