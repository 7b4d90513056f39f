"""State in one line of configuration."""

from __future__ import annotations

import builtins
from pathlib import Path
from typing import Any

import pytest

from nexgate.state import (
    Degrading,
    LmdbState,
    MemoryState,
    RedisState,
    StateError,
    open_state,
    parse_state_spec,
)


@pytest.mark.parametrize(
    "spec",
    [
        "memory",
        "local",
        "lmdb:/run/nexgate",
        "redis://127.0.0.1:6379",
        "redis://user:pass@redis.internal/3",
        "rediss://redis.internal",
        "valkey://[::1]:6379/0",
        "valkeys://redis.internal:6380",
        "redis+unix:///run/redis.sock",
    ],
)
def test_places_are_accepted_as_written(spec: str) -> None:
    assert parse_state_spec(spec) == spec


@pytest.mark.parametrize(
    ("spec", "message", "hint"),
    [
        (3, "must be text", "local"),
        ("", "not a place", "schemes"),
        ("memroy", "not a place", '"memory"'),
        ("none", "not a place", 'write "memory"'),
        ("lmdb", "not a place", 'write "local"'),
        ("lmdb:run", "absolute", "lmdb:/run"),
        ("lmdb://run", "absolute", "lmdb:/run"),
        ("redis:127.0.0.1", "slashes", "redis://host:port"),
        ("redis://", "no host", "127.0.0.1"),
        ("redis://h:99999", "malformed", ""),
        ("redis://h/abc", "number of a database", ""),
        ("reddis://h", "not a place", '"redis"'),
        ("etcd://h", "not a place", "schemes"),
        ("unix:redis.sock", "absolute", "three slashes"),
    ],
)
def test_what_is_wrong_is_said_with_a_hint(spec: object, message: str, hint: str) -> None:
    with pytest.raises(ValueError) as caught:
        parse_state_spec(spec)
    context: dict[str, Any] = caught.value.context  # type: ignore[attr-defined]
    assert message in context["message"]
    assert hint in context["hint"]


def test_a_password_is_in_no_message() -> None:
    for spec in ("redis:user:hunter2@h", "redis://u:hunter2@h:x", "http://u:hunter2@h"):
        with pytest.raises(ValueError) as caught:
            parse_state_spec(spec)
        finding = caught.value.context["finding"]  # type: ignore[attr-defined]
        assert "hunter2" not in str(finding.message) + finding.hint
        assert finding.is_secret
    state = RedisState("redis://user:hunter2@127.0.0.1:1/0")
    assert "hunter2" not in state.place
    assert state.place == "redis://127.0.0.1:1/0"


async def test_a_place_is_opened_as_what_it_is(tmp_path: Path) -> None:
    kinds = {
        "memory": MemoryState,
        f"lmdb:{tmp_path / 's'}": LmdbState,
        "redis://127.0.0.1:1": Degrading,
        "valkey://127.0.0.1:1": Degrading,
    }
    for spec, kind in kinds.items():
        state = open_state(spec)
        assert type(state) is kind
        await state.aclose()
    assert not (tmp_path / "s").exists()  # nothing is opened before it is used


async def test_redis_that_is_not_installed_says_what_to_install(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    real = builtins.__import__

    def missing(name: str, *args: Any, **more: Any) -> Any:
        if name.startswith("redis"):
            raise ImportError(name)
        return real(name, *args, **more)

    monkeypatch.setattr(builtins, "__import__", missing)
    with pytest.raises(StateError, match=r"pip install 'nexgate\[redis\]'"):
        open_state("redis://127.0.0.1:1")
