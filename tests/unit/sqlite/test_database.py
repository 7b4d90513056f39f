"""One file of SQLite: transactions that are whole, shared by processes, and told apart when they
fail.
"""

from __future__ import annotations

import asyncio
import os
import signal
import sqlite3
import stat
import subprocess
import sys
import textwrap
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest

from nexgate.sqlite import (
    Database,
    NothingToDo,
    Schema,
    StoreBusy,
    StoreDamaged,
    StoreError,
    StoreFull,
    Synchronous,
)
from nexgate.testing import wait_until

SCHEMA = Schema("rows", (("CREATE TABLE rows (a INTEGER PRIMARY KEY, b BLOB)",),))


def insert(value: object) -> Callable[[sqlite3.Connection], None]:
    return lambda connection: (
        connection.execute("INSERT INTO rows (b) VALUES (?)", (value,)) and None
    )


def count(connection: sqlite3.Connection) -> int:
    return int(connection.execute("SELECT count(*) FROM rows").fetchone()[0])


@pytest.fixture(params=["normal", "full"])
def synchronous(request: pytest.FixtureRequest) -> Synchronous:
    return request.param  # type: ignore[no-any-return]  # one of the two


@pytest.fixture
async def database(tmp_path: Path, synchronous: Synchronous) -> AsyncIterator[Database]:
    async with Database(tmp_path / "rows.db", SCHEMA, synchronous=synchronous) as opened:
        yield opened


async def test_what_was_written_is_there_after_opening_again(
    tmp_path: Path, synchronous: Synchronous
) -> None:
    async with Database(tmp_path / "rows.db", SCHEMA, synchronous=synchronous) as database:
        await database.write(insert("kept"))
    async with Database(tmp_path / "rows.db", SCHEMA, synchronous=synchronous) as database:
        assert await database.read(count) == 1


async def test_the_file_can_be_read_by_its_owner_only(database: Database) -> None:
    assert stat.S_IMODE(Path(database.path).stat().st_mode) == 0o600


async def test_work_that_raises_writes_nothing_and_the_others_are_written(
    database: Database,
) -> None:
    def half(connection: sqlite3.Connection) -> None:
        insert("half")(connection)
        raise LookupError("no")

    outcomes = await asyncio.gather(
        database.write(insert(1)),
        database.write(half),
        database.write(insert(2)),
        return_exceptions=True,
    )
    assert [type(each) for each in outcomes] == [type(None), LookupError, type(None)]
    assert await database.read(count) == 2


async def test_a_statement_that_fails_is_an_error_of_ours(database: Database) -> None:
    with pytest.raises(StoreError, match="no such table"):
        await database.write(
            lambda connection: connection.execute("INSERT INTO nowhere VALUES (1)")
        )
    await database.write(insert("after"))
    assert await database.read(count) == 1


async def test_two_processes_that_write_at_once_lose_nothing(
    tmp_path: Path, synchronous: Synchronous
) -> None:
    program = textwrap.dedent("""
        import asyncio, sys
        from nexgate.sqlite import Database, Schema
        SCHEMA = Schema("rows", (("CREATE TABLE rows (a INTEGER PRIMARY KEY, b BLOB)",),))
        async def main():
            async with Database(sys.argv[1], SCHEMA, synchronous=sys.argv[2]) as database:
                for number in range(300):
                    await database.write(
                        lambda c: c.execute("INSERT INTO rows (b) VALUES (?)", (number,)) and None
                    )
        asyncio.run(main())
    """)
    path = tmp_path / "rows.db"
    children = [
        subprocess.Popen([sys.executable, "-c", program, str(path), synchronous]) for _ in range(3)
    ]
    assert [await asyncio.to_thread(child.wait, 60) for child in children] == [0, 0, 0]
    async with Database(path, SCHEMA) as database:
        assert await database.read(count) == 900


