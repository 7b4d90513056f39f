"""Our stores as a broker of taskiq: its formatter, middlewares, dependencies and receiver work on
them.
"""

from __future__ import annotations

import logging
from collections.abc import AsyncGenerator
from typing import TYPE_CHECKING, Any

try:
    from taskiq import AckableMessage, AsyncBroker, BrokerMessage, TaskiqMessage
    from taskiq.receiver import Receiver
except ImportError:
    from ._errors import TaskError

    raise TaskError("durable tasks need taskiq: pip install 'nexgate[tasks]'") from None

from pydantic import ConfigDict

from ._store import NewJob

if TYPE_CHECKING:
    from ._queue import TaskQueue

__all__ = ["Message", "Receiver", "StoreBroker"]


def _is_news(record: logging.LogRecord) -> bool:
    """The worker says itself what failed, with the job; what becomes of threads is documented."""
    said = record.getMessage()
    return not said.startswith(("Exception found while executing", "Timeouts for sync tasks"))


logging.getLogger("taskiq.receiver.receiver").addFilter(_is_news)


class Message(TaskiqMessage):
    """A job's task and arguments. Numbers that are none stay so; taskiq's own makes nothing of
    them.
    """

    model_config = ConfigDict(ser_json_inf_nan="constants")


class StoreBroker(AsyncBroker):
    """``kick`` stores a job, ``listen`` yields claimed ones. Workers of ours claim by themselves,
    because they extend leases, too.
    """

    def __init__(self, queue: TaskQueue) -> None:
        super().__init__()
        self._queue = queue

    async def kick(self, message: BrokerMessage) -> None:
        """Store what taskiq's own ``kiq`` made."""
        task = self._queue.tasks.get(message.task_name)
        await self._queue.store.enqueue(
            NewJob(
                message.task_id,
                message.task_name,
                message.message,
                self._queue.clock() + float(message.labels.get("delay") or 0),
                "normal" if task is None else task.options_of_all.priority,
            )
        )

    async def listen(self) -> AsyncGenerator[bytes | AckableMessage, None]:
        """For taskiq's own worker: without leases that are extended, so short tasks only."""
        store = self._queue.store
        while True:
            claims = await store.claim(16, self._queue.lease, ())
            for claim in claims:

                async def done(claim: Any = claim) -> None:
                    await store.complete(claim, None, self._queue.keep)

                yield AckableMessage(data=claim.body, ack=done)
            if not claims:
                await store.wait(1.0)
