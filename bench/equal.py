"""Checks that the contestants do the same work, by looking at what reaches the upstream.

A benchmark in which one peer forgot a header, or opened a connection per request, measures nothing.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass

from bench.arena import Arena, Entry
from bench.load import FIELDS
from bench.peers import UnsupportedError
from nexgate.testing import RawClient, RecordingUpstream, canned

REQUIRED = ["X-Forwarded-For", "X-Forwarded-Proto", "X-Forwarded-Host", "Via", *FIELDS]


@dataclass(frozen=True, slots=True)
class Work:
    """What a peer sent upstream for one request."""

    peer: str
    missing: list[str]
    """Fields that every peer has to send."""
    is_reusing: bool
    """Whether the second request came on the first one's connection."""
    failure: str | None = None


def compare_work(arena: Arena) -> list[Work]:
    """Send two requests through each peer."""
    return [asyncio.run(_work_of(arena, entry)) for entry in arena.plain()]


async def _work_of(arena: Arena, entry: Entry) -> Work:
    fields = "".join(f"{name}: {value}\r\n" for name, value in FIELDS.items())
    wire = f"GET /check HTTP/1.1\r\n{fields}\r\n".encode()
    async with RecordingUpstream(canned(200, b"{}")) as upstream:
        running = arena.running(entry, upstream.port)
        try:
            # Starting polls the upstream, which lives in this loop.
            contestant = await asyncio.to_thread(running.__enter__)
        except (RuntimeError, UnsupportedError) as error:
            return Work(entry.peer.name, [], False, str(error))
        try:
            async with RawClient(("127.0.0.1", contestant.port)) as client:
                for _ in range(2):
                    response = await client.request(wire)
                    if response.status != 200:
                        return Work(entry.peer.name, [], False, f"answered {response.status}")
        except (OSError, EOFError) as error:
            return Work(entry.peer.name, [], False, str(error))
        finally:
            await asyncio.to_thread(running.__exit__, None, None, None)
        first, second = [r for r in upstream.requests if r.target == "/check"][:2]
        missing = [name for name in REQUIRED if not first.values(name)]
        return Work(entry.peer.name, missing, first.connection == second.connection)