async def test_a_file_that_is_held_keeps_a_writer_waiting_and_not_the_loop(tmp_path: Path) -> None:
    path = tmp_path / "rows.db"
    async with Database(path, SCHEMA) as database:
        holder = sqlite3.connect(path, isolation_level=None)
        holder.execute("BEGIN IMMEDIATE")
        waiting = asyncio.create_task(database.write(insert("late")))
        turns = 0
        while turns < 20:
            await asyncio.sleep(0.001)
            turns += 1
        assert not waiting.done()
        holder.execute("COMMIT")
        await asyncio.wait_for(waiting, 5)
        holder.close()
        assert await database.read(count) == 1


async def test_a_file_that_stays_held_is_busy(tmp_path: Path, synchronous: Synchronous) -> None:
    path = tmp_path / "rows.db"
    async with Database(path, SCHEMA, synchronous=synchronous, busy_timeout=0.05) as database:
        holder = sqlite3.connect(path, isolation_level=None)
        holder.execute("BEGIN IMMEDIATE")
        with pytest.raises(StoreBusy):
            await database.write(insert("never"))
        holder.execute("COMMIT")
        holder.close()
        await database.write(insert("now"))
        assert await database.read(count) == 1


async def test_a_writer_that_is_cancelled_while_it_waits_wrote_nothing(tmp_path: Path) -> None:
    path = tmp_path / "rows.db"
    async with Database(path, SCHEMA) as database:
        holder = sqlite3.connect(path, isolation_level=None)
        holder.execute("BEGIN IMMEDIATE")
        waiting = asyncio.create_task(database.write(insert("never")))
        await asyncio.sleep(0)
        waiting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await waiting
        holder.execute("COMMIT")
        holder.close()
        assert await database.read(count) == 0


async def test_a_full_file_says_so_and_takes_more_when_there_is_room(
    tmp_path: Path, synchronous: Synchronous
) -> None:
    path = tmp_path / "rows.db"
    async with Database(path, SCHEMA, synchronous=synchronous, max_bytes=65536) as database:
        with pytest.raises(StoreFull):
            while True:
                await database.write(insert(b"x" * 4000))
        kept = await database.read(count)
        with pytest.raises(StoreFull):
            await asyncio.gather(*(database.write(insert(b"x" * 4000)) for _ in range(3)))
        assert await database.read(count) == kept
        await database.write(lambda connection: connection.execute("DELETE FROM rows") and None)
        await database.write(insert(b"x" * 4000))
        assert await database.read(count) == 1


