"""Consistent hashing: the same key to the same instance, in every worker and after every restart.

A ring with many points per instance (Karger et al., 1997). The ring holds all instances of the
service; one that is not available is stepped over, so its keys spread over the others and come back
to it, and no other key moves. Only a change of the set itself rebuilds the ring.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable, Sequence
from hashlib import blake2b
from typing import Any, Final
from zlib import crc32

from nexgate.exchange import Exchange, Response

__all__ = ["ConsistentHash", "key_extractor"]

_POINTS: Final = 160
_MAX_POINTS: Final = 200_000

KeyOf = Callable[[Exchange], bytes]


def _point(data: bytes) -> int:
    """Where an instance stands on the ring."""
    return int.from_bytes(blake2b(data, digest_size=8).digest())


def _place(key: bytes) -> int:
    """Where a key stands on the ring: a checksum, spread over it by the golden ratio.

    Half the cost of a cryptographic hash, for each request. Nothing is gained by guessing it:
    whoever chooses the key could as well choose the same key.
    """
    return crc32(key) * 0x9E3779B97F4A7C15 & 0xFFFFFFFFFFFFFFFF


def key_extractor(key: str) -> KeyOf:
    """``client``, ``path``, ``header:NAME``, ``cookie:NAME`` or ``query:NAME`` → the bytes to hash.

    A request without the header, cookie or parameter falls back to its client's address.
    """
    kind, _, name = key.partition(":")
    if kind == "client":
        return lambda exchange: exchange.client.encode()
    if kind == "path":
        return lambda exchange: exchange.path
    if kind == "header":
        lower = name.lower().encode("latin-1")
        return lambda x: b",".join(x.header_values(lower)) or x.client.encode()
    if kind == "cookie":
        return lambda x: "".join(x.cookie_values(name)).encode("latin-1") or x.client.encode()
    if kind == "query":
        return lambda x: (
            "&".join(x.query_values(name)).encode("utf-8", "replace") or x.client.encode()
        )
    raise ValueError(f"{key!r} is not a hash key")


class ConsistentHash:
    __slots__ = ("_available", "_key_of", "_owners", "_points", "_set")

    def __init__(self, key: str) -> None:
        self._key_of = key_extractor(key)
        self._points: list[int] = []
        self._owners: list[Any] = []
        self._set: tuple[tuple[str, float], ...] = ()
        self._available: list[Any] = []

    def rebuild(self, instances: Sequence[Any], available: Sequence[Any]) -> None:
        self._available = list(available)
        identity = tuple((i.url, i.weight) for i in instances)
        if identity == self._set:
            return
        self._set = identity
        mean = sum(i.weight for i in instances) / max(1, len(instances))
        share = min(_POINTS, max(1, _MAX_POINTS // max(1, len(instances))))
        ring: list[tuple[int, int]] = []
        for n, instance in enumerate(instances):
            for k in range(max(1, round(share * instance.weight / mean))):
                ring.append((_point(b"%b#%d" % (instance.url.encode(), k)), n))
        ring.sort()
        self._points = [p for p, _ in ring]
        self._owners = [instances[n] for _, n in ring]

    def pick(self, exchange: Exchange) -> Any:
        points = self._points
        owners = self._owners
        n = len(points)
        at = bisect_right(points, _place(self._key_of(exchange)))
        for step in range(min(n, 512)):
            owner = owners[(at + step) % n]
            if owner.is_available:
                return owner
        # A long arc of the ring is down: any available instance, the same for the same key.
        return self._available[at % len(self._available)]

    def on_response(self, exchange: Exchange, response: Response, instance: Any) -> None:
        pass
