"""One line for each exchange, as JSON or as text.

Lines are collected and written a few times a second, in one write: a line costs its formatting, not
a system call. The line tells apart who ended the exchange: ``status`` is what the client got (499:
the client left before the response was complete, as nginx's log has it), ``cause`` and ``site`` say
why the gateway answered by itself. Query strings, cookies and authorization are never logged.
"""

from __future__ import annotations

import asyncio
import json
import os
import sys
import time
from pathlib import Path
from typing import IO

from nexgate.exchange import Exchange

__all__ = ["AccessLog", "access_log"]

_FLUSH_SECONDS = 0.25
_FLUSH_LINES = 256


def access_log(target: str, form: str) -> AccessLog | None:
    """``off``, ``stdout``, ``stderr`` or a path → a log, or None."""
    return None if target == "off" else AccessLog(target, form)


class AccessLog:
    """Callable with an exchange that has ended."""

    def __init__(self, target: str, form: str = "json") -> None:
        self.target = target
        self._text = form == "text"
        self._lines: list[str] = []
        self._stream: IO[str] | None = None
        self._handle: asyncio.TimerHandle | None = None

    def __call__(self, exchange: Exchange) -> None:
        self._lines.append(self._as_text(exchange) if self._text else self._as_json(exchange))
        if len(self._lines) >= _FLUSH_LINES:
            self.flush()
        elif self._handle is None:
            self._handle = exchange.down.loop.call_later(_FLUSH_SECONDS, self.flush)

    def _as_json(self, exchange: Exchange) -> str:
        cause = exchange.cause
        entry = {
            "time": _now(),
            "id": exchange.id.decode("latin-1"),
            "client": exchange.client,
            "method": exchange.method.decode("latin-1"),
            "host": exchange.host.decode("latin-1"),
            "path": exchange.path.decode("latin-1"),
            "route": exchange.plan.name,
            "service": exchange.served_by[0],
            "instance": exchange.served_by[1],
            "status": exchange.status,
            "seconds": round(exchange.down.loop.time() - exchange.started, 6),
            "bytes_in": exchange.bytes_in,
            "bytes_out": exchange.bytes_out,
            "complete": exchange.response_complete,
        }
        if cause is not None:
            entry["cause"] = cause.slug
            entry["site"] = cause.site.value
        if exchange.detail:
            entry["detail"] = exchange.detail
        return json.dumps(entry, ensure_ascii=True, separators=(",", ":"))

    def _as_text(self, exchange: Exchange) -> str:
        taken = (exchange.down.loop.time() - exchange.started) * 1000
        cause = f" {exchange.cause.slug}" if exchange.cause is not None else ""
        instance = exchange.served_by[1]
        where = f" → {instance}" if instance else ""
        path = exchange.path.decode("latin-1")
        return (
            f"{_now()} {exchange.client or '-'} {exchange.method.decode('latin-1')} {path} "
            f"{exchange.status}{cause} {exchange.bytes_out}B {taken:.1f}ms{where}"
        )

    def flush(self) -> None:
        """Write what was collected. A full disk or a closed pipe loses lines, never requests."""
        if self._handle is not None:
            self._handle.cancel()
            self._handle = None
        lines = self._lines
        if not lines:
            return
        self._lines = []
        try:
            stream = self._open()
            stream.write("\n".join(lines) + "\n")
            stream.flush()
        except (OSError, ValueError):
            self._stream = None

    def _open(self) -> IO[str]:
        if self._stream is None:
            if self.target == "stdout":
                self._stream = sys.stdout
            elif self.target == "stderr":
                self._stream = sys.stderr
            else:
                fd = os.open(self.target, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o640)
                self._stream = os.fdopen(fd, "a", encoding="utf-8")
        return self._stream

    def close(self) -> None:
        """Write what was collected and let go of the file; the next line opens it anew.

        So this is also what to do when the file was rotated away.
        """
        self.flush()
        if self._stream is not None and self._stream not in (sys.stdout, sys.stderr):
            self._stream.close()
        self._stream = None

    def __repr__(self) -> str:
        return f"<AccessLog {Path(self.target)}>"


def _now() -> str:
    now = time.time()
    return time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(now)) + f".{int(now % 1 * 1000):03d}Z"
