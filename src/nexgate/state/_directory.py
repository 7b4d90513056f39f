"""The directory of the machine's state: ours alone, or not used."""

from __future__ import annotations

import contextlib
import os
import shutil
import stat
import tempfile
from pathlib import Path

from nexgate.state._state import StateError

__all__ = ["default_path", "forget_dead", "path_of", "private_directory"]


def default_path() -> Path:
    """Where the processes of one user on one machine meet.

    ``$XDG_RUNTIME_DIR/nexgate`` where the system gives its users such a directory, else one per
    user in the directory for temporary files. It need not exist yet.
    """
    runtime = os.environ.get("XDG_RUNTIME_DIR", "")
    if runtime.startswith("/"):
        try:
            found = Path(runtime).stat()
        except OSError:
            found = None
        if found is not None and stat.S_ISDIR(found.st_mode) and found.st_uid == os.geteuid():
            return Path(runtime) / "nexgate"
    return Path(tempfile.gettempdir()) / f"nexgate-{os.geteuid()}"


def path_of(pid: int) -> Path:
    """Where a program and its workers meet that share with nobody else."""
    path = default_path()
    return path.with_name(f"{path.name}-{pid}")


def forget_dead(*pids: int) -> None:
    """Remove what programs left behind that are no more, and what ``pids`` would."""
    path = default_path()
    for found in path.parent.glob(f"{path.name}-[0-9]*"):
        pid = found.name.removeprefix(f"{path.name}-")
        if pid.isdigit() and (int(pid) in pids or not _is_alive(int(pid))):
            with contextlib.suppress(OSError):
                shutil.rmtree(found)


def _is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except OSError:
        pass  # it is somebody else's
    return True


def private_directory(path: Path) -> Path:
    """Make the directory if it is not there, for this user only, and return it.

    Raises ``StateError`` when it belongs to somebody else, is a link, or others may write in it:
    in a directory for temporary files anyone may have made it first, to read what we share or to
    tell us what to believe.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.mkdir(mode=0o700, exist_ok=True)
        found = path.lstat()
    except OSError as error:
        raise StateError(f"no directory for shared state at {path}: {error.strerror}") from error
    if not stat.S_ISDIR(found.st_mode):
        raise StateError(f"{path} is not a directory; remove it, or name another path")
    if found.st_uid != os.geteuid():
        raise StateError(f"{path} belongs to user {found.st_uid}; name another path")
    if found.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
        raise StateError(f"others may write in {path}; remove it, or chmod 700 it")
    return path
