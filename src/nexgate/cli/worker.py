"""``nexgate worker``: run the jobs of a queue."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Literal

import typer

from nexgate.cli._object import load_object

if TYPE_CHECKING:
    from nexgate.tasks import TaskQueue

_EPILOG = (
    "[bold]Examples[/bold]\n\n"
    "  [cyan]nexgate worker shop.jobs:tasks[/cyan]                    the queue in shop/jobs.py\n\n"
    "  [cyan]nexgate worker shop.jobs:tasks --concurrency 32[/cyan]\n\n"
    "Run as many as you like, on as many machines as share the queue. SIGTERM or Ctrl-C lets jobs "
    "finish, for as long as --stop-timeout says, and gives the others back; a second one does so "
    "at once."
)


def register(app: typer.Typer) -> None:
    """Add the command to ``app``."""
    app.command(epilog=_EPILOG)(worker)


def worker(
    queue: Annotated[
        str, typer.Argument(metavar="MODULE:QUEUE", help="A TaskQueue, such as shop.jobs:tasks.")
    ],
    concurrency: Annotated[
        int, typer.Option(min=1, max=10_000, help="Most jobs that run at once.")
    ] = 8,
    stop_timeout: Annotated[
        float, typer.Option(min=0, help="Seconds that running jobs get to finish.")
    ] = 30.0,
    log_level: Annotated[
        Literal["debug", "info", "warning", "error"],
        typer.Option(help="Least severe message that is logged."),
    ] = "info",
) -> None:
    """Run jobs until told to stop."""
    import asyncio

    from nexgate.observability import configure_logging

    configure_logging(log_level)
    asyncio.run(_work(load_queue(queue), concurrency, stop_timeout))


def load_queue(path: str) -> TaskQueue:
    """The queue that ``module:name`` is, found from the current directory. Raises
    ``ConfigError``.
    """
    from nexgate.errors import ConfigError
    from nexgate.tasks import TaskQueue

    found = load_object(path, "MODULE:QUEUE")
    if not isinstance(found, TaskQueue):
        raise ConfigError(f"{path} is {type(found).__name__}, not a TaskQueue")
    return found


async def _work(queue: TaskQueue, concurrency: int, stop_timeout: float) -> None:
    import asyncio
    import logging
    import os
    import signal

    from nexgate.tasks import Worker

    log = logging.getLogger("nexgate.tasks")
    loop = asyncio.get_running_loop()
    await queue.open()
    worker = Worker(queue, concurrency)

    def stop() -> None:
        if worker.is_stopping:
            working.cancel()
        else:
            worker.stop(stop_timeout)

    working = asyncio.ensure_future(worker.run())
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, stop)
    for name in queue.tasks:
        log.info("task %s", name)
    for schedule in queue.schedules:
        log.info("schedule of %s: %s", schedule.task, schedule.title)
    log.info("working, %d at once", concurrency)
    await asyncio.wait({working})
    await queue.aclose()
    if not working.cancelled():
        working.result()
    log.info("stopped: %r", worker.statistics)
    left = worker.running + worker.threads
    if left:
        # A thread cannot be stopped, and Python would wait for it to end.
        log.error("%d jobs do not end, and end with this process", left)
        logging.shutdown()
        os._exit(0)
