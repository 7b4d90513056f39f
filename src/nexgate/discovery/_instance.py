"""One instance of a service, as discovery knows it."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, fields
from types import MappingProxyType
from typing import Any, Final, Literal, cast
from urllib.parse import quote

from nexgate.discovery._url import normal_url

__all__ = ["Health", "Instances", "ServiceInstance", "check_service_name"]

Health = Literal["unknown", "healthy", "unhealthy"]

_HEALTHS: Final = ("unknown", "healthy", "unhealthy")
_NAME: Final = re.compile(r"[A-Za-z0-9_](?:[A-Za-z0-9._-]{0,62}[A-Za-z0-9_])?")
_PATH: Final = re.compile(r"/[\x21-\x22\x24-\x7e]{0,1023}")
_LONGEST_TEXT: Final = 128
_LONGEST_VALUE: Final = 1024
_LONGEST_KEY: Final = 384
_MOST_ITEMS: Final = 64
_HEAVIEST: Final = 1_000_000
_MOST_BYTES: Final = 64 * 1024


@dataclass(frozen=True, slots=True)
class ServiceInstance:
    """Where one instance of a service is, and what is known about it.

    Every field is checked and ``url`` brought into its normal form; ``ValueError`` says what is
    wrong. Two that differ only in ``last_check`` are equal.
    """

    id: str
    """Names the instance within its service, for as long as it lives. 1 to 128 characters."""
    name: str
    """Of the service: letters, digits, ``-``, ``_`` and ``.``."""
    url: str
    """``http://host:port``, ``https://host:port``, ``unix:/path`` or ``asgi:module:app``."""
    health: Health = "unknown"
    """What the last probes found. ``unknown`` is used like ``healthy``."""
    last_check: float = field(default=0.0, compare=False)
    """When it was probed, in seconds since 1970, for people: nothing is decided by it."""
    weight: int = 1
    """Share of the requests, relative to the other instances; 1 to 1 000 000."""
    zone: str | None = None
    """Where it runs."""
    version: str | None = None
    """Of what it runs."""
    tags: frozenset[str] = frozenset()
    """For choosing some of the instances."""
    metadata: Mapping[str, str] = field(default_factory=dict, hash=False)
    """Anything else."""
    health_path: str = "/health"
    """What a probe requests."""

    def __post_init__(self) -> None:
        put = object.__setattr__
        _check_text("id", self.id)
        if len(quote(self.id, safe="")) > _LONGEST_KEY:
            raise ValueError("id is too long once percent-encoded")
        check_service_name(self.name)
        try:
            put(self, "url", normal_url(self.url))
        except ValueError as error:
            raise ValueError(f"url {error}") from None
        if self.health not in _HEALTHS:
            raise ValueError("health must be unknown, healthy or unhealthy")
        if isinstance(self.weight, bool) or not isinstance(self.weight, int):
            raise ValueError("weight must be a whole number")
        if not 1 <= self.weight <= _HEAVIEST:
            raise ValueError(f"weight must be from 1 to {_HEAVIEST}")
        if isinstance(self.last_check, bool) or not isinstance(self.last_check, (int, float)):
            raise ValueError("last_check must be a number")
        if not math.isfinite(self.last_check):
            raise ValueError("last_check must be finite")
        for name in ("zone", "version"):
            if (value := getattr(self, name)) is not None:
                _check_text(name, value)
        put(self, "tags", _tags(self.tags))
        put(self, "metadata", _metadata(self.metadata))
        if not isinstance(self.health_path, str) or not _PATH.fullmatch(self.health_path):
            raise ValueError("health_path must be a path that begins with a slash")

    @property
    def is_usable(self) -> bool:
        """Whether requests may go there: not known to be unhealthy."""
        return self.health != "unhealthy"

    def to_json(self) -> bytes:
        """The record of a registry."""
        return encode(self)

    @classmethod
    def from_json(cls, data: bytes) -> ServiceInstance:
        """Read a record. ``ValueError`` says what is wrong with it.

        Keys it does not know are ignored: a newer version may have written them.
        """
        if len(data) > _MOST_BYTES:
            raise ValueError(f"the record has more than {_MOST_BYTES} bytes")
        try:
            found = json.loads(data)
        except (ValueError, RecursionError):
            raise ValueError("the record is not JSON") from None
        return from_mapping(found)


Instances = tuple[ServiceInstance, ...]
"""A whole set, as providers yield it."""

_FIELDS: Final = tuple(f.name for f in fields(ServiceInstance))


def from_mapping(found: object, **given: Any) -> ServiceInstance:
    """An instance from decoded JSON or TOML; ``given`` is what the source does not say."""
    if not isinstance(found, dict):
        raise ValueError("must be a table with url")
    values = {**given, **{name: found[name] for name in _FIELDS if name in found}}
    for name in ("id", "name", "url"):
        if name not in values:
            raise ValueError(f"{name} is required")
    return ServiceInstance(**values)


def encode(instance: ServiceInstance, **more: object) -> bytes:
    """The record, with further keys."""
    record: dict[str, object] = {name: getattr(instance, name) for name in _FIELDS}
    record["tags"] = sorted(instance.tags)
    record["metadata"] = dict(instance.metadata)
    return json.dumps(record | more, separators=(",", ":"), sort_keys=True).encode()


def check_service_name(name: object) -> str:
    """The name, or ``ValueError``."""
    if not isinstance(name, str) or not _NAME.fullmatch(name):
        raise ValueError("the name of a service is 1 to 64 letters, digits, '-', '_' or '.'")
    return name


def _check_text(name: str, value: object, longest: int = _LONGEST_TEXT) -> None:
    if not isinstance(value, str) or not 1 <= len(value) <= longest or not value.isprintable():
        raise ValueError(f"{name} must be text of 1 to {longest} printable characters")


def _tags(value: object) -> frozenset[str]:
    if isinstance(value, (str, bytes)) or not isinstance(value, Iterable):
        raise ValueError("tags must be a list of texts")
    tags = list(value)
    if len(tags) > _MOST_ITEMS:
        raise ValueError(f"tags has more than {_MOST_ITEMS} elements")
    for tag in tags:
        _check_text("a tag", tag)
    return frozenset(tags)


def _metadata(value: object) -> Mapping[str, str]:
    if not isinstance(value, Mapping) or len(value) > _MOST_ITEMS:
        raise ValueError(f"metadata must be a table of texts with at most {_MOST_ITEMS} keys")
    for key, text in value.items():
        _check_text("a key of metadata", key)
        if not isinstance(text, str) or len(text) > _LONGEST_VALUE:
            raise ValueError(f"metadata.{key} must be text of at most {_LONGEST_VALUE} characters")
    return MappingProxyType(dict(cast("Mapping[str, str]", value)))
