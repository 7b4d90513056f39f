"""``nexgate`` as a shell runs it."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path


def nexgate(folder: Path, *argv: str) -> subprocess.CompletedProcess[str]:
    """Run one command line in ``folder``."""
    return subprocess.run(
        [sys.executable, "-m", "nexgate", *argv],
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=30,
        env={**os.environ, "NO_COLOR": "1", "COLUMNS": "200"},
    )
