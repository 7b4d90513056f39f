"""The lifespan protocol of ASGI, for an application inside another."""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable
from typing import Any

from ._connection import ASGIApp, Message, Receive, Send

__all__ = ["lifespan"]

_log = logging.getLogger("nexgate.integrations")


async def lifespan(
    app: ASGIApp,
    scope: Any,
    receive: Receive,
    send: Send,
    start: Callable[[], Awaitable[None]],
    stop: Callable[[], Awaitable[None]],
) -> None:
    """Run ``start`` before the application's own startup and ``stop`` after its shutdown, also when
    its startup fails. An application without lifespan is fine.
    """
    has_begun = has_ended = False

    first = await receive()
    try:
        await start()
    except Exception as error:
        _log.exception("could not start")
        await send({"type": "lifespan.startup.failed", "message": str(error)})
        return

    async def theirs() -> Message:
        nonlocal first
        given, first = first, {}
        return given or await receive()

    async def ours(message: Message) -> None:
        nonlocal has_begun, has_ended
        kind = message["type"]
        if kind == "lifespan.startup.complete":
            has_begun = True
        elif kind != "lifespan.startup.failed" and not kind.startswith("lifespan.shutdown."):
            await send(message)
            return
        else:
            has_ended = True
            message = await _stopped(stop, message)
        await send(message)

    try:
        await app(scope, theirs, ours)
    except Exception:
        if has_begun or has_ended:
            if not has_ended:
                await stop()
            raise
        # It knows no lifespan, as the specification lets it.
    except BaseException:
        await stop()
        raise
    if has_ended:
        return
    if not has_begun:
        await send({"type": "lifespan.startup.complete"})
    await receive()
    await send(await _stopped(stop, {"type": "lifespan.shutdown.complete"}))


async def _stopped(stop: Callable[[], Awaitable[None]], message: Message) -> Message:
    try:
        await stop()
    except Exception as error:
        _log.exception("could not stop cleanly")
        if message["type"] == "lifespan.shutdown.complete":
            return {"type": "lifespan.shutdown.failed", "message": str(error)}
    return message