def test_a_disk_without_room_is_full_and_not_a_riddle(
    tmp_path: Path, synchronous: Synchronous
) -> None:
    """The kernel refuses the write in the middle of a page."""
    program = textwrap.dedent("""
        import asyncio, resource, signal, sys
        from nexgate.sqlite import Database, Schema, StoreFull
        SCHEMA = Schema("rows", (("CREATE TABLE rows (a INTEGER PRIMARY KEY, b BLOB)",),))
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (300_000, resource.RLIM_INFINITY))
        def insert(c):
            c.execute("INSERT INTO rows (b) VALUES (?)", (b"x" * 4000,))
        async def main():
            async with Database(sys.argv[1], SCHEMA, synchronous=sys.argv[2]) as database:
                try:
                    while True:
                        await database.write(insert)
                except StoreFull:
                    pass
                count = lambda c: c.execute("SELECT count(*) FROM rows").fetchone()[0]
                kept = await database.read(count)
                resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY,) * 2)
                await database.write(insert)
                assert await database.read(count) == kept + 1
        asyncio.run(main())
    """)
    done = subprocess.run(
        [sys.executable, "-c", program, str(tmp_path / "rows.db"), synchronous],
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 0, done.stderr


async def test_a_writer_killed_at_any_moment_leaves_every_row_it_was_told_of(
    tmp_path: Path, synchronous: Synchronous
) -> None:
    program = textwrap.dedent("""
        import asyncio, sys
        from nexgate.sqlite import Database, Schema
        SCHEMA = Schema("rows", (("CREATE TABLE rows (a INTEGER PRIMARY KEY, b BLOB)",),))
        async def main():
            async with Database(sys.argv[1], SCHEMA, synchronous=sys.argv[2]) as database:
                number = 0
                while True:
                    number += 1
                    await database.write(
                        lambda c: c.execute("INSERT INTO rows (b) VALUES (?)", (number,)) and None
                    )
                    print(number, flush=True)
        asyncio.run(main())
    """)
    path, told = tmp_path / "rows.db", tmp_path / "told"
    with told.open("w") as output:
        child = subprocess.Popen(
            [sys.executable, "-c", program, str(path), synchronous], stdout=output
        )
    await wait_until(lambda: told.stat().st_size > 500)
    os.kill(child.pid, signal.SIGKILL)
    child.wait()
    said = [int(line) for line in told.read_text().splitlines(True) if line.endswith("\n")]
    async with Database(path, SCHEMA) as database:
        kept = await database.read(count)
        assert len(said) <= kept <= len(said) + 1
        assert (
            await database.read(lambda c: c.execute("PRAGMA integrity_check").fetchone()[0]) == "ok"
        )


async def test_a_file_of_a_newer_version_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "rows.db"
    newer = Schema("rows", (*SCHEMA.steps, ("ALTER TABLE rows ADD COLUMN c",)))
    async with Database(path, newer):
        pass
    with pytest.raises(StoreDamaged, match="written by a newer one"):
        await Database(path, SCHEMA).open()


async def test_a_file_of_an_older_version_is_brought_up_to_date_with_its_rows(
    tmp_path: Path,
) -> None:
    path = tmp_path / "rows.db"
    async with Database(path, SCHEMA) as database:
        await database.write(insert("old"))
    newer = Schema("rows", (*SCHEMA.steps, ("ALTER TABLE rows ADD COLUMN c DEFAULT 7",)))
    async with Database(path, newer) as database:
        assert await database.read(lambda c: c.execute("SELECT b, c FROM rows").fetchall()) == [
            ("old", 7)
        ]


async def test_a_step_that_fails_leaves_the_file_as_it_was(tmp_path: Path) -> None:
    path = tmp_path / "rows.db"
    async with Database(path, SCHEMA) as database:
        await database.write(insert("old"))
    broken = Schema("rows", (*SCHEMA.steps, ("DROP TABLE rows", "nonsense")))
    with pytest.raises(StoreError, match="syntax error"):
        await Database(path, broken).open()
    async with Database(path, SCHEMA) as database:
        assert await database.read(count) == 1


async def test_two_parts_share_a_file_with_the_applications_own_tables(tmp_path: Path) -> None:
    path = tmp_path / "app.db"
    own = sqlite3.connect(path)
    own.execute("PRAGMA user_version = 42")
    own.execute("CREATE TABLE orders (id)")
    own.commit()
    other = Schema("others", (("CREATE TABLE others (a)",),))
    async with Database(path, SCHEMA) as first, Database(path, other) as second:
        await first.write(insert(1))
        await second.write(lambda c: c.execute("INSERT INTO others VALUES (1)") and None)
        assert await first.read(count) == 1
    assert own.execute("PRAGMA user_version").fetchone() == (42,)
    own.close()


@pytest.mark.parametrize("content", [b"not a database, but long enough to be looked at" * 99])
async def test_a_file_that_is_no_database_is_damaged(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "rows.db"
    path.write_bytes(content)
    with pytest.raises(StoreDamaged, match="not a database"):
        await Database(path, SCHEMA).open()


async def test_a_folder_that_does_not_exist_is_named(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match="nowhere"):
        await Database(tmp_path / "nowhere" / "rows.db", SCHEMA).open()


async def test_a_database_that_is_not_open_says_so(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match="not open"):
        await Database(tmp_path / "rows.db", SCHEMA).write(insert(1))


async def test_opening_twice_at_once_leaves_one_connection(tmp_path: Path) -> None:
    database = Database(tmp_path / "rows.db", SCHEMA)
    await asyncio.gather(database.open(), database.open())
    await database.write(insert(1))
    await database.aclose()
    assert not database.is_open


async def test_a_new_file_that_many_open_at_once_is_opened_by_each(tmp_path: Path) -> None:
    for number in range(40):
        many = [Database(tmp_path / f"{number}.db", SCHEMA) for _ in range(8)]
        await asyncio.gather(*(each.open() for each in many))
        await asyncio.gather(*(each.aclose() for each in many))


async def test_what_was_asked_for_before_the_close_is_written(tmp_path: Path) -> None:
    path = tmp_path / "rows.db"
    database = Database(path, SCHEMA, synchronous="full")
    await database.open()
    asked = [asyncio.create_task(database.write(insert(number))) for number in range(50)]
    await asyncio.sleep(0)
    await database.aclose()
    await asyncio.gather(*asked)
    async with Database(path, SCHEMA) as again:
        assert await again.read(count) == 50


async def test_a_caller_that_gives_up_does_not_disturb_those_who_share_the_commit(
    tmp_path: Path,
) -> None:
    async with Database(tmp_path / "rows.db", SCHEMA, synchronous="full") as database:
        asked = [asyncio.create_task(database.write(insert(number))) for number in range(50)]
        await asyncio.sleep(0)
        asked[7].cancel()
        outcomes = await asyncio.gather(*asked, return_exceptions=True)
        assert sum(isinstance(each, asyncio.CancelledError) for each in outcomes) == 1
        assert await database.read(count) in (49, 50)


async def test_own_writes_are_noticed_at_once_and_those_of_others_soon(
    tmp_path: Path, synchronous: Synchronous
) -> None:
    path = tmp_path / "rows.db"
    async with (
        Database(path, SCHEMA, synchronous=synchronous) as database,
        Database(path, SCHEMA) as other,
    ):
        for writer in (database, other):
            version = database.version()
            waiting = asyncio.create_task(database.changed(version, 10))
            await asyncio.sleep(0)
            await writer.write(insert(1))
            assert await asyncio.wait_for(waiting, 5)
        # What was written before the wait began is not missed.
        version = database.version()
        await other.write(insert(1))
        assert await database.changed(version, 0)


async def test_waiting_for_a_change_ends_at_its_timeout_and_with_the_file(
    database: Database,
) -> None:
    assert not await database.changed(database.version(), 0.01)
    waiting = asyncio.create_task(database.changed(database.version(), 60))
    await asyncio.sleep(0)
    await database.aclose()
    assert not await asyncio.wait_for(waiting, 5)


async def test_one_statement_is_a_transaction_of_its_own(
    tmp_path: Path, synchronous: Synchronous
) -> None:
    path = tmp_path / "rows.db"
    statement = "INSERT INTO rows (b) VALUES (?)"
    async with (
        Database(path, SCHEMA, synchronous=synchronous) as database,
        Database(path, SCHEMA, synchronous=synchronous, busy_timeout=0.05) as other,
    ):
        seen = database.version()
        assert await database.execute(statement, (1,)) == 1
        assert await database.changed(seen, 5.0)
        assert await other.read(count) == 1
        blocker = sqlite3.connect(path, isolation_level=None)
        blocker.execute("BEGIN IMMEDIATE")
        with pytest.raises(StoreBusy):
            await other.execute(statement, (2,))
        blocker.execute("ROLLBACK")
        blocker.close()
        await other.execute(statement, (2,))
        assert await database.read(count) == 2
        assert await database.execute("UPDATE rows SET b = 3") == 2


async def test_who_waits_for_a_change_is_not_woken_by_a_look(
    tmp_path: Path, synchronous: Synchronous
) -> None:
    def nothing(connection: sqlite3.Connection) -> None:
        raise NothingToDo

    async with Database(tmp_path / "rows.db", SCHEMA, synchronous=synchronous) as database:
        seen = database.version()
        with pytest.raises(NothingToDo):
            await database.write(nothing)
        assert not await database.changed(seen, 0.2)
        await database.write(insert(1))
        assert await database.changed(seen, 5.0)
