"""What the supervisor hands on when it replaces itself."""

from __future__ import annotations

import os
import socket
from pathlib import Path

from nexgate.config import Overrides
from nexgate.supervisor import _Child, _Supervisor


def test_a_worker_that_has_just_ended_does_not_keep_the_program_from_being_replaced(
    tmp_path: Path,
) -> None:
    supervisor = _Supervisor(tmp_path / "gateway.toml", Overrides())
    ours, theirs = socket.socketpair()
    gone, _ = pair = socket.socketpair()
    supervisor.children = {1: _Child(1, ours, 0.0), 2: _Child(2, gone, 0.0)}
    for each in pair:
        each.close()
    try:
        assert supervisor._heritage()["children"] == {"1": ours.fileno()}
        assert ours.get_inheritable()
    finally:
        for each in (ours, theirs):
            each.close()
        os.close(supervisor.wake_r)
        os.close(supervisor.wake_w)
