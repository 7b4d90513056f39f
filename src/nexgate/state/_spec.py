"""Shared state in one line of configuration."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Final
from urllib.parse import urlsplit

from nexgate.config import did_you_mean, wrong
from nexgate.state._degrading import Degrading
from nexgate.state._memory import MemoryState
from nexgate.state._state import State

__all__ = ["open_state", "parse_state_spec"]

_WORDS: Final = ("memory", "local")
_SCHEMES: Final = ("redis", "rediss", "valkey", "valkeys")
_FOREIGN: Final = {
    "none": "memory",
    "off": "memory",
    "process": "memory",
    "in-memory": "memory",
    "machine": "local",
    "shared": "local",
    "lmdb": "local",
}


def parse_state_spec(value: object) -> str:
    """Check the spelling of a place for state; nothing is opened.

    ``"memory"``, ``"local"``, ``"lmdb:/directory"``, ``"redis://host:port/db"``, ``"rediss://…"``
    (TLS), ``"valkey://…"``, ``"valkeys://…"`` (TLS) or ``"redis+unix:///path"``.
    """
    if not isinstance(value, str):
        raise wrong("must be text", 'for example "local" or "redis://127.0.0.1:6379"')
    text = str(value)
    if text in _WORDS:
        return text
    scheme, colon, rest = text.partition(":")
    if scheme == "lmdb" and colon:
        if not rest.startswith("/") or rest.startswith("//") or "\0" in rest:
            name = rest.strip("/") or "run/nexgate"
            raise wrong("needs an absolute path", f'one slash: "lmdb:/{name}"')
        return text
    if scheme in ("redis+unix", "valkey+unix", "unix") and colon:
        if not re.match(r"///?[^/?]", rest):
            raise wrong("needs an absolute path", 'three slashes: "redis+unix:///run/redis.sock"')
        return text
    if scheme in _SCHEMES and colon:
        _check_url(text, scheme, rest)
        return text
    if not colon and (meant := _FOREIGN.get(text.casefold())):
        raise wrong("is not a place for state", f'write "{meant}"')
    if not colon and re.fullmatch(r"[\w.-]+", text):
        raise wrong(
            "is not a place for state",
            did_you_mean(text, _WORDS) or '"memory", "local", "lmdb:/path" or "redis://host:port"',
        )
    if scheme.casefold() in _SCHEMES:
        raise wrong("has an unknown scheme", f'did you mean "{scheme.casefold()}:"?')
    raise wrong(
        "is not a place for state",
        did_you_mean(scheme, (*_SCHEMES, "lmdb"), otherwise="the schemes are"),
        is_secret="@" in text,
    )


def _check_url(text: str, scheme: str, rest: str) -> None:
    if not rest.startswith("//"):
        # The rest may begin with a password: it is not repeated.
        raise wrong("lacks its slashes", f'"{scheme}://host:port"', is_secret=True)
    try:
        parts = urlsplit(text)
        host, _ = parts.hostname, parts.port
    except ValueError:
        raise wrong("has a malformed host or port", is_secret=True) from None
    if not host:
        raise wrong("has no host", f'for example "{scheme}://127.0.0.1:6379"', is_secret=True)
    if parts.path.strip("/") and not re.fullmatch(r"/[0-9]{1,5}/?", parts.path, re.ASCII):
        raise wrong(
            "has a path that is not the number of a database", '"…/0" to "…/15"', is_secret=True
        )


def open_state(spec: str, *, prefix: str = "nexgate:") -> State:
    """The state that ``spec`` names. Nothing is opened or connected before it is used.

    Redis and Valkey come with ``Degrading`` around them: while they are away the memory of this
    process answers. ``prefix`` is put before the keys there. Raises ``ValueError`` for a
    misspelt place, and ``StateError`` when the package that it needs is not installed.
    """
    spec = parse_state_spec(spec)
    if spec == "memory":
        return MemoryState()
    if spec == "local" or spec.startswith("lmdb:"):
        from nexgate.state._lmdb import LmdbState

        return LmdbState(None if spec == "local" else Path(spec.removeprefix("lmdb:")))
    from nexgate.state._redis import RedisState

    return Degrading(RedisState(spec, prefix=prefix))
