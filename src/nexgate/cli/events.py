"""``nexgate events``: look into a store of events, and mend its dead letters."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Annotated, Any, Final, TypeVar

import typer

from nexgate.cli._exit import ExitCode
from nexgate.cli._group import Form, command_group
from nexgate.cli._object import load_object
from nexgate.cli._stores import ask, named_store

if TYPE_CHECKING:
    from nexgate.events import Dead, EventStore

T = TypeVar("T")

_EPILOG = (
    "[bold]Examples[/bold]\n\n"
    "  [cyan]nexgate events groups shop.db[/cyan]                  who has how much to do\n\n"
    "  [cyan]nexgate events dead redis://127.0.0.1 mail[/cyan]     what could not be handled\n\n"
    "  [cyan]nexgate events retry shop.db mail --all[/cyan]        handle all of those again\n\n"
    "A store is a file, a redis:// or nats:// URL, or module:name of an EventBus or a store."
)

StoreArgument = Annotated[
    str,
    typer.Argument(
        metavar="STORE", help="A file, redis://…, nats://…, or module:name of an EventBus."
    ),
]
Group = Annotated[str, typer.Argument(metavar="GROUP", help="Name of the group.")]
Ids = Annotated[list[str] | None, typer.Argument(metavar="[ID]...", help="Ids of dead letters.")]
All = Annotated[bool, typer.Option("--all", help="All dead letters of the group.")]

_MOST: Final = 100_000


def register(app: typer.Typer) -> None:
    """Add the commands to ``app``."""
    group = command_group("Look into a store of events.", _EPILOG)
    for command in (groups, dead, retry, drop):
        group.command()(command)
    app.add_typer(group, name="events")


def groups(store: StoreArgument, output: Form = "table") -> None:
    """List the groups, with the events that wait for each and its dead letters."""
    from dataclasses import asdict

    from nexgate.cli._console import print_json, print_table

    found = _ask(store, lambda opened: opened.groups())
    if output == "json":
        print_json([asdict(each) for each in found])
        return
    rows = [(each.name, str(each.waiting), str(each.dead)) for each in found]
    print_table(("group", "waiting", "dead"), rows, "there are no groups")


def dead(
    store: StoreArgument,
    group: Group,
    limit: Annotated[int, typer.Option(min=1, max=_MOST, help="Most letters to list.")] = 50,
    output: Form = "table",
) -> None:
    """List the dead letters of a group, the oldest first."""
    from nexgate.cli._console import local_time, print_json, print_table

    letters = _ask(store, lambda opened: opened.dead(group, limit))
    if output == "json":
        print_json([_told(letter) for letter in letters])
        return
    rows = [
        (
            letter.id,
            letter.event.name if letter.event is not None else "unreadable",
            (letter.event.key if letter.event is not None else None) or "",
            str(letter.failures),
            local_time(letter.died),
            letter.error.partition("\n")[0][:120],
        )
        for letter in letters
    ]
    headings = ("id", "topic", "key", "failures", "died", "error")
    print_table(headings, rows, f"{group} has no dead letters")


def retry(store: StoreArgument, group: Group, ids: Ids = None, everything: All = False) -> None:
    """Let dead letters be handled again, by their group only."""
    _mend(store, group, ids, everything, lambda s, found: s.revive(group, found), "wait again")


def drop(store: StoreArgument, group: Group, ids: Ids = None, everything: All = False) -> None:
    """Forget dead letters."""
    _mend(store, group, ids, everything, lambda s, found: s.drop(group, found), "are gone")


# --- asking ---------------------------------------------------------------------------------------


def _load(path: str) -> EventStore:
    from nexgate.errors import ConfigError
    from nexgate.events import EventBus

    found = load_object(path, "STORE")
    store: Any = found.store if isinstance(found, EventBus) else found
    if not hasattr(store, "revive"):
        kind = type(found).__name__
        raise ConfigError(f"{path} is {kind}, not an EventBus with a store, and no store")
    return store  # type: ignore[no-any-return]  # it was looked at


def _ask(place: str, question: Callable[[EventStore], Awaitable[T]]) -> T:
    from nexgate.events import event_store

    return ask(named_store(place, "STORE", _load, event_store), question)


def _mend(
    place: str,
    group: str,
    ids: list[str] | None,
    everything: bool,
    mend: Callable[[EventStore, list[str]], Awaitable[int]],
    done: str,
) -> None:
    from nexgate.cli._console import stdout

    if not ids and not everything:
        raise typer.BadParameter("name letters by their ids, or say --all", param_hint="ID")

    async def work(store: EventStore) -> tuple[int, int]:
        found = list(ids or ())
        if everything:
            found += [letter.id for letter in await store.dead(group, _MOST)]
        return len(found), await mend(store, found)

    asked, mended = _ask(place, work)
    stdout().print(f"{mended} of {asked} letters {done}", markup=False)
    if mended < asked:
        raise typer.Exit(ExitCode.NO)


def _told(letter: Dead) -> dict[str, Any]:
    from nexgate.events import to_cloudevent

    event, body = letter.event, letter.body.decode("utf-8", "replace")
    return {
        "id": letter.id,
        "event": to_cloudevent(event) if event is not None else None,
        "body": body if event is None else None,
        "failures": letter.failures,
        "error": letter.error,
        "died": letter.died,
    }
