"""``nexgate tasks``: look into a queue, and mend what is in it."""

from __future__ import annotations

import sys
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Annotated, Any, Literal, TypeVar

import typer

from nexgate.cli._exit import ExitCode
from nexgate.cli._group import Form, command_group
from nexgate.cli._stores import ask, named_store

if TYPE_CHECKING:
    from nexgate.tasks import JobRecord, TaskStore

T = TypeVar("T")

_EPILOG = (
    "[bold]Examples[/bold]\n\n"
    "  [cyan]nexgate tasks list tasks.db[/cyan]                 the newest jobs\n\n"
    "  [cyan]nexgate tasks dead redis://127.0.0.1[/cyan]        those that failed for good\n\n"
    "  [cyan]nexgate tasks retry tasks.db --all[/cyan]          run all of those again\n\n"
    "  [cyan]nexgate tasks watch tasks.db[/cyan]                counts and progress, live\n\n"
    "A queue is a file, a redis:// URL, or module:name of a TaskQueue."
)

QueueArgument = Annotated[
    str, typer.Argument(metavar="QUEUE", help="A file, redis://…, or module:name of a TaskQueue.")
]
Ids = Annotated[list[str] | None, typer.Argument(metavar="[ID]...", help="Ids of jobs.")]
Limit = Annotated[int, typer.Option(min=1, max=100_000, help="Most jobs to list.")]


def register(app: typer.Typer) -> None:
    """Add the commands to ``app``."""
    group = command_group("Look into a queue of background tasks.", _EPILOG)
    group.command(name="list")(list_jobs)
    for command in (show, dead, retry, drop, cancel, stats, watch):
        group.command()(command)
    app.add_typer(group, name="tasks")


def list_jobs(
    queue: QueueArgument,
    state: Annotated[
        Literal["waiting", "running", "done", "dead", "cancelled"] | None,
        typer.Option(help="Only those."),
    ] = None,
    limit: Limit = 50,
    output: Form = "table",
) -> None:
    """List jobs, the newest first."""
    _print_jobs(_ask(queue, lambda store: store.jobs(state, limit)), output)


def dead(queue: QueueArgument, limit: Limit = 50, output: Form = "table") -> None:
    """List jobs that failed for the last time."""
    _print_jobs(_ask(queue, lambda store: store.jobs("dead", limit)), output)


def show(
    queue: QueueArgument,
    id: Annotated[str, typer.Argument(metavar="ID", help="Id of the job.")],
) -> None:
    """Show everything about one job."""
    from nexgate.cli._console import print_json, stderr

    record = _ask(queue, lambda store: store.get(id))
    if record is None:
        stderr().print(f"there is no job {id}", markup=False)
        raise typer.Exit(ExitCode.NO)
    print_json(_told(record, is_whole=True))


def retry(
    queue: QueueArgument,
    ids: Ids = None,
    everything: Annotated[bool, typer.Option("--all", help="All dead jobs.")] = False,
) -> None:
    """Let dead or cancelled jobs run again."""
    _mend(
        queue, ids, "dead" if everything else None, lambda s, found: s.revive(found), "wait again"
    )


def drop(
    queue: QueueArgument,
    ids: Ids = None,
    everything: Annotated[bool, typer.Option("--all", help="All dead jobs.")] = False,
) -> None:
    """Forget jobs that do not run."""
    _mend(queue, ids, "dead" if everything else None, lambda s, found: s.drop(found), "are gone")


def cancel(queue: QueueArgument, ids: Ids = None) -> None:
    """Cancel jobs: waiting ones never run, running ones end within a second."""

    async def all_of(store: TaskStore, found: list[str]) -> int:
        states = [await store.cancel(each, 86400.0) for each in found]
        return sum(state in ("cancelled", "running") for state in states)

    _mend(queue, ids, None, all_of, "are cancelled")


def stats(queue: QueueArgument, output: Form = "table") -> None:
    """Count jobs by state."""
    from nexgate.cli._console import print_json, stdout

    counts = _ask(queue, lambda store: store.counts())
    if output == "json":
        print_json(counts)
        return
    for state, count in counts.items():
        stdout().print(f"{state:<10} {count:>8}", markup=False)


