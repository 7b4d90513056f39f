"""What every test may use: gateways in front of recording and scripted upstreams, on real
sockets.
"""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator, Mapping
from typing import Any

import pytest
import uvloop

from nexgate.gateway import Gateway, Served
from nexgate.testing import RawClient, RecordingUpstream


def pytest_asyncio_loop_factories(config: pytest.Config, item: pytest.Item) -> Mapping[str, Any]:
    """The loop that production uses."""
    return {"uvloop": uvloop.new_event_loop}


def gateway_to(*urls: str, section: dict[str, Any] | None = None, **service: Any) -> Gateway:
    """Everything goes to one service at ``urls``."""
    gateway = Gateway(**(section or {}))
    gateway.service("upstream", *urls, **service)
    gateway.route("/{rest:path}", "upstream")
    return gateway


@contextlib.asynccontextmanager
async def in_front_of(
    url: str, section: dict[str, Any] | None = None, **service: Any
) -> AsyncIterator[Served]:
    async with gateway_to(url, section=section, **service).serving("127.0.0.1:0") as served:
        yield served


@pytest.fixture
async def upstream() -> AsyncIterator[RecordingUpstream]:
    async with RecordingUpstream() as server:
        yield server


@pytest.fixture
async def served(upstream: RecordingUpstream) -> AsyncIterator[Served]:
    async with in_front_of(upstream.url) as server:
        yield server
        assert not [c for c in server.runtime.edge.connections if c.exchange is not None]


@pytest.fixture
async def client(served: Served) -> AsyncIterator[RawClient]:
    async with RawClient(served.url) as raw:
        yield raw
