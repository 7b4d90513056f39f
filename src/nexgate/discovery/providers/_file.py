"""Instances from a file that somebody, or something, rewrites."""

from __future__ import annotations

import asyncio
import json
import logging
import tomllib
from collections.abc import AsyncGenerator
from pathlib import Path
from typing import Final

from nexgate.config import spans
from nexgate.discovery._documents import BadDocument, read_instances
from nexgate.discovery._instance import Instances, check_service_name

__all__ = ["FileProvider"]

_log = logging.getLogger("nexgate.discovery")

_MOST_BYTES: Final = 8 * 1024 * 1024

_Stamp = tuple[int, int, int]


class FileProvider:
    """A TOML or (``*.json``) JSON file, looked at every ``interval`` seconds. ``Reporting``.

    One that is replaced by renaming is read at once; one that is written in place, when it has not
    changed for an ``interval``, so a writer that is slower should rename. A file with a mistake, or
    none, changes nothing: the last set is kept, and ``problem`` says the line and the reason.

    Python code may give ``instances = ["http://127.0.0.1:9001"]``, or tables with ``url`` and other
    fields.
    """

    def __init__(self, service: str, path: str | Path, *, interval: float = 0.5) -> None:
        self.service = check_service_name(service)
        self.path = Path(path)
        self.name = f"file:{self.path}"
        self.interval = interval
        self._problem: str | None = None

    @property
    def problem(self) -> str | None:
        """What is wrong with the file as it is now."""
        return self._problem

    async def watch(self) -> AsyncGenerator[Instances, None]:
        """Yield the set, then again when the file has changed and is right."""
        seen: _Stamp | None = None
        growing: _Stamp | None = None
        while True:
            # In a thread: a file system may be a network, which must not stop the gateway.
            try:
                stamp = await asyncio.to_thread(self._stamp)
                if stamp == seen:
                    pass
                elif seen is not None and stamp[2] == seen[2] and stamp != growing:
                    # Written in place: half of a list may well be valid. Wait until it rests.
                    growing = stamp
                else:
                    seen = stamp
                    instances = await asyncio.to_thread(self._read)
                    self._says(None)
                    yield instances
            except (OSError, ValueError) as error:
                if isinstance(error, OSError):
                    seen = None
                self._says(_words(error))
            await asyncio.sleep(self.interval)

    def _stamp(self) -> _Stamp:
        found = self.path.stat()
        return found.st_mtime_ns, found.st_size, found.st_ino

    def _read(self) -> Instances:
        with self.path.open("rb") as file:
            data = file.read(_MOST_BYTES + 1)
        if len(data) > _MOST_BYTES:
            raise ValueError(f"it has more than {_MOST_BYTES} bytes")
        text = data.decode("utf-8-sig").replace("\r\n", "\n")
        is_json = self.path.suffix == ".json"
        try:
            document = json.loads(text) if is_json else tomllib.loads(text)
        except RecursionError:
            raise ValueError("it is nested too deeply") from None
        try:
            return read_instances(document, self.service, is_typed=True)
        except BadDocument as error:
            raise ValueError(_place(text, is_json, error)) from None

    def _says(self, problem: str | None) -> None:
        if problem is not None and problem != self._problem:
            _log.warning("%s is not used as it is: %s", self.path, problem)
        self._problem = problem


def _place(text: str, is_json: bool, error: BadDocument) -> str:
    path = "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in error.path)
    where = path.removeprefix(".") or "it"
    if not is_json:
        known = spans(text)
        for end in range(len(error.path), 0, -1):
            if (span := known.get(error.path[:end])) is not None:
                return f"line {span.line}: {where} {error}"
    return f"{where} {error}"


def _words(error: Exception) -> str:
    if isinstance(error, json.JSONDecodeError):
        return f"line {error.lineno}: {error.msg}"
    if isinstance(error, OSError):
        return error.strerror or str(error)
    return str(error)
