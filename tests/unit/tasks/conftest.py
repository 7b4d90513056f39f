"""Stores of jobs: real files, and a real server."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import pytest
from tests.unit.state.servers import Valkey
from tests.unit.tasks.queues import Clock, Make

from nexgate.tasks import RedisTasks, SqliteTasks, TaskStore


@pytest.fixture(scope="module")
def valkey() -> Iterator[Valkey]:
    with Valkey() as server:
        yield server


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture(params=["sqlite", "sqlite-normal", "redis"])
async def make(request: pytest.FixtureRequest, tmp_path: Path, clock: Clock) -> AsyncIterator[Make]:
    """Makes stores over the same jobs, and closes them."""
    made: list[TaskStore] = []

    def store(**options: Any) -> TaskStore:
        if request.param == "redis":
            url = request.getfixturevalue("valkey").url
            prefix = f"t{abs(hash(request.node.nodeid))}:"
            made.append(RedisTasks(url, prefix=prefix, clock=clock, **options))
        else:
            synchronous: Any = "normal" if "normal" in request.param else "full"
            made.append(
                SqliteTasks(tmp_path / "tasks.db", synchronous=synchronous, clock=clock, **options)
            )
        return made[-1]

    yield store
    for each in made:
        await each.aclose()
