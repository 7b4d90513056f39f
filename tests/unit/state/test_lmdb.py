"""What can happen to a file that several processes map."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import lmdb
import pytest

from nexgate.state import LmdbState, StateError, StateFull, default_path
from nexgate.testing import wait_until


def child(code: str, path: Path, *, wait: bool = True) -> subprocess.Popen[bytes]:
    """A process with ``state`` open at ``path``."""
    text = (
        "import os, signal, sys, time\nfrom nexgate.state import LmdbState\n"
        f"state = LmdbState({str(path)!r})\n" + textwrap.dedent(code)
    )
    process = subprocess.Popen([sys.executable, "-c", text], stdout=subprocess.PIPE)
    if wait:
        out, _ = process.communicate(timeout=20)
        assert process.returncode == 0, out
    return process


def say(process: subprocess.Popen[bytes]) -> bytes:
    assert process.stdout is not None
    return process.stdout.readline()


@pytest.fixture
async def state(tmp_path: Path):
    made = LmdbState(tmp_path / "s")
    yield made
    await made.aclose()


async def test_processes_see_each_other(state: LmdbState) -> None:
    await state.set("a", b"1", ttl=60)
    child("assert state.get_now('a') == b'1'; state.set_now('b', b'2', ttl=60)", state.path)
    assert await state.get("b") == b"2"


async def test_an_expiry_is_the_same_moment_for_every_process(state: LmdbState) -> None:
    child("state.set_now('a', b'1', ttl=3.0)", state.path)
    assert await state.get("a") == b"1"
    await wait_until(lambda: state.get_now("a") is None, 10)
    assert state.add_now("a", b"2")


async def test_no_update_of_four_processes_is_lost(state: LmdbState) -> None:
    state.set_now("n", b"0")
    code = """
    done = 0
    while done < 500:
        seen = state.get_now('n')
        done += state.replace_now('n', seen, str(int(seen) + 1).encode(), ttl=60)
    """
    processes = [child(code, state.path, wait=False) for _ in range(4)]
    for process in processes:
        process.communicate(timeout=60)
        assert process.returncode == 0
    assert state.get_now("n") == b"2000"


async def test_a_writer_killed_in_its_transaction_blocks_nobody_and_leaves_nothing(
    state: LmdbState,
) -> None:
    state.set_now("a", b"before")
    code = """
    state.get_now('a')
    file = state._file
    txn = file.env.begin(write=True)
    txn.put(b'a', b'half', db=file.records)
    print('inside', flush=True)
    time.sleep(60)
    """
    process = child(code, state.path, wait=False)
    assert say(process) == b"inside\n"
    process.send_signal(signal.SIGKILL)
    process.wait()
    process.stdout.close()  # type: ignore[union-attr]
    began = time.perf_counter()
    assert state.replace_now("a", b"before", b"after")
    assert time.perf_counter() - began < 0.5
    assert state.get_now("a") == b"after"


async def test_readers_that_were_killed_are_forgotten(state: LmdbState) -> None:
    state.set_now("a", b"1")
    code = (
        "state.get_now('a'); txn = state._file.env.begin(); print('in', flush=True); time.sleep(60)"
    )
    for _ in range(3):
        process = child(code, state.path, wait=False)
        assert say(process) == b"in\n"
        process.kill()
        process.wait()
        process.stdout.close()  # type: ignore[union-attr]
    state._reap_at = state._check_at = 0.0
    state.set_now("a", b"2")
    assert state._file is not None
    assert state._file.env.reader_check() == 0  # there was nothing left to do


async def test_a_fork_gives_both_sides_an_environment_of_their_own(state: LmdbState) -> None:
    state.set_now("a", b"1")
    assert state._file is not None
    assert state._file.env is not None
    read, write = os.pipe()
    pid = os.fork()
    if not pid:  # in the child: no pytest, no exceptions
        try:
            seen = state.get_now("a")
            state.set_now("b", b"child")
            os.write(write, seen or b"nothing")
        finally:
            os._exit(0)
    assert os.waitpid(pid, 0)[1] == 0
    os.close(write)
    assert os.read(read, 100) == b"1"
    os.close(read)
    assert state.get_now("b") == b"child"
    state.set_now("c", b"parent")


async def test_a_watch_survives_a_fork_and_sees_the_child(state: LmdbState) -> None:
    seen: set[str] = set()

    async def watch() -> None:
        async for changed in state.watch("w/"):
            seen.update(changed)

    task = asyncio.create_task(watch())
    await asyncio.sleep(0.05)
    pid = os.fork()
    if not pid:
        try:
            state.set_now("w/child", b"")
        finally:
            os._exit(0)
    os.waitpid(pid, 0)
    await wait_until(lambda: "w/child" in seen, 2)
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)


@pytest.mark.parametrize(
    "content", [b"not a database", b"\0" * 40_000, os.urandom(1 << 16)], ids=["text", "0", "random"]
)
async def test_a_foreign_file_is_reported_and_set_aside(
    tmp_path: Path, content: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    state = LmdbState(tmp_path / "s")
    assert state._file is not None
    (tmp_path / "s").mkdir(mode=0o700)
    state._file.file.write_bytes(content)
    await state.set("a", b"1")
    assert await state.get("a") == b"1"
    assert "is unusable" in caplog.text
    (aside,) = [p for p in (tmp_path / "s").glob("*.broken-*") if not p.name.endswith("-lock")]
    assert aside.read_bytes() == content
    await state.aclose()


async def test_another_programs_database_is_set_aside(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    state = LmdbState(tmp_path / "s")
    assert state._file is not None
    (tmp_path / "s").mkdir(mode=0o700)
    other = lmdb.open(str(state._file.file), subdir=False, max_dbs=3)
    records = other.open_db(b"records")
    with other.begin(write=True, db=records) as txn:
        txn.put(b"theirs", b"x")
    other.close()
    assert await state.get("theirs") is None
    assert "another program or version" in caplog.text
    await state.aclose()


async def test_a_file_broken_while_it_is_open_is_set_aside_for_every_process(
    state: LmdbState, caplog: pytest.LogCaptureFixture
) -> None:
    state.set_now("a", b"1")
    assert state._file is not None
    # Another process finds it broken first, and puts a new one in its place.
    child(
        """
        import lmdb
        state.get_now('a')
        state._file.replace_broken(lmdb.CorruptedError('it looks odd'))
        state.set_now('b', b'2')
        """,
        state.path,
    )
    state._check_at = 0.0
    state.set_now("c", b"3")
    assert state.get_now("b") == b"2"
    assert state.get_now("a") is None
    assert state.statistics().outages == 1
    assert "removed or replaced" in caplog.text


async def test_a_file_that_was_removed_is_made_again_and_watchers_notice(
    state: LmdbState,
) -> None:
    state.set_now("w/1", b"1")
    items: list[frozenset[str]] = []

    async def watch() -> None:
        async for changed in state.watch("w/"):
            items.append(changed)

    task = asyncio.create_task(watch())
    await wait_until(lambda: items)
    assert state._file is not None
    for path in state.path.iterdir():
        path.unlink()
    await wait_until(lambda: len(items) == 2, 3)
    assert items[1] == {"w/1"}
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)


async def test_a_full_map_makes_room_by_expiring_and_else_says_so(tmp_path: Path) -> None:
    state = LmdbState(tmp_path / "s", map_bytes=1024 * 1024)
    for number in range(100):
        state.set_now(f"short/{number}", b"x" * 2000, ttl=0.2)
    with pytest.raises(StateFull, match="no room left"):
        for number in range(1000):
            state.set_now(f"long/{number}", b"x" * 4000, ttl=60)
    kept = len(state.scan_now("long/"))
    assert kept > 50
    assert state.get_now("long/0") is not None
    state.set_now("long/0", b"x" * 4000, ttl=60)  # what is there can still be renewed
    # The index removes what ended in a second that is over.
    await wait_until(lambda: not state.scan_now("short/"), 2)
    await asyncio.sleep(1.05)
    state.set_now("long/another", b"x" * 4000, ttl=60)
    assert state.delete_now("long/1")
    assert state.statistics().failures == 1
    await state.aclose()


async def test_what_expired_is_removed_bit_by_bit(state: LmdbState) -> None:
    for number in range(200):
        state.set_now(f"k/{number}", b"", ttl=0.01)
    assert state._file is not None
    await asyncio.sleep(1.05)
    for number in range(60):
        state.set_now("other", str(number).encode(), ttl=5)
    with state._file.env.begin() as txn:
        assert txn.stat(state._file.records)["entries"] == 1
        assert txn.stat(state._file.expiries)["entries"] == 1


async def test_two_states_share_one_environment_and_the_last_one_closes_it(
    tmp_path: Path,
) -> None:
    one, two = LmdbState(tmp_path / "s"), LmdbState(tmp_path / "s")
    one.set_now("a", b"1")
    await one.aclose()
    assert two.get_now("a") == b"1"
    await two.aclose()
    three = LmdbState(tmp_path / "s")
    assert three.get_now("a") == b"1"
    await three.aclose()


async def test_the_directory_is_for_this_user_only(state: LmdbState, tmp_path: Path) -> None:
    state.set_now("a", b"1")
    assert state.path.stat().st_mode & 0o777 == 0o700
    assert all(p.stat().st_mode & 0o077 == 0 for p in state.path.glob("*.mdb*"))


async def test_a_directory_that_others_made_or_may_write_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "open").mkdir()
    (tmp_path / "open").chmod(0o777)
    (tmp_path / "real").mkdir(mode=0o700)
    (tmp_path / "link").symlink_to(tmp_path / "real")
    (tmp_path / "file").write_text("")
    for name, words in (("open", "others may write"), ("link", "not a dir"), ("file", "no dir")):
        state = LmdbState(tmp_path / name)
        with pytest.raises(StateError, match=words):
            await state.get("a")
        await state.aclose()
    state = LmdbState(tmp_path / "real")
    real = os.geteuid()
    monkeypatch.setattr(os, "geteuid", lambda: real + 1)
    with pytest.raises(StateError, match="belongs to user"):
        await state.get("a")
    await state.aclose()


def test_the_default_place_is_the_users_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))
    assert default_path() == tmp_path / "nexgate"
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path / "missing"))
    assert default_path().name == f"nexgate-{os.geteuid()}"
    monkeypatch.delenv("XDG_RUNTIME_DIR")
    assert default_path().name == f"nexgate-{os.geteuid()}"


async def test_the_date_plays_no_part(state: LmdbState, monkeypatch: pytest.MonkeyPatch) -> None:
    state.set_now("a", b"1", ttl=60)
    monkeypatch.setattr(time, "time", lambda: 4e9)
    monkeypatch.setattr(time, "time_ns", lambda: 4 * 10**18)
    assert state.get_now("a") == b"1"
