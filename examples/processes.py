"""What the examples share: applications in processes of their own, on free ports."""

from __future__ import annotations

import asyncio
import socket
import sys
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path


def free_port() -> int:
    """A port that nobody listens on at the moment."""
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return int(sock.getsockname()[1])


@asynccontextmanager
async def serving(
    file: Path, port: int, env: Mapping[str, str]
) -> AsyncIterator[asyncio.subprocess.Process]:
    """``app`` of ``file`` under uvicorn until the block ends."""
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        *("-m", "uvicorn", f"{file.stem}:app", "--app-dir", str(file.parent)),
        *("--host", "127.0.0.1", "--port", str(port), "--log-level", "error"),
        env=dict(env),
    )
    try:
        async with asyncio.timeout(30):
            while True:
                if process.returncode is not None:
                    raise RuntimeError(f"{file.name} ended before it served")
                try:
                    _, writer = await asyncio.open_connection("127.0.0.1", port)
                except OSError:
                    await asyncio.sleep(0.05)
                else:
                    writer.close()
                    break
        yield process
    finally:
        if process.returncode is None:
            process.terminate()
            await process.wait()