def watch(
    queue: QueueArgument,
    interval: Annotated[float, typer.Option(min=0.05, help="Seconds between two looks.")] = 0.5,
    until_empty: Annotated[
        bool, typer.Option("--until-empty", help="End when nothing waits or runs.")
    ] = False,
) -> None:
    """Show counts and the progress of running jobs, live."""
    import asyncio

    asyncio.run(_watch(queue, interval, until_empty))


# --- asking ---------------------------------------------------------------------------------------


def _store(queue: str) -> TaskStore:
    from nexgate.cli.worker import load_queue
    from nexgate.tasks import open_store

    return named_store(queue, "QUEUE", lambda path: load_queue(path).store, open_store)


def _ask(queue: str, question: Callable[[TaskStore], Awaitable[T]]) -> T:
    return ask(_store(queue), question)


def _mend(
    queue: str,
    ids: list[str] | None,
    every: Any,
    mend: Callable[[TaskStore, list[str]], Awaitable[int]],
    done: str,
) -> None:
    from nexgate.cli._console import stdout

    if not ids and every is None:
        raise typer.BadParameter("name jobs by their ids", param_hint="ID")

    async def work(store: TaskStore) -> tuple[int, int]:
        found = list(ids or ())
        if every is not None:
            found += [job.id for job in await store.jobs(every, 100_000)]
        return len(found), await mend(store, found)

    asked, mended = _ask(queue, work)
    stdout().print(f"{mended} of {asked} jobs {done}", markup=False)
    if ids and mended < asked:
        raise typer.Exit(ExitCode.NO)


def _told(record: JobRecord, *, is_whole: bool = False) -> dict[str, Any]:
    import json
    from dataclasses import asdict

    said = asdict(record)
    body, result = said.pop("body"), said.pop("result")
    if is_whole:
        said["result"] = json.loads(result) if result else None
        said["args"], said["kwargs"] = [], {}
        try:
            message = json.loads(body or b"{}")
            said["args"], said["kwargs"] = message.get("args", []), message.get("kwargs", {})
        except (ValueError, AttributeError):  # which may be why it is dead
            said["body"] = body.decode(errors="backslashreplace")
    return said


def _print_jobs(records: list[JobRecord], output: str) -> None:
    from nexgate.cli._console import local_time, print_json, print_table

    if output == "json":
        print_json([_told(record) for record in records])
        return
    rows = [
        (
            record.id,
            record.task,
            record.state,
            str(record.failures),
            local_time(record.due),
            _progress(record),
            record.error.partition("\n")[0][:120],
        )
        for record in records
    ]
    headings = ("id", "task", "state", "failures", "due", "progress", "error")
    print_table(headings, rows, "there are no such jobs")


def _progress(record: JobRecord) -> str:
    said = record.progress
    if not said:
        return ""
    share = f"{said['done']:g}" + (f" of {said['of']:g}" if said.get("of") else "")
    return f"{share} {said.get('note', '')}".strip()


async def _watch(queue: str, interval: float, until_empty: bool) -> None:
    import asyncio

    from rich.console import Group
    from rich.live import Live
    from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn
    from rich.text import Text

    from nexgate.cli._console import stdout

    store = _store(queue)
    console = stdout()
    told = ""
    await store.open()
    try:
        with Live(console=console, refresh_per_second=10, transient=False) as live:
            while True:
                counts = await store.counts()
                bars = Progress(
                    TextColumn("{task.fields[id]}"),
                    TextColumn("{task.description}"),
                    BarColumn(),
                    TaskProgressColumn(),
                    TextColumn("{task.fields[note]}"),
                )
                for job in await store.jobs("running", 20):
                    said = job.progress or {}
                    bars.add_task(
                        job.task,
                        id=job.id,
                        total=said.get("of"),
                        completed=said.get("done", 0),
                        note=said.get("note", ""),
                    )
                line = "  ".join(f"{state} {count}" for state, count in counts.items())
                if console.is_terminal:
                    live.update(Group(Text(line), bars), refresh=True)
                elif line != told:  # into a pipe: a line for each change
                    told = line
                    console.print(line, markup=False)
                    sys.stdout.flush()
                if until_empty and not counts["waiting"] and not counts["running"]:
                    return
                await asyncio.sleep(interval)
    finally:
        await store.aclose()
